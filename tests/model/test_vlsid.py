"""VLSID's token streams, loss and decoding against plain re-computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_vsid.config import Config
from recbole_vsid.model.vlsid import VLSID
from recbole_vsid.semantic_id import SemanticIDs


class Stub:
    """As much of a dataset as the model's constructor needs."""

    tokenizer_report = None

    def __init__(self, table):
        self.semantic_ids = table

    def num(self, field):
        return self.semantic_ids.n_items


CODES = [[], [0, 5], [1, 5], [1, 6], [2, 0, 5], [2, 1, 3, 5], [3, 5], [0, 6], [4, 4, 5]]


@pytest.fixture
def build(small_settings):
    def build(**changes):
        codes = np.array([row + [-1] * (4 - len(row)) for row in CODES])
        table = SemanticIDs(codes, [len(row) for row in CODES], (7,) * 4, True, [f"item {i}" for i in range(9)])
        config = Config("VLSID", "toy", config_dict=small_settings(topk=[5], valid_metric="NDCG@5", **changes))
        torch.manual_seed(0)
        model = VLSID(config, Stub(table)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return model

    return build


def naive_stream(model, history):
    """Whole items from the end while they fit, as Python lists."""
    chosen, used = [], 1
    for item in reversed(history):
        size = len(CODES[item])
        full = (
            len(chosen) == model.context_budget
            if model.context_unit == "events"
            else used + size > model.context_budget
        )
        if full:
            break
        chosen, used = [item] + chosen, used + size
    return [model.user_start] + [token for item in chosen for token in CODES[item]]


@pytest.mark.parametrize("unit, budget", [("tokens", 9), ("tokens", 12), ("tokens", 200), ("events", 1), ("events", 3)])
def test_token_stream_equals_a_naive_one_and_never_cuts_an_item(build, unit, budget):
    model = build(context_unit=unit, context_budget=budget)
    rng = np.random.default_rng(1)
    rows = [rng.integers(1, 9, size=length).tolist() for length in (1, 2, 5, 11, 3)]
    width = max(map(len, rows))
    items = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    tokens, lengths = model.token_stream(items, torch.tensor([len(row) for row in rows]))
    for row, stream, length in zip(rows, tokens.tolist(), lengths.tolist()):
        assert stream[:length] == naive_stream(model, row)
        assert unit == "events" or length <= budget
        assert all(token == model.user_start for token in stream[length:])


def test_unknown_items_and_empty_histories_leave_no_tokens(build):
    model = build()
    tokens, lengths = model.token_stream(torch.tensor([[4, 0, 6], [0, 0, 0]]), torch.tensor([3, 0]))
    assert tokens[0, : lengths[0]].tolist() == [model.user_start, *CODES[4], *CODES[6]]
    assert lengths[1] == 1 and tokens[1, 0] == model.user_start
    items, scores = model.topk(
        Interaction({"item_id_list": torch.zeros(1, 3, dtype=torch.long), "item_length": torch.tensor([0])}), 5
    )
    assert len(set(items[0].tolist())) == 5 and scores.isfinite().all()


def full_logits(model, stream):
    hidden = model.transformer(model.token_embedding(torch.tensor([stream])))
    return 30 * torch.sigmoid(model.head(hidden)[0] / 7.5)


def test_the_loss_is_the_mean_over_every_token_of_every_row(build):
    model = build()
    histories = [[1, 5, 2], [4]]
    losses = []
    for history in histories:
        stream = naive_stream(model, history)
        logits = full_logits(model, stream[:-1])
        losses += [-logits[i].log_softmax(-1)[token].item() for i, token in enumerate(stream[1:])]
    rows = Interaction({"item_id_list": torch.tensor([[1, 5, 2], [4, 0, 0]]), "item_length": torch.tensor([3, 1])})
    assert model.calculate_loss(rows).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_scores_equal_teacher_forced_log_probabilities_of_whole_codes(build):
    model = build(decoding="exact")
    history = [3, 5, 8]
    stream = naive_stream(model, history)
    first_tokens = sorted({code[0] for code in CODES[1:]})
    rows = Interaction({"item_id_list": torch.tensor([history]), "item_length": torch.tensor([3])})
    scores = model.full_sort_predict(rows)[0]
    for item, code in enumerate(CODES[1:], 1):
        logits = full_logits(model, stream + code)[len(stream) - 1 :]
        total = logits[0, code[0]] - logits[0, first_tokens].logsumexp(0)
        total += sum(logits[t].log_softmax(-1)[code[t]] for t in range(1, len(code)))
        assert scores[item].item() == pytest.approx(total.item(), abs=1e-4)


def test_untrained_logits_are_all_fifteen(small_settings, build):
    model = build()
    torch.nn.init.zeros_(model.head.weight)
    logits = full_logits(model, [model.user_start])
    assert torch.equal(logits, torch.full_like(logits, 15.0))
    rows = Interaction({"item_id_list": torch.tensor([[1]]), "item_length": torch.tensor([1])})
    # [USER_START] and the two tokens of item 1: every target has probability 1 / vocabulary.
    assert model.calculate_loss(rows).item() == pytest.approx(math.log(model.user_start + 1), abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_budget": 4},
        {"context_unit": "words"},
        {"decoding": "greedy"},
        {"head_size": 48},
        {"dropout_prob": 1.0},
    ],
)
def test_bad_settings_are_refused(build, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        build(**wrong)
