"""RecBole's models that cannot finish are refused before training, in one line that says what they need."""

from __future__ import annotations

import sys

import pytest

from recbole_vsid import run
from recbole_vsid.cli import main
from recbole_vsid.config import Config
from recbole_vsid.needs import told_in_one_line
from tests.conftest import item_texts, make_dataset, planted_events


@pytest.fixture
def shop(tmp_path):
    """A data set with categories and a price."""
    prices = {"price:float": [0.5 + item for item in range(25)]}
    make_dataset(tmp_path / "data", "shop", *planted_events(30, 25), {**item_texts(25), **prices})
    make_dataset(tmp_path / "data", "bare", *planted_events(30, 25))
    return tmp_path / "data"


def refused(capsys, shop, model, dataset="shop", **settings):
    common = {"data_path": shop, "epochs": 1, "use_gpu": False, "show_progress": "false", "state": "error"}
    code = main(
        [f"--{key}={value}" for key, value in {"model": model, "dataset": dataset, **common, **settings}.items()]
    )
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 2 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.mark.parametrize("model", ["FDSA", "SASRecF", "GRU4RecF"])
def test_columns_that_are_not_there(model, capsys, shop):
    line = refused(capsys, shop, model)
    assert "selected_features=['class']" in line and f"model {model}" in line and "title, category, price" in line
    assert "'titel' is no item column of shop" in refused(capsys, shop, model, selected_features="[category,titel]")
    assert "no .item file" in refused(capsys, shop, model, "bare")
    line = refused(capsys, shop, model, selected_features="[category,price]")
    assert "'price' holds numbers" in line and "numerical_features=['price']" in line
    assert "names no item column" in refused(capsys, shop, model, selected_features="[]")


def test_columns_that_are_there(shop):
    settings = {"data_path": str(shop), "epochs": 1, "hidden_size": 8, "embedding_size": 8, "show_progress": False}
    named = {"selected_features": ["category", "price"], "numerical_features": ["price"]}
    assert run("GRU4RecF", "shop", config_dict={**settings, **named}, saved=False)["test_result"]


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        ("S3Rec", {"item_attribute": "category"}, "train_stage='pretrain'"),
        ("RaCT", {}, "train_stage='actor_pretrain'"),
        ("S3Rec", {"item_attribute": "category", "train_stage": "finetune"}, "one stage"),
        ("BPR", {"train_neg_sample_args": "~"}, "model BPR learns from negative samples"),
        ("SASRec", {"loss_type": "BPR", "train_neg_sample_args": "~"}, "model SASRec learns from negative samples"),
        ("SASRec", {"train_neg_sample_args": "{sample_num: 1}"}, "train_neg_sample_args"),
        ("BPR", {"train_neg_sample_args": "{dynamic: true}"}, "candidate_num"),
        ("NeuMF", {"train_neg_sample_args": "~"}, "model NeuMF learns from labels"),
        ("DIN", {"train_neg_sample_args": "~"}, "model DIN learns from labels"),
        ("FM", {}, "of type CONTEXT"), ("CKE", {}, "of type KNOWLEDGE"), ("KSR", {}, "shop.ent"),
        ("SASRecCPR", {}, "reranker_CAN_NUM=100"),
        ("SASRec", {"loss_type": "MSE"}, "loss_type='MSE'"), ("SASRec", {"n_heads": 3}, "n_heads=3"),
        ("CORE", {"n_heads": 7}, "it must divide embedding_size=64"),
        ("SASRec", {"eval_args": "{split: {RS: [8, 1, 1]}, order: RO}"}, "order: TO"),
        ("NeuMF", {"mlp_hidden_size": "[]"}, "model NeuMF could not be built"),
        ("SASRec", {"transform": "crop_itemseq"}, "model SASRec"),
    ],
)  # fmt: skip
def test_what_a_model_needs(model, settings, told, capsys, shop):
    assert told in refused(capsys, shop, model, **settings)


def test_a_library_that_is_missing(capsys, shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.delitem(sys.modules, "recbole.model.exlib_recommender.lightgbm", raising=False)
    assert "model lightgbm needs the library lightgbm" in refused(capsys, shop, "lightgbm")


def test_models_that_need_no_negatives_are_taken_without():
    for model in ("SASRec", "MultiVAE", "EASE", "Pop"):
        assert Config(model, "toy", config_dict={"train_neg_sample_args": None})["epochs"] == 300


def test_errors_of_this_package_pass():
    with pytest.raises(KeyError), told_in_one_line("model X"):
        raise KeyError("ours")
