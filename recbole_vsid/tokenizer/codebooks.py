"""What tokenizers share that hold one codebook per position and take the nearest codeword of each.

A subclass says what a level quantises (:meth:`CodebookTokenizer.query`) and what a prefix stands for
(:meth:`CodebookTokenizer.decode`); codes, distances and errors of whole catalogues follow from that, in chunks of
one size, so that no item's code depends on the other items.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F

from recbole_vsid.tokenizer.base import Tokenizer, unit_rows
from recbole_vsid.tokenizer.defaults import fixed_chunks
from recbole_vsid.tokenizer.kmeans import nearest, squared_distances


class CodebookTokenizer(Tokenizer):
    """T codebooks of V codewords each; all codes have T tokens and every position has its own vocabulary."""

    shared_vocabulary = False

    @property
    @abstractmethod
    def codebooks(self):
        """Tensor ``[T, V, w]``, or None before :meth:`fit`."""

    def begin(self, x):
        """What all levels start from, for unit item vectors ``[n, d]``; the vectors themselves by default."""
        return x

    @abstractmethod
    def query(self, begun, level, codes):
        """What ``level`` quantises, ``[n, w]``.

        Args:
            begun: what :meth:`begin` returned.
            level: 0..T-1.
            codes: int64 ``[n, level]``, the codes before.
        """

    @abstractmethod
    def decode(self, codes):
        """Yield for 1, 2, ... T tokens of ``codes`` int64 ``[n, T]`` the vectors they stand for, ``[n, d]``."""

    @torch.no_grad()
    def assign(self, embedding):
        self._require_fitted()
        codes = np.empty((len(embedding), len(self.codebooks)), dtype=np.int32)
        for rows, (chunk,) in fixed_chunks(embedding):
            begun, found = self.begin(self._unit(chunk)), []
            for level, codebook in enumerate(self.codebooks):
                before = torch.stack(found, dim=1) if found else torch.empty(len(chunk), 0, dtype=torch.int64)
                found.append(nearest(self.query(begun, level, before), codebook))
            codes[rows] = torch.stack(found, dim=1)[: rows.stop - rows.start].cpu().numpy()
        return codes, np.full(len(codes), codes.shape[1], dtype=np.int32)

    @torch.no_grad()
    def code_distances(self, embedding, codes, level):
        """Squared distances of what ``level`` quantises; see :meth:`Tokenizer.code_distances`."""
        self._require_fitted()
        distances = np.empty((len(embedding), self.vocab_sizes[level]), dtype=np.float32)
        for rows, (chunk, ids) in fixed_chunks(embedding, np.asarray(codes, dtype=np.int64)[:, :level]):
            query = self.query(self.begin(self._unit(chunk)), level, torch.from_numpy(ids).to(self.device))
            of_chunk = squared_distances(query, self.codebooks[level])
            distances[rows] = of_chunk[: rows.stop - rows.start].cpu().numpy()
        return distances

    @torch.no_grad()
    def prefix_errors(self, embedding, codes):
        """See :meth:`Tokenizer.prefix_errors`.

        Raises:
            ValueError: ``codes`` has other than T columns or holds something else than codewords.
        """
        self._require_fitted()
        codes = self._full_length_codes(codes, len(embedding))
        errors = np.empty(codes.shape, dtype=np.float32)
        for rows, (chunk, ids) in fixed_chunks(embedding, codes.astype(np.int64)):
            x = self._unit(chunk)
            for level, decoded in enumerate(self.decode(torch.from_numpy(ids).to(self.device))):
                error = (x - F.normalize(decoded, dim=-1)).square().sum(-1)
                errors[rows, level] = error[: rows.stop - rows.start].cpu().numpy()
        return errors

    @property
    def vocab_sizes(self):
        self._require_fitted()
        n_levels, vocab_size, _ = self.codebooks.shape
        return (vocab_size,) * n_levels

    def _unit(self, embedding):
        return torch.from_numpy(unit_rows(embedding)).to(self.device)

    def _require_fitted(self):
        if self.codebooks is None:
            raise RuntimeError(f"tokenizer {self.name!r} has no codebooks yet: call fit() or load_state_dict() first")
