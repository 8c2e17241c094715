"""RQ-VAE: an autoencoder whose latent vector is quantised by residual codebooks (TIGER, arXiv 2305.05065).

Network, loss, k-means start and the choice of the state with the fewest collisions are those of TIGER and of
stage 0 of DIGER (2601.19711), whose Sinkhorn-balanced codes in training are an option. Ours: codewords that no
item uses are restarted, and only the second half of the training is chosen from. Before that the encoder is
near its random start, which keeps items apart but has not learnt what they have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from recbole_vsid.semantic_id.collisions import collision_figures
from recbole_vsid.tokenizer.base import TokenizerSettings
from recbole_vsid.tokenizer.codebooks import CodebookTokenizer
from recbole_vsid.tokenizer.defaults import (
    LONGEST,
    WIDEST,
    local_seed,
    require_choice,
    require_integer,
    require_real,
    resolve_vocab_size,
)
from recbole_vsid.tokenizer.kmeans import nearest
from recbole_vsid.tokenizer.residual import ResidualQuantizer, RunningMeans, balanced_codes, quantisation_loss

# sid_epochs="auto" makes this many updates, but goes over a large catalogue at least a few times.
AUTO_UPDATES = 1_200
FEWEST_EPOCHS = 10

# How often the catalogue is encoded during the training, to count collisions and find unused codewords.
LOOKS = 20

# Of a large catalogue only a sample is clustered at the start and drawn from for restarts.
SAMPLE_ROWS, SAMPLE_ROWS_PER_CODEWORD = 2**15, 32


@dataclass(frozen=True)
class RQVAESettings(TokenizerSettings):
    """Settings of the RQ-VAE; ``properties/tokenizer/rqvae.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    vocab_size: int | str = "auto"
    n_levels: int = 3
    latent_size: int = 32
    hidden_sizes: list = field(default_factory=lambda: [512, 256, 128])
    codebook: str = "gradient"
    ema_decay: float = 0.99
    sinkhorn: bool = False
    beta: float = 0.25
    vq_weight: float = 1.0
    epochs: int | str = "auto"
    batch_size: int = 1024
    learning_rate: float = 0.001
    weight_decay: float = 0.0001

    def __post_init__(self):
        super().__post_init__()
        require_integer(self, "vocab_size", 2, auto=True)
        require_integer(self, "n_levels", 1, high=LONGEST)
        require_integer(self, "latent_size", 1, high=WIDEST)
        sizes = self.hidden_sizes
        whole = isinstance(sizes, list) and all(type(size) is int and 1 <= size <= WIDEST for size in sizes)
        self.require("hidden_sizes", whole, f"a list of integers >= 1 and <= {WIDEST}")
        require_choice(self, "codebook", ("gradient", "ema"))
        require_real(self, "ema_decay", 0, 1)
        self.require("sinkhorn", isinstance(self.sinkhorn, bool), "True or False")
        require_real(self, "beta", 0)
        require_real(self, "vq_weight", 0, open_low=True)
        require_integer(self, "epochs", 1, auto=True)
        require_integer(self, "batch_size", 1)
        require_real(self, "learning_rate", 0, open_low=True)
        require_real(self, "weight_decay", 0)


class RQVAE(nn.Module):
    """Encoder, residual codebooks and mirrored decoder.

    Args:
        sizes: widths of the encoder from the input to the latent vector.
        n_levels, vocab_size: shape of the codebooks.
    """

    def __init__(self, sizes, n_levels, vocab_size):
        super().__init__()
        self.encoder, self.decoder = mlp(sizes), mlp(sizes[::-1])
        self.quantizer = ResidualQuantizer(n_levels, vocab_size, sizes[-1])

    @torch.no_grad()
    def centre(self, mean):
        """Start as if ``mean`` ``[d]`` were subtracted before the encoder and added behind the decoder.

        Text vectors have a large common part; without this the first epochs do nothing but learn it.
        """
        first, last = self.encoder[0], self.decoder[-1]
        first.bias.copy_(-first.weight @ mean)
        last.bias.copy_(mean)

    def loss(self, x, choose, beta, vq_weight):
        """Training loss of a batch ``[n, d]`` and the levels of its quantisation."""
        quantised, levels = self.quantizer(self.encoder(x), choose)
        return F.mse_loss(self.decoder(quantised), x) + vq_weight * quantisation_loss(levels, beta), levels


def mlp(sizes):
    """Linear layers with ReLU between them; Xavier-normal weights, zero biases."""
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        linear = nn.Linear(n_in, n_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def encoder_sizes(state):
    """Widths of the layers of the ``encoder`` in a state dict, from its input on."""
    layers = {key: len(value) for key, value in state.items() if key.startswith("encoder.") and value.ndim == 1}
    in_order = sorted(layers, key=lambda key: int(key.split(".")[1]))
    return [state["encoder.0.weight"].size(1), *(layers[key] for key in in_order)]


class RQVAETokenizer(CodebookTokenizer):
    """RQ-VAE on the L2-normalised item vectors (``rqvae``)."""

    name = "rqvae"
    Settings = RQVAESettings

    model = None

    # --------------------------------------------------------------- training

    def fit(self, data):
        """Train on all items alike; see :class:`~recbole_vsid.tokenizer.base.Tokenizer`.

        Raises:
            ValueError: more codewords than items, or the training diverges.
        """
        settings, embedding = self.settings, data.embedding[1:]
        vocab_size = resolve_vocab_size(settings, len(embedding))
        sizes = [embedding.shape[1], *settings.hidden_sizes, settings.latent_size]
        with local_seed(self.seed, self.device):
            self.model = RQVAE(sizes, settings.n_levels, vocab_size).to(self.device)
        self._train(embedding)
        return self

    def _train(self, embedding):
        settings, model = self.settings, self.model
        rng, generator = np.random.default_rng(self.seed), torch.Generator().manual_seed(self.seed)
        n_batches = -(-len(embedding) // settings.batch_size)
        epochs = settings.epochs
        if epochs == "auto":
            epochs = max(FEWEST_EPOCHS, -(-AUTO_UPDATES // n_batches))
        sample = self._sample(embedding, rng)
        model.centre(sample.mean(0))
        shares = model.quantizer.initialise(self._latent(sample), generator)
        optimizer, means = self._optimizer(), None
        if settings.codebook == "ema":
            means = RunningMeans(model.quantizer.codebooks, shares * len(embedding) / n_batches, settings.ema_decay)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / epochs, epochs)
        look_every = -(-epochs // LOOKS)
        kept, fewest, shown = None, math.inf, {}
        with tqdm(range(1, epochs + 1), desc=self.name, unit="epoch", disable=not self.show_progress) as bar:
            for epoch in bar:
                batches = np.array_split(rng.permutation(len(embedding)), n_batches)
                shown["loss"] = f"{self._epoch(embedding, batches, optimizer, means):.4g}"
                schedule.step()
                if epoch % look_every == 0 or epoch == epochs:
                    codes, _ = self.assign(embedding)
                    shared = collision_figures(codes)["items"]
                    shown["share a code"] = f"{shared / len(codes):.1%}"
                    if 2 * epoch > epochs and shared <= fewest:
                        fewest, kept = shared, {key: value.clone() for key, value in model.state_dict().items()}
                    self._restart_unused(codes, embedding, means, rng, generator)
                bar.set_postfix(shown, refresh=False)
        model.load_state_dict(kept)

    def _epoch(self, embedding, batches, optimizer, means):
        """Update once per batch of row numbers; return the last loss."""
        settings = self.settings
        choose = balanced_codes if settings.sinkhorn else nearest
        for batch in batches:
            x = self._unit(embedding[batch])
            loss, levels = self.model.loss(x, choose, settings.beta, settings.vq_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if means is not None:
                means.update(levels)
        loss = float(loss.detach())
        if not math.isfinite(loss):
            raise ValueError(
                f"tokenizer {self.name!r}: the loss is {loss}; lower sid_learning_rate={settings.learning_rate}"
            )
        return loss

    def _optimizer(self):
        """AdamW; codewords do not decay, and as running means they have no gradient at all."""
        settings, model = self.settings, self.model
        model.quantizer.requires_grad_(settings.codebook == "gradient")
        groups = [{"params": [*model.encoder.parameters(), *model.decoder.parameters()]}]
        if settings.codebook == "gradient":
            groups.append({"params": list(model.quantizer.parameters()), "weight_decay": 0.0})
        return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)

    def _restart_unused(self, codes, embedding, means, rng, generator):
        unused = np.stack([np.bincount(column, minlength=size) == 0 for column, size in zip(codes.T, self.vocab_sizes)])
        if unused.any():
            unused = torch.from_numpy(unused).to(self.device)
            self.model.quantizer.restart(unused, self._latent(self._sample(embedding, rng)), generator)
            if means is not None:
                means.restart(unused)

    def _sample(self, embedding, rng):
        n_rows = max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CODEWORD * self.vocab_sizes[0])
        if n_rows < len(embedding):
            embedding = embedding[np.sort(rng.choice(len(embedding), n_rows, replace=False))]
        return self._unit(embedding)

    @torch.no_grad()
    def _latent(self, rows):
        return self.model.encoder(rows)

    # --------------------------------------------------------------- encoding

    @property
    def codebooks(self):
        return None if self.model is None else self.model.quantizer.codebooks

    def begin(self, x):
        """The latent vectors."""
        return self.model.encoder(x)

    def query(self, begun, level, codes):
        """What the codewords ``codes`` leave over of the latent vectors ``begun``."""
        return self.model.quantizer.residual(begun, codes)

    def decode(self, codes):
        """The sums of the codewords through the decoder."""
        return map(self.model.decoder, self.model.quantizer.partial_sums(codes))

    # ------------------------------------------------------------------ state

    def state_dict(self):
        self._require_fitted()
        return {key: value.detach() for key, value in self.model.state_dict().items()}

    def load_state_dict(self, state):
        """Restore a state; all sizes come from it, whatever the settings say.

        Raises:
            ValueError: the state belongs to another tokenizer or is incomplete.
        """
        try:
            n_levels, vocab_size, _ = state["quantizer.codebooks"].shape
            sizes = encoder_sizes(state)
            with local_seed(self.seed, self.device):
                model = RQVAE(sizes, n_levels, vocab_size).to(self.device)
            model.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError, AttributeError) as error:
            raise ValueError(f"this is no state of tokenizer {self.name!r}: {error}") from error
        self.model = model
