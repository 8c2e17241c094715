"""Residual vector quantisation by gradient descent, without encoder and decoder: the "VQ-VAE" of IntRR.

One level after the other, as the official code of arXiv 2602.20704 does: k-means++ seeds, then Adagrad on the
summed squared distance between (normalised) residuals and their nearest codewords. The commitment term of that
code has nothing to train, as the vectors are constants. What it learns is close to residual k-means, whose
encoding it shares. ``n_levels=1`` is plain vector quantisation.

That code's learning rate of 0.001 suits its vectors of 2,048 dimensions, whose entries are small. Adagrad moves
an entry by about 2 * rate * sqrt(updates) at most, which with some dozens of dimensions leaves the codewords
close to their seeds; 0.01 reaches the error of k-means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from recbole_vsid.tokenizer.base import TokenizerSettings
from recbole_vsid.tokenizer.defaults import LONGEST, require_integer, require_real, resolve_vocab_size
from recbole_vsid.tokenizer.kmeans import fit_sample, kmeans_plus_plus, nearest
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer, direction

# Seeds are drawn from 3,072 rows for 256 codewords.
SEED_ROWS_PER_CODEWORD = 12


@dataclass(frozen=True)
class RVQSettings(TokenizerSettings):
    """Settings of residual vector quantisation; ``properties/tokenizer/rvq.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    vocab_size: int | str = "auto"
    n_levels: int = 3
    normalize_residuals: bool = True
    updates: int = 1000
    batch_size: int = 2048
    learning_rate: float = 0.01
    fit_rows: int | str = "auto"

    def __post_init__(self):
        super().__post_init__()
        require_integer(self, "vocab_size", 2, auto=True)
        require_integer(self, "n_levels", 1, high=LONGEST)
        self.require("normalize_residuals", isinstance(self.normalize_residuals, bool), "True or False")
        require_integer(self, "updates", 1)
        require_integer(self, "batch_size", 1)
        require_real(self, "learning_rate", 0, open_low=True)
        require_integer(self, "fit_rows", 1, auto=True)


class RVQTokenizer(RKMeansTokenizer):
    """Residual vector quantisation (``rvq``)."""

    name = "rvq"
    Settings = RVQSettings

    def fit(self, data):
        """Fit one codebook per level; see :class:`~recbole_vsid.tokenizer.base.Tokenizer`.

        Raises:
            ValueError: more codewords than items, or than ``fit_rows``.
        """
        settings, embedding = self.settings, data.embedding[1:]
        vocab_size = resolve_vocab_size(settings, len(embedding))
        rng, generator = np.random.default_rng(self.seed), torch.Generator().manual_seed(self.seed)
        residual = torch.from_numpy(fit_sample(settings, embedding, vocab_size, self.seed)[1]).to(self.device)
        levels, norms = [], []
        total = settings.n_levels * settings.updates
        with tqdm(total=total, desc=self.name, unit="update", disable=not self.show_progress) as bar:
            for _ in range(settings.n_levels):
                codebook = self._fit_level(residual, vocab_size, rng, generator, bar)
                levels.append(codebook)
                residual -= codebook[nearest(residual, codebook)]
                if settings.normalize_residuals:
                    norms.append(residual.norm(dim=1).double().mean())
                    residual = direction(residual)
        self.centroids = torch.stack(levels)
        self.residual_norms = torch.stack(norms).float() if norms else None
        return self

    def _fit_level(self, rows, vocab_size, rng, generator, bar):
        settings = self.settings
        batches = draw_batches(len(rows), settings.batch_size, rng)
        seed_rows = min(len(rows), SEED_ROWS_PER_CODEWORD * vocab_size)
        seeds = rows[torch.from_numpy(rng.choice(len(rows), seed_rows, replace=False)).to(rows.device)]
        weights = torch.ones(len(seeds), dtype=torch.float64, device=rows.device)
        codebook = kmeans_plus_plus(seeds, vocab_size, weights, generator).requires_grad_()
        optimizer = torch.optim.Adagrad([codebook], lr=settings.learning_rate)
        for _ in range(settings.updates):
            batch = rows[torch.from_numpy(next(batches)).to(rows.device)]
            with torch.no_grad():
                codes = nearest(batch, codebook)
            optimizer.zero_grad(set_to_none=True)
            (codebook[codes] - batch).square().sum().backward()
            optimizer.step()
            bar.update()
        return codebook.detach()


def draw_batches(n_rows, batch_size, rng):
    """Row numbers of one batch after another, for ever; every pass over the rows is a permutation."""
    n_batches = -(-n_rows // batch_size)
    while True:
        yield from np.array_split(rng.permutation(n_rows), n_batches)
