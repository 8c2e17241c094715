"""What every tokenizer is given and what it must do.

A tokenizer sees one float vector per item and how often each item occurs in the **training** split,
never a validation or test event. It gives *content codes*; what happens to items that share one is the
policy ``sid_collisions``, see :mod:`recbole_vsid.semantic_id.collisions`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import ClassVar

import numpy as np

from recbole_vsid.semantic_id.collisions import POLICIES, resolve_collisions
from recbole_vsid.semantic_id.extend import extend_table

# Rows of a matrix that are looked at together, so that one that is larger than the memory can stay on disk.
ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class TokenizerInput:
    """Row *i* of every array is RecBole's item *i*; row 0 is the padding item.

    Args:
        embedding: float32 ``[n_items, d]``, possibly a memory-mapped file; row 0 is ignored.
        popularity: int64 ``[n_items]``, number of training events of each item.
        item_tokens: external item ids, ``[n_items]``.

    Raises:
        ValueError: shapes disagree, or the embedding holds NaN, infinities or only constant rows.
    """

    embedding: np.ndarray
    popularity: np.ndarray
    item_tokens: np.ndarray

    def __post_init__(self):
        n_items = len(self.embedding)
        if self.embedding.ndim != 2 or n_items < 2:
            raise ValueError(f"embedding must be [n_items >= 2, d], not {self.embedding.shape}")
        if len(self.popularity) != n_items or len(self.item_tokens) != n_items:
            raise ValueError(
                f"{n_items} embeddings, {len(self.popularity)} counts and {len(self.item_tokens)} item ids: they must "
                "be as many"
            )
        chunks = [self.embedding[start : start + ROWS_AT_ONCE] for start in range(1, n_items, ROWS_AT_ONCE)]
        finite = np.concatenate([np.isfinite(chunk).all(1) for chunk in chunks])
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0]) + 1
            raise ValueError(
                f"the content of item {str(self.item_tokens[row])!r} holds NaN or infinite values "
                f"({int((~finite).sum())} of {n_items - 1} items); mend the content file or change `content`"
            )
        if n_items > 2 and all((chunk == self.embedding[1]).all() for chunk in chunks):
            raise ValueError(
                f"all {n_items - 1} items have the same content vector, so no tokenizer can tell them apart; "
                "change `content`, or load informative item columns"
            )


@dataclass(frozen=True)
class Settings:
    """Base of a group of settings; a subclass checks its own values in ``__post_init__``.

    A field ``x`` is the configuration key ``<prefix>x``, see :meth:`from_config`.

    Attributes:
        prefix: how the configuration keys of the group begin.
    """

    prefix: ClassVar[str]

    @classmethod
    def keys(cls):
        """The configuration keys that this class reads."""
        return [cls.prefix + field.name for field in fields(cls)]

    @classmethod
    def from_config(cls, config):
        """Build from any mapping with the class's keys; a key that is missing keeps its default."""
        names = [field.name for field in fields(cls) if cls.prefix + field.name in config]
        return cls(**{name: config[cls.prefix + name] for name in names})

    def require(self, name, condition, allowed):
        """Raise ``ValueError`` naming the configuration key, its value and what is allowed."""
        if not condition:
            raise ValueError(f"{self.prefix}{name}={getattr(self, name)!r} is not usable: it must be {allowed}")


@dataclass(frozen=True)
class TokenizerSettings(Settings):
    """Base of the settings of a tokenizer.

    Args:
        collisions: what happens to items with the same content code, one of the class's ``policies``.
        suffix_size: disambiguation tokens of policy ``suffix``: as many as needed ("auto"), or a fixed number,
            which leaves room for items that are added later.

    Attributes:
        policies: the policies that suit the codes of this tokenizer.
    """

    prefix: ClassVar[str] = "sid_"
    policies: ClassVar[tuple] = POLICIES

    collisions: str = "suffix"
    suffix_size: int | str = "auto"

    def __post_init__(self):
        self.require("collisions", self.collisions in self.policies, " or ".join(self.policies))
        size = self.suffix_size
        whole = isinstance(size, Integral) and not isinstance(size, bool) and size >= 1
        self.require("suffix_size", whole or size == "auto", "auto or a whole number of at least 1")
        needed = self.collisions == "suffix" or size == "auto"
        self.require("suffix_size", needed, f"auto with sid_collisions={self.collisions}, which adds no token")


class Tokenizer(ABC):
    """Item vectors → content codes.

    Args:
        settings: an instance of the class's ``Settings``.
        seed: every random draw of ``fit`` comes from it; same seed, same machine → same codes.
        device: torch device of ``fit`` and ``encode``.
        show_progress: whether ``fit`` shows a progress bar.

    Attributes:
        name: the name in the registry and on the command line.
        Settings: the settings class.
        found: what ``fit`` has chosen for settings that are "auto" and worth reporting, name → value.
        shared_vocabulary: whether all positions draw from one vocabulary.
    """

    name = None
    Settings = TokenizerSettings
    shared_vocabulary = False

    def __init__(self, settings=None, seed=0, device="cpu", show_progress=False):
        self.settings = settings if settings is not None else self.Settings()
        self.seed, self.device, self.show_progress = seed, device, show_progress
        self.found: dict[str, float] = {}

    @abstractmethod
    def fit(self, data: TokenizerInput):
        """Learn from ``data``; return ``self``.

        Raises:
            ValueError: the settings do not fit the data (for instance more codewords than items).
        """

    @abstractmethod
    def assign(self, embedding):
        """Content codes of any items, also ones unseen in ``fit``.

        Args:
            embedding: float32 ``[n, d]``.

        Returns:
            codes int32 ``[n, T]`` padded with −1, lengths int32 ``[n]`` in 1..T. The result for a
            row does not depend on the other rows.
        """

    @abstractmethod
    def prefix_errors(self, embedding, codes):
        """Squared error of the reconstruction from every prefix, on L2-normalised vectors.

        Args:
            embedding: float32 ``[n, d]``.
            codes: int32 ``[n, T]`` full-length content codes (see :meth:`assign_full`).

        Returns:
            float32 ``[n, T]``, values in [0, 4].
        """

    @abstractmethod
    def state_dict(self):
        """Everything ``fit`` has learnt, as a flat dict of tensors."""

    @abstractmethod
    def load_state_dict(self, state):
        """Restore what :meth:`state_dict` gave; afterwards ``assign`` gives the same codes."""

    def assign_full(self, embedding):
        """Codes of all T positions, int32 ``[n, T]``, as if no item stopped early."""
        return self.assign(embedding)[0]

    @property
    @abstractmethod
    def vocab_sizes(self):
        """Codewords per position, T entries."""

    def content_codes(self, data: TokenizerInput):
        """Content codes of the items of ``data``, as :meth:`assign` gives them for its rows 1...

        A tokenizer overrides it if the items of ``fit`` have codes that depend on each other.
        """
        return self.assign(data.embedding[1:])

    def code_distances(self, embedding, codes, level):
        """How far each item is from every codeword of a level, for the policies that move items.

        Args:
            embedding: float32 ``[n, d]``.
            codes: int32 ``[n, T]``; the columns before ``level`` say where an item stands.
            level: 0..T-1.

        Returns:
            float32 ``[n, V_level]``, smaller is nearer; the smallest stands at the code that :meth:`assign` gives.
        """
        raise NotImplementedError(f"tokenizer {self.name!r} cannot say how far an item is from other codewords")

    def _full_length_codes(self, codes, n):
        """``codes`` as an array, after checking that it is ``[n, T]`` of codewords.

        Raises:
            ValueError: another shape, or something else than codewords.
        """
        codes, sizes = np.asarray(codes), self.vocab_sizes
        if codes.shape != (n, len(sizes)) or (codes < 0).any() or (codes >= np.asarray(sizes)).any():
            raise ValueError(f"codes must be {(n, len(sizes))} and lie below {sizes}, as assign_full() gives them")
        return codes

    def encode(self, data: TokenizerInput, provenance=None):
        """The final table of all items of ``data``, collisions resolved as ``sid_collisions`` says.

        Raises:
            ValueError: the collisions exceed what the policy can resolve.
        """
        content, content_lengths = self.content_codes(data)
        codes = np.full((len(data.embedding), content.shape[1]), -1, dtype=np.int32)
        lengths = np.zeros(len(codes), dtype=np.int32)
        codes[1:], lengths[1:] = content, content_lengths
        origin = {"tokenizer": self.name, "settings": asdict(self.settings), "seed": self.seed, **(provenance or {})}
        return resolve_collisions(
            self.settings.collisions,
            codes,
            lengths,
            self.vocab_sizes,
            self.shared_vocabulary,
            data.popularity,
            data.item_tokens,
            origin,
            distances=lambda rows, prefix, level: self.code_distances(data.embedding[rows], prefix, level),
            suffix_size=self.settings.suffix_size,
        )

    def extend(self, table, embedding, item_tokens, grow=False):
        """``table``, which :meth:`encode` made, with new items behind the old ones, whose codes stay as they are.

        Args:
            table: :class:`~recbole_vsid.semantic_id.table.SemanticIDs`.
            embedding: float32 ``[m, d]``, content of the new items, made as in ``fit``.
            item_tokens: their external ids, ``[m]``.
            grow: see :func:`~recbole_vsid.semantic_id.extend.extend_table`.

        Raises:
            ValueError: an item is there already, its content is NaN or infinite, or there is no room for it.
        """
        embedding = np.asarray(embedding, dtype=np.float32)
        finite = np.isfinite(embedding).all(1)
        if not finite.all():
            raise ValueError(f"the content of item {str(item_tokens[finite.argmin()])!r} holds NaN or infinite values")
        codes, lengths = self.assign(embedding)
        return extend_table(
            table,
            codes,
            lengths,
            item_tokens,
            self.vocab_sizes,
            distances=lambda rows, prefix, level: self.code_distances(embedding[rows], prefix, level),
            grow=grow,
        )


def unit_rows(matrix):
    """L2-normalise the rows of a float32 array; rows of zeros stay zero."""
    matrix = np.asarray(matrix, dtype=np.float32)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
