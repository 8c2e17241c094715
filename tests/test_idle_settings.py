"""A setting of the user that does nothing in the combination given says so."""

from __future__ import annotations

import pytest

from recbole_vsid.config import Config
from recbole_vsid.idle_settings import CONDITIONS, idle_settings


def idle(model="VLSID", **settings):
    config = Config(model, "toy", config_dict=settings)
    return idle_settings(config, config.external_config_dict)


@pytest.mark.parametrize(
    ("settings", "key", "needed"),
    [
        ({"content_file": "x.npy"}, "content_file", "content=file"),
        ({"content_ids": "x.txt", "content": ["tfidf"]}, "content_ids", "content=file"),
        ({"text_max_length": 5}, "text_max_length", "content=text"),
        ({"famae_width": 8}, "famae_width", "content=famae"),
        ({"field_bins": 5}, "field_bins", "content=fields or content=famae"),
        ({"content": "auto", "field_bins": 5}, "field_bins", "content=fields"),
        ({"content": "file", "content_dim": 5}, "content_dim", "content=tfidf or content=cooccurrence"),
        ({"sid_file_ids": "x"}, "sid_file_ids", "sid_file"),
        ({"sid_file": "x", "sid_updates": 5}, "sid_updates", "sid_file"),
        ({"learner": "adam", "muon_learning_rate": 0.1}, "muon_learning_rate", "learner=muon"),
        ({"decoding": "exact", "valid_beam_width": 30}, "valid_beam_width", "decoding=beam"),
        ({"eval_step": 0, "stopping_step": 5}, "stopping_step", "eval_step"),
        ({"tail_ratio": 0.1}, "tail_ratio", "TailPercentage"),
        ({"save_dataset": True}, "save_dataset", "read and split anew"),
        ({"wandb_project": "x"}, "wandb_project", "log_wandb=True"),
    ],
)
def test_what_does_nothing_is_named_with_what_it_needs(settings, key, needed):
    (line,) = idle(**settings)
    assert line.startswith(f"{key}=") and "does nothing" in line and needed in line


def test_what_does_something_is_not_named():
    assert not idle()
    for given in ({}, {"content": "auto"}, {"content": ["auto"]}):
        assert not idle(content_dim=8, cooccurrence_window=3, content_weights=[1, 2], missing_content="zero", **given)
    assert not idle(content="file", content_file="x.npy", content_ids="x.txt")
    assert not idle(sid_file="x", sid_file_ids="y")
    assert not idle(content=["tfidf", "famae"], famae_width=8, field_bins=5, content_dim=8, beam_width=60)
    assert not idle("DIGER", joint_decay="both", joint_sdud_lambda=1.0, joint_hot_ratio=2.0)
    assert not idle("IntRR", head_size=8, alignment_weight=0.2)
    assert not idle("SASRec", metrics=["NDCG", "TailPercentage"], valid_metric="NDCG@10", tail_ratio=0.2)


def test_every_condition_is_of_a_setting_that_there_is():
    known = set()
    for model in ("VLSID", "TIGER", "DIGER", "IntRR", "SASTrie"):
        known |= Config(model, "toy", config_dict={})._settings
    known |= Config("VLSID", "toy", config_dict={"tokenizer": "rqvae"})._settings
    assert set(CONDITIONS) <= known | {"tail_ratio"}


def test_a_run_says_so(small_settings, caplog):
    config = Config("VLSID", "toy", config_dict=small_settings(content_file="x.npy"))
    config.set_up_process()
    assert "content_file='x.npy' does nothing" in caplog.text
