"""Ranks of colliding items and the tables with their disambiguation token."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings

from recbole_vsid.semantic_id.collisions import append_suffix, collision_ranks
from tests.property.strategies import content_codes, pad_codes


def suffixed(codes, popularity, vocab_sizes, shared_vocabulary=True):
    codes, lengths = pad_codes(codes)
    tokens = np.arange(len(lengths)).astype(str)
    return append_suffix(codes, lengths, vocab_sizes, shared_vocabulary, np.array([0, *popularity]), tokens, {})


def test_the_most_popular_comes_first_and_ties_go_to_the_later_row():
    codes = np.array([[1, 2], [1, 2], [1, -1], [1, 2], [1, 2]])
    assert collision_ranks(codes, np.array([5, 9, 1, 5, 0])).tolist() == [2, 0, 0, 1, 3]


def test_no_rows_collide():
    assert collision_ranks(np.array([[0], [1], [2]]), np.array([3, 2, 1])).tolist() == [0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(content_codes())
def test_ranks_equal_sorting_each_group(arguments):
    codes, popularity = arguments["codes"][1:], arguments["popularity"][1:]
    groups = defaultdict(list)
    for row, code in enumerate(codes.tolist()):
        groups[tuple(code)].append(row)
    expected = np.empty(len(codes), dtype=int)
    for rows in groups.values():
        for rank, row in enumerate(sorted(rows, key=lambda row: (-popularity[row], -row))):
            expected[row] = rank
    assert collision_ranks(codes, popularity).tolist() == expected.tolist()


def test_shared_vocabulary_has_the_suffixes_behind_the_content():
    table = suffixed([(0, 2), (0,), (0, 2), (1,)], [1, 1, 7, 1], [3, 3])
    assert table.codes[1:].tolist() == [[0, 2, 4], [0, 3, -1], [0, 2, 3], [1, 3, -1]]
    assert table.vocab_sizes == (5, 5, 5) and table.n_tokens == 5 and table.shared_vocabulary


def test_own_vocabularies_have_the_suffixes_behind_each_position():
    table = suffixed([(0, 3), (1,), (0, 3), (1,)], [1, 1, 7, 1], [2, 4], shared_vocabulary=False)
    assert table.codes[1:].tolist() == [[0, 3, 1], [1, 5, -1], [0, 3, 0], [1, 4, -1]]
    assert table.vocab_sizes == (2, 6, 2), "no code ends at the first position, so it has no suffixes"


def test_fixed_length_gets_a_last_position_of_its_own():
    table = suffixed([(0, 3), (1, 2), (0, 3)], [1, 1, 7], [2, 4], shared_vocabulary=False)
    assert table.codes[1:].tolist() == [[0, 3, 1], [1, 2, 0], [0, 3, 0]]
    assert table.vocab_sizes == (2, 4, 2)


def test_every_item_gets_the_token_also_without_collisions():
    table = suffixed([(0,), (1,)], [1, 1], [2])
    assert table.codes[1:].tolist() == [[0, 2], [1, 2]] and table.n_tokens == 3


def test_positions_that_no_code_reaches_are_dropped():
    codes = np.array([[-1, -1, -1], [1, -1, -1], [0, 1, -1]])
    table = append_suffix(codes, np.array([0, 1, 2]), [2, 2, 2], True, np.zeros(3), np.array(["p", "a", "b"]), {})
    assert table.codes[1:].tolist() == [[1, 2, -1], [0, 1, 2]]


@pytest.mark.parametrize("shared", [True, False])
def test_content_and_suffix_ids_are_disjoint(shared):
    table = suffixed([(2,), (2, 1), (2, 1), (2, 1, 0)], [1, 2, 3, 4], [3, 2, 4] if not shared else [3] * 3, shared)
    flat = table.flat_codes()[1:]
    last = flat[np.arange(4), table.lengths[1:] - 1]
    content = {int(code) for row, n in zip(flat, table.lengths[1:]) for code in row[: n - 1]}
    assert not content & set(last.tolist())
