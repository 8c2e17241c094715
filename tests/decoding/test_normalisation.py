"""Which tokens share the probability of a position, and exact scores of models that look one token back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.decoding.beam import constrained_beam_search, segment_logsumexp
from recbole_vsid.decoding.exact import score_catalogue, score_first_order
from recbole_vsid.decoding.trie import PrefixTrie
from tests.decoding.naive import code_of_item, recursive_scores
from tests.decoding.test_beam import ToyModel
from tests.property.strategies import make_table

INF = float("inf")
CODES = [(0, 0, 0), (0, 0, 2), (0, 1, 1), (1, 0, 1), (1, 2, 0), (1, 2, 1), (1, 2, 2)]
TABLE = make_table(CODES, [3, 3, 3])


@pytest.fixture(scope="module")
def trie():
    return PrefixTrie.from_table(TABLE)


# ------------------------------------------------------------------- by hand


def test_the_probabilities_of_equally_likely_tokens(trie):
    """Of item 3, (0, 1, 1): two of three tokens begin a code, two follow 0, one follows (0, 1)."""

    def step(tokens, parents):
        return torch.zeros(1, 1 if tokens is None else tokens.size(1), 3)

    for renormalize, inverse in {"first": 2 * 3 * 3, "all": 2 * 2 * 1, "none": 3 * 3 * 3}.items():
        expected = pytest.approx(1 / inverse)
        assert score_catalogue(step, trie, renormalize=renormalize)[0, 3].exp().item() == expected
        items, scores = constrained_beam_search(step, trie, 9, renormalize=renormalize)
        assert scores[items == 3].exp().item() == expected
        tables = [torch.zeros(1, 1 if position == 0 else 3, 3) for position in range(3)]
        scores = score_first_order(tables.__getitem__, trie, [(0, 3)] * 3, renormalize)
        assert scores[0, 3].exp().item() == expected


def test_the_first_position_is_renormalised_by_default(trie):
    model = ToyModel(3, 3)
    tables = [torch.randn(3, n, 3, generator=torch.Generator().manual_seed(0)) for n in (1, 3, 3)]
    for search in (
        lambda *how: constrained_beam_search(model.step, trie, 9, None, None, *how)[1],
        lambda *how: score_catalogue(model.step, trie, None, *how),
        lambda *how: score_first_order(tables.__getitem__, trie, [(0, 3)] * 3, *how),
    ):
        assert torch.equal(search(), search("first"))
        assert not torch.equal(search(), search("all")) and not torch.equal(search(), search("none"))


def test_the_mass_of_the_catalogue(trie):
    model = ToyModel(5, 3)
    mass = {how: score_catalogue(model.step, trie, renormalize=how).exp().sum(1) for how in ("first", "all", "none")}
    torch.testing.assert_close(mass["all"], torch.ones(5), atol=1e-5, rtol=0)
    assert (mass["none"] < mass["first"]).all() and (mass["first"] < 1).all()


def test_the_only_continuation_costs_nothing_if_all_positions_are_renormalised():
    trie = PrefixTrie.from_table(make_table([(0, 3, 1), (2, 0, 0)], [4, 4, 4]))
    model = ToyModel(2, 4, scale=20.0)
    begin = model.step(None, None)[:, 0, [0, 2]].log_softmax(1)
    torch.testing.assert_close(score_catalogue(model.step, trie, renormalize="all")[:, 1:], begin)


@pytest.mark.parametrize("renormalize", ["first", "all", "none"])
def test_tokens_that_a_model_excludes_are_never_found(renormalize):
    """Whatever follows token 0 is excluded: items 1 and 2 stay at −inf, nothing is NaN and no dead beam comes first."""
    trie = PrefixTrie.from_table(make_table([(0, 0), (0, 1), (1, 0), (1, 1)], [2, 2]))
    tables = [torch.zeros(1, 1, 2), torch.tensor([[[-INF, -INF], [0.0, 0.0]]])]

    def step(tokens, parents):
        return tables[0] if tokens is None else tables[1][:, tokens[0]]

    for scores in (
        score_first_order(tables.__getitem__, trie, [(0, 2)] * 2, renormalize),
        score_catalogue(step, trie, renormalize=renormalize),
    ):
        assert scores.isfinite().tolist() == [[False] * 3 + [True] * 2] and not scores.isnan().any()
    items, scores = constrained_beam_search(step, trie, 4, 4, renormalize=renormalize)
    assert items.tolist() == [[3, 4, 0, 0]] and not scores.isnan().any()


def test_one_position_is_the_first():
    trie = PrefixTrie.from_table(make_table([(4,), (1,), (2,)], [6]))
    logits = ToyModel(4, 6).step(None, None)
    tables = {how: score_first_order(lambda _: logits, trie, [(0, 6)], how)[:, 1:] for how in ("first", "all", "none")}
    expected = logits[:, 0, [4, 1, 2]].log_softmax(1)
    torch.testing.assert_close(tables["first"], expected)
    torch.testing.assert_close(tables["all"], expected)
    torch.testing.assert_close(tables["none"], logits[:, 0].log_softmax(1)[:, [4, 1, 2]])


def test_half_precision_tables_are_added_in_fp32(trie):
    tables = [torch.randn(3, n, 3, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (1, 3, 3)]
    scores = score_first_order(tables.__getitem__, trie, [(0, 3)] * 3, "all")
    expected = score_first_order(lambda position: tables[position].float(), trie, [(0, 3)] * 3, "all")
    assert scores.dtype == torch.float32 and torch.equal(scores, expected)


@pytest.mark.parametrize("wrong", ["last", "", True, None])
def test_another_way_to_normalise_is_refused(trie, wrong):
    for search in (
        lambda: constrained_beam_search(None, trie, 5, renormalize=wrong),
        lambda: score_catalogue(None, trie, renormalize=wrong),
        lambda: score_first_order(None, trie, [(0, 3)] * 3, wrong),
    ):
        with pytest.raises(ValueError, match=f"renormalize={wrong!r} is not usable: it must be first, all or none"):
            search()


def test_a_subset_shares_the_probability_of_its_own_children():
    trie = PrefixTrie.from_table(TABLE, [2, 3, 7])
    model, codes = ToyModel(3, 3, seed=4), code_of_item(TABLE, [2, 3, 7])
    scores = score_catalogue(model.step, trie, renormalize="all")
    for user in range(3):

        def logits_after(prefix, user=user):
            return dict(enumerate(model.logits(user, prefix)))

        expected = recursive_scores(codes, TABLE.n_items, logits_after, "all")
        np.testing.assert_allclose(scores[user], expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------- log of a sum per segment


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(1, 6),
    st.lists(st.integers(0, 5), max_size=15),
    st.sampled_from([(), (1,), (3,), (2, 3)]),
    st.sampled_from([1.0, 50.0, 1e4, 1e30]),
    st.floats(0, 0.7),
    st.integers(0, 10_000),
)
def test_segment_logsumexp_against_a_loop(n_segments, segment, shape, magnitude, impossible, seed):
    segment = torch.tensor([each % n_segments for each in segment], dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    values = magnitude * torch.randn(len(segment), *shape, generator=generator)
    values[torch.rand(values.shape, generator=generator) < impossible] = -INF
    result = segment_logsumexp(values, segment, n_segments)
    assert result.shape == (n_segments, *shape) and result.dtype == torch.float32
    for number in range(n_segments):
        own = values[segment == number].double()
        expected = own.logsumexp(0) if len(own) else torch.full(shape, -INF, dtype=torch.float64)
        torch.testing.assert_close(result[number].double(), expected, atol=1e-5, rtol=1e-5)


def test_segment_logsumexp_by_hand():
    values = torch.tensor([0.0, -INF, 1e4, -INF, 0.0, 1e4, -1e30])
    segment = torch.tensor([0, 0, 3, 2, 0, 3, 4])
    expected = [np.log(2), -INF, -INF, 1e4 + np.log(2), -1e30]  # nobody in segment 1, only −inf in segment 2
    assert segment_logsumexp(values, segment, 5).tolist() == pytest.approx(expected)
    assert segment_logsumexp(values[:0], segment[:0], 2).tolist() == [-INF, -INF]
