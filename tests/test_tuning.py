"""The search chooses what a search by hand would choose, and no failure passes in silence."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
from recbole.trainer import HyperTuning

import recbole_vsid.tuning
from recbole_vsid import run
from recbole_vsid.cli import main
from recbole_vsid.config import Config, properties_folder
from recbole_vsid.evaluation.collector import KEPT, MASKED
from recbole_vsid.tuning import Search, _check_space, _typed, objective_function, read_space, tune

EXAMPLES = sorted((properties_folder() / "hyper").glob("*.test"))


@pytest.fixture
def settings(small_settings):
    return small_settings("BPR", epochs=2, embedding_size=8)


def by_hand(settings, protocol=KEPT, **choices):
    """(validation NDCG@10, test NDCG@10) of each combination, by its values."""
    found = {}
    for values in itertools.product(*choices.values()):
        record = run("BPR", "toy", config_dict={**settings, **dict(zip(choices, values))}, saved=False)
        found[values] = tuple(record[part][protocol]["ndcg@10"] for part in ("valid_result", "test_result"))
    return found


@pytest.mark.parametrize("mask_history", [False, True])
def test_an_exhaustive_search_finds_the_best_of_all(settings, tmp_path, mask_history):
    choices = {"learning_rate": [0.0001, 0.03], "embedding_size": [4, 16]}
    settings = {**settings, "mask_history": mask_history}
    expected = by_hand(settings, MASKED if mask_history else KEPT, **choices)
    space = tmp_path / "space.test"
    space.write_text("".join(f"{name} choice {values}\n" for name, values in choices.items()))
    found = tune("BPR", "toy", space, output_file="trials.csv", config_dict=settings)
    best = max(expected, key=lambda values: expected[values][0])
    assert tuple(found["best_params"][name] for name in choices) == best
    assert found["best_valid_score"] == expected[best][0]
    assert found["test_result"]["ndcg@10"] == expected[best][1]
    trials = pd.read_csv("trials.csv")
    scores = {tuple(row[name] for name in choices): row.valid_score for _, row in trials.iterrows()}
    assert scores == pytest.approx({values: score for values, (score, _) in expected.items()})


def test_recboles_own_class_takes_the_objective_function(settings, tmp_path):
    (tmp_path / "space.test").write_text("learning_rate choice [0.0001,0.03]\n")
    own = [f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()]
    (tmp_path / "fixed.yaml").write_text("model: BPR\ndataset: toy\n" + "\n".join(own))
    search = HyperTuning(
        objective_function, params_file="space.test", fixed_config_file_list=["fixed.yaml"], algo="exhaustive"
    )
    search.run()
    search.export_result("trials.txt")
    expected = by_hand(settings, learning_rate=[0.0001, 0.03])
    assert (search.best_params["learning_rate"],) == max(expected, key=lambda values: expected[values][0])
    assert "learning_rate:0.03" in (tmp_path / "trials.txt").read_text()


def test_a_failed_trial_is_named_and_the_others_go_on(settings, tmp_path):
    # Refused only when the data are read.
    (tmp_path / "space.test").write_text("item_inter_num_interval choice ['[1,inf)', '[9999,inf)']\n")
    found = tune("BPR", "toy", "space.test", config_dict=settings)
    assert found["best_params"] == {"item_inter_num_interval": "[1,inf)"}
    failed = found["trials"].set_index("item_inter_num_interval")["failed"]
    assert failed["[1,inf)"] == "" and "no interaction is left" in failed["[9999,inf)"]
    (tmp_path / "space.test").write_text("item_inter_num_interval choice ['[9999,inf)']\n")
    with pytest.raises(ValueError, match="every trial failed, the first with: .*no interaction is left"):
        tune("BPR", "toy", "space.test", config_dict=settings)


def test_lists_in_quotation_marks_are_lists(small_settings, tmp_path):
    """As in RecBole's own files; by every way in."""
    (tmp_path / "space.test").write_text("mlp_hidden_size choice ['[16,8]','[8]']\n")
    settings = small_settings("NeuMF", epochs=1)
    found = tune("NeuMF", "toy", "space.test", config_dict=settings)
    assert found["trials"]["failed"].eq("").all() and found["best_params"]["mlp_hidden_size"] in ([16, 8], [8])
    for text in ("[16, 8]", "(16, 8)"):
        assert Config("NeuMF", "toy", config_dict={"mlp_hidden_size": text})["mlp_hidden_size"] == [16, 8]
    assert Config("VLSID", "toy", config_dict={"content": "[tfidf]"})["content"] == ["tfidf"]


def test_a_trial_that_fails_in_any_way_is_one_of_many(settings, tmp_path, monkeypatch):
    def fails_once(config_dict, *others, **more):
        if config_dict["embedding_size"] == 4:
            raise TypeError("can only concatenate list")
        return run(config_dict=config_dict, **more)

    monkeypatch.setattr(recbole_vsid.tuning, "run", lambda *given, **more: fails_once(**more))
    (tmp_path / "space.test").write_text("embedding_size choice [4, 8]\n")
    trials = tune("BPR", "toy", "space.test", config_dict={**settings, "epochs": 1})["trials"]
    assert trials["failed"].tolist() == ["TypeError: can only concatenate list", ""]


def test_random_search_has_a_seed_and_gives_whole_numbers(settings, tmp_path):
    (tmp_path / "space.test").write_text("embedding_size quniform 4,32,4\nlearning_rate loguniform -6,-3\n")
    first, second = (
        tune("BPR", "toy", "space.test", "random", max_evals=2, config_dict=settings)["trials"] for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, second)
    assert set(first["embedding_size"] % 4) == {0} and first["failed"].eq("").all()


def test_what_depends_on_each_other_is_checked_together_and_lists_are_values(small_settings, tmp_path):
    (tmp_path / "space.test").write_text(
        "tokenizer choice ['rkmeans','opq']\nsid_n_levels choice [2]\ncontent choice [['tfidf'],['cooccurrence']]\n"
    )
    fixed = small_settings("VLSID").items()
    settings = {key: value for key, value in fixed if key != "tokenizer" and not key.startswith("sid_")}
    found = tune("VLSID", "toy", "space.test", config_dict={**settings, "epochs": 1})
    assert len(found["trials"]) == 4 and found["trials"]["failed"].eq("").all()
    assert found["best_params"]["content"] in (["tfidf"], ["cooccurrence"])


def test_what_fits_one_way_is_left_to_the_trials(tmp_path):
    space = {"choice": {"hidden_size": [64, 128], "head_size": [64, 128]}, "uniform": {"ema_decay": [0.9, 1.0]}}
    assert _check_space(space, None, {"model": "VLSID", "dataset": "ml-100k"})["hidden_size"] == 128
    with pytest.raises(ValueError, match="ema_decay=1.45 is not usable"):
        _check_space({"uniform": {"ema_decay": [0.9, 2.0]}}, None, {"model": "VLSID", "dataset": "ml-100k"})


def test_a_failure_does_not_end_a_search(tmp_path):
    scores = iter([None, *range(1, 30)])

    def objective(params):
        score = next(scores)
        if score is None:
            raise ValueError("the first one fails")
        return {"model": "X", "best_valid_score": score, "valid_score_bigger": True, "best_valid_result": {},
                "test_result": {}}  # fmt: skip

    space = {"uniform": {"x": [0.0, 1.0]}}
    search = Search(objective, tmp_path / "t.csv", params_dict=space, algo="random", max_evals=20, early_stop=3)
    search.run()
    assert len(search.rows) == 20 and search.best_score == 19


def test_whole_numbers_for_settings_that_may_be_auto():
    config = Config("IntRR", "ml-100k")
    assert _typed(config, {"sid_suffix_size": 8.0, "n_layers": 2.0, "dropout_prob": 0.0, "content": ("tfidf",)}) == {
        "sid_suffix_size": 8, "n_layers": 2, "dropout_prob": 0.0, "content": ["tfidf"],
    }  # fmt: skip


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_read_by_us_and_by_recbole(file):
    space = read_space(file)
    assert set(HyperTuning(objective_function, params_file=str(file)).space) == set(space["choice"])
    for name, values in space["choice"].items():
        for value in values:
            assert Config(file.stem, "ml-100k", config_dict={name: value})[name] == value


def test_every_model_of_this_package_has_an_example():
    from recbole_vsid.registry import MODELS

    assert {file.stem for file in EXAMPLES} >= {*MODELS, "SASRec"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate choice [0.1\n", "line 1: 'learning_rate choice"),
        ("learning_rate choice __import__('os')\n", "line 1"),
        ("learning_rate uniform 0.1\n", "line 1"),
        ("learning_rate sometimes [0.1]\n", "line 1"),
        ("seed choice [1]\nseed choice [2]\n", "line 2: seed is there twice"),
        ("\n", "holds no parameter"),
        ("learning_rate uniform 0.1,0.2\n", "algo=exhaustive takes `choice` only"),
        ("learning_rat choice [0.1]\n", "unknown setting 'learning_rat'"),
        ("learning_rate choice [0.1, 99]\n", "learning_rate=99 is not usable"),
        ("metrics choice 'NDCG'\n", "line 1"),
    ],
)
def test_bad_spaces_are_refused_before_any_trial(text, message, tmp_path, capsys):
    (tmp_path / "space.test").write_text(text)
    assert main(["tune", "--model=BPR", "--params_file=space.test"]) == 2
    assert message in capsys.readouterr().err


def test_spaces_of_windows_programs(tmp_path):
    file = tmp_path / "space.test"
    file.write_bytes(b"\xef\xbb\xbfseed choice [1, 2]\r\nlearning_rate choice [0.1]\r\n")
    assert read_space(file) == {"choice": {"seed": [1, 2], "learning_rate": [0.1]}}
    file.write_text("seed choice [1]  # é\n", encoding="utf-16")
    with pytest.raises(ValueError, match="params_file=.*space.test' is not UTF-8"):
        read_space(file)


def test_the_command_line(settings, tmp_path, capsys):
    (tmp_path / "space.test").write_text("learning_rate choice [0.01]\n")
    (tmp_path / "own.yaml").write_text("\n".join(f"{key}: {value}" for key, value in settings.items()))
    arguments = ["tune", "--model=BPR", "--dataset=toy", "--config_files=own.yaml", "--params_file=space.test"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "1 trials: saved" in out and "{'learning_rate': 0.01}" in out
    for wrong, message in {
        "--algo=grid": "algo='grid'",
        "--max_evals=0": "max_evals=0",
        "--eval_step=0": "eval_step=0",
    }.items():
        assert main([*arguments, wrong]) == 2 and message in capsys.readouterr().err
    assert main(["tune", "--model=BPR"]) == 2 and "there is no file" in capsys.readouterr().err
