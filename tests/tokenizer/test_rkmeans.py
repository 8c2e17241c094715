from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_vsid.tokenizer import rkmeans
from recbole_vsid.tokenizer.base import unit_rows
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer, kmeans, nearest
from tests.tokenizer.synthetic import catalogue, zipf_catalogue


@pytest.fixture(scope="module")
def data():
    return zipf_catalogue(600, d=32)


def fitted(data, seed=0, **settings):
    values = {"vocab_size": 16, "n_levels": 4, **settings}
    return RKMeansTokenizer(RKMeansTokenizer.Settings(**values), seed=seed).fit(data)


def test_invariant_14_residual_error_falls_with_every_level(data):
    tokenizer = fitted(data)
    x = unit_rows(data.embedding[1:])
    codes, lengths = tokenizer.assign(x)
    assert (lengths == 4).all()
    centroids = tokenizer.state_dict()["centroids"].numpy()
    prefixes = np.cumsum([centroids[level][codes[:, level]] for level in range(4)], axis=0)
    errors = [1.0] + [np.square(x - prefix).sum(1).mean() for prefix in prefixes]
    assert all(after < before for before, after in zip(errors, errors[1:]))
    # Reported errors are those of the normalised sums.
    unit = prefixes / np.linalg.norm(prefixes, axis=2, keepdims=True)
    expected = np.square(x - unit).sum(2).T
    np.testing.assert_allclose(tokenizer.prefix_errors(x, codes), expected, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_invariant_14_inertia_does_not_rise(data, weighted):
    rows = torch.from_numpy(data.embedding[1:])
    weights = torch.from_numpy(data.popularity[1:].astype(float)) if weighted else None
    _, _, inertia = kmeans(rows, 16, weights, generator=torch.Generator().manual_seed(1))
    assert len(inertia) > 3
    assert all(after <= before * (1 + 1e-6) for before, after in zip(inertia, inertia[1:]))


def test_means_and_labels_agree_with_a_plain_loop(data):
    rows = torch.from_numpy(data.embedding[1:])
    weights = torch.from_numpy(data.popularity[1:].astype(float))
    centroids, labels, inertia = kmeans(rows, 8, weights, 300, 0.0, torch.Generator().manual_seed(0))
    distances = torch.cdist(rows.double(), centroids.double()).square()
    assert torch.equal(labels, distances.argmin(1))
    assert inertia[-1] == pytest.approx(float((distances.min(1).values * weights).sum()), rel=1e-5)
    for cluster in range(8):  # converged, so every centroid is the weighted mean of its rows
        own = labels == cluster
        mean = (rows[own].double() * weights[own, None]).sum(0) / weights[own].sum()
        torch.testing.assert_close(centroids[cluster].double(), mean, atol=1e-5, rtol=0)


def test_chunks_change_nothing(data, monkeypatch):
    rows = torch.from_numpy(data.embedding[1:])
    whole = nearest(rows, rows[:16], return_distance=True)
    monkeypatch.setattr(rkmeans, "PAIRS_AT_ONCE", 16 * 7)
    for part, full in zip(nearest(rows, rows[:16], return_distance=True), whole):
        torch.testing.assert_close(part, full)


def test_popularity_weights_favour_popular_items(data):
    x, events = data.embedding[1:], data.popularity[1:]
    errors = {}
    for weighted in (False, True):
        tokenizer = fitted(data, popularity_weighted=weighted)
        errors[weighted] = tokenizer.prefix_errors(x, tokenizer.assign(x)[0])
    for level in range(4):
        assert np.average(errors[True][:, level], weights=events) < np.average(errors[False][:, level], weights=events)
    assert errors[True][:, 1].mean() > errors[False][:, 1].mean()


def test_items_without_events_give_no_nan():
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    data = catalogue(vectors, np.r_[np.full(10, 7), np.zeros(50)])
    tokenizer = fitted(data, vocab_size=20, popularity_weighted=True)  # more codewords than items with events
    assert torch.isfinite(tokenizer.state_dict()["centroids"]).all()
    codes, _ = tokenizer.assign(data.embedding[1:])
    assert (tokenizer.prefix_errors(data.embedding[1:], codes)[:10, 0] < 1e-6).all()
    nobody = catalogue(vectors, np.zeros(60))
    with pytest.raises(ValueError, match="sid_popularity_weighted=True"):
        fitted(nobody, popularity_weighted=True)


def test_empty_clusters_are_seeded_again():
    rng = np.random.default_rng(0)
    # Two thirds of the rows are one point, so most first centroids coincide and all but one are empty.
    far = rng.standard_normal((20, 4)).astype(np.float32)
    rows = torch.from_numpy(np.vstack([np.tile(far[:1], (40, 1)), far]))
    _, labels, inertia = kmeans(rows, 12, generator=torch.Generator().manual_seed(0))
    assert len(labels.unique()) >= 10
    assert inertia[-1] < 0.5 * inertia[0]


def test_deterministic_and_independent_of_the_batch(data):
    state = torch.random.get_rng_state()
    first, second, other = fitted(data), fitted(data), fitted(data, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.state_dict()["centroids"], second.state_dict()["centroids"])
    assert not torch.equal(first.state_dict()["centroids"], other.state_dict()["centroids"])
    x = data.embedding[1:]
    codes, _ = first.assign(x)
    order = np.random.default_rng(0).permutation(len(x))
    assert np.array_equal(first.assign(x[order])[0], codes[order])
    assert np.array_equal(np.vstack([first.assign(x[i : i + 1])[0] for i in range(20)]), codes[:20])
    loaded = RKMeansTokenizer()
    loaded.load_state_dict(first.state_dict())
    assert np.array_equal(loaded.assign(x)[0], codes)
    assert loaded.vocab_sizes == (16,) * 4


def test_table(data):
    table = fitted(data).encode(data)
    assert table.max_length == 5 and not table.shared_vocabulary
    assert table.vocab_sizes[:4] == (16,) * 4
    with pytest.raises(ValueError, match="0..15"):
        fitted(data).prefix_errors(data.embedding[1:], table.codes[1:, :4] - 1)
