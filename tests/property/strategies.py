"""Hypothesis generators of the package's own data types."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from recbole_vsid.semantic_id.table import PAD, SemanticIDs


def pad_codes(codes):
    """Tuples of codes, one per item → ``(codes [n_items, max_length], lengths [n_items])``, row 0 padding."""
    lengths = np.array([0] + [len(code) for code in codes])
    padded = np.full((len(lengths), lengths.max()), PAD)
    for row, code in enumerate(codes, start=1):
        padded[row, : len(code)] = code
    return padded, lengths


def make_table(codes, vocab_sizes, shared_vocabulary=True, **claims):
    """A table of the given tuples of codes; item *i* has the token ``item-i``."""
    padded, lengths = pad_codes(codes)
    tokens = np.array(["[PAD]"] + [f"item-{row}" for row in range(1, len(lengths))])
    return SemanticIDs(padded, lengths, vocab_sizes, shared_vocabulary, tokens, **claims)


@st.composite
def _vocabularies(draw, max_length, max_vocab):
    """``(vocab_sizes, shared_vocabulary)``."""
    length, sizes = draw(st.integers(1, max_length)), st.integers(1, max_vocab)
    if draw(st.booleans()):
        return [draw(sizes)] * length, True
    return draw(st.lists(sizes, min_size=length, max_size=length)), False


def _code_lists(vocab_sizes, max_items, **options):
    sizes = st.integers(1, len(vocab_sizes))
    code = sizes.flatmap(lambda n: st.tuples(*(st.integers(0, vocab - 1) for vocab in vocab_sizes[:n])))
    return st.lists(code, min_size=1, max_size=max_items, **options)


@st.composite
def semantic_id_tables(draw, max_items=12, max_length=4, max_vocab=6):
    """Random prefix-free tables of codes of different lengths, with a shared vocabulary or without."""
    vocab_sizes, shared = draw(_vocabularies(max_length, max_vocab))
    candidates = draw(_code_lists(vocab_sizes, max_items, unique=True))
    codes = []
    for code in candidates:
        if not any(code[: len(other)] == other[: len(code)] for other in codes):
            codes.append(code)
    longest = max(map(len, codes))
    return make_table(codes, vocab_sizes[:longest], shared)


@st.composite
def content_codes(draw, max_items=12, max_length=3, max_vocab=4):
    """Arguments of ``append_suffix``: content codes with collisions and prefixes among them."""
    sizes, shared = draw(_vocabularies(max_length, max_vocab))
    codes, lengths = pad_codes(draw(_code_lists(sizes, max_items)))
    counts = st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths))
    return {
        "codes": codes,
        "lengths": lengths,
        "vocab_sizes": sizes,
        "shared_vocabulary": shared,
        "popularity": np.array(draw(counts)),
        "item_tokens": np.array(["[PAD]"] + [f"item-{row}" for row in range(1, len(lengths))]),
        "provenance": {},
    }
