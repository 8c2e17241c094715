"""RecBole's own models give RecBole's own numbers here."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config as StockConfig
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

import recbole_vsid.quick_start
from recbole_vsid.evaluation.collector import KEPT, MASKED
from recbole_vsid.quick_start import run

PROTOCOL = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
    "metrics": ["Recall", "NDCG", "MRR"],
    "topk": [5, 10, 20],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "load_col": None,
}


class StockConfigOnNumpy2(StockConfig):
    """RecBole's ``Config``; only the names that NumPy 2 dropped are given back in another way."""

    def compatibility_settings(self):
        for old, new in {"int": np.int_, "float": np.float64, "object": np.object_, "str": np.str_,
                         "bool": np.bool_, "long": np.int_}.items():  # fmt: skip
            if old not in np.__dict__:
                setattr(np, old, new)


def stock_run(model, settings, monkeypatch, neg_sampling=True):
    """What ``recbole.quick_start.run_recbole`` does, without its FLOPs counter."""
    monkeypatch.setattr(sys, "argv", ["run_recbole.py"])
    own = {"num_threads"}
    settings = {key: value for key, value in {**settings, **PROTOCOL}.items() if key not in own}
    if not neg_sampling:
        settings["train_neg_sample_args"] = None
    config = StockConfigOnNumpy2(model, "toy", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    recommender = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, recommender)
    _, best_valid = trainer.fit(train_data, valid_data, saved=True, show_progress=False, verbose=False)
    trainer.resume_checkpoint = None  # torch.load refuses RecBole's pickles; the state is loaded here instead
    state = torch.load(trainer.saved_model_file, weights_only=False)
    recommender.load_state_dict(state["state_dict"])
    recommender.load_other_parameter(state["other_parameter"])
    test = trainer.evaluate(test_data, load_best_model=False)
    return dict(trainer.train_loss_dict), dict(best_valid), dict(test)


@pytest.fixture
def traced(monkeypatch):
    """``run`` that also gives back the trainer."""
    made = []
    original = recbole_vsid.quick_start.trainer_class

    def trainer_class(config):
        def build(*arguments):
            made.append(original(config)(*arguments))
            return made[-1]

        return build

    def traced_run(*arguments, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(recbole_vsid.quick_start, "trainer_class", trainer_class)
            return run(*arguments, **settings), made[-1]

    return traced_run


@pytest.mark.parametrize(("model", "protocol"), [("SASRec", KEPT), ("GRU4Rec", KEPT), ("BPR", MASKED)])
def test_the_same_numbers_as_stock_recbole(small_settings, traced, monkeypatch, model, protocol):
    """Same seed, same settings: every epoch's loss, the best validation and the test, to the last digit."""
    sequential = protocol == KEPT
    settings = small_settings(model, epochs=3, mask_history=not sequential)
    # Two hidden sizes of RecBole's defaults, made small.
    settings.update({"hidden_size": 32, "inner_size": 32} if model == "SASRec" else {"embedding_size": 32})
    result, trainer = traced(model, "toy", config_dict=settings)
    settings.pop("mask_history")
    losses, best_valid, test = stock_run(model, settings, monkeypatch, neg_sampling=not sequential)
    assert len(losses) == 3 and trainer.train_loss_dict == losses
    assert dict(trainer.best_valid_result) == best_valid
    for split, expected in (("valid_result", best_valid), ("test_result", test)):
        assert {name: result[split][protocol][name] for name in expected} == expected
    assert test["recall@20"] > 0


@pytest.mark.parametrize("model", ["GRU4Rec", "BERT4Rec", "BPR", "Pop", "VLSID"])
def test_one_epoch_gives_a_sane_record(small_settings, model, capsys):
    settings = small_settings(model, epochs=1)
    result = run(model, "toy", config_dict=settings)
    generative = model == "VLSID"
    assert (result["model"], result["dataset"], result["seed"]) == (model, "toy", 1)
    assert result["tokenizer"] == ("rkmeans" if generative else None)
    assert (result["semantic_ids"] is not None) == generative
    for split in ("valid_result", "test_result"):
        for name in (KEPT, MASKED):
            values = result[split][name]
            assert set(values) == {f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (5, 10, 20)} | {
                "filled_share"
            }
            assert all(0 <= value <= 1 and math.isfinite(value) for value in values.values())
            assert values["recall@5"] <= values["recall@10"] <= values["recall@20"]
            assert values["mrr@20"] <= values["ndcg@20"] <= values["recall@20"]
    protocol = result["protocol"]
    assert protocol["candidates"] == 41 and protocol["test_users"] == 60 and protocol["ranking"] == "full catalogue"
    cost = result["cost"]
    assert cost["epochs"] == 1 and cost["training_seconds"] >= 0 and cost["evaluation_ms_per_user"] > 0
    assert (cost["parameters"] > 1000) == (model != "Pop")
    assert (cost["tokens_per_item"] > 1) == generative
    (folder,) = Path("saved").glob(f"{model}-toy-seed1-*")
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert f"{model}" in capsys.readouterr().out


def test_all_models_here_saw_the_same_data(small_settings):
    found = [run(model, "toy", config_dict=small_settings(model, epochs=1))["protocol"] for model in ("Pop", "GRU4Rec")]
    for key in ("data_fingerprint", "test_users", "candidates", "split", "order", "ranking"):
        assert found[0][key] == found[1][key]


def test_a_model_learns_the_planted_pattern(small_settings):
    """Far above what popularity gives."""
    result = run("SASRec", "toy", config_dict=small_settings("SASRec", epochs=10, hidden_size=32, inner_size=32))
    popularity = run("Pop", "toy", config_dict=small_settings("Pop", epochs=1))
    assert result["test_result"][KEPT]["ndcg@10"] > 0.5 > 3 * popularity["test_result"][KEPT]["ndcg@10"]


def test_without_validation(small_settings):
    """``eval_step: 0`` trains without validation, and the record says so."""
    result = run("BPR", "toy", config_dict=small_settings("BPR", epochs=1, eval_step=0))
    assert result["valid_result"] is None and result["test_result"][KEPT]["recall@20"] >= 0
