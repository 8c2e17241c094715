"""New items join a table whose rows stay as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recbole_vsid.decoding.beam import constrained_beam_search
from recbole_vsid.decoding.exact import score_catalogue
from recbole_vsid.decoding.trie import PrefixTrie
from recbole_vsid.semantic_id.collisions import append_suffix, resolve_collisions
from recbole_vsid.semantic_id.extend import extend_table, smallest_free
from recbole_vsid.semantic_id.table import SemanticIDs
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from tests.decoding.test_beam import ToyModel
from tests.property.strategies import content_codes, pad_codes
from tests.tokenizer.synthetic import zipf_catalogue


def names(n, kind="item"):
    return np.array(["[PAD]"] + [f"{kind}-{i}" for i in range(1, n)])


def suffixed(codes, vocab_sizes, shared_vocabulary=True, suffix_size="auto"):
    codes, lengths = pad_codes(codes)
    n = len(lengths)
    return append_suffix(codes, lengths, vocab_sizes, shared_vocabulary, -np.arange(n), names(n), {}, suffix_size)


def unique(codes, vocab_sizes, policy="nearest", distances=None):
    codes, lengths = pad_codes(codes)
    n = len(lengths)
    return resolve_collisions(policy, codes, lengths, vocab_sizes, False, -np.arange(n), names(n), {}, distances)


def extended(table, codes, vocab_sizes=None, **options):
    codes, lengths = pad_codes(codes)
    tokens = names(len(lengths), "new")[1:]
    return extend_table(table, codes[1:], lengths[1:], tokens, vocab_sizes, **options)


def absolute(values):
    """``distances`` of new items whose codes are numbers on a line, one line per level."""
    return lambda rows, codes, level: np.abs(np.asarray(values)[rows, level, None] - np.arange(9.0))


def keeps(table, longer):
    """Whether the first rows of ``longer`` are those of ``table``, bit by bit."""
    n, width = table.codes.shape
    return (
        np.array_equal(longer.codes[:n, :width], table.codes)
        and (longer.codes[:n, width:] == -1).all()
        and np.array_equal(longer.lengths[:n], table.lengths)
        and np.array_equal(longer.item_tokens[:n], table.item_tokens)
    )


# -------------------------------------------------------------------- suffix


@pytest.mark.parametrize("shared", [True, False])
def test_new_items_get_the_smallest_free_suffix_of_their_group(shared):
    vocab_sizes = [4, 4] if shared else [3, 4]
    table = suffixed([(0, 2), (0, 2), (1,), (2, 0)], vocab_sizes, shared, suffix_size=4)
    longer = extended(table, [(0, 2), (2,), (0, 2), (1,)], vocab_sizes)
    last = 4 if shared else 0  # first token of the last position; behind its content the second one's is 4 as well
    assert longer.codes[5:].tolist() == [[0, 2, last + 2], [2, 4, -1], [0, 2, last + 3], [1, 5, -1]]
    assert keeps(table, longer) and longer.suffix and longer.unique and longer.prefix_free
    assert longer.vocab_sizes == table.vocab_sizes and longer.shared_vocabulary == shared
    assert longer.item_tokens[5:].tolist() == ["new-1", "new-2", "new-3", "new-4"]
    assert longer.provenance["added_items"] == 4 and "added_items" not in table.provenance


def test_a_suffix_that_became_free_is_used_again():
    table = suffixed([(0,), (0,), (0,), (1,)], [2], suffix_size=5)
    kept = np.array([0, 2, 4])
    smaller = replace(table, codes=table.codes[kept], lengths=table.lengths[kept], item_tokens=table.item_tokens[kept])
    suffixes = extended(smaller, [(0,)] * 4, [2]).codes[3:, 1] - 2
    assert suffixes.tolist() == sorted(set(range(5)) - {int(smaller.codes[1, 1]) - 2})


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_smallest_free_equals_a_plain_search(data):
    taken = sorted(data.draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 6)))))
    group = data.draw(st.lists(st.integers(0, 3), max_size=10))
    free, occupied = [], set(taken)
    for newcomer in group:
        number = next(number for number in range(20) if (newcomer, number) not in occupied)
        occupied.add((newcomer, number))
        free.append(number)
    taken = np.array(data.draw(st.permutations(taken)), dtype=int).reshape(-1, 2)
    assert smallest_free(np.array(group, dtype=int), taken[:, 0], taken[:, 1]).tolist() == free


@st.composite
def split_catalogues(draw):
    """A table with suffixes of some items of a catalogue, and ``extend_table``'s arguments for the others."""
    whole = draw(content_codes())
    n_old = draw(st.integers(1, len(whole["lengths"]) - 1))
    old = {name: value[: n_old + 1] if isinstance(value, np.ndarray) else value for name, value in whole.items()}
    table = append_suffix(**old, suffix_size=draw(st.sampled_from(["auto", 12])))
    # A longer code needs a new position, which only a shared vocabulary can get.
    assume(whole["shared_vocabulary"] or whole["lengths"].max() < table.max_length)
    new = {name: whole[name][n_old + 1 :] for name in ("codes", "lengths", "item_tokens")}
    return table, {**new, "vocab_sizes": whole["vocab_sizes"]}


@settings(max_examples=60, deadline=None)
@given(split_catalogues())
def test_an_extended_table_is_unique_prefix_free_and_keeps_its_rows(catalogue):
    table, new = catalogue
    longer = extend_table(table, **new, grow=True)
    assert keeps(table, longer) and longer.unique and longer.prefix_free and longer.suffix
    assert PrefixTrie.from_table(longer).n_leaves == longer.n_items - 1
    rows = np.arange(table.n_items, longer.n_items)
    last = longer.lengths[rows] - 1
    assert np.array_equal(last, new["lengths"])
    content = np.where(np.arange(longer.max_length) < last[:, None], longer.codes[rows], -1)
    width = new["codes"].shape[1]
    assert np.array_equal(content[:, :width], new["codes"][:, : content.shape[1]])
    # A token at the end of a code is no content token of its position.
    sizes = np.r_[new["vocab_sizes"][: table.max_length - 1], 0]
    first = sizes.max() if table.shared_vocabulary else sizes[last]
    assert (longer.codes[rows, last] >= first).all()


@settings(max_examples=40, deadline=None)
@given(split_catalogues(), st.data())
def test_one_call_equals_one_item_after_another(catalogue, data):
    table, new = catalogue
    together, single = extend_table(table, **new, grow=True), table
    for row in range(len(new["lengths"])):
        part = {name: new[name][row : row + 1] for name in ("codes", "lengths", "item_tokens")}
        single = extend_table(single, **part, vocab_sizes=new["vocab_sizes"], grow=True)
    assert single == together and single.provenance == together.provenance
    order = np.array(data.draw(st.permutations(range(len(new["lengths"])))), dtype=int)
    part = {name: new[name][order] for name in ("codes", "lengths", "item_tokens")}
    other = extend_table(table, **part, vocab_sizes=new["vocab_sizes"], grow=True)
    assert keeps(table, other) and other.vocab_sizes == together.vocab_sizes
    assert set(map(tuple, other.codes.tolist())) == set(map(tuple, together.codes.tolist()))


@pytest.mark.parametrize("shared", [True, False])
def test_a_full_group_is_refused_or_grows(shared):
    table = suffixed([(0, 1), (0, 1), (1, 0)], [2, 2], shared, suffix_size=3)
    new = [(1, 1), (0, 1), (0, 1)]
    with pytest.raises(ValueError, match=r"'new-3' does not fit: 4 items, .* \[0, 1\].* 3 disambiguation.*grow=True"):
        extended(table, new, [2, 2])
    longer = extended(table, new, [2, 2], grow=True)
    assert keeps(table, longer)
    assert longer.vocab_sizes == ((6, 6, 6) if shared else (2, 2, 4))
    assert (
        longer.codes[4:].tolist() == [[1, 1, 2], [0, 1, 4], [0, 1, 5]] if shared else [[1, 1, 0], [0, 1, 2], [0, 1, 3]]
    )
    # Tokens that were there keep their flat ids.
    assert np.array_equal(longer.flat_codes()[:4], table.flat_codes())


def test_a_position_without_suffixes_gets_them_only_by_growing():
    table = suffixed([(0, 1), (1, 0)], [2, 2], False, suffix_size=3)
    with pytest.raises(ValueError, match=r"'new-1' does not fit: 1 items, .* \[0\].* 0 disambiguation tokens"):
        extended(table, [(0,)], [2, 2])
    longer = extended(table, [(0,)], [2, 2], grow=True)
    assert longer.codes[3].tolist() == [0, 2, -1] and longer.vocab_sizes == (2, 3, 3)


def test_longer_codes_than_any_need_a_shared_vocabulary_and_growing():
    table = suffixed([(0,), (1,)], [2, 2])
    with pytest.raises(
        ValueError, match="'new-1' has a content code of 2 tokens, and the table has room for 1; .*grow"
    ):
        extended(table, [(0, 1)], [2, 2])
    longer = extended(table, [(0, 1)], [2, 2], grow=True)
    assert longer.codes.tolist() == [[-1] * 3, [0, 2, -1], [1, 2, -1], [0, 1, 2]] and longer.vocab_sizes == (3, 3, 3)
    with pytest.raises(ValueError, match="'new-1' has a content code of 2 tokens.*fit the tokenizer anew"):
        extended(suffixed([(0,), (1,)], [2, 2], False), [(0, 1)], [2, 2], grow=True)


def test_the_sizes_must_be_those_of_the_tokenizer():
    for shared in (True, False):
        table = suffixed([(0, 1), (1,)], [2, 2], shared, suffix_size=9)
        for sizes in ([1, 1], [5, 5], [99, 99]) if shared else ([1, 2], [2, 1], [2, 5], [5, 2]):
            with pytest.raises(ValueError, match="are not those of the tokenizer"):
                extended(table, [(0, 0)], sizes)
        with pytest.raises(ValueError, match="needs vocab_sizes"):
            extended(table, [(0, 0)])
        with pytest.raises(ValueError, match="2 positions of content need as many vocab_sizes"):
            extended(table, [(0,)], [2])
    with pytest.raises(ValueError, match=r"vocab_sizes \[3, 2\] are not those of the table, \(2, 2\)"):
        extended(unique([(0, 1), (1, 0)], [2, 2]), [(0, 0)], [3, 2], distances=absolute([[0, 0]]))


# ------------------------------------------------------------ codes without suffix


def test_an_item_moves_to_the_nearest_free_codeword():
    table = unique([(0, 3), (0, 4), (1, 4)], [2, 9])
    # The second finds 4 taken and 3 too, so 5; the third likes 6 best of what is left; the first is free.
    longer = extended(table, [(0, 8), (0, 4), (0, 4)], distances=absolute([[0, 8], [0, 4.1], [0, 6.4]]))
    assert longer.codes[4:].tolist() == [[0, 8], [0, 5], [0, 6]]
    assert keeps(table, longer) and longer.unique and longer.vocab_sizes == (2, 9)


def test_of_new_items_with_one_code_the_earlier_keeps_it():
    table = unique([(0, 0)], [1, 9])
    longer = extended(table, [(0, 5), (0, 5)], distances=absolute([[0, 5.2], [0, 4.9]]))
    assert longer.codes[2:].tolist() == [[0, 5], [0, 4]]


def test_a_full_parent_sends_new_items_to_a_sibling():
    table = unique([(0, 0), (0, 1), (1, 0)], [2, 2])

    def distances(rows, codes, level):
        return np.array([[0.0, 1.0]] * len(rows), dtype=np.float32)

    longer = extended(table, [(0, 0)], distances=distances)
    assert longer.codes[4:].tolist() == [[1, 1]] and keeps(table, longer)
    with pytest.raises(ValueError, match="do not fit below their prefix"):
        extended(table, [(0, 0), (0, 0)], distances=distances)


def test_shared_codes_are_shared():
    table = unique([(0, 1), (0, 1), (1, 0)], [2, 2], policy="none")
    longer = extended(table, [(0, 1), (1, 1)])
    assert keeps(table, longer) and not longer.unique and longer.codes[4:].tolist() == [[0, 1], [1, 1]]
    trie = PrefixTrie.from_table(longer)
    assert trie.n_leaves == 3 and trie.members.tolist() == [1, 2, 4, 3, 5]


def test_codes_without_suffix_have_one_length():
    table = unique([(0, 1), (1, 0)], [2, 2])
    with pytest.raises(ValueError, match="item 'new-1' has another; use sid_collisions=suffix"):
        extended(table, [(1,)], distances=absolute([[1]]))
    codes, lengths = pad_codes([(0, 1), (1,)])
    with pytest.raises(ValueError, match="item 'item-2' has another"):
        extended(SemanticIDs(codes, lengths, [2, 2], False, names(3)), [(0, 0)], distances=absolute([[0, 0]]))
    with pytest.raises(ValueError, match="needs distances"):
        extended(table, [(0, 0)])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_moved_codes_are_unique_and_stay_if_they_can(data):
    pair = st.tuples(st.integers(0, 2), st.integers(0, 3))
    table = unique(data.draw(st.lists(pair, min_size=1, max_size=6, unique=True)), [3, 4])
    new = data.draw(st.lists(pair, min_size=1, max_size=13 - table.n_items))
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).random((len(new), 9))

    def distances(rows, codes, level):
        return noise[rows, : (3, 4)[level]] + (np.arange((3, 4)[level]) != codes[:, level, None])

    longer = extended(table, new, distances=distances)
    assert keeps(table, longer) and longer.unique and longer.prefix_free
    taken = set(map(tuple, table.codes.tolist()))
    for code, given_code in zip(longer.codes[table.n_items :].tolist(), new):
        if given_code not in taken:
            assert tuple(code) == given_code
        taken.add(given_code)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "tokens, message",
    [(["x", "item-2"], "item 'item-2' is in the table already"), (["x", "x"], "item 'x' occurs more than once")],
)
def test_an_item_cannot_be_added_twice(tokens, message):
    table = suffixed([(0,), (1,)], [2], suffix_size=9)
    with pytest.raises(ValueError, match=message):
        extend_table(table, [[0], [1]], [1, 1], tokens, [2])


@pytest.mark.parametrize(
    "code, length", [([2, 0], 2), ([-1, 0], 2), ([0, 1], 1), ([0, -1], 2), ([0, -1], 0), ([0, 1], 3), ([-1, -1], 0)]
)
def test_content_codes_are_checked(code, length):
    table = suffixed([(0, 1), (1,)], [2, 2], suffix_size=5)
    with pytest.raises(ValueError, match="new item 'x': .* is no content code below vocab_sizes"):
        extend_table(table, [code], [length], ["x"], [2, 2])


def test_arrays_must_be_as_long_as_each_other():
    table = suffixed([(0,), (1,)], [2])
    for codes, lengths, tokens in (([[0]], [1, 1], ["x"]), ([[0]], [1], ["x", "y"]), ([0], [1], ["x"])):
        with pytest.raises(ValueError, match="new items need codes"):
            extend_table(table, codes, lengths, tokens, [2])


def test_nothing_to_add():
    table = suffixed([(0,), (1,)], [2])
    assert extend_table(table, np.zeros((0, 1)), [], [], [2]) == table


# ---------------------------------------------------------------- to the decoder


def test_a_decoder_returns_new_items_and_scores_old_ones_as_before():
    rng = np.random.default_rng(0)
    codes = [tuple(rng.integers(0, 4, rng.integers(1, 4))) for _ in range(30)]
    table = suffixed(codes, [5] * 3, suffix_size=12)
    longer = extended(table, [(4, 1), codes[0], codes[0], (0, 0, 4)], [5] * 3)  # no old code has a 4
    assert longer.n_tokens == table.n_tokens
    model = ToyModel(4, table.n_tokens, seed=3)
    before = score_catalogue(model.step, PrefixTrie.from_table(table))[:, 1:]
    trie = PrefixTrie.from_table(longer)
    after = score_catalogue(model.step, trie)[:, 1 : table.n_items]
    # All scores of a user change alike: the first token is normalised over one more.
    torch.testing.assert_close(after - after[:, :1], before - before[:, :1], atol=1e-4, rtol=0)
    items, scores = constrained_beam_search(model.step, trie, longer.n_items)
    assert items.sort(1).values.tolist() == [list(range(1, longer.n_items))] * 4
    assert (scores > -torch.inf).all()
    ranked, _ = constrained_beam_search(model.step, PrefixTrie.from_table(table), longer.n_items)
    old = [[item for item in row if item < table.n_items] for row in items.tolist()]
    assert old == ranked.tolist(), "old items keep their order"


@pytest.mark.parametrize("policy", ["suffix", "nearest", "sinkhorn", "none"])
def test_a_tokenizer_extends_its_own_table(policy):
    data = zipf_catalogue(120, d=16)
    known = np.arange(101)
    settings = RKMeansTokenizer.Settings(
        vocab_size=8, n_levels=2, collisions=policy, suffix_size=60 if policy == "suffix" else "auto"
    )
    part = type(data)(data.embedding[known], data.popularity[known], data.item_tokens[known])
    tokenizer = RKMeansTokenizer(settings, seed=1).fit(part)
    if policy in ("nearest", "sinkhorn"):
        part = type(data)(part.embedding[:31], part.popularity[:31], part.item_tokens[:31])  # 64 codes there are
    table = tokenizer.encode(part)
    new, tokens = data.embedding[101:], data.item_tokens[101:]
    longer = tokenizer.extend(table, new, tokens)
    assert keeps(table, longer) and longer.item_tokens[-20:].tolist() == list(tokens)
    assert longer.unique == (policy != "none")
    codes, _ = tokenizer.assign(new)
    appended = longer.codes[table.n_items :]
    if policy in ("suffix", "none"):
        assert np.array_equal(appended[:, :2], codes)
    else:
        taken = (codes[:, None] == table.codes[None, 1:]).all(2).any(1)
        assert taken.any() and (appended[taken] != codes[taken]).any(1).all()
    new = new.copy()
    new[3, 0] = np.nan
    with pytest.raises(ValueError, match=f"content of item {str(tokens[3])!r} holds NaN"):
        tokenizer.extend(table, new, tokens)
