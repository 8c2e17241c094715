"""IntRR's single pass, its rankings, the semantic IDs it takes and its settings.

Numbered invariants are those of section 7.3 of the specification of IntRR (arXiv 2602.20704).
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_vsid.config import Config
from recbole_vsid.decoding.exact import score_catalogue
from recbole_vsid.model import intrr
from recbole_vsid.model.intrr import IntRR
from recbole_vsid.quick_start import build_data, build_model, run
from recbole_vsid.semantic_id.collisions import resolve_collisions
from tests.model.tiny_intrr import (
    FIXED,
    HISTORIES,
    SHARED_CODES,
    larger_table,
    naive_guidance,
    naive_intrr_scores,
    tiny_intrr,
)
from tests.model.tiny_tiger import interaction_of
from tests.property.test_tables_and_beams import walk

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


# ------------------------------------------------------------------------------------ one pass


@pytest.mark.parametrize("n_levels", range(1, 7))
def test_invariant_1_one_backbone_pass_over_as_many_positions_as_items(backbone, n_levels):
    table = larger_table(n_levels)
    model = tiny_intrr(table, backbone=backbone)
    passes = []
    model.backbone.register_forward_hook(lambda module, args, output: passes.append(tuple(args[0].shape)))
    rows = interaction_of(HISTORIES)
    for decoding, beam_width in (("beam", 10), ("beam", 50), ("exact", 10)):
        model.decoding, model.beam_width = decoding, beam_width
        for ask in (model.full_sort_predict, lambda rows: model.topk(rows, 5)):
            passes.clear()
            ask(rows)
            assert passes == [(4, 5, 12)]
    passes.clear()
    model.calculate_loss(rows)
    assert passes == [(4, 4, 12)], "the last event of a row is a target only"
    assert model.tokens_per_item == 1


def test_invariant_11_padding_and_later_items_do_not_matter(backbone):
    model = tiny_intrr(FIXED, backbone=backbone)
    alone = [model.guidance(interaction_of([history]))[0] for history in HISTORIES]
    wide = interaction_of([*HISTORIES, [1] * 40])
    for row, hidden in enumerate(alone):
        torch.testing.assert_close(model.guidance(wide)[row], hidden, **CLOSE)
        torch.testing.assert_close(hidden, naive_guidance(model, HISTORIES[row]), **CLOSE)
    states = []
    model.backbone.register_forward_hook(lambda module, args, output: states.append(output[0]))
    for history in ([1, 2, 3, 4, 5], [1, 2, 3, 6, 5]):
        model.guidance(interaction_of([history]))
    assert torch.equal(states[0][:3], states[1][:3]) and (states[0][3:] - states[1][3:]).abs().amax(1).min() > 1e-3


def test_columns_that_nobody_needs_are_not_read(backbone):
    model, rows = tiny_intrr(FIXED, backbone=backbone), interaction_of([*HISTORIES, [1] * 40])[:4]
    passes = []
    model.backbone.register_forward_hook(lambda module, args, output: passes.append(args[0].size(1)))
    model.topk(rows, 3)
    assert rows["item_id_list"].size(1) == 40 and passes == [5]


# ------------------------------------------------------------------------------------- ranking


@pytest.mark.parametrize("renormalize", [True, False], ids=["renormalised", "raw"])
def test_invariant_8_wide_beam_exact_scores_and_recursion_agree(table, backbone, renormalize):
    model = tiny_intrr(table, backbone=backbone, renormalize=renormalize)
    rows = interaction_of(HISTORIES)
    expected = torch.stack([naive_intrr_scores(model, history) for history in HISTORIES]).float()
    by_beam = model.full_sort_predict(rows)
    model.decoding = "exact"
    exact = model.full_sort_predict(rows)
    for scores in (by_beam, exact):
        assert scores.dtype == torch.float32 and (scores[:, 0] == -torch.inf).all()
        torch.testing.assert_close(scores, expected, **CLOSE)
    # What a model without the shortcut would do: all nodes of the tree, one after another.
    step = model.start_decoding(rows)
    torch.testing.assert_close(score_catalogue(step, model.trie, model.vocabularies, model.renormalize), exact, **CLOSE)
    leaves = model.trie.item[model.trie.item > 0]
    mass = exact[:, leaves].exp().sum(1)
    if renormalize:
        torch.testing.assert_close(mass, torch.ones(4), **CLOSE)
    else:
        assert (mass < 1 + 1e-5).all() and mass.min() < 1 - 1e-3, "some goes to codes of no item"


def test_exact_scores_of_some_users_at_a_time(monkeypatch):
    model = tiny_intrr(FIXED, decoding="exact")
    rows = interaction_of(HISTORIES)
    together = model.full_sort_predict(rows)
    monkeypatch.setattr(intrr, "MOST_TRANSITIONS", 20)  # 9 code pairs: two users
    torch.testing.assert_close(model.full_sort_predict(rows), together, **CLOSE)


@pytest.mark.parametrize("renormalize", [True, False], ids=["renormalised", "raw"])
def test_invariant_8_the_ranking_of_a_wide_beam_is_the_exact_one(renormalize):
    table = larger_table(4, n_items=200)
    model = tiny_intrr(table, renormalize=renormalize, beam_width=200)
    rows = interaction_of(HISTORIES)
    items, scores = model.topk(rows, 200)
    model.decoding = "exact"
    exact_items, exact_scores = model.topk(rows, 200)
    torch.testing.assert_close(scores, exact_scores, **CLOSE)
    # Neighbours closer than fp32 resolves may stand either way.
    apart = (exact_scores[:, :-1] - exact_scores[:, 1:]) > 1e-5
    clear = apart[:, 1:] & apart[:, :-1]
    assert torch.equal(items[:, 1:-1][clear], exact_items[:, 1:-1][clear]) and clear.float().mean() > 0.9


@pytest.mark.parametrize("beam_width", [1, 5, 20, 80])
def test_invariant_9_a_beam_finds_distinct_items_and_sorts_them(backbone, beam_width):
    table = larger_table(3)
    model = tiny_intrr(table, backbone=backbone, beam_width=beam_width)
    items, scores = model.topk(interaction_of(HISTORIES), 70)
    assert items.shape == scores.shape == (4, 70)
    assert torch.equal(items > 0, scores.isfinite())
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    for row in items.tolist():
        found = [item for item in row if item]
        assert len(found) == len(set(found)) == min(beam_width, 60) and max(found) <= 60


def test_invariant_14_a_score_depends_neither_on_other_users_nor_on_the_beam(backbone):
    table = larger_table(4, n_items=100)
    model = tiny_intrr(table, backbone=backbone, decoding="exact")
    together = model.full_sort_predict(interaction_of([*HISTORIES, [1] * 30]))
    for row, history in enumerate(HISTORIES):
        alone = model.full_sort_predict(interaction_of([history]))[0]
        torch.testing.assert_close(together[row], alone, **CLOSE)
    model.decoding = "beam"
    for model.beam_width in (3, 10, 50):
        scores = model.full_sort_predict(interaction_of(HISTORIES))
        survives = scores.isfinite()
        assert (survives.sum(1) == model.beam_width).all()
        torch.testing.assert_close(scores[survives], together[:4][survives], **CLOSE)


def test_items_that_share_a_code_are_all_ranked():
    model = tiny_intrr(SHARED_CODES)
    for model.decoding in ("beam", "exact"):
        items, scores = model.topk(interaction_of(HISTORIES), 6)
        for row, row_scores in zip(items.tolist(), scores):
            assert sorted(row) == [1, 2, 3, 4, 5, 6]
            of = dict(zip(row, row_scores.tolist()))
            assert of[1] == of[3] == of[6] and of[2] == of[5] and len(set(of.values())) == 3
            if model.decoding == "beam":
                assert [item for item in row if item in (1, 3, 6)] == [1, 3, 6], "the smaller id first"


def test_narrow_beams_of_half_precision_are_rankings(table, backbone):
    model = tiny_intrr(table, backbone=backbone, enable_amp=True, beam_width=3)
    for model.decoding in ("beam", "exact"):
        items, scores = model.topk(interaction_of(HISTORIES), 3)
        assert scores.dtype == torch.float32 and scores.isfinite().all() and (scores <= 0).all()
        assert all(len(set(row)) == 3 and min(row) > 0 for row in items.tolist())


# ------------------------------------------------------------------------------- semantic IDs


def test_invariant_12_semantic_ids_lead_to_their_items_and_back():
    """Of this package's tables: in every group of one content code the digits are 0, 1, …, the most popular item first.

    The authors number a group of several items from 1 and leave 0 to items alone in theirs.
    """
    rng = np.random.default_rng(0)
    content = np.concatenate([np.full((1, 3), -1), rng.integers(0, 3, (60, 3))])
    popularity = np.r_[0, rng.permutation(60)]
    tokens = np.array(["[PAD]", *(f"i{item}" for item in range(1, 61))])
    lengths = np.array([0] + [3] * 60)
    table = resolve_collisions("suffix", content, lengths, [3, 3, 3], False, popularity, tokens, {})
    assert table.max_length == 4 and len(np.unique(table.codes[1:], axis=0)) == 60
    groups = {}
    for item in range(1, 61):
        groups.setdefault(tuple(table.codes[item, :3]), []).append(item)
    assert {len(group) for group in groups.values()} >= {1, 2, 3}
    for code, group in groups.items():
        assert all(tuple(content[item]) == code for item in group)
        by_popularity = sorted(group, key=lambda item: -popularity[item])
        assert table.codes[by_popularity, 3].tolist() == list(range(len(group)))

    model = tiny_intrr(table)
    assert torch.equal(model.paths, torch.from_numpy(table.codes.astype(np.int64)))
    order = rng.permutation(60) + 1
    assert walk(model.trie, model.codes[order].flatten().tolist()) == order.tolist()


# ------------------------------------------------------------------------------------ settings

WHOLE = "is not usable: it must be a whole number of at least 1"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbone": "mamba"}, "backbone='mamba' is not usable: it must be one of transformer, hstu"),
        *(({key: 0}, f"{key}=0 {WHOLE}") for key in ("hidden_size", "n_layers", "n_heads", "head_size", "inner_size")),
        (
            {"backbone": "hstu", "hidden_size": 30, "n_heads": 4},
            "hidden_size=30 must be a multiple of n_heads=4 with backbone=hstu, whose heads share the width",
        ),
        ({"dropout_prob": 1.0}, r"dropout_prob=1.0 is not usable: it must be in \[0, 1\)"),
        ({"beam_width": 3}, "beam_width=3 is below the largest cut-off topk=20"),
        ({"decoding": "greedy"}, "decoding='greedy' is not usable"),
        ({"renormalize": "none"}, "renormalize='none' is not usable: it must be true or false"),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["IntRR", "IntRRFlat"])
def test_bad_settings_of_both_models_are_refused(small_settings, model, wrong, message):
    with pytest.raises(ValueError, match=message):
        Config(model, "toy", config_dict=small_settings(model, **wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"assign": "hard"}, "assign='hard' is not usable: it must be one of soft, ste"),
        ({"item_token": "id"}, "item_token='id' is not usable: it must be one of redistributed, uid, codes"),
        ({"uid_size": 0}, f"uid_size=0 {WHOLE}"),
        ({"ran_hidden_size": -2}, f"ran_hidden_size=-2 {WHOLE}"),
        ({"alignment_weight": -0.5}, "alignment_weight=-0.5 is not usable: it must be at least 0"),
        ({"codebook_std": 0}, "codebook_std=0 is not usable: it must be in \\(0, 1000\\], or empty"),
        ({"codebook_std": "auto"}, "codebook_std='auto' is not usable"),
        ({"codebook_std": True}, "codebook_std=True is not usable"),
        ({"codebook_std": -1.5}, "codebook_std=-1.5 is not usable"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(small_settings, wrong, message):
    with pytest.raises(ValueError, match=message):
        Config("IntRR", "toy", config_dict=small_settings("IntRR", **wrong))


def test_a_width_that_heads_do_not_share_suits_the_transformer(small_settings):
    config = Config("IntRR", "toy", config_dict=small_settings("IntRR", hidden_size=30, n_heads=4))
    assert config["hidden_size"] == 30


def test_the_renormalisation_is_a_setting():
    assert tiny_intrr(FIXED, renormalize=True).renormalize == "all"
    assert tiny_intrr(FIXED, renormalize=False).renormalize == "none"


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "hstu", "assign": "ste", "learner": "muon", "enable_amp": True},
        {"item_token": "uid", "sid_collisions": "none", "decoding": "exact"},
        {"item_token": "codes", "renormalize": False, "learner": "adam"},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_trains_with(small_settings, changes):
    result = run("IntRR", "toy", config_dict=small_settings("IntRR", **changes))
    assert result["test_result"]["consumed_kept"]["recall@20"] > 0


@pytest.mark.parametrize("model", ["IntRR", "IntRRFlat"])
def test_a_table_of_lengths_made_elsewhere(small_settings, tmp_path, model):
    """Item *i* of toy has one token, two or three."""
    lines = {f"i{i}": [i % 5] if i < 5 else [5 + i % 3, i] if i < 20 else [8, i % 7, i] for i in range(41)}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(lines), encoding="utf-8")
    result = run(model, "toy", config_dict=small_settings(model, sid_file=str(path)))
    assert result["test_result"]["consumed_kept"]["recall@20"] > 0


def test_rows_of_an_epoch(small_settings):
    """Windows as long as a history may be, each with the event before it; every event but the first is a target."""
    changes = small_settings("IntRR", MAX_ITEM_LIST_LENGTH=4, train_batch_size=40)
    _, loaders = build_data(Config("IntRR", "toy", config_dict=changes))
    model, loader = build_model(Config("IntRR", "toy", config_dict=changes), loaders)
    batches = list(loader)
    assert isinstance(model, IntRR) and all(isinstance(batch, Interaction) for batch in batches)
    lengths = [length for batch in batches for length in batch["item_length"].tolist()]
    assert loader.n_targets == sum(lengths) - len(lengths) and min(lengths) >= 2 and max(lengths) == 5
    assert all(batch["item_id_list"].numel() <= 40 for batch in batches)
