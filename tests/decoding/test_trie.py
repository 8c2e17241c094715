"""The array tree against a tree of dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from recbole_vsid.decoding.trie import PrefixTrie
from tests.property.strategies import make_table, semantic_id_tables

CODES = [(3, 1), (0,), (3, 0, 2), (1, 1), (3, 0, 0)]


def dictionary_tree(table, items):
    root, flat = {}, table.flat_codes()
    for item in items:
        *inner, last = flat[item, : table.lengths[item]].tolist()
        place = root
        for token in inner:
            place = place.setdefault(token, {})
        place[last] = int(item)
    return root


def unfold(trie, node=0):
    """The array tree as nested dictionaries, read through ``children``."""
    tokens, nodes, row = trie.children(torch.tensor([node]))
    assert (row == 0).all() and (trie.depth[nodes] == trie.depth[node] + 1).all()
    assert tokens.tolist() == sorted(tokens.tolist()), "siblings are ordered by token"
    if not len(nodes):
        return int(trie.item[node])
    assert trie.item[node] == 0
    return {int(token): unfold(trie, child) for token, child in zip(tokens, nodes.tolist())}


@settings(max_examples=50, deadline=None)
@given(semantic_id_tables())
def test_equals_a_tree_of_dictionaries(table):
    trie = PrefixTrie.from_table(table)
    assert unfold(trie) == dictionary_tree(table, range(1, table.n_items))
    assert trie.n_leaves == int((trie.item > 0).sum()) == table.n_items - 1
    assert (trie.n_tokens, trie.n_items, trie.max_depth) == (table.n_tokens, table.n_items, table.lengths.max())


def test_numbering_is_breadth_first():
    trie = PrefixTrie.from_table(make_table(CODES, [4, 4, 4]))
    assert trie.token.tolist() == [-1, 0, 1, 3, 1, 0, 1, 0, 2]
    assert trie.depth.tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert trie.item.tolist() == [0, 2, 0, 0, 4, 0, 1, 5, 3]
    assert trie.child_offsets.tolist() == [0, 3, 3, 4, 6, 6, 8, 8, 8, 8]


def test_children_of_many_nodes():
    trie = PrefixTrie.from_table(make_table(CODES, [4, 4, 4]))
    tokens, nodes, row = trie.children(torch.tensor([3, 1, 0, 3]))  # node 1 is a leaf; repeats are allowed
    assert tokens.tolist() == [0, 1, 0, 1, 3, 0, 1]
    assert nodes.tolist() == [5, 6, 1, 2, 3, 5, 6]
    assert row.tolist() == [0, 0, 2, 2, 2, 3, 3]
    assert all(len(part) == 0 for part in trie.children(torch.tensor([], dtype=torch.int64)))


@pytest.mark.parametrize("items", [[1, 5], np.array([5, 1, 1]), torch.tensor([1, 5])])
def test_restriction_to_a_subset(items):
    table = make_table(CODES, [4, 4, 4])
    trie = PrefixTrie.from_table(table, items)
    assert unfold(trie) == dictionary_tree(table, [1, 5])
    assert (trie.n_leaves, trie.n_tokens, trie.n_items) == (2, 4, 6)


def test_a_subset_of_short_codes_makes_a_shallow_tree():
    trie = PrefixTrie.from_table(make_table(CODES, [4, 4, 4]), [2])
    assert (trie.max_depth, trie.n_nodes) == (1, 2)


@pytest.mark.parametrize(
    "items, message",
    [([], "empty"), ([0, 1], "0 is the padding"), ([6], "item id 6"), ([-1], "item id -1"), ([1.5], "item ids")],
)
def test_bad_subsets_are_refused(items, message):
    with pytest.raises(ValueError, match=message):
        PrefixTrie.from_table(make_table(CODES, [4, 4, 4]), items)


@pytest.mark.parametrize(
    "codes, message",
    [
        ([(1, 2), (0, 1), (1,)], "item 'item-3', .* begins the code of item 'item-1'"),
        ([(1, 2), (1,), (0, 1), (1,)], "item 'item-4', .* begins the code of item 'item-1'"),
    ],
)
def test_a_table_with_prefixes_is_refused(codes, message):
    table = make_table(codes, [4, 4], unique=False, prefix_free=False)
    with pytest.raises(ValueError, match=message):
        PrefixTrie.from_table(table)


def test_to_another_device():
    trie = PrefixTrie.from_table(make_table(CODES, [4, 4, 4])).to("meta")
    assert trie.device.type == trie.child_offsets.device.type == "meta" and trie.n_leaves == 5


def test_positions_with_vocabularies_of_their_own():
    trie = PrefixTrie.from_table(make_table([(1, 0), (0, 4)], [2, 5], shared_vocabulary=False))
    assert trie.n_tokens == 7 and unfold(trie) == {0: {6: 2}, 1: {2: 1}}


def test_a_prefix_free_part_of_a_table_with_prefixes():
    table = make_table([(1, 2), (0, 1), (1,)], [4, 4], prefix_free=False)
    assert unfold(PrefixTrie.from_table(table, [2, 3])) == {0: {1: 2}, 1: 3}


def test_items_that_share_a_code_share_a_leaf():
    table = make_table([(1, 2), (0, 1), (1, 2), (0, 0), (1, 2)], [4, 4], unique=False, prefix_free=False)
    trie = PrefixTrie.from_table(table)
    assert unfold(trie) == {0: {0: 4, 1: 2}, 1: {2: 1}} and trie.n_leaves == 3 and trie.shares_leaves
    items, row = trie.items_of(torch.tensor([5, 0, 3, 5]))
    assert items.tolist() == [1, 3, 5, 4, 1, 3, 5] and row.tolist() == [0, 0, 0, 2, 3, 3, 3]
    assert PrefixTrie.from_table(table, [5, 3, 4]).item.tolist() == [0, 0, 0, 4, 3]
