"""What several tokenizers share: sizes chosen from the catalogue, checks of settings, fixed chunks, local seeds."""

from __future__ import annotations

import math
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import torch

from recbole_vsid.rules import LARGEST

# The vocabulary should stay far below the number of items (or the first token memorises them), while
# vocab_size ** max_length stays far above it.
VOCAB_BY_CATALOGUE = ((3_000, 64), (8_000, 128), (30_000, 256), (80_000, 512), (150_000, 1024), (300_000, 2048))
LARGEST_VOCAB = 4096

# Far above what any machine holds: more tokens of an item, wider layers and more of them are a slip of the pen.
LONGEST, WIDEST, DEEPEST = 256, 2**16, 1000

CHUNK_ROWS = 512


def auto_vocab_size(n_items):
    """Codewords for a catalogue: 64 to 256 up to 30k items, 4096 from 300k on, fewer for tiny ones."""
    size = next((vocab for limit, vocab in VOCAB_BY_CATALOGUE if n_items <= limit), LARGEST_VOCAB)
    return min(n_items, max(8, min(size, n_items // 4)))


def resolve_vocab_size(settings, n_items):
    """The vocabulary to use for ``n_items``.

    Raises:
        ValueError: ``settings.vocab_size`` is a number larger than the catalogue.
    """
    if settings.vocab_size == "auto":
        return auto_vocab_size(n_items)
    settings.require(
        "vocab_size", settings.vocab_size <= n_items, f'"auto" or at most {n_items}, the number of items to tokenize'
    )
    return settings.vocab_size


def require_integer(settings, name, low, auto=False, high=LARGEST):
    """Refuse a setting that is not an integer in ``low``..``high`` (or "auto", where that is allowed)."""
    value = getattr(settings, name)
    valid = isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high
    allowed = f"{'auto or ' if auto else ''}an integer >= {low} and <= {high}"
    settings.require(name, valid or (auto and value == "auto"), allowed)


def require_real(settings, name, low, high=math.inf, open_low=False, open_high=True, auto=False):
    """Refuse a setting that is not a real number in the interval (or "auto"); NaN and infinities never are."""
    value = getattr(settings, name)
    valid = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    valid = valid and (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    interval = f"{'>' if open_low else '>='} {low}"
    if math.isfinite(high):
        interval += f" and {'<' if open_high else '<='} {high}"
    settings.require(name, valid or (auto and value == "auto"), f"{'auto or ' if auto else ''}a number {interval}")


def require_choice(settings, name, choices):
    """Refuse a setting that is none of ``choices``."""
    settings.require(name, getattr(settings, name) in choices, " or ".join(repr(choice) for choice in choices))


def fixed_chunks(*arrays):
    """Yield ``(rows, chunks)``, all chunks of exactly ``CHUNK_ROWS`` rows, the last filled up with zeros.

    Matrix products may round differently for another number of rows, which could turn a near-tie
    between two codewords; with one chunk size an item's code does not depend on the other items.
    """
    for start in range(0, len(arrays[0]), CHUNK_ROWS):
        parts = [array[start : start + CHUNK_ROWS] for array in arrays]
        rows = len(parts[0])
        if rows < CHUNK_ROWS:
            parts = [np.pad(part, ((0, CHUNK_ROWS - rows), (0, 0))) for part in parts]
        yield slice(start, start + rows), parts


@contextmanager
def local_seed(seed, device):
    """Seed torch's global generators inside the block (initialisation, dropout) and restore them after."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
