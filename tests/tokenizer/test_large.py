"""Catalogues that stay on disk: the same codes as from memory, and never a copy of the whole matrix."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from recbole_vsid.tokenizer import base, kmeans
from recbole_vsid.tokenizer.base import TokenizerInput, unit_rows
from recbole_vsid.tokenizer.dvae_tokenizer import DVAETokenizer, count_directions
from recbole_vsid.tokenizer.opq import OPQTokenizer
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer

N_ITEMS, D = 10_000, 384

CASES = [
    (RKMeansTokenizer, {"vocab_size": 16, "n_levels": 2, "fit_rows": 1_000}),
    (RKMeansTokenizer, {"vocab_size": 16, "n_levels": 2, "fit_rows": 1_000, "normalize_residuals": True}),
    (OPQTokenizer, {"vocab_size": 16, "n_levels": 2, "fit_rows": 1_000, "max_iterations": 5}),
    (DVAETokenizer, {"vocab_size": 16, "hidden_size": 64, "max_length": 2, "updates": 20, "on_collapse": "warn"}),
]


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory):
    """The same catalogue in memory and mapped from a file."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, D), dtype=np.float32)
    embedding = centres[rng.integers(0, 50, N_ITEMS + 1)] + 0.5 * rng.standard_normal((N_ITEMS + 1, D), np.float32)
    embedding[0] = 0
    path = tmp_path_factory.mktemp("large") / "content.npy"
    np.save(path, embedding)
    popularity = np.r_[0, rng.integers(0, 20, N_ITEMS)]
    tokens = np.arange(N_ITEMS + 1).astype(str)
    mapped = np.load(path, mmap_mode="r")
    return TokenizerInput(embedding, popularity, tokens), TokenizerInput(mapped, popularity, tokens)


@pytest.mark.parametrize("tokenizer, settings", CASES, ids=["rkmeans", "normalized", "opq", "vlsid"])
def test_a_mapped_file_gives_the_same_codes_without_being_copied(catalogues, monkeypatch, tokenizer, settings):
    monkeypatch.setattr(kmeans, "ROWS_AT_ONCE", 500)  # as small beside this catalogue as the default beside a large one
    in_memory, mapped = catalogues
    first = tokenizer(tokenizer.Settings(**settings), seed=3).fit(in_memory)
    second = tokenizer(tokenizer.Settings(**settings), seed=3)
    tracemalloc.start()
    try:
        second.fit(mapped)
        codes, lengths = second.assign(mapped.embedding[1:])
        full = second.assign_full(mapped.embedding[1:])
        errors = second.prefix_errors(mapped.embedding[1:], full)
        peak = tracemalloc.get_traced_memory()[1]  # of NumPy; what torch holds is a chunk, a batch or the sample
    finally:
        tracemalloc.stop()
    assert peak < mapped.embedding.nbytes / 2
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    some = in_memory.embedding[2_001:3_001]
    for one, other in zip(first.assign(some), (codes, lengths)):
        assert np.array_equal(one, other[2_000:3_000])
    assert np.array_equal(first.prefix_errors(some, full[2_000:3_000]), errors[2_000:3_000])


def test_the_check_of_the_input_reads_in_parts(catalogues, monkeypatch):
    monkeypatch.setattr(base, "ROWS_AT_ONCE", 500)
    mapped = catalogues[1]
    tracemalloc.start()
    try:
        TokenizerInput(mapped.embedding, mapped.popularity, mapped.item_tokens)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mapped.embedding.nbytes / 10


def test_directions_are_counted_as_by_sorting():
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 2, size=(1_500, 4)).astype(np.float32)
    scaled = rows * 2.0 ** rng.integers(-3, 4, size=(1_500, 1)).astype(np.float32)
    scaled[scaled == 0] *= -1  # zeros of both signs
    assert count_directions(scaled) == len(np.unique(unit_rows(rows), axis=0)) == 3**4
    noise = rng.standard_normal((1_500, 4)).astype(np.float32)
    assert count_directions(noise) == 1_500
