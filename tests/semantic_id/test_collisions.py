"""What happens to colliding items: ranks and disambiguation tokens, moves to free codewords, balanced transport."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.semantic_id.collisions import (
    POLICIES,
    append_suffix,
    collision_ranks,
    move_to_free_codes,
    resolve_collisions,
    sinkhorn,
)
from recbole_vsid.semantic_id.table import PAD
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


# ------------------------------------------------------------- the other policies


def metric(vocab_sizes, n_items, d=3, seed=0):
    """``distances`` over random items and codewords, and the codes of the nearest ones ``[n, T]``."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(n_items + 1, len(vocab_sizes), d))
    words = [rng.normal(size=(size, d)) for size in vocab_sizes]

    def distances(rows, codes, level):
        assert codes.shape == (len(rows), len(vocab_sizes))
        return np.square(items[rows, level][:, None] - words[level]).sum(-1)

    nearest = [distances(np.arange(1, n_items + 1), np.zeros((n_items, len(vocab_sizes))), t).argmin(1)
               for t in range(len(vocab_sizes))]  # fmt: skip
    return distances, np.stack(nearest, axis=1).astype(np.int32)


def resolve(policy, vocab_sizes, n_items, seed=0, **options):
    distances, nearest = metric(vocab_sizes, n_items, seed=seed)
    codes = np.vstack([np.full((1, len(vocab_sizes)), PAD), nearest])
    lengths = np.r_[0, np.full(n_items, len(vocab_sizes))]
    tokens = np.array(["[PAD]"] + [f"i{row}" for row in range(1, n_items + 1)])
    popularity = np.r_[0, np.random.default_rng(seed).integers(0, 9, n_items)]
    table = resolve_collisions(
        policy, codes, lengths, vocab_sizes, False, popularity, tokens, {"seed": 1}, distances, **options
    )
    return table, codes, popularity, distances


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_the_figures_from_before(policy):
    table, codes, _, _ = resolve(policy, [3, 8], 15)
    _, sizes = np.unique(codes[1:], axis=0, return_counts=True)
    told = table.provenance["collisions"]
    assert table.provenance["seed"] == 1 and told["policy"] == policy
    assert (told["items"], told["largest_group"]) == (sizes[sizes > 1].sum(), sizes.max())
    assert told["distinct_codes"] == len(sizes) and told["item_share"] == told["items"] / 15


def test_shared_codes_stay_as_they_are():
    table, codes, _, _ = resolve("none", [2, 3], 30)
    assert np.array_equal(table.codes, codes) and not table.unique and not table.suffix


@pytest.mark.parametrize("policy", ["nearest", "sinkhorn"])
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 6), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_moves_make_codes_unique_and_stay_near(policy, seed, n_parents, size, n_items):
    if n_items > n_parents * size:
        with pytest.raises(ValueError, match="do not fit below their prefix.*sid_vocab_size"):
            resolve(policy, [n_parents, size], n_items, seed)
        return
    table, codes, popularity, _ = resolve(policy, [n_parents, size], n_items, seed)
    assert table.unique and len(np.unique(table.codes[1:], axis=0)) == n_items
    _, group, sizes = np.unique(codes[1:], axis=0, return_inverse=True, return_counts=True)
    alone = sizes[group.reshape(-1)] == 1
    room = np.bincount(codes[1:, 0], minlength=n_parents).max() <= size
    if room:
        assert np.array_equal(table.codes[1:, 0], codes[1:, 0]), "no parent is full, so no item leaves its own"
    if policy == "nearest":
        assert np.array_equal(table.codes[1:][alone], codes[1:][alone]), "items without collisions keep their code"
        for each in np.unique(group):
            members = np.flatnonzero(group.reshape(-1) == each) + 1
            kept = members[(table.codes[members] == codes[members]).all(1)]
            assert len(kept) == 1 and popularity[kept[0]] == popularity[members].max()


def test_nearest_is_the_cheapest_assignment_to_free_codewords():
    """Against all permutations: four items on one code of a parent with four codewords more."""
    rng = np.random.default_rng(3)
    cost = rng.random((4, 5))
    cost[:, 0] = 0  # all are nearest to codeword 0
    moved = move_to_free_codes(
        np.zeros((4, 2), dtype=np.int32), [1, 5], lambda rows, codes, level: cost[rows - 1], np.array([1, 5, 2, 2])
    )
    best = min(itertools.permutations(range(1, 5), 3), key=lambda codes: cost[[0, 2, 3], codes].sum())
    assert moved[:, 1].tolist() == [best[0], 0, best[1], best[2]], "the most popular item stays"


def test_a_full_parent_sends_its_least_popular_items_to_the_nearest_sibling():
    codes = np.array([[0, 0], [0, 1], [0, 0], [2, 0]], dtype=np.int32)

    def distances(rows, codes, level):
        return np.tile([[0.0, 5.0, 1.0], [1.0, 0.0, 9.0]][level][: [3, 2][level]], (len(rows), 1))

    moved = move_to_free_codes(codes, [3, 2], distances, np.array([3, 3, 1, 1]))
    assert moved.tolist() == [[0, 0], [0, 1], [2, 1], [2, 0]]


def test_a_fixed_suffix_vocabulary_leaves_room_or_refuses():
    content = np.array([[PAD], [0], [0], [1]])
    arguments = (content, np.array([0, 1, 1, 1]), [2], True, np.zeros(4), np.array(["p", "a", "b", "c"]), {})
    assert append_suffix(*arguments, suffix_size=7).vocab_sizes == (9, 9)
    with pytest.raises(ValueError, match="2 items share the content code of item 'a', more than sid_suffix_size=1"):
        append_suffix(*arguments, suffix_size=1)


def test_variable_lengths_need_a_suffix():
    content, lengths = np.array([[PAD, PAD], [0, 1], [0, PAD]]), np.array([0, 2, 1])
    with pytest.raises(ValueError, match="sid_collisions='none' needs codes of one length.*1 to 2 tokens.*=suffix"):
        resolve_collisions("none", content, lengths, [2, 2], True, np.zeros(3), np.array(["p", "a", "b"]), {})


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_sinkhorn_equals_the_naive_iteration(seed, n, size):
    distances = np.random.default_rng(seed).random((n, size))
    scaled = (distances - (distances.max() + distances.min()) / 2) / max((distances.max() - distances.min()) / 2, 1e-12)
    plan = np.exp(-scaled / 0.1)
    plan /= plan.sum()
    for _ in range(50):
        plan = plan / plan.sum(1, keepdims=True) / n
        plan = plan / plan.sum(0, keepdims=True) / size
    np.testing.assert_allclose(sinkhorn(distances, epsilon=0.1), plan, rtol=1e-6, atol=1e-12)


def test_sinkhorn_spreads_equal_items_evenly():
    distances = np.random.default_rng(0).random((1, 8)) + 0.01 * np.random.default_rng(1).random((64, 8))
    assert np.bincount(distances.argmin(1), minlength=8).max() == 64
    assert np.bincount(sinkhorn(distances).argmax(1), minlength=8).max() <= 16
