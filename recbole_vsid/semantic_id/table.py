"""``SemanticIDs``: one row of codes per item, checked when built, never misaligned with a dataset.

Fixed-length semantic IDs are the special case in which all lengths are equal. Row 0 belongs to
RecBole's padding item and is empty.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recbole_vsid.semantic_id.array_files import shortened
from recbole_vsid.storage import atomic_path, content_hash

PAD = -1


@dataclass(frozen=True, eq=False)
class SemanticIDs:
    """An immutable table item → semantic ID.

    Args:
        codes: int32 ``[n_items, max_length]``, padded with −1 behind each item's length.
        lengths: int32 ``[n_items]``; ``lengths[0] == 0`` (padding item), all others at least 1.
        vocab_sizes: number of codes possible at each position, ``max_length`` entries.
        shared_vocabulary: whether code 7 means the same at every position (then all
            ``vocab_sizes`` are equal); otherwise each position has a vocabulary of its own.
        item_tokens: the external item ids, row by row; ``item_tokens[0]`` is RecBole's ``[PAD]``.
        provenance: plain values that say how the table was made.
        unique: claim that no two items share a code (checked).
        prefix_free: claim that no code is the beginning of another (checked; implies ``unique``).
        suffix: whether the last token of every item only tells apart items with the same content code.

    Raises:
        ValueError: an invariant does not hold; the message names the first offending item.
    """

    codes: np.ndarray
    lengths: np.ndarray
    vocab_sizes: tuple
    shared_vocabulary: bool
    item_tokens: np.ndarray
    provenance: dict = field(default_factory=dict)
    unique: bool = True
    prefix_free: bool = True
    suffix: bool = False

    def __post_init__(self):
        # Copies: freezing must not reach the caller's arrays, nor the caller's later edits the table.
        codes = np.array(self.codes, dtype=np.int32, order="C")
        lengths = np.array(self.lengths, dtype=np.int32)
        tokens = np.array(self.item_tokens, dtype=str)
        for name, array in (("codes", codes), ("lengths", lengths), ("item_tokens", tokens)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "vocab_sizes", tuple(int(size) for size in self.vocab_sizes))
        self._check()

    # ------------------------------------------------------------------ sizes

    @property
    def n_items(self):
        """Rows of the table, the padding item included."""
        return self.codes.shape[0]

    @property
    def max_length(self):
        """Length of the longest semantic ID."""
        return self.codes.shape[1]

    @property
    def n_tokens(self):
        """Size of the flat vocabulary of :meth:`flat_codes`."""
        return max(self.vocab_sizes) if self.shared_vocabulary else sum(self.vocab_sizes)

    def vocabularies(self):
        """``(first, end)`` of each position's tokens in the flat vocabulary of :meth:`flat_codes`."""
        if self.shared_vocabulary:
            return [(0, self.n_tokens)] * self.max_length
        ends = np.cumsum(self.vocab_sizes).tolist()
        return list(zip([0, *ends[:-1]], ends))

    def flat_codes(self):
        """Codes in one vocabulary of ``n_tokens`` ids, int64 ``[n_items, max_length]``, −1 padded.

        Positions that share a vocabulary keep their codes; otherwise position *l* is moved behind
        the vocabularies of the positions before it.
        """
        flat = self.codes.astype(np.int64)
        if not self.shared_vocabulary:
            flat = np.where(flat == PAD, PAD, flat + [first for first, _ in self.vocabularies()])
        return flat

    # ------------------------------------------------------------- invariants

    def _check(self):
        codes, lengths = self.codes, self.lengths
        if codes.ndim != 2 or codes.shape[1] < 1 or codes.shape[0] < 2:
            raise ValueError(f"codes must be [n_items >= 2, max_length >= 1], not {codes.shape}")
        n_items, max_length = codes.shape
        if lengths.shape != (n_items,) or self.item_tokens.shape != (n_items,):
            raise ValueError(
                f"codes have {n_items} rows, lengths {lengths.shape}, item_tokens {self.item_tokens.shape}"
            )
        if len(self.vocab_sizes) != max_length or min(self.vocab_sizes) < 1:
            raise ValueError(f"vocab_sizes must be {max_length} positive numbers, not {self.vocab_sizes}")
        if self.shared_vocabulary and len(set(self.vocab_sizes)) > 1:
            raise ValueError(f"a shared vocabulary has one size, not {self.vocab_sizes}")
        if lengths[0] != 0:
            raise ValueError(f"row 0 is the padding item and must be empty, its length is {lengths[0]}")
        self._refuse((lengths[1:] < 1) | (lengths[1:] > max_length), f"lengths must lie in 1..{max_length}")
        if len(np.unique(self.item_tokens)) != n_items:
            values, counts = np.unique(self.item_tokens, return_counts=True)
            raise ValueError(f"item token {str(values[counts.argmax()])!r} stands in {counts.max()} rows")
        inside = np.arange(max_length) < lengths[:, None]
        if (codes[0] != PAD).any():
            raise ValueError("row 0 is the padding item and must hold −1 only")
        self._refuse((inside != (codes != PAD)).any(1)[1:], "codes must be −1 exactly behind the length")
        too_large = inside & ((codes < 0) | (codes >= np.asarray(self.vocab_sizes)))
        self._refuse(too_large.any(1)[1:], f"codes must lie below vocab_sizes {self.vocab_sizes}")
        if self.unique or self.prefix_free:
            order = np.lexsort(codes[1:].T[::-1])
            before, after = codes[1:][order[:-1]], codes[1:][order[1:]]
            self._refuse_pair((before == after).all(1), order, "share the semantic ID")
            if self.prefix_free:
                # Sorted with −1 first, a code that begins others stands directly before one of them.
                prefix = ((before == after) | (before == PAD)).all(1)
                self._refuse_pair(prefix, order, "have codes of which one begins the other:")

    def _refuse(self, bad, message):
        if bad.any():
            row = int(np.flatnonzero(bad)[0]) + 1
            raise ValueError(
                f"item {str(self.item_tokens[row])!r} (row {row}): {message}; "
                f"its codes are {self.codes[row].tolist()}, its length {self.lengths[row]}"
            )

    def _refuse_pair(self, bad, order, message):
        if bad.any():
            position = int(np.flatnonzero(bad)[0])
            first, second = (int(order[position + i]) + 1 for i in (0, 1))
            raise ValueError(
                f"items {str(self.item_tokens[first])!r} and {str(self.item_tokens[second])!r} {message} "
                f"{self.codes[first].tolist()} and {self.codes[second].tolist()}"
            )

    # ------------------------------------------------------------------ files

    def plain(self):
        """All but ``codes`` and ``lengths`` as plain values; ``SemanticIDs(codes, lengths, **plain)`` is this table."""
        return {
            "vocab_sizes": list(self.vocab_sizes),
            "shared_vocabulary": bool(self.shared_vocabulary),
            "unique": bool(self.unique),
            "prefix_free": bool(self.prefix_free),
            "suffix": bool(self.suffix),
            "item_tokens": self.item_tokens.tolist(),
            "provenance": self.provenance,
        }

    def save(self, path):
        """Write the table as one safetensors file, atomically; its header carries :meth:`plain` as JSON."""
        header = json.dumps(self.plain(), ensure_ascii=False)
        checksum = content_hash(self.codes, self.lengths, header)
        with atomic_path(path) as temporary:
            save_file(
                {"codes": self.codes, "lengths": self.lengths},
                temporary,
                metadata={"semantic_ids": header, "checksum": checksum},
            )

    @classmethod
    def load(cls, path):
        """Read a table written by :meth:`save`; its checksum and all invariants are checked.

        Raises:
            ValueError: the file is damaged or is not such a table.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata()
                header = json.loads(metadata["semantic_ids"])
                codes, lengths = file.get_tensor("codes"), file.get_tensor("lengths")
            # Files of earlier versions have no checksum.
            if metadata.get("checksum") not in (None, content_hash(codes, lengths, metadata["semantic_ids"])):
                raise ValueError("its checksum is not that of its contents, so it is damaged")
            table = cls(codes=codes, lengths=lengths, **header)
            changed = [key for key, value in table.plain().items() if header.get(key, value) != value]
            if not np.array_equal(table.codes, codes) or not np.array_equal(table.lengths, lengths):
                changed = ["codes or lengths"]
            if changed:
                raise ValueError(f"its {changed[0]} are of a wrong kind")
            return table
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is not a semantic-ID table: {shortened(error)}") from error

    def __eq__(self, other):
        return (
            isinstance(other, SemanticIDs)
            and np.array_equal(self.codes, other.codes)
            and np.array_equal(self.lengths, other.lengths)
            and np.array_equal(self.item_tokens, other.item_tokens)
            and self.vocab_sizes == other.vocab_sizes
            and self.shared_vocabulary == other.shared_vocabulary
        )
