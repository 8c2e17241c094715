"""Global alignment of ReSID's GAOQ (arXiv 2602.02338, Algorithm 1): the same code points the same way everywhere.

The children of each parent are matched to one set of directions per level, shared by all parents, by the linear
assignment with the largest sum of cosines of (child - parent). That changes no cluster and no entropy, only which
child is called 7.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linear_sum_assignment

from recbole_vsid.tokenizer.base import unit_rows

REFINEMENT_ROUNDS = 20


def make_anchors(kind, size, residuals, families, rng):
    """The directions of one level, float ``[size, d]`` with ``size`` <= 2 d.

    Args:
        kind: ``qr``, random orthonormal directions and, beyond d of them, their opposites; ``pca``, the principal
            axes of the residuals and their opposites; ``refined``, ``qr`` moved to the mean of what it is matched
            with, some rounds. The last two are no part of ReSID, and ``refined`` is not orthogonal.
        residuals, families: see :func:`number_siblings`.
        rng: ``numpy.random.Generator``.
    """
    n_dims = residuals.shape[1]
    if kind == "pca":
        units = unit_rows(residuals).astype(np.float64)
        axes = np.linalg.eigh(units.T @ units)[1].T[::-1][: math.ceil(size / 2)]
    else:
        axes = np.linalg.qr(rng.standard_normal((n_dims, min(size, n_dims))))[0].T
    anchors = np.ascontiguousarray(np.concatenate([axes, -axes])[:size])
    if kind == "refined":
        units = unit_rows(residuals)
        for _ in range(REFINEMENT_ROUNDS):
            codes = number_siblings(residuals, families, anchors)
            sums = np.stack([units[codes == code].sum(0) for code in range(size)])
            anchors = np.where(sums.any(1, keepdims=True), unit_rows(sums), anchors)
    return anchors


def number_siblings(residuals, families, anchors):
    """Codes of all children of a level, int64 ``[m]``, different within a family.

    Args:
        residuals: ``[m, d]``, each child minus its parent.
        families: list of arrays, the children of each parent.
        anchors: ``[g, d]``, g at least the largest family; None numbers each family in its order.
    """
    codes = np.empty(len(residuals), dtype=np.int64)
    for family in families:
        codes[family] = np.arange(len(family)) if anchors is None else align(residuals[family], anchors)
    return codes


def align(residuals, anchors):
    """The injective map children -> anchors with the largest sum of cosines.

    Args:
        residuals: ``[m, d]``; a row of zeros fits all anchors alike.
        anchors: unit vectors ``[g, d]``.

    Returns:
        The anchor of every child, int64 ``[m]``.

    Raises:
        ValueError: g < m; the assignment would silently leave children out.
    """
    if len(residuals) > len(anchors):
        raise ValueError(f"{len(residuals)} children cannot have different codes among {len(anchors)} anchors")
    return linear_sum_assignment(unit_rows(residuals) @ anchors.T, maximize=True)[1]
