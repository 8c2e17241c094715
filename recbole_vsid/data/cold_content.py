"""Co-occurrence of items that nobody has bought yet, predicted from what else is known of them.

Such items have a zero vector in the part of the content that comes from training sequences. Codes go by distance, so
zeros would draw all of them to the codewords nearest to zero, whatever the items are.
"""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger

import numpy as np

from recbole_vsid.tokenizer.base import unit_rows

# Fewer items teach no map, and fewer predictions change no table.
FEWEST_KNOWN = 10
FEWEST_COLD = 3

# Strengths of the penalty that are tried, in multiples of the features' mean eigenvalue.
STRENGTHS = np.logspace(-4, 3, 15)


def fill_cooccurrence(names: Sequence[str], blocks: list[np.ndarray]) -> list[int]:
    """Put predictions into the rows of ``cooccurrence`` blocks that are zero, in place.

    A row is predicted if another encoder knows the item, and learnt from if both do.

    Args:
        names: the encoder of each block.
        blocks: float32 ``[n_items, d]`` each, scaled, row 0 the padding item.

    Returns:
        How many rows of each block were predicted; 0 for those of other encoders, without others, or where too few
        items are there to learn from or to predict.
    """
    regressed = [0] * len(names)
    others = [block for name, block in zip(names, blocks) if name != "cooccurrence"]
    # TokenizerInput names an item whose content is not finite.
    if not others or len(others) == len(names) or not all(np.isfinite(block).all() for block in blocks):
        return regressed
    features = np.concatenate(others, axis=1)
    described = features.any(1)
    for place, (name, block) in enumerate(zip(names, blocks)):
        known = described & block.any(1)
        cold = described & ~known
        if name != "cooccurrence" or known.sum() < FEWEST_KNOWN or cold.sum() < FEWEST_COLD:
            continue
        block[cold], r2 = predicted_block(features[known], block[known], features[cold])
        regressed[place] = int(cold.sum())
        getLogger().info(
            f"Co-occurrence of {regressed[place]:,} items without any is predicted from their other content, which "
            f"explains {r2:.1%} of it for the {int(known.sum()):,} items that have both (R² by generalized "
            "cross-validation)"
        )
    return regressed


def predicted_block(
    known_features: np.ndarray, known_block: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, float]:
    """Ridge regression of one block of content from others, and its predictions brought to unit length.

    The strength of the penalty is that of :data:`STRENGTHS` with the smallest error by generalized cross-validation,
    which is leave-one-out with all items given the same leverage.

    Args:
        known_features: ``[n, p]``, the other blocks of items that have both.
        known_block: ``[n, q]``, their rows of the block, of unit length.
        features: ``[m, p]``, the other blocks of the items to predict.

    Returns:
        float32 ``[m, q]``, rows of unit length, zero where a row of ``features`` is zero; and R² by the same
        cross-validation, compared with the mean row: 1 is perfect, 0 or less no better than the mean.

    Raises:
        ValueError: shapes that do not match, or fewer than two rows to learn from.
    """
    x, y, new = (np.asarray(matrix, dtype=np.float64) for matrix in (known_features, known_block, features))
    shapes = x.shape, y.shape, new.shape
    if any(matrix.ndim != 2 for matrix in (x, y, new)) or len(x) != len(y) or x.shape[1] != new.shape[1] or len(x) < 2:
        raise ValueError(
            f"known_features, known_block and features have the shapes {shapes}: they must be [n, p], [n, q] and "
            "[m, p] with n of at least 2"
        )
    weights, r2 = _ridge(x - x.mean(0), y - y.mean(0), np.square(x).sum(), np.square(y).sum())
    block = unit_rows((new - x.mean(0)) @ weights + y.mean(0))
    block[~new.any(1)] = 0
    return block, r2


def _ridge(x: np.ndarray, y: np.ndarray, x_size: float, y_size: float) -> tuple[np.ndarray, float]:
    """Weights ``[p, q]`` of centred ``x`` → centred ``y``, and R² by generalized cross-validation.

    ``x_size`` and ``y_size`` are the sums of squares before centring, next to which rounding errors are judged.
    """
    n, rounding = len(x), np.finfo(np.float64).eps * max(x.shape[1], y.shape[1])
    eigenvalues, directions = np.linalg.eigh(x.T @ x)
    kept = eigenvalues > rounding * x_size  # the others are constant or repeated columns
    total = np.square(y).sum()
    if not kept.any() or total <= rounding * y_size:
        return np.zeros((x.shape[1], y.shape[1])), 0.0
    eigenvalues, directions = eigenvalues[kept], directions[:, kept]
    slopes = directions.T @ (x.T @ y) / eigenvalues[:, None]
    explained = eigenvalues * np.square(slopes).sum(1)
    beyond = max(total - explained.sum(), 0.0)  # what no penalty explains
    errors = []
    strengths = STRENGTHS * eigenvalues.sum() / x.shape[1]
    for strength in strengths:
        lost = strength / (eigenvalues + strength)
        freedom = 1 + (1 - lost).sum()  # one for the mean
        errors.append((beyond + np.square(lost) @ explained) / (1 - freedom / n) ** 2)
    best = int(np.argmin(errors))
    slopes *= (eigenvalues / (eigenvalues + strengths[best]))[:, None]
    return directions @ slopes, float(1 - errors[best] * (1 - 1 / n) ** 2 / total)
