"""Synthetic catalogues: clusters of clusters, with Zipf popularity that is independent of the content."""

from __future__ import annotations

import numpy as np

from recbole_vsid.tokenizer.base import TokenizerInput


def zipf_catalogue(n_items=2_000, d=64, n_top=24, n_sub=12, events_per_item=100, seed=0):
    """Items as top-cluster centre + sub-cluster centre + own noise; counts multinomial over Zipf(1) ranks, plus 3."""
    rng = np.random.default_rng(seed)
    axis_scale = np.arange(1, d + 1) ** -0.5
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]

    def draw(n):
        return (rng.standard_normal((n, d)) * axis_scale) @ rotation

    top, sub = rng.integers(0, n_top, n_items), rng.integers(0, n_sub, n_items)
    vectors = draw(n_top)[top] + 0.8 * draw(n_top * n_sub)[top * n_sub + sub] + 0.7 * draw(n_items)
    zipf = 1 / (1 + rng.permutation(n_items))
    counts = rng.multinomial(events_per_item * n_items, zipf / zipf.sum()) + 3
    return catalogue(vectors, counts)


def catalogue(vectors, counts):
    """A ``TokenizerInput`` with the padding item in front; vectors are L2-normalised."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenizerInput(
        embedding=np.vstack([np.zeros(vectors.shape[1]), vectors]).astype(np.float32),
        popularity=np.concatenate([[0], counts]).astype(np.int64),
        item_tokens=np.array(["[PAD]"] + [f"i{i}" for i in range(len(vectors))]),
    )
