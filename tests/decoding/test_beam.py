"""The vectorised search against a plain one that walks dictionaries for one user at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_vsid.decoding.beam import constrained_beam_search, log_normaliser
from recbole_vsid.decoding.exact import score_catalogue
from recbole_vsid.decoding.trie import PrefixTrie
from tests.property.strategies import make_table

INF = float("inf")


class ToyModel:
    """A small random recurrent network, in double precision: logits depend on user and whole prefix."""

    def __init__(self, n_users, n_tokens, seed=0, scale=3.0, width=8):
        rng = np.random.default_rng(seed)
        self.start = rng.normal(size=(n_users, width))
        self.embedding = rng.normal(size=(n_tokens, width))
        self.recurrence = rng.normal(size=(width, width))
        self.head = scale * rng.normal(size=(width, n_tokens)) / math.sqrt(width)
        self.state, self.widths = None, []

    def logits(self, user, prefix):
        """``[n_tokens]`` after a prefix, computed from scratch."""
        state = self.start[user]
        for token in prefix:
            state = np.tanh(state @ self.recurrence + self.embedding[token])
        return state @ self.head

    def step(self, tokens, parents):
        """The incremental protocol of the searches."""
        if tokens is None:
            self.state, self.widths = self.start[:, None], [1]
        else:
            assert tokens.shape == parents.shape and tokens.dtype == parents.dtype == torch.int64
            assert tokens.min() >= 0 and parents.min() >= 0 and parents.max() < self.state.shape[1]
            previous = np.take_along_axis(self.state, parents.numpy()[..., None], axis=1)
            self.state = np.tanh(previous @ self.recurrence + self.embedding[tokens.numpy()])
            self.widths.append(tokens.size(1))
        return torch.from_numpy((self.state @ self.head).astype(np.float32))


def log_softmax(logits):
    return logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))


def item_of_code(table, items=None):
    flat = table.flat_codes()
    items = range(1, table.n_items) if items is None else items
    return {tuple(flat[item, : table.lengths[item]].tolist()): int(item) for item in items}


def step_log_probs(model, user, prefix, first_tokens):
    """First token renormalised over those that begin a code, later tokens over the whole vocabulary."""
    logits = model.logits(user, prefix)
    if not prefix:
        restricted = np.full_like(logits, -INF)
        restricted[first_tokens] = logits[first_tokens]
        logits = restricted
    return log_softmax(logits)


def naive_beam(model, user, codes, beam_width):
    """The official search for one user: [(item, score)], best first."""
    allowed = {}
    for code in codes:
        for position, token in enumerate(code):
            allowed.setdefault(code[:position], set()).add(token)
    beams, finished = [((), 0.0)], []
    while beams:
        candidates = []
        for prefix, score in beams:
            log_probs = step_log_probs(model, user, prefix, sorted(allowed[()]))
            candidates += [(prefix + (token,), score + log_probs[token]) for token in allowed[prefix]]
        kept = sorted(candidates, key=lambda candidate: -candidate[1])[:beam_width]
        finished += [(codes[prefix], score) for prefix, score in kept if prefix in codes]
        beams = [(prefix, score) for prefix, score in kept if prefix not in codes]
    return sorted(finished, key=lambda found: (-found[1], found[0]))


def naive_scores(model, user, codes, n_items):
    """Sum over each item's tokens, one item after the other."""
    first_tokens = sorted({code[0] for code in codes})
    scores = np.full(n_items, -INF)
    for code, item in codes.items():
        terms = [step_log_probs(model, user, code[:i], first_tokens)[token] for i, token in enumerate(code)]
        scores[item] = sum(terms)
    return scores


def check_same(items, scores, expected):
    """One row of a search result against ``naive_beam``."""
    n = len(expected)
    assert items[:n].tolist() == [item for item, _ in expected]
    np.testing.assert_allclose(scores[:n], [score for _, score in expected], rtol=1e-5, atol=1e-5)
    assert (items[n:] == 0).all() and (scores[n:] == -INF).all()


def random_table(n_items, n_tokens=9, seed=0):
    """Variable-length content codes closed by a suffix of its own ids, as the final tables are."""
    rng = np.random.default_rng(seed)
    codes = set()
    while len(codes) < n_items:
        content = rng.integers(0, n_tokens - 3, rng.integers(1, 4)).tolist()
        codes.add((*content, int(rng.integers(n_tokens - 3, n_tokens))))
    codes = sorted(codes)
    rng.shuffle(codes)
    return make_table([tuple(code) for code in codes], [n_tokens] * max(map(len, codes)))


@pytest.fixture(scope="module")
def table():
    return random_table(60)


@pytest.fixture(scope="module")
def trie(table):
    return PrefixTrie.from_table(table)


@pytest.mark.parametrize("beam_width", [1, 2, 5, 12])
def test_equals_the_naive_search(table, trie, beam_width):
    model, codes = ToyModel(7, table.n_tokens), item_of_code(table)
    items, scores = constrained_beam_search(model.step, trie, beam_width)
    assert items.dtype == torch.int64 and scores.dtype == torch.float32
    expected = [naive_beam(model, user, codes, beam_width) for user in range(7)]
    assert items.shape == scores.shape == (7, max(map(len, expected)))
    for user in range(7):
        check_same(items[user], scores[user], expected[user])


def test_invariant_12_beam_as_wide_as_the_catalogue_is_exhaustive(table, trie):
    model = ToyModel(5, table.n_tokens, seed=1)
    items, scores = constrained_beam_search(model.step, trie, 60)
    exact, order = score_catalogue(model.step, trie)[:, 1:].sort(dim=1, descending=True, stable=True)
    assert torch.equal(items, order + 1)
    torch.testing.assert_close(scores, exact, atol=1e-4, rtol=0)


def test_catalogue_scores_equal_sums_over_each_item(table, trie):
    model, codes = ToyModel(4, table.n_tokens, seed=2), item_of_code(table)
    scores = score_catalogue(model.step, trie)
    assert scores.shape == (4, 61) and scores.dtype == torch.float32
    for user in range(4):
        np.testing.assert_allclose(scores[user], naive_scores(model, user, codes, 61), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 10, 61, 500])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_k_cuts_or_fills_and_stops_without_changing_anything(table, trie, k, scale):
    model = ToyModel(6, table.n_tokens, seed=3, scale=scale)
    items, scores = constrained_beam_search(model.step, trie, 15)
    full_cost = sum(model.widths)
    few, few_scores = constrained_beam_search(model.step, trie, 15, k)
    assert few.shape == few_scores.shape == (6, k)
    n = min(k, items.size(1))
    assert torch.equal(few[:, :n], items[:, :n]) and torch.equal(few_scores[:, :n], scores[:, :n])
    assert (few[:, n:] == 0).all() and (few_scores[:, n:] == -INF).all()
    assert sum(model.widths) <= full_cost and (k > 1 or sum(model.widths) < full_cost)


def test_finished_beams_cost_nothing():
    table = make_table([(0,), (1,), (2,), (3, 0), (3, 1)], [4, 4])
    model = ToyModel(3, 4)
    constrained_beam_search(model.step, PrefixTrie.from_table(table), 4)
    assert model.widths == [1, 1]


def test_ties_go_to_the_smaller_item():
    codes = [(2, 5), (1,), (0, 4), (3, 3), (0, 5)]
    trie = PrefixTrie.from_table(make_table(codes, [6, 6]))

    def step(tokens, parents):
        return torch.zeros(2, 1 if tokens is None else tokens.size(1), 6)

    items, scores = constrained_beam_search(step, trie, 10)
    assert items.tolist() == [[2, 1, 3, 4, 5]] * 2
    assert scores[0].tolist() == pytest.approx([-math.log(4)] + [-math.log(24)] * 4)
    assert constrained_beam_search(step, trie, 10, k=3)[0].tolist() == [[2, 1, 3]] * 2


def test_tokens_of_probability_zero_are_no_candidates():
    trie = PrefixTrie.from_table(make_table([(0, 0), (0, 1), (1, 0)], [2, 2]))

    def step(tokens, parents):
        logits = torch.zeros(1, 1 if tokens is None else tokens.size(1), 2)
        return logits if tokens is None else logits + torch.tensor([0.0, -INF])

    items, scores = constrained_beam_search(step, trie, 5, k=3)
    assert items.tolist() == [[1, 3, 0]] and scores[0, 2] == -INF


def test_logits_behind_the_vocabulary_only_take_probability_away():
    trie = PrefixTrie.from_table(make_table([(0, 0), (1, 1)], [2, 2]))

    def step(tokens, parents):
        return torch.zeros(1, 1 if tokens is None else tokens.size(1), 4)

    items, scores = constrained_beam_search(step, trie, 5)
    assert items.tolist() == [[1, 2]] and scores[0].tolist() == pytest.approx([-math.log(8)] * 2)
    assert score_catalogue(step, trie)[0, 1:].tolist() == pytest.approx([-math.log(8)] * 2)


OWN_VOCABULARIES = make_table([(0, 0), (2, 1), (2, 3), (0, 1)], [3, 4], shared_vocabulary=False)


def test_steps_may_return_the_logits_of_their_own_tokens():
    first, second = torch.tensor([1.0, 7.0, 2.0]), torch.tensor([0.5, 0.0, -1.0, 3.0])

    def step(tokens, parents):
        if tokens is None:
            return first.expand(1, 1, 3)
        assert set(tokens.flatten().tolist()) <= {0, 2}
        return second.expand(1, tokens.size(1), 4)

    trie, vocabularies = PrefixTrie.from_table(OWN_VOCABULARIES), OWN_VOCABULARIES.vocabularies()
    begin = first[[0, 2]].log_softmax(0)  # no code begins with token 1
    then = second.log_softmax(0)
    expected = torch.stack([begin[0] + then[0], begin[1] + then[1], begin[1] + then[3], begin[0] + then[1]])
    torch.testing.assert_close(score_catalogue(step, trie, vocabularies)[0, 1:], expected)
    items, scores = constrained_beam_search(step, trie, 9, vocabularies=vocabularies)
    assert items.tolist() == [[3, 2, 1, 4]]
    torch.testing.assert_close(scores[0], expected[items[0] - 1])


def test_normaliser_over_all_tokens_or_over_those_that_begin_a_code():
    trie = PrefixTrie.from_table(make_table([(3, 0), (5, 1)], [6, 6]))
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_normaliser(logits), logits.exp().sum(-1).log())
    expected = logits[..., [1, 3]].exp().sum(-1).log()  # the first logit is of token 2
    torch.testing.assert_close(log_normaliser(logits, trie, first=2), expected)
    assert log_normaliser(logits.bfloat16(), trie, first=2).dtype == torch.float32


def test_scores_of_half_precision_logits_are_added_in_fp32(table, trie):
    model = ToyModel(4, table.n_tokens, seed=4)
    items, scores = constrained_beam_search(lambda t, p: model.step(t, p).bfloat16(), trie, 60)
    expected = constrained_beam_search(lambda t, p: model.step(t, p).bfloat16().float(), trie, 60)
    assert torch.equal(items, expected[0]) and torch.equal(scores, expected[1])


def test_restriction_to_a_subset(table):
    subset = [3, 17, 20, 41, 58]
    trie = PrefixTrie.from_table(table, subset)
    model = ToyModel(3, table.n_tokens, seed=5)
    items, scores = constrained_beam_search(model.step, trie, 60)
    exact = score_catalogue(model.step, trie)
    codes = item_of_code(table, subset)
    for user in range(3):
        check_same(items[user], scores[user], naive_beam(model, user, codes, 60))
    assert (exact > -INF).nonzero()[:, 1].tolist() == subset * 3
    torch.testing.assert_close(exact.gather(1, items), scores)


def test_no_users(trie, table):
    def step(tokens, parents):
        return torch.zeros(0, 1, table.n_tokens)

    shared = PrefixTrie.from_table(make_table([(0,), (0,)], [1], unique=False, prefix_free=False))
    for each in (trie, shared):
        items, scores = constrained_beam_search(step, each, 5, k=3)
        assert items.shape == scores.shape == (0, 3)


@pytest.mark.parametrize("arguments, name", [({"beam_width": 0}, "beam_width"), ({"beam_width": 5, "k": 0}, "k must")])
def test_settings_below_one_are_refused(trie, arguments, name):
    with pytest.raises(ValueError, match=name):
        constrained_beam_search(None, trie, **arguments)


@pytest.mark.parametrize("shape", [(2, 1, 8), (2, 9), (2, 2, 9)])
def test_logits_of_another_shape_are_refused(trie, shape):
    def step(tokens, parents):
        return torch.zeros(shape)

    with pytest.raises(ValueError, match="step returned logits of shape"):
        score_catalogue(step, trie)
    if shape != (2, 2, 9):  # the first call defines the beam's users and places
        with pytest.raises(ValueError, match="step returned logits of shape"):
            constrained_beam_search(step, trie, 5)


def test_logits_of_the_whole_vocabulary_are_refused_where_a_position_has_its_own():
    def step(tokens, parents):
        return torch.zeros(1, 1, OWN_VOCABULARIES.n_tokens)

    trie, vocabularies = PrefixTrie.from_table(OWN_VOCABULARIES), OWN_VOCABULARIES.vocabularies()
    for search in (
        lambda: constrained_beam_search(step, trie, 5, vocabularies=vocabularies),
        lambda: score_catalogue(step, trie, vocabularies),
    ):
        with pytest.raises(ValueError, match="step returned logits of shape"):
            search()


def test_logits_of_fewer_tokens_than_the_position_has_are_refused():
    def step(tokens, parents):
        return torch.zeros(1, 1 if tokens is None else tokens.size(1), 3)  # the second position has four tokens

    trie, vocabularies = PrefixTrie.from_table(OWN_VOCABULARIES), OWN_VOCABULARIES.vocabularies()
    for search in (
        lambda: constrained_beam_search(step, trie, 5, vocabularies=vocabularies),
        lambda: score_catalogue(step, trie, vocabularies),
    ):
        with pytest.raises(ValueError, match=r"step returned logits of shape \(1, 2, 3\), expected \(1, 2, 4\)"):
            search()
