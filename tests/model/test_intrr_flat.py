"""The flattened twin against plain re-computations: one row per prefix, nothing padded or cached."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_vsid.decoding.exact import score_catalogue
from recbole_vsid.quick_start import run
from tests.model.tiny_intrr import (
    FIXED,
    HISTORIES,
    OWN,
    OWN_VARYING,
    VARYING,
    check_same_training,
    gradients,
    larger_table,
    naive_flat_loss,
    naive_flat_scores,
    ragged_histories,
    tiny_flat,
)
from tests.model.tiny_tiger import flat_code, interaction_of, naive_stream

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def backbone_input(model):
    """A list that fills with the vectors that the backbone reads."""
    read = []
    model.backbone.register_forward_hook(lambda module, args, output: read.append(args[0]))
    return read


# -------------------------------------------------------------------------------- loss


def test_training_in_one_pass_equals_one_row_per_prefix_and_code(table, backbone):
    model = tiny_flat(table, backbone=backbone)
    rows = ragged_histories(table.n_items)
    check_same_training(model, model.calculate_loss(interaction_of(rows)), naive_flat_loss(model, rows))


def test_padding_on_the_right_does_not_matter(backbone):
    model, rows = tiny_flat(VARYING, backbone=backbone), ragged_histories(VARYING.n_items)
    wide = interaction_of([*rows, [1] * 40])[: len(rows)]
    narrow, padded = (gradients(model.calculate_loss(each), model) for each in (interaction_of(rows), wide))
    for name, gradient in narrow.items():
        torch.testing.assert_close(gradient, padded[name], **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


def test_an_untrained_model_finds_all_tokens_of_a_position_equally_likely():
    model = tiny_flat(OWN)
    torch.nn.init.zeros_(model.head.weight)
    loss = model.calculate_loss(interaction_of([[1, 2, 5], [4, 3]]))
    assert loss.item() == pytest.approx(math.log(3) + math.log(4))


def test_the_first_item_of_a_row_is_no_target():
    """Item 3 has three codes and item 2 one, which is all that is predicted."""
    model = tiny_flat(OWN_VARYING)
    hidden = model.backbone(model.token_embedding(torch.tensor([naive_stream(OWN_VARYING, [3])])))[0, -1]
    first, end = OWN_VARYING.vocabularies()[0]
    (code,) = flat_code(OWN_VARYING, 2)
    expected = -(model.head.weight[first:end] @ hidden).log_softmax(0)[code - first]
    torch.testing.assert_close(model.calculate_loss(interaction_of([[3, 2]])), expected)


# ---------------------------------------------------------------------------- decoding


def test_the_backbone_reads_the_codes_of_the_history_once(table, backbone):
    model = tiny_flat(table, backbone=backbone)
    read = backbone_input(model)
    model.topk(interaction_of(HISTORIES), 4)
    streams = [naive_stream(table, history) for history in HISTORIES]
    (vectors,) = read
    assert vectors.shape == (4, max(map(len, streams)), 12)
    for row, stream in zip(vectors, streams):
        assert torch.equal(row[: len(stream)], model.token_embedding(torch.tensor(stream)))


@pytest.mark.parametrize("renormalize", [True, False], ids=["renormalised", "raw"])
def test_wide_beam_exact_scores_and_recursion_agree(table, backbone, renormalize):
    model = tiny_flat(table, backbone=backbone, renormalize=renormalize)
    rows = interaction_of(HISTORIES)
    expected = torch.stack([naive_flat_scores(model, history) for history in HISTORIES]).float()
    by_beam = model.full_sort_predict(rows)
    model.decoding = "exact"
    exact = model.full_sort_predict(rows)
    for scores in (by_beam, exact):
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-5)
    step = model.start_decoding(rows)
    by_nodes = score_catalogue(step, model.trie, model.vocabularies, "all" if renormalize else "none")
    torch.testing.assert_close(by_nodes, exact)
    mass = exact[:, model.trie.item[model.trie.item > 0]].exp().sum(1)
    if renormalize:
        torch.testing.assert_close(mass, torch.ones(4), **CLOSE)
    else:
        assert (mass < 1 + 1e-5).all() and mass.min() < 1 - 1e-3


def test_a_narrow_beam_has_the_scores_of_the_items_it_finds(backbone):
    model = tiny_flat(larger_table(4), backbone=backbone, decoding="exact")
    rows = interaction_of(HISTORIES)
    exact = model.full_sort_predict(rows)
    model.decoding = "beam"
    for model.beam_width in (3, 10, 30):
        items, scores = model.topk(rows, model.beam_width)
        assert all(len(set(row)) == model.beam_width and min(row) > 0 for row in items.tolist())
        torch.testing.assert_close(scores, exact.gather(1, items), atol=1e-4, rtol=1e-5)


def test_a_row_does_not_depend_on_its_batch(table, backbone):
    model = tiny_flat(table, backbone=backbone)
    together = model.full_sort_predict(interaction_of([*HISTORIES, [1] * 20]))
    for row, history in enumerate(HISTORIES):
        alone = model.full_sort_predict(interaction_of([history]))[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-5)


def test_a_step_has_the_logits_of_its_own_level(table):
    model = tiny_flat(table)
    step = model.start_decoding(interaction_of(HISTORIES))
    code = flat_code(table, 3)
    logits = step(None, None)
    for level, token in enumerate(code[:-1]):
        assert logits.shape == (4, 1, table.vocab_sizes[level])
        logits = step(torch.full((4, 1), token), torch.zeros(4, 1, dtype=torch.int64))
    assert logits.shape == (4, 1, table.vocab_sizes[len(code) - 1])


def test_half_precision_gives_rankings(table, backbone):
    model = tiny_flat(table, backbone=backbone, enable_amp=True, beam_width=3)
    for model.decoding in ("beam", "exact"):
        items, scores = model.topk(interaction_of(HISTORIES), 3)
        assert scores.dtype == torch.float32 and scores.isfinite().all() and (scores <= 0).all()
        assert all(len(set(row)) == 3 and min(row) > 0 for row in items.tolist())


# -------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(("backbone", "per_layer"), [("transformer", 6), ("hstu", 2)])
def test_the_matrices_of_the_backbone_are_the_hidden_ones(backbone, per_layer):
    model = tiny_flat(FIXED, backbone=backbone)
    hidden = {id(matrix) for matrix in model.hidden_matrices()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    assert len(names) == 2 * per_layer and all(name.startswith("backbone.layers") for name in names)


def test_the_head_is_no_embedding_and_tokens_are_those_of_the_table():
    model = tiny_flat(OWN_VARYING)
    assert model.token_embedding.weight.shape == model.head.weight.shape == (OWN_VARYING.n_tokens, 12)
    found = gradients(model.calculate_loss(interaction_of([[1, 2, 3]])), model)
    assert found["head.weight"].any() and found["token_embedding.weight"].any()
    assert set(model.state_dict()) == {*dict(model.named_parameters()), "codes", "code_lengths"}


@pytest.mark.parametrize(
    "changes", [{"backbone": "hstu", "learner": "muon", "enable_amp": True}, {"decoding": "exact"}]
)
def test_trains_with(small_settings, changes):
    result = run("IntRRFlat", "toy", config_dict=small_settings("IntRRFlat", **changes))
    assert result["test_result"]["consumed_kept"]["recall@20"] > 0
