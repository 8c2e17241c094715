"""Scores of random models over random tables, however normalised, against a recursion over the tree."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.decoding.beam import constrained_beam_search
from recbole_vsid.decoding.exact import score_catalogue, score_first_order
from recbole_vsid.decoding.trie import PrefixTrie
from tests.decoding.naive import code_of_item, recursive_beam, recursive_scores
from tests.decoding.test_beam import ToyModel, check_same
from tests.property.strategies import make_table, semantic_id_tables

# Derandomised: two scores closer than fp32 resolves would be ranked differently by the naive search.
exactly = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)
ways = st.sampled_from(["first", "all", "none"])


@st.composite
def tables_with_twins(draw):
    """Tables in which items may share a code, of one length or of several."""
    table = draw(semantic_id_tables())
    if draw(st.booleans()):
        return table
    rows = draw(st.lists(st.integers(1, table.n_items - 1), min_size=1, max_size=15))
    codes = [tuple(table.codes[row, : table.lengths[row]]) for row in rows]
    sizes = table.vocab_sizes[: max(map(len, codes))]
    return make_table(codes, sizes, table.shared_vocabulary, unique=False, prefix_free=False)


class FirstOrder:
    """Random logits of each position given the token before it."""

    def __init__(self, table, n_users, seed, scale):
        generator = torch.Generator().manual_seed(seed)
        self.vocabularies = table.vocabularies()
        sizes = [1, *(end - first for first, end in self.vocabularies)]
        self.tables = [
            scale * torch.randn(n_users, *pair, generator=generator, dtype=torch.float64).float()
            for pair in zip(sizes, sizes[1:])
        ]
        self.position = None

    def step(self, tokens, parents):
        """The same as an incremental decoder that returns the logits of its position's tokens only."""
        self.position = 0 if tokens is None else self.position + 1
        if tokens is None:
            return self.tables[0]
        before = tokens - self.vocabularies[self.position - 1][0]
        return self.tables[self.position][torch.arange(len(tokens)).unsqueeze(1), before]

    def logits_after(self, user):
        def logits(prefix):
            before = prefix[-1] - self.vocabularies[len(prefix) - 1][0] if prefix else 0
            first, _ = self.vocabularies[len(prefix)]
            return dict(enumerate(self.tables[len(prefix)][user, before].tolist(), start=first))

        return logits


@exactly
@given(tables_with_twins(), ways, seeds, st.sampled_from([0.3, 3.0, 30.0]), st.data())
def test_invariant_8_a_model_of_first_order_is_scored_as_any_other(table, renormalize, seed, scale, data):
    allowed = data.draw(st.none() | st.lists(st.integers(1, table.n_items - 1), min_size=1, unique=True))
    trie, model = PrefixTrie.from_table(table, allowed), FirstOrder(table, 3, seed, scale)
    scores = score_first_order(model.tables.__getitem__, trie, model.vocabularies, renormalize)
    assert scores.shape == (3, table.n_items) and scores.dtype == torch.float32
    by_nodes = score_catalogue(model.step, trie, model.vocabularies, renormalize)
    torch.testing.assert_close(scores, by_nodes, atol=1e-4, rtol=1e-5)
    codes = code_of_item(table, allowed)
    for user in range(3):
        expected = recursive_scores(codes, table.n_items, model.logits_after(user), renormalize)
        np.testing.assert_allclose(scores[user], expected, atol=1e-4, rtol=1e-5)
    if renormalize == "all":
        one_item_each = torch.tensor(list({code: item for item, code in codes.items()}.values()))
        torch.testing.assert_close(scores[:, one_item_each].exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)


@exactly
@given(semantic_id_tables(), ways, st.integers(1, 14), seeds)
def test_the_search_normalises_as_the_recursion_does(table, renormalize, beam_width, seed):
    model, codes = ToyModel(3, table.n_tokens, seed), code_of_item(table)
    trie = PrefixTrie.from_table(table)
    items, scores = constrained_beam_search(model.step, trie, beam_width, renormalize=renormalize)
    exact = score_catalogue(model.step, trie, renormalize=renormalize)
    for user in range(3):

        def logits_after(prefix, user=user):
            return dict(enumerate(model.logits(user, prefix)))

        check_same(items[user], scores[user], recursive_beam(codes, logits_after, renormalize, beam_width))
        expected = recursive_scores(codes, table.n_items, logits_after, renormalize)
        np.testing.assert_allclose(exact[user], expected, rtol=1e-5, atol=1e-5)


@exactly
@given(tables_with_twins(), ways, st.integers(1, 14), st.integers(1, 14), seeds, st.floats(0.1, 20))
def test_early_stop_changes_nothing_however_normalised(table, renormalize, beam_width, k, seed, scale):
    model, trie = ToyModel(3, table.n_tokens, seed, scale), PrefixTrie.from_table(table)
    items, scores = constrained_beam_search(model.step, trie, beam_width, renormalize=renormalize)
    few, few_scores = constrained_beam_search(model.step, trie, beam_width, k, renormalize=renormalize)
    assert (scores <= 0).all()
    n = min(k, items.size(1))
    assert torch.equal(few[:, :n], items[:, :n]) and torch.equal(few_scores[:, :n], scores[:, :n])
