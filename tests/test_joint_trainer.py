"""Joint training: a table per epoch, checkpoints with their table, two clippings, rates, and codes that collapse."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_vsid.config import Config
from recbole_vsid.joint_trainer import MOVEMENT_BUDGET, Collapsed, JointTrainer, _alarms
from recbole_vsid.model.diger import DIGER
from recbole_vsid.quick_start import build_data, build_model, load, run
from recbole_vsid.trainer import trainer_class

FAST = {"joint_codebook_learning_rate": 0.05, "joint_collapse_below": 0.0}


@pytest.fixture
def build(small_settings):
    def built(**changes):
        config = Config("DIGER", "toy", config_dict=small_settings("DIGER", **changes))
        _, loaders = build_data(config)
        model, train_data = build_model(config, loaders)
        return trainer_class(config)(config, model), train_data, loaders[1]

    return built


def watched_tables(monkeypatch):
    """The content codes that every batch is trained with, and those of every new table."""
    trained, made = [], []
    losses, refresh = DIGER.losses, DIGER.refresh_table

    def watched_losses(model, interaction):
        trained.append(model.semantic_ids.codes)
        return losses(model, interaction)

    def watched_refresh(model):
        shares = refresh(model)
        made.append(model.semantic_ids.codes)
        return shares

    monkeypatch.setattr(DIGER, "losses", watched_losses)
    monkeypatch.setattr(DIGER, "refresh_table", watched_refresh)
    return trained, made


# ------------------------------------------------------------------------ tables


@pytest.mark.parametrize("period", [1, 2])
def test_the_table_is_constant_within_an_epoch_and_new_after_it(build, monkeypatch, period):
    """I13."""
    trainer, train_data, valid_data = build(epochs=4, joint_refresh_epochs=period, **FAST)
    first = trainer.model.semantic_ids.codes
    trained, made = watched_tables(monkeypatch)
    trainer.fit(train_data, valid_data, saved=False)
    assert len(trained) == 4 * len(train_data) and len(made) == 4 // period
    for batch, codes in enumerate(trained):
        epoch = batch // len(train_data)
        assert np.array_equal(codes, [first, *made][epoch // period])
    assert not np.array_equal(first, made[-1])
    assert [row["epoch"] for row in trainer.code_watch] == list(range(period - 1, 4, period))


def test_a_checkpoint_holds_the_table_it_was_evaluated_with(build, monkeypatch):
    """I18: also when later epochs moved on, and its averaged codebooks are those the table was made from."""
    trainer, train_data, valid_data = build(epochs=6, stopping_step=9, ema_decay=0.9, **FAST)
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.3, 0.3])  # the second validation wins
    evaluated = []

    def scored(*args, **kwargs):
        evaluated.append(trainer.model.semantic_ids.codes)
        return next(scores), {"ndcg@10": 0.0}

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_valid_epoch", scored)
        trainer.fit(train_data, valid_data)
    last = trainer.model.semantic_ids.codes
    trainer._load_weights(trainer.saved_model_file)
    model = trainer.model
    assert np.array_equal(model.semantic_ids.codes, evaluated[1]) and not np.array_equal(last, evaluated[1])
    assert np.array_equal(model.codes.numpy(), model.semantic_ids.flat_codes())
    assert np.array_equal(model.joint.assign().numpy(), model.semantic_ids.codes[1:, :-1])
    leaf = model.trie.items_of(model.trie.item.nonzero().flatten())[0]
    assert sorted(leaf.tolist()) == list(range(1, model.n_items))

    loaded = load(trainer.saved_model_file)[3]
    assert np.array_equal(loaded.semantic_ids.codes, evaluated[1])
    assert torch.equal(loaded.trie.token, model.trie.token)
    assert loaded.diagnostics() == model.diagnostics()


def test_usage_and_sigma_come_back(build):
    """I10: the running shares survive a checkpoint."""
    trainer, train_data, valid_data = build(joint_decay="both", **FAST)
    trainer.fit(train_data, valid_data)
    usage, sigma = (getattr(trainer.model.joint.exploration, name).clone() for name in ("usage", "sigma"))
    assert (usage - 1 / usage.size(1)).abs().max() > 1e-3 and sigma != 1
    loaded = load(trainer.folder / "last.pth")[3].joint.exploration
    assert torch.equal(loaded.usage, usage)
    assert 0 < loaded.sigma < 1


@pytest.mark.parametrize("tokenizer", ["rkmeans", "rqvae"])
def test_a_trained_encoder_is_saved_and_loaded(small_settings, tokenizer):
    changes = {"joint_encoder_learning_rate": 0.01} if tokenizer == "rqvae" else {}
    sizes = {"sid_latent_size": 4, "sid_hidden_sizes": [8], "sid_epochs": 2} if tokenizer == "rqvae" else {}
    settings = small_settings("DIGER", **{**FAST, "tokenizer": tokenizer, **changes, **sizes})
    result = run("DIGER", "toy", config_dict=settings)
    (best,) = Path(".").glob("*/*/best.pth")
    _, _, loaders, model = load(best, {"cache_dir": None})
    trainer = trainer_class(load(best)[0])(load(best)[0], model)
    assert trainer.evaluate_protocols(loaders[2], load_best_model=False) == result["test_result"]


def test_loading_fits_no_tokenizer(small_settings, monkeypatch):
    run("DIGER", "toy", config_dict=small_settings("DIGER", **FAST))
    (best,) = Path(".").glob("*/*/best.pth")
    monkeypatch.setattr("recbole_vsid.data.joint.fit_tokenizer", None)
    assert load(best)[3].semantic_ids.n_items == 42


# ------------------------------------------------------------- rates and clipping


def test_the_codebooks_may_move_by_half_their_spread(build):
    trainer, train_data, valid_data = build(epochs=3)
    rates = []
    step = trainer.optimizer.step

    def watched(*args):
        groups = trainer.optimizer.param_groups
        (group,) = [group for group in groups if group["params"][0] is trainer.model.joint.codebooks]
        rates.append(group["lr"])
        return step(*args)

    trainer.optimizer.step = watched
    trainer.fit(train_data, valid_data, saved=False)
    assert len(rates) == 3 * len(train_data)
    assert sum(rates) == pytest.approx(MOVEMENT_BUDGET * trainer.model.joint.spread.item(), rel=1e-4)


@pytest.mark.parametrize("of_tokenizer", [0.01, 100.0])
@pytest.mark.parametrize("of_recommender", [0.01, 100.0])
def test_recommender_and_tokenizer_are_clipped_apart(build, of_tokenizer, of_recommender):
    trainer, _, _ = build(joint_decay="sdud")
    joint = trainer.model.joint
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    joint.codebooks.grad[0, 0, 0] = of_tokenizer
    trainer.model.token_embedding.weight.grad[3, 2] = of_recommender
    joint.exploration.sigma.grad.fill_(50.0)
    trainer._clip_apart()
    assert joint.codebooks.grad.norm() == pytest.approx(min(of_tokenizer, 1.0), rel=1e-4)
    assert trainer.model.token_embedding.weight.grad.norm() == pytest.approx(min(of_recommender, 1.0), rel=1e-4)
    assert joint.exploration.sigma.grad == 50


def test_clipping_and_projection_happen_once_in_every_step(build, monkeypatch):
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # as tokenizers that are fitted in this process do
    calls = []
    clip = JointTrainer._clip_apart
    monkeypatch.setattr(JointTrainer, "_clip_apart", lambda trainer: (calls.append(1), clip(trainer)))
    trainer, train_data, _ = build(joint_decay="sdud", joint_sigma_learning_rate=5.0, clip_grad_norm={"max_norm": 1e-3})
    trainer.model.train()
    trainer.start_epoch_watch(makes_table=False)
    train_data.set_epoch(0)
    for count, batch in enumerate(train_data, start=1):
        trainer.optimizer.zero_grad()
        trainer._loss(batch).backward()
        trainer.optimizer.step()
        assert len(calls) == count
        assert trainer.model.joint.codebooks.grad.norm() <= 1.001e-3
        assert trainer.model.joint.exploration.sigma >= 0
    assert trainer.model.joint.exploration.sigma == 0  # a rate of 5 overshoots


# ------------------------------------------------------------------------- watch


def test_the_watch_is_logged_and_recorded(small_settings, caplog):
    caplog.set_level(logging.INFO)
    result = run("DIGER", "toy", config_dict=small_settings("DIGER", **FAST))
    (file,) = Path(".").glob("*/*/result.json")
    assert json.loads(file.read_text())["code_watch"] == result["code_watch"]
    assert [row["epoch"] for row in result["code_watch"]] == [0, 1]
    for row in result["code_watch"]:
        assert row["gradient_norm"] > 0 and 0 <= row["drift"] <= 1 and row["generation_loss"] > 0
        assert f"epoch {row['epoch']} semantic IDs: {row['drift']:.1%} drifted" in caplog.text
    assert result["diagnostics"].keys() <= result["code_watch"][0].keys()


def test_without_paths_the_watch_sees_no_gradient(build):
    trainer, train_data, valid_data = build(joint_gradient_paths=[], **FAST)
    trainer.fit(train_data, valid_data, saved=False)
    assert [row["gradient_norm"] for row in trainer.code_watch] == [0, 0]
    assert trainer.code_watch[-1]["content_drift_since_start"] > 0  # the quantiser's losses move the codebooks too


def test_two_stage_training_makes_no_tables(build, monkeypatch):
    trained, made = watched_tables(monkeypatch)
    trainer, train_data, valid_data = build(joint_codebook_learning_rate=0)
    codebooks = trainer.model.joint.codebooks.clone()
    trainer.fit(train_data, valid_data, saved=False)
    assert trained and made == [] and trainer.code_watch == []
    assert torch.equal(trainer.model.joint.codebooks, codebooks)


def test_a_continued_run_keeps_its_watch(small_settings):
    settings = small_settings("DIGER", epochs=4, **FAST)
    run("DIGER", "toy", config_dict=settings)
    before = json.loads(next(Path(".").glob("*/*/result.json")).read_text())["code_watch"]
    again = run("DIGER", "toy", config_dict={**settings, "resume": True})
    assert again["code_watch"] == before and len(before) == 4


@pytest.mark.parametrize(
    ("change", "alarm"),
    [
        ({}, []),
        ({"distinct_nearest_share": 0.59}, ["only 59% of the distinct nearest codes of the start are left"]),
        ({"effective_nearest_2": 1.9}, ["level 2 uses its 8 codes as unevenly as 1.9 equal ones"]),
        ({"drift": 0.21}, ["21% of the items changed their semantic IDs"]),
        ({"suffixes_used": 0.9}, ["90% of the disambiguation tokens are in use"]),
    ],
)
def test_alarms(change, alarm):
    quiet = {"distinct_nearest_share": 0.6, "effective_nearest_1": 2.0, "effective_nearest_2": 2.0, "drift": 0.2,
             "suffixes_used": 0.8}  # fmt: skip
    assert list(_alarms({**quiet, **change}, 8)) == alarm


# ---------------------------------------------------------------------- collapse


@pytest.fixture
def collapsing_after():
    """``with collapsing_after(epochs)``: after so many new tables all codewords are in one place."""

    @contextmanager
    def collapsing(epochs):
        refresh, calls = DIGER.refresh_table, []

        def watched(model):
            calls.append(model)
            if len(calls) > epochs:
                model.joint.codebooks.data.zero_()
            return refresh(model)

        DIGER.refresh_table = watched
        try:
            yield
        finally:
            DIGER.refresh_table = refresh

    return collapsing


@pytest.mark.parametrize("eval_step", [1, 4])
def test_collapsed_codes_stop_the_run_and_leave_the_last_good_state(small_settings, collapsing_after, eval_step):
    changes = {"joint_collapse_below": 0.9, "joint_assignment": "nearest", "sid_suffix_size": 100}
    message = (
        r"epoch 2: the semantic IDs have collapsed: \d+% of .*, joint_collapse_below=0.9. Lower joint_codebook_lea"
    )
    with collapsing_after(2), pytest.raises(Collapsed, match=message) as raised:
        run("DIGER", "toy", config_dict=small_settings("DIGER", epochs=4, eval_step=eval_step, **changes))
    (last,) = Path(".").glob("*/*/last.pth")
    assert str(last) in str(raised.value)
    assert load(last)[3].diagnostics()["distinct_nearest_share"] > 0.9
    state = torch.load(last, weights_only=True)
    assert state["epoch"] == 1 and len(state["progress"]["train_loss"]) == 2


def test_a_group_larger_than_the_suffix_vocabulary_is_a_collapse(small_settings, collapsing_after):
    changes = {"joint_collapse_below": 0.0, "joint_assignment": "nearest", "sid_vocab_size": 32, "sid_suffix_size": 1}
    message = (
        r"epoch 1: .* 41 items share a content code, and there are \d+ disambiguation tokens; the levels use 1 of 32"
    )
    with collapsing_after(1), pytest.raises(Collapsed, match=message):
        run("DIGER", "toy", config_dict=small_settings("DIGER", epochs=3, **changes))
