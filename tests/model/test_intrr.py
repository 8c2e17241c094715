"""What IntRR reads and how it learns, against plain re-computations and the invariants of its specification.

Numbered invariants are those of section 7.3 of the specification of IntRR (arXiv 2602.20704); those of the recursive
network alone are in ``test_ran.py``, those of rankings in ``test_intrr_ranking.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_vsid.averaging import WeightAverage
from recbole_vsid.optimizer import MuonAdamW
from recbole_vsid.semantic_id.table import SemanticIDs
from tests.model.tiny_intrr import (
    FIXED,
    HISTORIES,
    OWN,
    OWN_VARYING,
    SHARED_CODES,
    VARYING,
    check_same_training,
    gradients,
    larger_table,
    naive_intrr_loss,
    naive_token,
    path_of,
    ragged_histories,
    tiny_intrr,
)
from tests.model.tiny_tiger import interaction_of
from tests.property.strategies import make_table

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


# ---------------------------------------------------------------------- what an item is to the backbone


@pytest.mark.parametrize("changes", [{}, {"assign": "ste"}, {"item_token": "uid"}, {"item_token": "codes"}], ids=str)
def test_tokens_and_logits_of_items(table, changes):
    model = tiny_intrr(table, **changes)
    items = torch.tensor([3, 1, 5, 3, 2])
    tokens, logits = model.tokens_of(items)
    assert tokens.dtype == torch.float32 and len(logits) == (0 if "item_token" in changes else table.max_length)
    for row, item in enumerate(items.tolist()):
        expected, expected_logits = naive_token(model, item)
        torch.testing.assert_close(tokens[row], expected, **CLOSE)
        for level, each in enumerate(expected_logits):
            torch.testing.assert_close(logits[level][row], each, **CLOSE)


def test_invariant_3_a_token_is_the_sum_of_its_contexts():
    model, items = tiny_intrr(FIXED), torch.arange(1, 7)
    contexts, _ = model.ran.free(model.guide(model.uid(items)), "soft")
    torch.testing.assert_close(model.tokens_of(items)[0], contexts[0] + contexts[1] + contexts[2])


def test_a_token_has_only_the_levels_of_its_code():
    model = tiny_intrr(VARYING)
    short, items = torch.tensor([2]), torch.tensor([1, 3, 4, 5, 6])  # item 2 has a code of one token
    before, others = model.tokens_of(short)[0], model.tokens_of(items)[0]
    with torch.no_grad():
        model.ran.codebooks[1].weight.add_(1)
    assert torch.equal(model.tokens_of(short)[0], before)
    assert ((model.tokens_of(items)[0] - others).abs().amax(1) > 1e-2).all()


def test_half_precision_tokens_are_kept_in_fp32():
    for changes in ({}, {"assign": "ste"}, {"item_token": "uid"}, {"item_token": "codes"}):
        model = tiny_intrr(FIXED, **changes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens, logits = model.tokens_of(torch.tensor([1, 4]))
        assert {each.dtype for each in (tokens, *logits)} == {torch.float32}


@pytest.mark.parametrize("assign", ["soft", "ste"])
def test_invariant_4_items_that_share_a_code_are_told_apart_by_their_uid(assign):
    model = tiny_intrr(SHARED_CODES, assign=assign)
    assert torch.equal(model.paths[1], model.paths[3])
    tokens, logits = model.tokens_of(torch.tensor([1, 3]))
    assert (logits[0].softmax(1)[0] - logits[0].softmax(1)[1]).abs().max() > 1e-3
    if assign == "soft":
        assert (tokens[0] - tokens[1]).abs().max() > 1e-4
    with torch.no_grad():
        model.uid.weight[3] = model.uid.weight[1]
    first, third = (model.tokens_of(torch.tensor([item]))[0] for item in (1, 3))
    assert torch.equal(first, third)


# ------------------------------------------------------------------------------ the table of tokens


class Counted:
    """A model whose computations of tokens are counted."""

    def __init__(self, model):
        self.model, self.calls, tokens_of = model, 0, model.tokens_of

        def counted(items):
            self.calls += 1
            return tokens_of(items)

        model.tokens_of = counted

    def check_fresh(self, computed):
        """The table is that of the weights as they are, and was computed anew, or not."""
        before = self.calls
        table = self.model.token_table().clone()
        assert self.calls - before == computed
        expected = torch.stack([naive_token(self.model, item)[0] for item in range(1, self.model.n_items)])
        torch.testing.assert_close(table[1:], expected, **CLOSE)
        assert not table[0].any() and not table.requires_grad
        return table


@pytest.fixture(params=["redistributed", "uid", "codes"])
def counted(request):
    return Counted(tiny_intrr(FIXED, item_token=request.param))


def backward(model):
    model.calculate_loss(interaction_of([[1, 2, 3], [4, 5, 6, 1]])).backward()


def optimizer_of(name, model):
    if name == "muon":
        hidden = {id(matrix) for matrix in model.hidden_matrices()}
        others = [parameter for parameter in model.parameters() if id(parameter) not in hidden]
        return MuonAdamW([{"params": model.hidden_matrices(), "muon": True}, {"params": others}], lr=0.1)
    return getattr(torch.optim, name)(model.parameters(), lr=0.1)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "muon"])
def test_the_table_follows_every_optimizer(name):
    counted = Counted(tiny_intrr(FIXED))
    optimizer, seen = optimizer_of(name, counted.model), [counted.check_fresh(1)]
    for _ in range(3):
        backward(counted.model)
        optimizer.step()
        seen.append(counted.check_fresh(1))
        counted.check_fresh(0)
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(seen, seen[1:]))


@pytest.mark.parametrize("part", ["uid.weight", "guide.weight", "guide.bias", "ran.codebooks", "ran.questions"])
def test_the_table_follows_every_weight_behind_it(part):
    counted = Counted(tiny_intrr(FIXED))
    parameters = [parameter for name, parameter in counted.model.named_parameters() if name.startswith(part)]
    for parameter in parameters:
        before = counted.model.token_table()
        with torch.no_grad():
            parameter.mul_(1.1)
        assert not torch.equal(counted.check_fresh(1), before)


def test_the_table_follows_averaged_weights(counted):
    model = counted.model
    average, optimizer = WeightAverage(model, 0.9), torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        backward(model)
        optimizer.step()
        average.update()
        own = counted.check_fresh(1)
        with average.applied():
            averaged = counted.check_fresh(1)
            counted.check_fresh(0)
        assert torch.equal(counted.check_fresh(1), own) and not torch.allclose(averaged, own, atol=1e-4)


def test_the_table_follows_loaded_weights(counted):
    other = tiny_intrr(FIXED, item_token=counted.model.item_token, seed=1)
    before = counted.check_fresh(1)
    counted.model.load_state_dict(other.state_dict())
    assert not torch.allclose(counted.check_fresh(1), before, atol=1e-2)
    torch.testing.assert_close(counted.model.token_table(), other.token_table())


def test_the_table_is_computed_once_for_the_same_weights(counted):
    model, rows = counted.model, interaction_of(HISTORIES)
    counted.check_fresh(1)
    for _ in range(2):
        model.full_sort_predict(rows)
        model.topk(rows, 3)
    assert counted.calls == 1
    model.train()
    model.eval()
    counted.check_fresh(1)  # some optimizers change weights without a trace
    with torch.no_grad():
        model.backbone.layers[0].feed_forward.wo.weight.add_(1)
    counted.check_fresh(0)  # weights behind the tokens change no token


def test_a_catalogue_of_several_parts():
    """Tokens of a large catalogue are computed in parts; their order is that of the items."""
    codes = [(a, b) for a in range(70) for b in range(70)]
    model = tiny_intrr(make_table(codes, [70, 70], shared_vocabulary=False))
    counted = Counted(model)
    table = model.token_table()
    assert counted.calls > 1 and len(table) == 4901
    for item in (1, 4095, 4096, 4097, 4098, 4900):
        torch.testing.assert_close(table[item], naive_token(model, item)[0], **CLOSE)


# ---------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("weight", [0, 0.1, 2.0])
def test_training_at_all_positions_equals_one_row_per_prefix(table, backbone, weight):
    """The mean over all targets and, of the alignment, over all events read; loss and every gradient."""
    model = tiny_intrr(table, backbone=backbone, alignment_weight=weight)
    rows = ragged_histories(table.n_items)
    check_same_training(model, model.calculate_loss(interaction_of(rows)), naive_intrr_loss(model, rows))


@pytest.mark.parametrize("changes", [{"assign": "ste"}, {"item_token": "uid"}, {"item_token": "codes"}], ids=str)
def test_the_loss_with_other_tokens(table, changes):
    """Tokens without distributions have nothing to align."""
    model = tiny_intrr(table, alignment_weight=0.5, **changes)
    rows = ragged_histories(table.n_items, seed=1)
    check_same_training(model, model.calculate_loss(interaction_of(rows)), naive_intrr_loss(model, rows))


def test_the_alignment_counts_events_not_items():
    model = tiny_intrr(FIXED, alignment_weight=1.0)
    rows = [[1, 1, 1, 2, 3], [2, 6]]  # read are 1, 1, 1, 2 and 2
    _, logits = model.tokens_of(torch.tensor([1, 2]))
    per_item = sum(
        torch.nn.functional.cross_entropy(level, codes, reduction="none")
        for level, codes in zip(logits, model.paths[[1, 2]].T)
    )
    whole = model.calculate_loss(interaction_of(rows))
    model.alignment_weight = 0
    torch.testing.assert_close(
        whole - model.calculate_loss(interaction_of(rows)), (per_item * torch.tensor([3, 2])).sum() / 5
    )


def test_the_loss_ignores_levels_that_a_code_does_not_have():
    """Item 2 of the table has one code: what the deeper levels are like does not matter to it."""
    model, rows = tiny_intrr(VARYING, alignment_weight=1.0), interaction_of([[2, 2, 2]])
    found = gradients(model.calculate_loss(rows), model)
    assert found["ran.codebooks.0.weight"].any()
    for name, gradient in found.items():
        if name.startswith(("ran.codebooks.1", "ran.codebooks.2", "ran.questions")):
            assert not gradient.any(), name


def test_invariant_5_codes_of_the_items_read_count_in_the_alignment_only():
    """Items 1 to 3 are read, 4 to 6 are the targets."""
    codes = [(0, 2, 1), (1, 0, 0), (1, 2, 2)]
    targets = [(2, 1, 1), (0, 0, 0), (2, 2, 1)]
    tables = [make_table([*order, *targets], [3, 3, 3]) for order in (codes, codes[1:] + codes[:1])]
    rows = interaction_of([[1, 4], [2, 5], [3, 6], [1, 6]])
    for weight, same in ((0, True), (0.1, False)):
        one, other = (tiny_intrr(table, alignment_weight=weight).calculate_loss(rows) for table in tables)
        assert torch.equal(one, other) is same


@pytest.mark.parametrize("assign", ["soft", "ste"])
def test_invariant_7_both_sides_share_one_network(backbone, assign):
    table = larger_table(4)
    rows = interaction_of(ragged_histories(table.n_items))
    model = tiny_intrr(table, backbone=backbone, assign=assign, alignment_weight=0)
    names = set(dict(model.named_parameters()))
    assert sum(name.startswith("ran.codebooks") for name in names) == 4
    assert sum(name.startswith("ran.questions") for name in names) == 3 * 4, "no second network anywhere"
    recommended = gradients(model.calculate_loss(rows), model)
    assert all(gradient.abs().max() > 1e-6 for gradient in recommended.values())

    model.alignment_weight = 1.0
    both = gradients(model.calculate_loss(rows), model)
    for name, gradient in both.items():
        changed = not torch.allclose(gradient, recommended[name], atol=1e-6)
        assert changed is not name.startswith("backbone"), name


def test_invariant_7_the_output_side_alone_reaches_the_uids():
    """Of one target of one event, through the backbone."""
    model = tiny_intrr(FIXED, alignment_weight=0)
    found = gradients(model.calculate_loss(interaction_of([[3, 5]])), model)
    assert found["uid.weight"].abs().sum(1).nonzero().flatten().tolist() == [3]
    assert found["guide.weight"].any() and found["guide.bias"].any()


def test_the_padding_item_is_not_learnt(backbone):
    model = tiny_intrr(FIXED, backbone=backbone)
    rows = [[1, 2], [3, 4, 5, 6, 1, 2, 3], [4, 4, 4]]
    assert model.uid.weight[0].abs().max() > 0.1, "something is there to be read"
    found = gradients(model.calculate_loss(interaction_of(rows)), model)
    assert not found["uid.weight"][0].any() and found["uid.weight"][1:].abs().sum(1).min() > 0
    narrow = model.calculate_loss(interaction_of(rows))
    wide = model.calculate_loss(interaction_of([*rows, [5, 6] * 20])[:3])
    torch.testing.assert_close(narrow, wide)


@pytest.mark.parametrize("item_token", ["redistributed", "uid", "codes"])
def test_padding_is_read_as_zeros(item_token):
    model, rows = tiny_intrr(FIXED, item_token=item_token), interaction_of(HISTORIES)
    read = []
    model.backbone.register_forward_hook(lambda module, args, output: read.append(args[0]))
    model.calculate_loss(rows)
    model.full_sort_predict(rows)
    for vectors, padded in zip(read, (rows["item_id_list"][:, 1:] == 0, rows["item_id_list"] == 0)):
        assert not vectors[padded].any() and vectors[~padded].abs().amax(1).min() > 0.1


# --------------------------------------------------------------------- diagnostics, parameters


def test_diagnostics_against_a_loop(table):
    model = tiny_intrr(table)
    logits = [naive_token(model, item)[1] for item in range(1, table.n_items)]
    own = [path_of(table, item) for item in range(1, table.n_items)]
    likeliest = [tuple(int(level.argmax()) for level in item[: len(path)]) for item, path in zip(logits, own)]
    expected = {"distinct_token_paths": len(set(likeliest)) / len(likeliest)}
    for level in range(table.max_length):
        hits = [path[level] == codes[level] for path, codes in zip(likeliest, own) if level < len(codes)]
        expected[f"alignment_{level + 1}"] = sum(hits) / len(hits)
    assert model.diagnostics() == pytest.approx(expected)
    assert tiny_intrr(table, item_token="uid").diagnostics() == {}


def test_diagnostics_of_a_table_wider_than_its_codes():
    codes, lengths = np.pad(OWN.codes, ((0, 0), (0, 1)), constant_values=-1), OWN.lengths
    wider = SemanticIDs(codes, lengths, [*OWN.vocab_sizes, 5], False, OWN.item_tokens)
    assert set(tiny_intrr(wider).diagnostics()) == {"distinct_token_paths", "alignment_1", "alignment_2"}


def test_items_alike_have_one_token_path():
    model = tiny_intrr(FIXED)
    with torch.no_grad():
        model.uid.weight[1:] = model.uid.weight[1]
    assert model.diagnostics()["distinct_token_paths"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(("backbone", "per_layer"), [("transformer", 6), ("hstu", 2)])
def test_the_matrices_of_backbone_and_questions_are_the_hidden_ones(backbone, per_layer):
    model = tiny_intrr(FIXED, backbone=backbone)
    hidden = {id(matrix) for matrix in model.hidden_matrices()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    others = {name for name, parameter in model.named_parameters() if id(parameter) not in hidden}
    assert len(names) == len(model.hidden_matrices()) == 2 * per_layer + 2 * 2
    assert all(name.startswith(("backbone.layers", "ran.questions")) for name in names)
    assert {name for name in others if "bias" not in name and "norm" not in name} == {
        "uid.weight",
        "guide.weight",
        *(f"ran.codebooks.{level}.weight" for level in range(3)),
    }


def test_codebooks_have_the_codes_of_their_level():
    assert [book.num_embeddings for book in tiny_intrr(OWN_VARYING).ran.codebooks] == [3, 2, 5]
    assert [book.num_embeddings for book in tiny_intrr(VARYING).ran.codebooks] == [4, 4, 4]
    assert tiny_intrr(OWN_VARYING).paths[1:].tolist() == OWN_VARYING.codes[1:].tolist()


def test_checkpoints_hold_nothing_that_follows_from_the_table():
    model = tiny_intrr(FIXED)
    model.token_table()
    assert set(model.state_dict()) == {*dict(model.named_parameters()), "codes", "code_lengths"}
