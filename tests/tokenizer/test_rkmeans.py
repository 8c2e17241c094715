from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_vsid.tokenizer import kmeans as kmeans_module
from recbole_vsid.tokenizer.base import unit_rows
from recbole_vsid.tokenizer.kmeans import kmeans, kmeans_plus_plus, lloyd_step, nearest
from recbole_vsid.tokenizer.rkmeans import SHORTEST_RESIDUAL, RKMeansTokenizer, direction
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
    monkeypatch.setattr(kmeans_module, "PAIRS_AT_ONCE", 16 * 7)
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
    with pytest.raises(ValueError, match=r"codes must be .* and lie below \(16, 16, 16, 16\)"):
        fitted(data).prefix_errors(data.embedding[1:], table.codes[1:, :4] - 1)


# ---------------------------------------------------------------- k-means++


def test_kmeans_plus_plus_starts_at_distant_rows():
    rng = np.random.default_rng(0)
    # Eight tight groups of very different sizes: random rows miss the small ones.
    centres, sizes = 10 * rng.standard_normal((8, 6)), (400, 200, 100, 20, 10, 5, 3, 2)
    rows = torch.from_numpy(np.repeat(centres, sizes, axis=0) + 0.01 * rng.standard_normal((740, 6))).float()
    group = np.repeat(np.arange(8), sizes)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        starts = kmeans_plus_plus(rows, 8, torch.ones(740, dtype=torch.float64), generator)
        assert sorted(group[nearest(starts, rows)]) == list(range(8))


def test_kmeans_plus_plus_draws_in_proportion_to_weight_and_squared_distance():
    rows, weights = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([1.0, 2.0, 1.0, 0.0]).double()
    pairs = np.zeros((4, 4))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2_000):
        pairs[tuple(nearest(kmeans_plus_plus(rows, 2, weights, generator), rows).tolist())] += 1 / 2_000
    mass = np.square(rows.numpy() - rows.numpy().T) * weights.numpy()
    expected = (weights / weights.sum()).numpy()[:, None] * mass / mass.sum(1, keepdims=True)
    np.testing.assert_allclose(pairs, expected, atol=0.04)


def test_kmeans_plus_plus_with_fewer_different_rows_than_clusters():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(10, 1)
    centroids, labels, inertia = kmeans(rows, 5, init="k-means++", generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(centroids).all() and inertia[-1] == 0
    assert len(labels.unique()) == 2


def test_start_changes_the_fit_and_only_if_asked_for(data):
    default, plus_plus = fitted(data), fitted(data, init="k-means++")
    assert torch.equal(default.centroids, fitted(data, init="random").centroids)
    assert not torch.equal(default.centroids, plus_plus.centroids)


def test_lloyd_step_restarts_an_unused_cluster_at_a_weighted_row():
    rows, weights = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([1.0, 1.0, 0.0]).double()
    means, labels, inertia = lloyd_step(rows, torch.tensor([[0.5], [99.0]]), weights)
    assert labels.tolist() == [0, 0, 0] and inertia == 0.5
    assert means[0] == 0.5 and means[1] in (0.0, 1.0)


# ----------------------------------------------------- normalised residuals


def plain_normalized_codes(x, centroids):
    """The recursion as IntRR (arXiv 2602.20704) writes it, in float64, item by item."""
    codes = np.empty((len(x), len(centroids)), dtype=int)
    for item, residual in enumerate(x.astype(np.float64)):
        for level, codebook in enumerate(centroids.astype(np.float64)):
            unit = residual / np.linalg.norm(residual)
            codes[item, level] = np.square(unit - codebook).sum(1).argmin()
            residual = unit - codebook[codes[item, level]]
    return codes


def test_normalized_residuals_follow_the_recursion(data):
    tokenizer, x = fitted(data, normalize_residuals=True), 3 * data.embedding[1:]
    assert np.array_equal(tokenizer.assign(x)[0], plain_normalized_codes(x, tokenizer.centroids.numpy()))


def test_normalized_residuals_decode_with_their_mean_norms(data):
    tokenizer, x = fitted(data, normalize_residuals=True), unit_rows(data.embedding[1:])
    codes, centroids = tokenizer.assign(x)[0], tokenizer.centroids.numpy()
    target, scale, total, expected = x, 1.0, 0, []
    for level in range(4):
        words = centroids[level][codes[:, level]]
        total = total + scale * words
        expected.append(np.square(x - unit_rows(total)).sum(1))
        norms = np.linalg.norm(target - words, axis=1)
        target = unit_rows(target - words)
        assert tokenizer.residual_norms[level] == pytest.approx(norms.mean(), rel=1e-5)
        scale *= norms.mean()
    errors = tokenizer.prefix_errors(x, codes)
    np.testing.assert_allclose(errors, np.stack(expected, axis=1), atol=1e-5)
    assert (np.diff(errors.mean(0)) < 0).all()


def test_later_levels_are_used_more_evenly_with_normalized_residuals(data):
    def effective(tokenizer):
        share = np.bincount(tokenizer.assign(data.embedding[1:])[0][:, -1], minlength=16) / 600
        return np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())

    assert effective(fitted(data, normalize_residuals=True)) > effective(fitted(data))


def test_a_state_says_whether_residuals_are_normalized(data):
    x = data.embedding[1:]
    for first, other in ((True, False), (False, True)):
        tokenizer = fitted(data, normalize_residuals=first)
        loaded = RKMeansTokenizer(RKMeansTokenizer.Settings(normalize_residuals=other))
        loaded.load_state_dict(tokenizer.state_dict())
        codes = tokenizer.assign(x)[0]
        assert np.array_equal(loaded.assign(x)[0], codes)
        assert np.array_equal(loaded.prefix_errors(x, codes), tokenizer.prefix_errors(x, codes))


def test_rounding_errors_have_no_direction():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-8, 0.0]])
    units = direction(rows)
    torch.testing.assert_close(units[0], torch.tensor([0.6, 0.8]))
    assert (units[1] == 0).all() and units[2].norm() <= 1e-8 / SHORTEST_RESIDUAL * 1.001


# ------------------------------------------------------------ code distances


@pytest.mark.parametrize("normalize", [False, True])
def test_code_distances_agree_with_the_codes(data, normalize):
    tokenizer, x = fitted(data, normalize_residuals=normalize), data.embedding[1:]
    codes = tokenizer.assign(x)[0]
    residual = unit_rows(x).astype(np.float64)
    for level, centroids in enumerate(tokenizer.centroids.numpy()):
        known = np.where(np.arange(4) < level, codes, -1)  # nothing behind the prefix may be looked at
        distances = tokenizer.code_distances(x, known, level)
        assert distances.dtype == np.float32 and np.array_equal(distances.argmin(1), codes[:, level])
        assert np.array_equal(tokenizer.code_distances(x[7:9], known[7:9], level), distances[7:9])
        np.testing.assert_allclose(distances, np.square(residual[:, None] - centroids).sum(2), atol=1e-5)
        residual = residual - centroids[codes[:, level]]
        if normalize:
            residual /= np.linalg.norm(residual, axis=1, keepdims=True)


@pytest.mark.parametrize("policy", ["nearest", "sinkhorn"])
def test_collision_policies_that_move_items(data, policy):
    tokenizer = fitted(data, n_levels=3, collisions=policy)
    table, content = tokenizer.encode(data), tokenizer.assign(data.embedding[1:])[0]
    figures = table.provenance["collisions"]
    assert table.unique and table.max_length == 3
    assert 0 < figures["moved"] == (table.codes[1:] != content).any(1).sum()


# ------------------------------------------------------------ sample to fit on


def test_a_sample_fits_nearly_as_well(data):
    x = data.embedding[1:]

    def error(**settings):
        tokenizer = fitted(data, **settings)
        return tokenizer.prefix_errors(x, tokenizer.assign(x)[0])[:, -1].mean()

    assert torch.equal(fitted(data).centroids, fitted(data, fit_rows=600).centroids)
    half = fitted(data, fit_rows=300)
    assert torch.equal(half.centroids, fitted(data, fit_rows=300).centroids)
    assert not torch.equal(half.centroids, fitted(data, fit_rows=300, seed=1).centroids)
    assert error(fit_rows=300) < 1.3 * error()


def test_a_sample_keeps_items_and_weights_together():
    vectors = np.repeat(np.eye(4), 50, axis=0) + 0.01
    data = catalogue(vectors, np.repeat([1, 0, 0, 1], 50))
    tokenizer = fitted(data, vocab_size=2, n_levels=1, fit_rows=60, popularity_weighted=True)
    # The two weighted groups are nearest to the two centroids, whichever rows were drawn.
    errors = tokenizer.prefix_errors(data.embedding[1:], tokenizer.assign(data.embedding[1:])[0])[:, 0]
    assert errors[:50].max() < 1e-5 and errors[150:].max() < 1e-5 and errors[50:150].min() > 0.5


def test_a_sample_smaller_than_the_vocabulary_is_refused(data):
    with pytest.raises(ValueError, match="sid_fit_rows=15 is not usable.*at least 16"):
        fitted(data, fit_rows=15)


@pytest.mark.parametrize(
    "name, value", [("normalize_residuals", 1), ("init", "kmeans"), ("fit_rows", 0), ("fit_rows", "all")]
)
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^sid_{name}={value!r} is not usable"):
        RKMeansTokenizer.Settings(**{name: value})
