"""Tables whose codes move: suffixes, vocabularies that stay, and figures about the codes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.semantic_id.moving import (
    SUFFIX_ROOM,
    changed_share,
    distinct_codes,
    effective_codes,
    first_table,
    next_table,
    sticky_suffixes,
    used_codes,
)

N_CODES = 4


def tokens(n):
    return np.array(["[PAD]", *(f"i{item}" for item in range(1, n + 1))])


def started(codes, least=1):
    return first_table(np.asarray(codes), N_CODES, least, tokens(len(codes)), {"seed": 7})


@st.composite
def generations(draw, fewest=1, most=4):
    """Content codes ``[n, 2]`` of the same items, several times, with many collisions."""
    n = draw(st.integers(1, 12))
    code = st.tuples(st.integers(0, 2), st.integers(0, 1))
    rows = st.lists(code, min_size=n, max_size=n).map(np.array)
    return draw(st.lists(rows, min_size=fewest, max_size=most))


def largest_group(codes):
    return max(Counter(map(tuple, codes.tolist())).values())


def groups(codes, suffixes):
    """The suffixes of every code, in the order of the items."""
    found = defaultdict(list)
    for code, suffix in zip(codes.tolist(), suffixes.tolist()):
        found[tuple(code)].append(suffix)
    return found


def naive_sticky(codes, old_codes, old_suffixes):
    suffixes, taken = {}, defaultdict(set)
    codes, old_codes = [list(map(tuple, each.tolist())) for each in (codes, old_codes)]
    for item, code in enumerate(codes):
        if code == old_codes[item]:
            suffixes[item] = int(old_suffixes[item])
            taken[code].add(suffixes[item])
    for item, code in enumerate(codes):
        if item not in suffixes:
            suffixes[item] = next(free for free in range(len(codes)) if free not in taken[code])
            taken[code].add(suffixes[item])
    return [suffixes[item] for item in range(len(codes))]


# ------------------------------------------------------------------------- tables


def check_ranked(table, codes, vocab_sizes):
    assert (table.codes[0] == -1).all() and table.lengths.tolist() == [0] + [3] * len(codes)
    assert np.array_equal(table.codes[1:, :-1], codes)
    assert distinct_codes(table.codes[1:]) == len(codes)
    for suffixes in groups(codes, table.codes[1:, -1]).values():
        assert suffixes == list(range(len(suffixes)))
    assert table.vocab_sizes == vocab_sizes and not table.shared_vocabulary
    assert table.suffix and table.unique


@settings(max_examples=60, deadline=None)
@given(generations(), st.integers(1, 30))
def test_i13_tables_number_the_items_of_a_group_by_id(codes, least):
    table = started(codes[0], least)
    vocab_sizes = (N_CODES, N_CODES, max(least, SUFFIX_ROOM * largest_group(codes[0])))
    check_ranked(table, codes[0], vocab_sizes)
    for content in codes[1:]:
        if largest_group(content) > vocab_sizes[-1]:
            with pytest.raises(ValueError, match="items share a content code"):
                next_table(table, content)
        else:
            table = next_table(table, content)
            check_ranked(table, content, vocab_sizes)


@pytest.mark.parametrize("least, expected", [(1, 12), (12, 12), (13, 13), (64, 64)])
def test_the_suffix_vocabulary_has_room_for_groups_four_times_as_large(least, expected):
    codes = [[0, 0], [1, 2], [0, 0], [1, 2], [0, 0], [3, 3]]
    table = started(codes, least)
    assert table.vocab_sizes == (N_CODES, N_CODES, expected)
    assert table.codes[1:, -1].tolist() == [0, 0, 1, 1, 2, 0]
    assert list(table.item_tokens) == list(tokens(6))


@pytest.mark.parametrize("policy", ["rank", "sticky"])
def test_the_next_table_changes_nothing_but_codes_and_figures(policy):
    first = started([[0, 0], [0, 0], [1, 1]])
    before = first.codes.copy()
    second = next_table(first, np.array([[0, 0], [1, 1], [1, 1]]), policy)
    assert np.array_equal(first.codes, before), "the old table stays as it was"
    assert second.codes[1:].tolist() == [[0, 0, 0], [1, 1, 0 if policy == "rank" else 1],
                                         [1, 1, 1 if policy == "rank" else 0]]  # fmt: skip
    assert second.vocab_sizes == first.vocab_sizes and np.array_equal(second.item_tokens, first.item_tokens)
    assert first.provenance == {"seed": 7, "collisions": {
        "policy": "suffix", "distinct_codes": 2, "items": 2, "item_share": 2 / 3, "largest_group": 2}}  # fmt: skip
    assert second.provenance == first.provenance  # as many collisions, in another group
    third = next_table(second, np.array([[2, 2], [2, 2], [2, 2]]), policy)
    assert third.provenance["collisions"]["largest_group"] == 3


@pytest.mark.parametrize("policy", ["rank", "sticky"])
def test_a_group_that_outgrows_the_suffixes_is_refused_with_the_use_of_the_levels(policy):
    codes = np.array([[code // N_CODES, code % N_CODES] for code in range(10)])
    table = started(codes)
    assert table.vocab_sizes[-1] == SUFFIX_ROOM
    just_fits = codes.copy()
    just_fits[:4] = [3, 0]
    assert next_table(table, just_fits, policy).codes[1:, -1].max() == 3
    too_many = codes.copy()
    too_many[:5] = [3, 0]
    message = (
        "^5 items share a content code, and there are 4 disambiguation tokens; the levels use 3 of 4, 4 of 4 codes. "
        "The codes have collapsed; if not, raise sid_suffix_size$"
    )
    with pytest.raises(ValueError, match=message):
        next_table(table, too_many, policy)


# ------------------------------------------------------------------ sticky suffixes


@settings(max_examples=60, deadline=None)
@given(generations(fewest=2, most=6))
def test_sticky_suffixes_equal_a_loop_over_the_items(codes):
    suffixes = np.zeros(len(codes[0]), dtype=np.int64)
    old = np.column_stack([np.arange(len(suffixes)), np.zeros_like(suffixes)])  # all different at first
    for content in codes:
        new = sticky_suffixes(content, old, suffixes)
        assert new.dtype == np.int64 and new.tolist() == naive_sticky(content, old, suffixes)
        stays = (content == old).all(1)
        assert np.array_equal(new[stays], suffixes[stays])
        assert all(len(set(group)) == len(group) for group in groups(content, new).values())
        old, suffixes = content, new


@settings(max_examples=60, deadline=None)
@given(generations(fewest=2, most=5))
def test_i13_sticky_tables_stay_unique_for_several_generations(codes):
    table = started(codes[0], least=12)  # room for one group of all items
    for content in codes[1:]:
        after = next_table(table, content, "sticky")
        assert after.codes[1:, -1].tolist() == naive_sticky(content, table.codes[1:, :-1], table.codes[1:, -1])
        stays = (content == table.codes[1:, :-1]).all(1)
        assert np.array_equal(after.codes[1:][stays], table.codes[1:][stays])
        assert after.vocab_sizes == table.vocab_sizes and distinct_codes(after.codes[1:]) == len(content)
        table = after


def test_a_suffix_beyond_the_size_of_its_group_is_kept():
    old = np.array([[0], [0], [0], [1]])
    new = sticky_suffixes(np.array([[2], [2], [0], [0]]), old, np.array([0, 1, 2, 0]))
    assert new.tolist() == [0, 1, 2, 0], "the third keeps its 2 in a group of two, where 0 is free"


# -------------------------------------------------------------------------- figures


@settings(max_examples=60, deadline=None)
@given(generations(fewest=2, most=2))
def test_figures_equal_plain_counts(codes):
    before, after = codes
    rows = list(zip(before.tolist(), after.tolist()))
    assert changed_share(before, after) == pytest.approx(sum(a != b for a, b in rows) / len(rows))
    assert distinct_codes(before) == len({tuple(row) for row in before.tolist()})
    columns = [[row[level] for row in before.tolist()] for level in range(2)]
    assert used_codes(before) == [len(set(column)) for column in columns]
    for column, effective in zip(columns, effective_codes(before)):
        shares = [count / len(column) for count in Counter(column).values()]
        assert effective == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)))


def test_effective_codes_are_all_for_even_use_and_one_for_a_single_code():
    codes = np.column_stack([np.arange(24) % 8, np.full(24, 5), np.arange(24) // 12])
    assert effective_codes(codes) == pytest.approx([8, 1, 2])
    assert used_codes(codes) == [8, 1, 2]
