from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from recbole_vsid.tokenizer import balanced
from recbole_vsid.tokenizer.balanced import (
    balanced_assign,
    balanced_kmeans,
    cluster_members,
    kmeans_plus_plus,
    row_squares,
    squared_distances,
)


def smallest_cost(distances):
    """Cost of the best balanced assignment by the Hungarian method on replicated places.

    Every cluster has floor(n / k) places that must be taken and one that may stay empty: dummy rows take those.
    """
    n, k = distances.shape
    floor, n_larger = divmod(n, k)
    forbidden = 1e6
    items = np.concatenate([np.repeat(distances, floor, axis=1), distances], axis=1)
    dummies = np.concatenate([np.full((k - n_larger, k * floor), forbidden), np.zeros((k - n_larger, k))], axis=1)
    places = np.concatenate([items, dummies])
    return places[linear_sum_assignment(places)].sum()


def require_optimal(distances, labels, prices):
    n, k = distances.shape
    counts = np.bincount(labels, minlength=k)
    assert set(counts) <= {n // k, -(-n // k)}
    own = distances[np.arange(n), labels]
    assert own.sum() == pytest.approx(smallest_cost(distances), abs=1e-9)
    # The certificate of the optimum: nobody would move at these prices.
    assert (own + prices[labels] <= (distances + prices).min(1) + 1e-9).all()


@st.composite
def problems(draw):
    """Distances ``[n, k]``, of few different values so that ties and equal rows are frequent, and starting prices."""
    k = draw(st.integers(1, 6))
    n = draw(st.integers(k, 24))
    value = st.integers(0, 5) if draw(st.booleans()) else st.floats(0, 10, width=32)
    distances = draw(arrays(np.float64, (n, k), elements=value))
    prices = draw(st.none() | arrays(np.float64, k, elements=st.integers(-4, 4)))
    return distances, prices


@given(problems())
@settings(max_examples=300, deadline=None)
def test_the_assignment_is_optimal_whatever_the_prices_at_the_start(problem):
    distances, prices = problem
    require_optimal(distances, *balanced_assign(distances, prices))


@pytest.mark.parametrize("n, k", [(150, 7), (160, 16), (90, 45), (50, 50)])
def test_the_assignment_is_optimal_with_many_clusters(n, k):
    rng = np.random.default_rng(n)
    # Most rows are near one cluster, so most must go elsewhere.
    distances = np.square(rng.normal(size=(n, 1, 3)) - 2 * rng.normal(size=(k, 3))).sum(2)
    distances[:, 0] *= 0.1
    labels, prices = balanced_assign(distances)
    require_optimal(distances, labels, prices)
    assert np.array_equal(balanced_assign(distances)[0], labels)
    require_optimal(distances, *balanced_assign(distances, prices))


def test_prices_of_a_solution_start_a_similar_problem_near_its_solution():
    rng = np.random.default_rng(0)
    distances = rng.random((600, 12)) + np.arange(12)
    _, prices = balanced_assign(distances)
    near = distances + 0.01 * rng.random((600, 12))
    sizes = [np.bincount((near + start).argmin(1), minlength=12) for start in (0, prices)]
    assert np.abs(sizes[1] - 50).sum() < 0.1 * np.abs(sizes[0] - 50).sum()


def test_equal_rows_move_together(monkeypatch):
    searches = []
    search = balanced._shortest_paths
    monkeypatch.setattr(balanced, "_shortest_paths", lambda *edges: searches.append(1) or search(*edges))
    distances = np.tile(np.arange(10.0), (5_000, 1))
    labels, _ = balanced_assign(distances)
    assert np.array_equal(np.bincount(labels), np.full(10, 500))
    assert len(searches) < 100


def test_chunks_change_nothing(monkeypatch):
    distances = np.random.default_rng(0).random((300, 7)).astype(np.float32)
    labels, prices = balanced_assign(distances)
    monkeypatch.setattr(balanced, "PAIRS_AT_ONCE", 11 * 7)
    again = balanced_assign(distances)
    assert np.array_equal(again[0], labels) and np.array_equal(again[1], prices)


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(3)
    return (rng.normal(size=(6, 8))[rng.integers(0, 6, 203)] + 0.5 * rng.normal(size=(203, 8))).astype(np.float32)


def inertia(x, labels, centroids):
    return np.square(x.astype(np.float64) - centroids[labels]).sum()


@pytest.mark.parametrize("k", [1, 2, 6, 20, 150])
def test_clusters_are_balanced_and_centroids_are_their_means(x, k):
    labels, centroids = balanced_kmeans(x, k, np.random.default_rng(0))
    assert set(np.bincount(labels, minlength=k)) <= {203 // k, -(-203 // k)}
    for cluster, rows in enumerate(cluster_members(labels, k)):
        assert np.array_equal(rows, np.flatnonzero(labels == cluster))
        np.testing.assert_allclose(centroids[cluster], x[rows].mean(0, dtype=np.float64), atol=1e-6)


def test_converged_labels_are_the_best_for_their_centroids(x):
    labels, centroids = balanced_kmeans(x, 10, np.random.default_rng(0), iterations=300, restarts=1)
    distances = np.square(x[:, None] - centroids.astype(np.float64)).sum(2)
    # With 203 rows only unchanged labels stop before the last iteration.
    assert inertia(x, labels, centroids) == pytest.approx(smallest_cost(distances), rel=1e-6)


def test_more_restarts_and_iterations_do_no_harm(x):
    def result(**options):
        return inertia(x, *balanced_kmeans(x, 12, np.random.default_rng(5), **options))

    assert result(restarts=8) <= min(result(restarts=1), result(restarts=3)) + 1e-6
    assert result(restarts=1, iterations=15) < result(restarts=1, iterations=1)


def test_planted_clusters_are_found():
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(9), 12))
    x = (rng.normal(size=(9, 5))[truth] + 0.01 * rng.normal(size=(108, 5))).astype(np.float32)
    labels, _ = balanced_kmeans(x, 9, np.random.default_rng(0))
    assert len(set(zip(truth, labels))) == 9


def test_equal_rows_and_few_rows():
    x = np.ones((11, 3), dtype=np.float32)
    labels, centroids = balanced_kmeans(x, 4, np.random.default_rng(0))
    assert sorted(np.bincount(labels)) == [2, 3, 3, 3] and (centroids == 1).all()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    labels, centroids = balanced_kmeans(x, 5, np.random.default_rng(0))
    assert np.array_equal(labels, [0, 1, 2]) and np.array_equal(centroids, x)


def test_the_generator_alone_decides(x):
    first, second, other = (balanced_kmeans(x, 9, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_kmeans_plus_plus_draws_in_proportion_to_the_squared_distance():
    x = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)
    rng, seconds = np.random.default_rng(0), np.zeros((3, 3))
    for _ in range(6_000):
        first, second = kmeans_plus_plus(x, 2, rng, row_squares(x))[:, 0]
        seconds[int((x[:, 0] == first).argmax()), int((x[:, 0] == second).argmax())] += 1
    expected = np.array([[0, 1, 9], [1, 0, 4], [9, 4, 0]]) / np.array([[10], [5], [13]])
    np.testing.assert_allclose(seconds / seconds.sum(1, keepdims=True), expected, atol=0.04)


def test_squared_distances_agree_with_a_plain_loop(x):
    expected = [[np.square(row - centroid).sum() for centroid in x[:4]] for row in x]
    np.testing.assert_allclose(squared_distances(x, x[:4], row_squares(x)), expected, atol=1e-4)
