from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_vsid.tokenizer.base import unit_rows
from recbole_vsid.tokenizer.opq import OPQTokenizer, alternate, balanced_axes, place, plain_cut, procrustes
from tests.tokenizer.synthetic import catalogue, zipf_catalogue


@pytest.fixture(scope="module")
def data():
    return zipf_catalogue(500, d=30)


@pytest.fixture(scope="module")
def correlated():
    """Few directions vary, and all of them lie within the first of four plain subspaces."""
    rng = np.random.default_rng(0)
    scales = np.r_[np.ones(8), np.full(24, 0.05)]
    return catalogue(rng.standard_normal((500, 32)) * scales, np.ones(500))


def fitted(data, seed=0, **settings):
    values = {"vocab_size": 16, "n_levels": 4, **settings}
    return OPQTokenizer(OPQTokenizer.Settings(**values), seed=seed).fit(data)


def quantisation_error(tokenizer, x):
    """Mean squared error of the rows without normalising the reconstruction, from the codes alone."""
    codes = tokenizer.assign(x)[0]
    words = torch.cat([codebook[codes[:, level]] for level, codebook in enumerate(tokenizer.centroids)], dim=1)
    return float((torch.from_numpy(unit_rows(x)) - words @ tokenizer.rotation.t()).square().sum(1).mean())


@pytest.mark.parametrize("rotation", ["learned", "none"])
@pytest.mark.parametrize("n_levels", [1, 4, 7, 30])
def test_rotation_is_orthonormal(data, rotation, n_levels):
    tokenizer = fitted(data, rotation=rotation, n_levels=n_levels, max_iterations=3)
    matrix = tokenizer.rotation
    width = -(-30 // n_levels)
    assert matrix.shape == (30, n_levels * width) and tokenizer.centroids.shape == (n_levels, 16, width)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(30), atol=1e-5, rtol=0)


def test_learned_rotation_is_better_than_none(data, correlated):
    x = data.embedding[1:]
    assert quantisation_error(fitted(data), x) <= quantisation_error(fitted(data, rotation="none"), x)
    x = correlated.embedding[1:]
    # Plain quantisation spends three of four codebooks on a few per cent of the variance.
    assert quantisation_error(fitted(correlated), x) < 0.6 * quantisation_error(fitted(correlated, rotation="none"), x)


@pytest.mark.parametrize("learned", [False, True])
def test_error_never_rises(data, learned):
    rows = torch.from_numpy(data.embedding[1:])
    start = balanced_axes(rows, 4) if learned else plain_cut(rows, 4)
    errors = [error for _, (_, _, error) in zip(range(20), alternate(rows, start, 4, 16, learned, seed=0))]
    assert all(after <= before * (1 + 1e-6) for before, after in zip(errors, errors[1:]))
    assert errors[-1] < 0.95 * errors[0]


def test_a_loose_tolerance_stops_early(data):
    rows = torch.from_numpy(unit_rows(data.embedding[1:]))
    steps = list(zip(range(2), alternate(rows, balanced_axes(rows, 4), 4, 16, True, seed=0)))
    second_rotation, second_codebooks, _ = steps[1][1]
    stopped = fitted(data, tolerance=0.99)  # no iteration takes away 99 % of the error
    assert torch.equal(stopped.rotation, second_rotation) and torch.equal(stopped.centroids, second_codebooks)


@pytest.mark.parametrize("rotation", ["learned", "none"])
@pytest.mark.parametrize("n_levels", [4, 5])
def test_codes_agree_with_a_plain_loop(data, rotation, n_levels):
    tokenizer = fitted(data, rotation=rotation, n_levels=n_levels, max_iterations=5)
    x, codes = data.embedding[1:], tokenizer.assign(5 * data.embedding[1:])[0]
    width = tokenizer.centroids.shape[2]
    rotated = unit_rows(x).astype(np.float64) @ tokenizer.rotation.double().numpy()
    for level, codebook in enumerate(tokenizer.centroids.double().numpy()):
        part = rotated[:, level * width : (level + 1) * width]
        distances = np.square(part[:, None] - codebook).sum(2)
        assert np.array_equal(codes[:, level], distances.argmin(1))
        # Positions are independent: whatever the code, the distances are the same.
        ours = tokenizer.code_distances(x, np.full_like(codes, -1), level)
        assert ours.dtype == np.float32 and np.array_equal(ours.argmin(1), codes[:, level])
        np.testing.assert_allclose(ours, distances, atol=1e-5)


def test_plain_cut_keeps_the_dimensions_in_order(data):
    x = torch.arange(1.0, 8).repeat(2, 1)
    parts = (x @ plain_cut(x, 3)).reshape(2, 3, 3)[0].tolist()
    assert parts == [[1, 2, 3], [4, 5, 0], [6, 7, 0]]
    tokenizer = fitted(data, rotation="none", n_levels=7)
    assert set(tokenizer.rotation.unique().tolist()) == {0.0, 1.0}


def test_prefix_errors_count_missing_subspaces_as_zero(data):
    tokenizer, x = fitted(data), unit_rows(data.embedding[1:])
    codes = tokenizer.assign(x)[0]
    errors = tokenizer.prefix_errors(x, codes)
    words = np.zeros((len(x), 4, tokenizer.centroids.shape[2]))
    for level in range(4):
        words[:, level] = tokenizer.centroids[level].numpy()[codes[:, level]]
        decoded = unit_rows(words.reshape(len(x), -1) @ tokenizer.rotation.numpy().T)
        np.testing.assert_allclose(errors[:, level], np.square(x - decoded).sum(1), atol=1e-5)
    assert (np.diff(errors.mean(0)) < 0).all()
    with pytest.raises(ValueError, match=r"codes must be .* and lie below \(16, 16, 16, 16\)"):
        tokenizer.prefix_errors(x, codes - 1)


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 6), extra=st.integers(0, 3))
def test_procrustes_finds_the_nearest_rotation(seed, rows, extra):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((20, rows)), rng.standard_normal((20, rows + extra))
    best = procrustes(torch.from_numpy(x.T @ y).float()).numpy()
    np.testing.assert_allclose(best @ best.T, np.eye(rows), atol=1e-5)
    for _ in range(10):
        other = np.linalg.qr(rng.standard_normal((rows + extra, rows)))[0].T
        assert np.square(x @ best - y).sum() <= np.square(x @ other - y).sum() * (1 + 1e-5)


@given(seed=st.integers(0, 10_000), d=st.integers(2, 12), n_levels=st.integers(2, 5))
def test_balanced_axes_are_an_orthonormal_base_with_even_products(seed, d, n_levels):
    n_levels = min(n_levels, d)
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.standard_normal((50, d)) * np.geomspace(1, 0.05, d)).float()
    start = balanced_axes(rows, n_levels)
    torch.testing.assert_close(start @ start.t(), torch.eye(d), atol=1e-4, rtol=0)
    used = (start != 0).any(0).reshape(n_levels, -1).sum(1)
    assert used.min() >= 1 and used.sum() == d
    # The largest variances lie in different subspaces.
    variances = (rows @ start).var(0).reshape(n_levels, -1)
    torch.testing.assert_close(
        variances.amax(1).sort().values, variances.flatten().sort().values[-n_levels:], atol=1e-4, rtol=1e-3
    )


def test_place_fills_short_subspaces_up_with_nothing():
    placed = place(torch.eye(3), [[2], [0, 1]])
    assert placed.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_vectors_that_vary_in_no_direction_but_one():
    line = np.outer(np.linspace(-1, 1, 40), np.ones(6)) + np.array([3, 0, 0, 0, 0, 0])
    tokenizer = fitted(catalogue(line, np.ones(40)), n_levels=3, vocab_size=8)
    assert torch.isfinite(tokenizer.rotation).all() and torch.isfinite(tokenizer.centroids).all()
    assert quantisation_error(tokenizer, line) < 0.05


def test_deterministic(data):
    first, second, other = fitted(data), fitted(data), fitted(data, seed=1)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert not torch.equal(first.centroids, other.centroids)
    sample = fitted(data, fit_rows=200)
    assert torch.equal(sample.rotation, fitted(data, fit_rows=200).rotation)
    assert not torch.equal(sample.rotation, first.rotation)


@pytest.mark.parametrize(
    "name, value",
    [("vocab_size", 1), ("n_levels", 0), ("rotation", True), ("max_iterations", 0), ("tolerance", 1.0),
     ("fit_rows", 0)],
)  # fmt: skip
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^sid_{name}={value!r} is not usable"):
        OPQTokenizer.Settings(**{name: value})


def test_more_subspaces_than_dimensions_are_refused(data):
    with pytest.raises(ValueError, match="sid_n_levels=31 is not usable.*at most 30"):
        fitted(data, n_levels=31)


def test_foreign_states_are_refused(data):
    state = fitted(data).state_dict()
    for wrong in ({"centroids": state["centroids"]}, {**state, "rotation": state["rotation"][:, :-1]}):
        with pytest.raises(ValueError, match="no state of tokenizer 'opq'"):
            OPQTokenizer().load_state_dict(wrong)
    with pytest.raises(RuntimeError, match="fit"):
        OPQTokenizer().assign(data.embedding)
