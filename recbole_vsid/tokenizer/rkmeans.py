"""Residual k-means: T levels of k-means, each on what the levels before left over.

The baseline of arXiv 2602.16375 (its official code), in float32 and with a vocabulary per level. All
codes have T tokens. ``popularity_weighted`` is an addition: without it a gain of a popularity-trained
tokenizer over this baseline may only be the weighting.

``normalize_residuals`` makes it the R-KMeans of GRID (arXiv 2507.22224), on which IntRR (arXiv
2602.20704) builds: every level quantises the *direction* x_l = R_{l-1} / |R_{l-1}| and leaves
R_l = x_l - centroid. Then later levels look at all items alike, however well the first described them.
The norms are not in the code, so a prefix is decoded with their means,
x ~ c_1 + m_1 (c_2 + m_2 (c_3 + ...)) with m_l the mean of |R_l| over the rows of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from recbole_vsid.tokenizer.base import TokenizerSettings
from recbole_vsid.tokenizer.codebooks import CodebookTokenizer
from recbole_vsid.tokenizer.defaults import LONGEST, require_choice, require_integer, require_real, resolve_vocab_size
from recbole_vsid.tokenizer.kmeans import INITIALISATIONS, fit_sample, kmeans

# A residual this short is the rounding error of an item that is a centroid itself: it has no direction.
SHORTEST_RESIDUAL = 1e-5


@dataclass(frozen=True)
class RKMeansSettings(TokenizerSettings):
    """Settings of residual k-means; ``properties/tokenizer/rkmeans.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    vocab_size: int | str = "auto"
    n_levels: int = 3
    normalize_residuals: bool = False
    init: str = "random"
    max_iterations: int = 40
    tolerance: float = 1e-4
    fit_rows: int | str = "auto"
    popularity_weighted: bool = False

    def __post_init__(self):
        super().__post_init__()
        require_integer(self, "vocab_size", 2, auto=True)
        require_integer(self, "n_levels", 1, high=LONGEST)
        require_choice(self, "init", INITIALISATIONS)
        require_integer(self, "max_iterations", 1)
        require_real(self, "tolerance", 0)
        require_integer(self, "fit_rows", 1, auto=True)
        for name in ("normalize_residuals", "popularity_weighted"):
            self.require(name, isinstance(getattr(self, name), bool), "True or False")


class RKMeansTokenizer(CodebookTokenizer):
    """Residual k-means (``rkmeans``)."""

    name = "rkmeans"
    Settings = RKMeansSettings

    centroids = None  # [n_levels, V, D]
    residual_norms = None  # [n_levels], mean of |R_l| over the rows of the fit; None if residuals are not normalised

    def fit(self, data):
        """Fit one k-means per level; see :class:`~recbole_vsid.tokenizer.base.Tokenizer`.

        Raises:
            ValueError: more codewords than items (or than ``fit_rows``), or popularity weights of which
                all are zero.
        """
        settings, embedding = self.settings, data.embedding[1:]
        vocab_size = resolve_vocab_size(settings, len(embedding))
        chosen, rows = fit_sample(settings, embedding, vocab_size, self.seed)
        weights = torch.ones(len(rows), dtype=torch.float64, device=self.device)
        if settings.popularity_weighted:
            weights = torch.as_tensor(np.asarray(data.popularity[1:][chosen], dtype=np.float64), device=self.device)
            settings.require("popularity_weighted", bool(weights.sum() > 0), "False if no item has a training event")
        generator = torch.Generator().manual_seed(self.seed)
        residual = torch.from_numpy(rows).to(self.device)
        levels, norms = [], []
        for _ in tqdm(range(settings.n_levels), desc=self.name, unit="level", disable=not self.show_progress):
            centroids, labels, _ = kmeans(
                residual, vocab_size, weights, settings.max_iterations, settings.tolerance, generator, settings.init
            )
            residual -= centroids[labels]
            levels.append(centroids)
            if settings.normalize_residuals:
                norms.append((residual.norm(dim=1).double() * weights).sum() / weights.sum())
                residual = direction(residual)
        self.centroids = torch.stack(levels)
        self.residual_norms = torch.stack(norms).float() if norms else None
        return self

    @property
    def codebooks(self):
        return self.centroids

    def query(self, begun, level, codes):
        """What the centroids ``codes`` leave over of the unit vectors ``begun``."""
        for centroids, labels in zip(self.centroids, codes.unbind(1)):
            begun = begun - centroids[labels]
            if self.residual_norms is not None:
                begun = direction(begun)
        return begun

    def decode(self, codes):
        """Sums of centroids; of normalised residuals the weighted sum that the head of this module describes."""
        scales = torch.ones(len(self.centroids))
        if self.residual_norms is not None:
            scales[1:] = self.residual_norms[:-1].cumprod(0)
        total = 0
        for centroids, scale, labels in zip(self.centroids, scales.tolist(), codes.unbind(1)):
            total = total + scale * centroids[labels]
            yield total

    def state_dict(self):
        self._require_fitted()
        norms = {} if self.residual_norms is None else {"residual_norms": self.residual_norms}
        return {"centroids": self.centroids, **norms}

    def load_state_dict(self, state):
        """Restore a state; levels, codewords and whether residuals are normalised come from it.

        Raises:
            ValueError: the state belongs to another tokenizer.
        """
        if not {"centroids"} <= set(state) <= {"centroids", "residual_norms"} or state["centroids"].ndim != 3:
            raise ValueError(f"this is no state of tokenizer {self.name!r}: it has {sorted(state)}")
        restored = {name: tensor.to(self.device, torch.float32) for name, tensor in state.items()}
        self.centroids, self.residual_norms = restored["centroids"], restored.get("residual_norms")


def direction(rows):
    """Rows brought to unit length, but for ones that are nothing but rounding errors."""
    return F.normalize(rows, dim=1, eps=SHORTEST_RESIDUAL)
