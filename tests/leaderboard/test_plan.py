"""What is going to be run: configurations, commands, identities."""

from __future__ import annotations

import shlex

import pytest

from recbole_vsid.cli import parse
from recbole_vsid.config import Config
from recbole_vsid.leaderboard.plan import plan


@pytest.fixture
def settings_dir(tmp_path):
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "SASRec.yaml").write_text("learning_rate: 0.01\n")
    (folder / "Wide.yaml").write_text("model: SASRec\nhidden_size: 128\n")
    return folder


def test_the_command_gives_the_planned_configuration(settings_dir, data_path):
    shared = {"data_path": str(data_path), "topk": [5, 10], "eval_args": {"order": "TO"}, "epochs": 3}
    for run in plan(["Pop", "Wide", "VLSID"], ["toy"], [1, 2], settings_dir, config_dict=shared):
        settings = parse(run.arguments)
        files = shlex.split(settings.pop("config_files", ""))
        config = Config(settings["model"], settings["dataset"], files, settings)
        assert config.hash() == run.config_hash
        assert config["seed"] == run.seed and config["epochs"] == 3 and config["topk"] == [5, 10]


def test_entries_have_settings_of_their_own(settings_dir, data_path):
    runs = plan(["SASRec", "Wide", "GRU4Rec"], ["toy"], [1], settings_dir, config_dict={"data_path": str(data_path)})
    assert [run.arguments[0] for run in runs] == ["--model=SASRec", "--model=SASRec", "--model=GRU4Rec"]
    assert [any("config_files" in argument for argument in run.arguments) for run in runs] == [True, True, False]
    assert len({run.config_hash for run in runs}) == 3


def test_identity_is_that_of_all_seeds_but_not_of_other_settings_or_files(data_path, tmp_path):
    shared = {"data_path": str(data_path)}
    first, second = plan(["SASRec"], ["toy"], [1, 2], config_dict=shared)
    assert first.identity == second.identity and first.key != second.key
    (given,) = plan(["SASRec"], ["toy"], [1], config_dict={**shared, "n_layers": 2, "num_threads": 2})
    assert given.key == first.key, "a default, given or not, and threads do not make another run"
    (other,) = plan(["SASRec"], ["toy"], [1], config_dict={**shared, "n_layers": 1})
    assert other.identity != first.identity


def test_paths_with_blanks_and_odd_texts_survive_the_command_line(tmp_path, data_path):
    folder = tmp_path / "my settings"
    folder.mkdir()
    (folder / "Pop.yaml").write_text("topk: [5, 10]\n")
    odd = {"data_path": str(data_path), "checkpoint_dir": "été [1", "wandb_project": "yes"}
    (run,) = plan(["Pop"], ["toy"], [1], folder, config_dict=odd)
    settings = parse(run.arguments)
    assert shlex.split(settings.pop("config_files")) == [str(folder / "Pop.yaml")]
    assert {key: settings[key] for key in odd} == odd


@pytest.mark.parametrize(
    "text", ['{title} "A"', '"{title}" by x: y', "Title: {title}\nYear: {year}", "'{title}'", "12"]
)
def test_templates_survive_the_command_line(text, data_path):
    (run,) = plan(["VLSID"], ["toy"], [1], config_dict={"data_path": str(data_path), "text_template": text})
    assert parse(run.arguments)["text_template"] == text


def test_order_and_names(data_path):
    runs = plan(["Pop", "BPR"], ["toy", "ml-100k"], [2, 1], config_dict={"data_path": str(data_path)})
    assert [(run.dataset, run.seed, run.entry) for run in runs[:3]] == [
        ("toy", 2, "Pop"), ("toy", 2, "BPR"), ("toy", 1, "Pop"),
    ]  # fmt: skip
    assert runs[0].name == "Pop on toy, seed 2" and not runs[0].resumable


def test_other_data_make_another_run(data_path, tmp_path):
    settings = {"data_path": str(tmp_path)}
    (tmp_path / "toy").mkdir()
    for name in ("toy.inter", "toy.item"):
        (tmp_path / "toy" / name).write_bytes((data_path / "toy" / name).read_bytes())
    (first,) = plan(["Pop"], ["toy"], [1], config_dict=settings)
    (same,) = plan(["Pop"], ["toy"], [1], config_dict={"data_path": str(data_path)})
    assert first.key == same.key, "the place of the data does not matter"
    with open(tmp_path / "toy" / "toy.inter", "a") as file:
        file.write("u0\ti0\t9999999\n")
    (changed,) = plan(["Pop"], ["toy"], [1], config_dict=settings)
    assert changed.key != first.key and changed.config_hash == first.config_hash


def test_a_setting_of_places_goes_to_those_that_know_it(data_path):
    runs = plan(["SASRec", "VLSID"], ["toy"], [1], config_dict={"data_path": str(data_path), "cache_dir": "x"})
    assert ["--cache_dir=x" in run.arguments for run in runs] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entries": ["SASRek"]}, "unknown model 'SASRek'. Did you mean 'SASRec'"),
        ({"entries": ["Pop", "Pop"]}, "model=Pop,Pop names something twice"),
        ({"entries": []}, "model names nothing"),
        ({"entries": ["../Pop"]}, "'../Pop' is not a usable name"),
        ({"seeds": [1, 1]}, "seed=1,1 names something twice"),
        ({"config_dict": {"epochz": 3}}, "Pop: unknown setting 'epochz'"),
        ({"config_dict": {"epochs": 0}}, "Pop: epochs=0 is not usable"),
        ({"config_dict": {"metrics": ["NDCG"]}}, "a leaderboard needs NDCG and Recall"),
        ({"config_dict": {"resume": True}}, "resume is not for a leaderboard"),
        ({"config_dict": {"result_file": "x.json"}}, "result_file is not for a leaderboard"),
        ({"config_file_list": ["resume.yaml"]}, "Pop: resume is not for a leaderboard"),
        ({"settings_dir": "nowhere"}, "settings_dir='nowhere' is not a folder"),
    ],
)
def test_bad_input_is_refused_before_any_run(change, message, tmp_path):
    (tmp_path / "resume.yaml").write_text("resume: true\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan(**{"entries": ["Pop"], "datasets": ["ml-100k"], "seeds": [1], **change})


def test_two_entries_of_the_same_settings_would_share_a_folder(settings_dir):
    (settings_dir / "Twin.yaml").write_text("model: SASRec\nlearning_rate: 0.01\n")
    with pytest.raises(ValueError, match="SASRec and Twin have the same settings"):
        plan(["SASRec", "Twin"], ["ml-100k"], [1], settings_dir)


def test_models_without_a_common_cutoff_are_refused(settings_dir):
    (settings_dir / "Pop.yaml").write_text("topk: [5]\nvalid_metric: NDCG@5\n")
    (settings_dir / "SASRec.yaml").write_text("topk: [10]\n")
    with pytest.raises(ValueError, match=r"share no cut-off \(Pop \(5,\), SASRec \(10,\)\)"):
        plan(["SASRec", "Pop"], ["ml-100k"], [1], settings_dir)


def test_progress_is_the_leaderboards_own(data_path):
    (run,) = plan(["Pop"], ["toy"], [1], config_dict={"data_path": str(data_path), "show_progress": True})
    assert not [argument for argument in run.arguments if "show_progress" in argument]


def test_a_broken_settings_file_is_named(settings_dir):
    (settings_dir / "Pop.yaml").write_text("epochs: [1\n")
    with pytest.raises(ValueError, match=r"Pop.*Pop\.yaml is not valid YAML"):
        plan(["Pop"], ["ml-100k"], [1], settings_dir)
