"""The merged tree against the codes it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from recbole_vsid.model.timeline.tree import CodeTree
from recbole_vsid.semantic_id.table import PAD, SemanticIDs
from tests.decoding.naive import code_of_item
from tests.model.timeline.tiny import first_of_level, naive_choices, tiny_sastrie
from tests.property.strategies import make_table
from tests.property.test_first_order import tables_with_twins

random_tables = settings(max_examples=60, deadline=None)


def codes_on_path(tree, item):
    """The flat codes along the path of an item, read off the chains."""
    path = tree.paths[item][tree.paths[item] > 0]
    return [int(row) for node in path for row in tree.codes[node] if row > 0]


@given(table=tables_with_twins())
@random_tables
def test_paths_spell_the_codes_and_branch_at_every_step(table):
    tree = CodeTree.from_table(table)
    codes, first = code_of_item(table), first_of_level(table)
    for item, code in codes.items():
        own = table.codes[item, : table.lengths[item]]
        assert codes_on_path(tree, item) == (1 + own + first[: len(own)]).tolist()
        assert int((tree.paths[item] > 0).sum()) == len(naive_choices(codes, code))
    n_children = tree.trie.child_offsets.diff()
    assert (n_children[1:] != 1).all()
    assert torch.equal(tree.trie.token, torch.arange(tree.trie.n_nodes))
    assert tree.codes.max() < tree.n_codes


@given(table=tables_with_twins())
@random_tables
def test_siblings_are_neighbours_and_a_path_goes_from_parent_to_child(table):
    tree = CodeTree.from_table(table)
    parents = torch.nn.functional.pad(tree.paths, (1, 0))[1:, :-1]
    first, count = tree.siblings(parents)
    inside = tree.paths[1:] > 0
    assert ((tree.paths[1:] >= first) & (tree.paths[1:] < first + count))[inside].all()
    leaves = tree.paths.gather(1, (tree.paths > 0).sum(1, keepdim=True).sub(1).clamp(min=0))[1:, 0]
    assert (tree.trie.item[leaves] > 0).all()


def test_chains_are_one_node():
    tree = CodeTree.from_table(make_table([(0, 0, 1, 1), (0, 0, 1, 2), (1, 2, 0, 0)], [4, 4, 4, 4]))
    assert tree.trie.n_nodes == 1 + 2 + 2
    assert tree.paths[1:].tolist() == [[1, 3], [1, 4], [2, 0]]
    assert tree.codes.tolist() == [
        [0, 0, 0, 0], [1, 5, 10, 0], [2, 7, 9, 13], [14, 0, 0, 0], [15, 0, 0, 0]
    ]  # fmt: skip


@pytest.mark.parametrize("own", ["all", "leaf", "none"])
def test_codes_that_only_tell_items_apart_have_no_vector_beside_own_ones(own):
    # The last code is a suffix; of (1, 0) it is on the chain, of the others a choice.
    codes = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0)]
    model = tiny_sastrie(make_table(codes, [2, 2, 2], False, suffix=True), own_vectors=own)
    vectors, code = model.node_vectors, model.node_vectors.code.weight
    for item, (first, second, suffix) in enumerate(codes, start=1):
        expected = code[1 + first] + code[3 + second]
        if own == "none":
            expected = expected + code[5 + suffix]
        else:
            path = model.tree.paths[item]
            expected = expected + vectors.own.weight[vectors.own_row[path[path > 0]]].sum(0)
        assert torch.allclose(model.item_vectors()[item], expected)


def test_a_restricted_tree_keeps_the_numbers_of_the_nodes():
    table = make_table([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], [3, 3])
    tree = CodeTree.from_table(table)
    part = tree.restricted([2, 5])
    assert part.token.tolist() == [-1, 1, 3, int(tree.paths[2, 1])]
    assert part.members.tolist() == [5, 2] and part.n_items == 6


def test_a_large_table():
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 200, (100_000, 4)), axis=0)

    codes = np.concatenate([np.full((1, 4), PAD), codes])
    table = SemanticIDs(codes, np.r_[0, np.full(len(codes) - 1, 4)], [200] * 4, True, np.arange(len(codes)).astype(str))
    tree = CodeTree.from_table(table)
    assert tree.paths.shape[0] == len(codes)
    for item in rng.integers(1, len(codes), 50):
        assert codes_on_path(tree, item) == (1 + codes[item] + 200 * np.arange(4)).tolist()
