"""Co-occurrence predicted for items that have none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recbole_vsid.data.cold_content import FEWEST_COLD, FEWEST_KNOWN, STRENGTHS, fill_cooccurrence, predicted_block
from recbole_vsid.tokenizer.base import unit_rows


def planted(n=200, p=6, q=4, noise=0.0, seed=0):
    """Unit rows of features and of a linear map of them with an offset, before and after scaling to unit length."""
    rng = np.random.default_rng(seed)
    x = unit_rows(rng.normal(size=(n, p)))
    y = x @ rng.normal(size=(p, q)) + rng.normal(size=q) + noise * rng.normal(size=(n, q))
    return x, y.astype(np.float32)


def cosines(a, b):
    return (unit_rows(a) * unit_rows(b)).sum(1)


def test_a_planted_linear_map_is_found():
    x, y = planted()
    block, r2 = predicted_block(x[:150], y[:150], x[150:])
    assert block.dtype == np.float32 and block.shape == (50, 4) and r2 > 0.999
    np.testing.assert_allclose(block, unit_rows(y[150:]), atol=1e-3)


def test_the_score_falls_with_noise_and_is_none_on_chance():
    scores = [predicted_block(*planted(noise=noise), np.eye(6))[1] for noise in (0, 0.5, 2)]
    assert scores[0] > scores[1] > scores[2]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 20)), rng.normal(size=(300, 5))
    assert abs(predicted_block(x, y, x)[1]) < 0.02, "an uncorrected R² would be 20 / 300"


@pytest.mark.parametrize("shape", [(40, 6), (12, 30)])
def test_strength_and_score_against_a_naive_computation(shape):
    """Generalized cross-validation from the hat matrix of each penalty, also with more features than items."""
    x, y = planted(*shape, noise=0.5)
    new = np.random.default_rng(1).normal(size=(5, shape[1]))
    centred, target = np.asarray(x - x.mean(0, dtype=np.float64)), y - y.mean(0, dtype=np.float64)
    n, errors, predictions = len(x), [], []
    for strength in STRENGTHS * np.square(centred).sum() / shape[1]:
        solve = np.linalg.inv(centred.T @ centred + strength * np.eye(shape[1])) @ centred.T
        hat = centred @ solve + 1 / n
        errors.append(np.square(target - (hat - 1 / n) @ target).sum() / (1 - np.trace(hat) / n) ** 2)
        predictions.append((new - x.mean(0, dtype=np.float64)) @ solve @ target + y.mean(0, dtype=np.float64))
    best = int(np.argmin(errors))
    block, r2 = predicted_block(x, y, new)
    np.testing.assert_allclose(block, unit_rows(predictions[best]), atol=1e-4)
    assert r2 == pytest.approx(1 - errors[best] * (1 - 1 / n) ** 2 / np.square(target).sum(), abs=1e-4)


def test_features_that_do_not_vary_give_the_mean():
    x, y = np.full((20, 3), 0.1), planted(20)[1]
    block, r2 = predicted_block(x, y, np.eye(3))
    np.testing.assert_allclose(block, unit_rows(np.repeat(y.mean(0)[None], 3, axis=0)), atol=1e-6)
    assert r2 == 0
    block, r2 = predicted_block(planted(20)[0], np.full((20, 4), 0.1), np.eye(6))
    np.testing.assert_allclose(block, 0.5, atol=1e-6)
    assert r2 == 0, "a block that does not vary has nothing to explain"


numbers = st.floats(-1, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 8), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4))
def test_any_numbers_give_unit_rows_and_zeros_stay(data, n, p, q, m):
    x, y, new = (data.draw(arrays(np.float32, shape, elements=numbers)) for shape in ((n, p), (n, q), (m, p)))
    block, r2 = predicted_block(x, y, new)
    lengths = np.linalg.norm(block, axis=1)
    assert block.shape == (m, q) and np.isfinite(block).all() and np.isfinite(r2) and r2 <= 1 + 1e-9
    assert ((np.abs(lengths - 1) < 1e-4) | (lengths < 1e-3)).all() and not block[~new.any(1)].any()
    again, same = predicted_block(x, y, new)
    assert np.array_equal(block, again) and r2 == same


@pytest.mark.parametrize(
    "shapes", [((5, 2), (4, 3), (1, 2)), ((5, 2), (5, 3), (1, 3)), ((1, 2), (1, 3), (1, 2)), ((5,), (5, 3), (1, 2))]
)
def test_shapes_that_do_not_match(shapes):
    with pytest.raises(ValueError, match="known_features, known_block and features have the shapes"):
        predicted_block(*map(np.ones, shapes))


# ---------------------------------------------------------------- in the blocks of a dataset


def blocks(n_known=40, n_cold=5):
    """Blocks of two encoders, the last ``n_cold`` items without co-occurrence."""
    x, y = planted(1 + n_known + n_cold)
    x[0] = y[0] = y[1 + n_known :] = 0
    return [x, unit_rows(y)]


def test_only_rows_without_cooccurrence_change():
    before, after = blocks(), blocks()
    before[0][-1] = after[0][-1] = 0
    assert fill_cooccurrence(["tfidf", "cooccurrence"], after) == [0, 4]
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1][:41], after[1][:41])
    assert not after[1][-1].any(), "nothing is known of it"
    assert cosines(after[1][41:45], planted(46)[1][41:45]).min() > 0.99, "unit rows are not quite linear"


def test_items_without_the_other_part_teach_nothing():
    some = blocks()
    some[0][1:6], some[1][1:6] = 0, [1, 0, 0, 0]
    rest = [np.delete(block, range(1, 6), axis=0) for block in some]
    assert fill_cooccurrence(["file", "cooccurrence"], some) == fill_cooccurrence(["file", "cooccurrence"], rest)
    assert np.array_equal(some[1][-5:], rest[1][-5:])


def test_several_other_encoders_predict_together():
    x, y = blocks()
    whole, halves = [x, y.copy()], [x[:, :2].copy(), y.copy(), x[:, 2:].copy()]
    fill_cooccurrence(["text", "cooccurrence"], whole)
    assert fill_cooccurrence(["text", "cooccurrence", "famae"], halves) == [0, 5, 0]
    np.testing.assert_allclose(whole[1], halves[1], atol=1e-5)


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (["cooccurrence"], blocks()[1:]),
        (["cooccurrence", "cooccurrence"], blocks()[1:] * 2),
        (["tfidf", "file"], blocks()),
        (["tfidf", "cooccurrence"], blocks(n_known=FEWEST_KNOWN - 1)),
        (["tfidf", "cooccurrence"], blocks(n_cold=FEWEST_COLD - 1)),
        (["file", "cooccurrence"], [blocks()[0] * np.float32("nan"), blocks()[1]]),
    ],
)
def test_nothing_is_predicted(names, given):
    before = [block.copy() for block in given]
    assert fill_cooccurrence(names, given) == [0] * len(names)
    for left, right in zip(before, given):
        assert np.array_equal(left, right, equal_nan=True)


def test_the_log_tells_number_and_score(caplog):
    caplog.set_level("INFO")
    fill_cooccurrence(["tfidf", "cooccurrence"], blocks())
    (line,) = caplog.messages
    assert line.startswith("Co-occurrence of 5 items without any") and "for the 40 items that have both (R²" in line
