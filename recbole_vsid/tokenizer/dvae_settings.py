"""Settings of the two dVAE tokenizers and the ranges in which they are usable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from recbole_vsid.tokenizer.base import TokenizerSettings
from recbole_vsid.tokenizer.defaults import DEEPEST, LONGEST, WIDEST, require_choice, require_integer, require_real
from recbole_vsid.tokenizer.dvae import HEAD_DIM


@dataclass(frozen=True)
class FixedDVAESettings(TokenizerSettings):
    """Settings of the fixed-length dVAE; ``properties/tokenizer/dvae.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    policies: ClassVar[tuple] = ("suffix", "none")

    vocab_size: int | str = "auto"
    max_length: int = 4
    hidden_size: int = 128
    decoder_multiplier: int = 1
    decoder_layers: int = 1
    batch_size: int | str = "auto"
    updates: int | str = "auto"
    learning_rate: float = 0.003
    weight_decay: float = 0.00001
    dropout: float = 0.0
    codebook_dropout: float = 0.0
    logit_scale: float = 5.0
    step_size: float = 0.2
    beta: float = 0.002
    free_bits: float = 2.0
    tau_start: float = 1.0
    tau_end: float = 0.5
    tau_fraction: float = 0.3
    schedule: str = "two_phase"
    warm_fraction: float = 0.5
    on_collapse: str = "error"

    def __post_init__(self):
        super().__post_init__()
        require_integer(self, "vocab_size", 2, auto=True)
        require_integer(self, "max_length", 1, high=LONGEST)
        require_integer(self, "hidden_size", HEAD_DIM, high=WIDEST)
        self.require("hidden_size", self.hidden_size % HEAD_DIM == 0, f"a multiple of {HEAD_DIM}, the attention head")
        require_integer(self, "decoder_multiplier", 1, high=LONGEST)
        require_integer(self, "decoder_layers", 1, high=DEEPEST)
        require_integer(self, "batch_size", 1, auto=True)
        require_integer(self, "updates", 1, auto=True)
        for name in ("learning_rate", "logit_scale", "step_size", "tau_start", "tau_end"):
            require_real(self, name, 0, open_low=True)
        for name in ("weight_decay", "beta", "free_bits"):
            require_real(self, name, 0)
        for name in ("dropout", "codebook_dropout"):
            require_real(self, name, 0, 1)
        for name in ("tau_fraction", "warm_fraction"):
            require_real(self, name, 0, 1, open_high=False)
        require_choice(self, "schedule", ("two_phase", "paper"))
        require_choice(self, "on_collapse", ("error", "warn"))
        if self.vocab_size != "auto":
            limit = math.log(self.vocab_size)
            self.require("free_bits", self.free_bits < limit, f"below {limit:.2f} nats, ln of sid_vocab_size")


@dataclass(frozen=True)
class DVAESettings(FixedDVAESettings):
    """Settings of the variable-length dVAE; ``properties/tokenizer/vlsid.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    policies: ClassVar[tuple] = ("suffix",)  # without it a short code would begin longer ones

    length_cost: float | str = "auto"
    smoothing: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        require_integer(self, "max_length", 2, high=LONGEST)
        require_real(self, "length_cost", 0, auto=True)
        if self.length_cost == "auto":
            self.require("length_cost", self.schedule == "two_phase", "a number with sid_schedule=paper, like 7")
        require_real(self, "smoothing", 0, 1, open_high=False)
