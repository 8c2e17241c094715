"""Settings: where they come from, who wins, and what is refused before any work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import recbole
import torch
import yaml
from recbole.config import configurator
from recbole.data.transform import MaskItemSequence
from recbole.utils import InputType

import recbole_vsid.config
from recbole_vsid.config import Config, parse_value, properties_folder
from recbole_vsid.registry import MODELS, get_content_encoder, get_model, get_tokenizer, recbole_models
from tests.conftest import make_dataset

WHEEL = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
EVIL = "__import__('os').system('touch pwned')"


def write_yaml(path, **settings):
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("typo", "meant"), [("learning_rat", "learning_rate"), ("sid_n_level", "sid_n_levels"), ("bem_width", "beam_width")]
)
def test_an_unknown_key_is_refused_with_the_nearest_one(typo, meant):
    with pytest.raises(ValueError, match=f"unknown setting '{typo}' for model VLSID.*nearest one is '{meant}'"):
        Config("VLSID", "toy", config_dict={"tokenizer": "rkmeans", typo: 1})


def test_an_unknown_key_in_a_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown setting 'epoch'"):
        Config("SASRec", "toy", [write_yaml(tmp_path / "a.yaml", epoch=3)])


def test_keys_of_another_tokenizer_or_model_are_refused():
    with pytest.raises(ValueError, match="'sid_n_levels' for model VLSID with tokenizer vlsid"):
        Config("VLSID", "toy", config_dict={"tokenizer": "vlsid", "sid_n_levels": 2})
    with pytest.raises(ValueError, match="'sid_length_cost' for model VLSID with tokenizer rkmeans"):
        Config("VLSID", "toy", config_dict={"tokenizer": "rkmeans", "sid_length_cost": 1})
    with pytest.raises(ValueError, match="'beam_width' for model SASRec;"):
        Config("SASRec", "toy", config_dict={"beam_width": 20})
    assert Config("VLSID", "toy", config_dict={"tokenizer": "rkmeans", "sid_n_levels": 2})["sid_n_levels"] == 2


def test_every_key_of_the_property_files_is_accepted_from_outside():
    for tokenizer in ("vlsid", "dvae", "rkmeans"):
        files = [properties_folder() / name for name in ("model/VLSID.yaml", f"tokenizer/{tokenizer}.yaml")]
        given = {}
        for file in files:
            given.update(yaml.load(file.read_text(), Loader=recbole_vsid.config._YamlLoader))
        config = Config("VLSID", "toy", config_dict={**given, "tokenizer": tokenizer})
        keys = set(given) - {"tokenizer", "train_neg_sample_args"}
        assert {key: config[key] for key in keys} == {key: given[key] for key in keys}


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5), ("1e-3", 0.001), ("1E3", 1000.0), ("-2.5e+1", -25.0), (".5", 0.5), ("1.", 1.0), ("true", True),
        ("False", False), ("~", None), ("", None), ("[5, 10]", [5, 10]), ("{a: 1e-3}", {"a": 0.001}), ("word", "word"),
        ("'1'", "1"), ("1-2", "1-2"), ("a=b", "a=b"), ("1/0", "1/0"), ("os.pth", "os.pth"), ("[1,inf)", ValueError),
        ("[5", ValueError), ("!!python/object/apply:os.getcwd []", ValueError), ("a: b: c", ValueError),
    ],
)  # fmt: skip
def test_values_are_yaml(text, value):
    if value is ValueError:
        with pytest.raises(ValueError, match="is not a YAML value"):
            parse_value(text)
    else:
        parsed = parse_value(text)
        assert parsed == value and type(parsed) is type(value)


def test_files_are_yaml_too_and_nothing_is_evaluated(tmp_path):
    file = tmp_path / "user.yaml"
    file.write_text(f'learning_rate: 1e-3\nwandb_project: "{EVIL}"\n')
    config = Config("SASRec", "toy", [str(file)], {"checkpoint_dir": EVIL, "dataset_save_path": "1/0"})
    assert config["learning_rate"] == 0.001
    assert config["wandb_project"] == EVIL and config["checkpoint_dir"] == EVIL and config["dataset_save_path"] == "1/0"
    assert not (tmp_path / "pwned").exists()
    file.write_text("wandb_project: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        Config("SASRec", "toy", [str(file)])
    assert not (tmp_path / "pwned").exists()


def test_the_users_dictionary_is_left_alone():
    given = {"topk": 10, "metrics": "NDCG", "checkpoint_dir": "1 + 1"}
    before = dict(given)
    config = Config("BPR", "toy", config_dict=given)
    assert given == before
    assert config["topk"] == [10] and config["metrics"] == ["NDCG"] and config["checkpoint_dir"] == "1 + 1"


def test_sys_argv_is_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=77", "--maxfail=1", "--epochs=78", "garbage", "--x=a=b"])
    assert Config("SASRec", "toy", config_dict={"epochs": 3})["epochs"] == 3


def test_configuration_files_that_cannot_be_used(tmp_path):
    def with_file(content):
        file = tmp_path / "user.yaml"
        file.write_bytes(content)
        return Config("SASRec", "toy", [str(file)])

    with pytest.raises(FileNotFoundError, match="there is no file 'missing.yaml'"):
        Config("SASRec", "toy", ["missing.yaml"])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Config("SASRec", "toy", [str(tmp_path)])
    for broken in (b"epochs: [1, 2", b"a: b: c", b"\xff\xfe\x00", b"\tepochs: 3"):
        with pytest.raises(ValueError, match=r"user\.yaml is not valid YAML"):
            with_file(broken)
    for other, kind in ((b"- epochs\n- 3\n", "list"), (b"epochs", "str"), (b"3", "int")):
        with pytest.raises(ValueError, match=f"must hold `key: value` lines, not a {kind}"):
            with_file(other)
    assert with_file(b"")["epochs"] == with_file(b"# nothing\n")["epochs"] == 300


# ---------------------------------------------------------------- precedence


def test_precedence(tmp_path, monkeypatch):
    """overall < semantic_id < model < tokenizer < dataset < the user's files in order < the user's dictionary."""
    folder = tmp_path / "properties"
    own = properties_folder()
    for kind in ("model", "tokenizer", "dataset"):
        (folder / kind).mkdir(parents=True)
    layers = ["overall.yaml", "semantic_id.yaml", "model/VLSID.yaml", "tokenizer/rkmeans.yaml", "dataset/toy.yaml"]
    for target in layers:
        (folder / target).write_text((own / target).read_text() if (own / target).is_file() else "")
    monkeypatch.setattr(recbole_vsid.config, "properties_folder", lambda: folder)
    first, second = (
        write_yaml(tmp_path / "first.yaml", content_dim=115),
        write_yaml(tmp_path / "2.yaml", content_dim=116),
    )

    def value(files=(), **settings):
        return Config("VLSID", "toy", list(files), {"tokenizer": "rkmeans", **settings})["content_dim"]

    own_file = folder / "semantic_id.yaml"
    own_file.write_text(own_file.read_text().replace("content_dim", "content_dimm"))  # its own must not interfere
    for expected, target in enumerate(layers, start=101):
        with open(folder / target, "a") as file:
            file.write(f"\ncontent_dim: {expected}\n")
        assert value() == expected
    assert value([first]) == 115
    assert value([first, second]) == 116 and value([second, first]) == 115
    assert value([first, second], content_dim=117) == 117


def test_the_tokenizer_named_in_a_file_brings_its_own_defaults(tmp_path):
    file = write_yaml(tmp_path / "user.yaml", tokenizer="rkmeans")
    assert Config("VLSID", "toy", [file])["sid_n_levels"] == 3
    assert Config("VLSID", "toy", [file], {"tokenizer": "dvae"})["sid_n_levels"] is None


def test_the_model_and_dataset_may_come_from_a_file(tmp_path):
    config = Config(config_file_list=[write_yaml(tmp_path / "user.yaml", model="SASRec", dataset="toy")])
    assert (config["model"], config["dataset"]) == ("SASRec", "toy")
    assert config["data_path"] == "dataset/toy"


def test_overall_yaml_holds_for_recboles_models_too():
    config = Config("BPR", "toy")
    assert config["eval_args"]["order"] == "TO" and config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["valid_metric"] == "NDCG@10" and config["topk"] == [5, 10, 20]


def test_columns_to_load():
    assert "class" in Config("SASRec", "ml-100k")["load_col"]["item"]
    assert Config("SASRec", "toy")["load_col"] is None  # no property file: all columns


def test_recboles_lists_do_not_grow():
    lists = {name: getattr(configurator, name) for name in
             ("general_arguments", "training_arguments", "evaluation_arguments", "dataset_arguments")}  # fmt: skip
    before = {name: list(values) for name, values in lists.items()}
    first = Config("SASRec", "ml-100k")
    sizes = {name: len(values) for name, values in first.parameters.items()}
    for dataset in ("ml-100k", "toy", "ml-100k"):
        again = Config("SASRec", dataset)
    assert {name: len(values) for name, values in again.parameters.items()} == sizes
    again.parameters["Dataset"].append("mine")
    assert "mine" not in Config("SASRec", "ml-100k").parameters["Dataset"]
    assert {name: list(values) for name, values in lists.items()} == before


def test_numpy_names_are_given_back_but_not_replaced(monkeypatch):
    for name in ("int", "float", "unicode", "complex"):
        monkeypatch.delitem(np.__dict__, name, raising=False)
    mine = type("Mine", (), {})
    monkeypatch.setitem(np.__dict__, "object", mine)
    Config("SASRec", "toy")
    assert np.__dict__["float"] is np.float64 and np.__dict__["int"] is np.int_
    assert np.__dict__["unicode"] is np.str_ and np.__dict__["complex"] is np.complex128
    assert np.__dict__["object"] is mine
    assert {"bool", "long", "str"} <= set(np.__dict__)


# ---------------------------------------------------------------- names and paths


def test_ml_100k_honours_data_path(tmp_path):
    assert Path(Config("SASRec", "ml-100k")["data_path"]).resolve() == WHEEL.resolve()
    empty = Config("SASRec", "ml-100k", config_dict={"data_path": str(tmp_path)})
    assert Path(empty["data_path"]).resolve() == WHEEL.resolve()
    make_dataset(tmp_path, "ml-100k", ["u"], ["i"], [1])
    mine = Config("SASRec", "ml-100k", config_dict={"data_path": str(tmp_path)})
    assert Path(mine["data_path"]) == tmp_path / "ml-100k"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "/etc", "a\\b", "a b", "toy\n", "~", 7, "$HOME"])
def test_dataset_names_that_could_leave_the_folder(name):
    with pytest.raises(ValueError, match="is not a usable name"):
        Config("SASRec", name)


@pytest.mark.parametrize(("model", "dataset"), [("SASRec", ""), ("", "toy"), (None, None), ("SASRec", None)])
def test_nothing_named(model, dataset):
    with pytest.raises(ValueError, match="name a model and a dataset"):
        Config(model, dataset)


@pytest.mark.parametrize("name", ["../rkmeans", "", "RKMeans", None])
def test_unknown_tokenizers(name):
    with pytest.raises(ValueError, match="unknown tokenizer.*Known: vlsid, dvae, rkmeans"):
        Config("VLSID", "toy", config_dict={"tokenizer": name})


@pytest.mark.parametrize(
    ("wrong", "right"), [("sasrec", "SASRec"), ("vlsid", "VLSID"), ("GRU4rec", "GRU4Rec"), ("SASRecc", "SASRec")]
)
def test_unknown_models_list_the_names(wrong, right):
    with pytest.raises(ValueError, match=f"unknown model '{wrong}'. Did you mean '{right}'") as caught:
        Config(wrong, "toy")
    for name in [*MODELS, "BPR", "LightGCN", "Pop"]:
        assert name in str(caught.value)
    assert "recbole_vsid.registry.MODELS" in str(caught.value)


@pytest.mark.parametrize("name", ["os", "../SASRec", "recbole.model", "Zzzzzz", "nn", ["SASRec"], 5])
def test_model_names_without_a_near_one(name):
    with pytest.raises(ValueError, match="unknown model") as caught:
        get_model(name)
    assert "SASRec" in str(caught.value)


def test_the_registry_gives_classes():
    assert get_model("SASRec").__name__ == "SASRec" and get_model("VLSID").__name__ == "VLSID"
    assert get_tokenizer("rkmeans").name == "rkmeans"
    assert callable(get_content_encoder("tfidf"))
    with pytest.raises(ValueError, match="unknown content encoder 'tf-idf'. Did you mean 'tfidf'"):
        get_content_encoder("tf-idf")
    assert {"SASRec", "BPR", "Pop"} <= set(recbole_models())


def test_a_model_class_can_be_given():
    mine = type("MyRec", (get_model("SASRec"),), {})
    with pytest.raises(ValueError, match="input_type"):
        Config(mine, "toy")  # no property file says its loss_type
    mine.input_type = InputType.PAIRWISE
    config = Config(mine, "toy")
    assert config["model"] == "MyRec" and config.model_class is mine and not config.is_generative


def test_importing_recboles_models_leaves_anomaly_detection_off():
    torch.autograd.set_detect_anomaly(True)  # as importing SINE does
    assert get_model("SASRec").__name__ == "SASRec"
    assert not torch.is_anomaly_enabled()


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", -1), ("epochs", 0), ("epochs", "ten"), ("epochs", 2.5), ("epochs", True), ("train_batch_size", 0),
        ("eval_batch_size", -5), ("stopping_step", -1), ("seed", -1), ("seed", "a"), ("num_threads", -1),
        ("MAX_ITEM_LIST_LENGTH", 0), ("learning_rate", 0), ("learning_rate", -0.1), ("learning_rate", "fast"),
        ("learning_rate", float("nan")), ("topk", 0), ("topk", [5, 0]), ("topk", [5, -1]), ("topk", []), ("topk", None),
        ("topk", "ten"), ("topk", [5, "a"]), ("topk", 2.5), ("topk", [True]), ("metrics", []), ("metrics", None),
        ("metrics", 5), ("metrics", ["Recall", 5]), ("metrics", ["Recall", "RMSE"]), ("metrics", ["Recal"]),
        ("valid_metric", "Hit@10"), ("valid_metric", "NDCG@7"), ("valid_metric", "NDCG@"), ("valid_metric", 5),
        ("valid_metric", None), ("mask_history", "yes"), ("resume", 1), ("detect_anomaly", None),
        ("show_progress", "no"), ("eval_args", 5), ("eval_args", {"mode": "some"}), ("repeatable", False),
        ("train_neg_sample_args", "x"), ("valid_metric", "NDCG"), ("hidden_size", 0), ("n_layers", -1),
        ("epochs", None),
        ("seed", None), ("hidden_dropout_prob", "some"), ("data_path", 5), ("checkpoint_dir", None), ("learner", 1),
        ("shuffle", "no"), ("state", 3), ("result_file", 3), ("load_col", "all"), ("load_col", {"item": ["item_id"]}),
        ("field_separator", None), ("worker", -1), ("metric_decimal_place", "six"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(key, value):
    with pytest.raises((ValueError, NotImplementedError)) as caught:
        Config("SASRec", "toy", config_dict={key: value})
    message = str(caught.value)
    assert key in message or (key == "eval_args" and "mode" in message) or (key == "metrics" and "metric" in message)


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_layers", 1.5), ("dropout_prob", [0.1]), ("clip_grad_norm", 1.0), ("warmup_fraction", None),
     ("warmup_fraction", 1.0), ("min_learning_rate_ratio", 2), ("ema_decay", 1.0), ("ema_decay", None),
     ("tokenizer", ["a"]),
     ("beam_width", "wide"), ("content", {"a": 1}), ("content_dim", True), ("head_size", 0), ("content_file", ["a"])],
)  # fmt: skip
def test_values_of_another_kind_are_named(key, value):
    with pytest.raises(ValueError, match=f"{key}=.* is not usable|unknown {key}"):
        Config("VLSID", "toy", config_dict={key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("dropout_prob", 0), ("clip_grad_norm", None), ("content", "tfidf"), ("sid_vocab_size", 12), ("gpu_id", 0),
     ("content", "auto"), ("missing_content", None),
     ("content_weights", [1, 2.5]), ("topk", (5, 10)), ("load_col", {"inter": "*"})],
)  # fmt: skip
def test_values_of_a_kindred_kind_are_taken(key, value):
    config = Config("VLSID", "toy", config_dict={"tokenizer": "rkmeans", key: value})
    assert config[key] == {"gpu_id": "0", "topk": [5, 10]}.get(key, value)


@pytest.mark.parametrize("model", ["SASRec", "BPR", "VLSID"])
@pytest.mark.parametrize(
    "split",
    [{"LS": "test_only"}, {"LS": "valid_only"}, {"LS": "all"}, {"RS": [0.8, 0, 0.2]}, {"RS": [0.8, 0.2]}, {"RS": "x"},
     {"RS": [1, 1, float("nan")]}, {"XS": 1}, {}, {"LS": "valid_and_test", "RS": [8, 1, 1]}, None],
)  # fmt: skip
def test_splits_that_leave_nothing_to_validate_or_test_on(model, split):
    with pytest.raises(ValueError, match="eval_args=.*something must be left to validate and to test"):
        Config(model, "toy", config_dict={"eval_args": {"split": split}})


def test_values_at_the_edge_are_accepted():
    config = Config(
        "SASRec", "toy", config_dict={"epochs": 1, "topk": 1, "valid_metric": "recall@1", "seed": 0, "learning_rate": 1}
    )
    assert config["epochs"] == 1 and config["topk"] == [1]


def test_a_tab_has_names_and_a_norm_may_be_infinite():
    for text in ("tab", "\\t", "\t"):
        assert Config("SASRec", "toy", config_dict={"field_separator": text})["field_separator"] == "\t"
    clip = {"max_norm": 1, "norm_type": float("inf")}
    assert Config("SASRec", "toy", config_dict={"clip_grad_norm": clip})["clip_grad_norm"] == clip
    with pytest.raises(ValueError, match="clip_grad_norm=.* is not usable"):
        Config("SASRec", "toy", config_dict={"clip_grad_norm": {"max_norm": float("inf")}})


def test_without_a_gpu_everything_is_on_the_cpu():
    assert Config("SASRec", "toy", config_dict={"use_gpu": False})["device"] == torch.device("cpu")


# ---------------------------------------------------------------- negative samples


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec", "LightSANs"])
def test_ce_baselines_need_no_negative_samples(model):
    config = Config(model, "toy")
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert config["MODEL_INPUT_TYPE"] == InputType.POINTWISE


def test_a_users_own_negative_samples_are_respected():
    mine = {"distribution": "popularity", "sample_num": 2}
    config = Config("SASRec", "toy", config_dict={"loss_type": "BPR", "train_neg_sample_args": mine})
    assert {key: config["train_neg_sample_args"][key] for key in mine} == mine
    assert config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
    assert Config("SASRec", "toy", config_dict={"loss_type": "BPR"})["train_neg_sample_args"]["sample_num"] == 1
    assert Config("BPR", "toy")["train_neg_sample_args"]["distribution"] == "uniform"
    with pytest.raises(ValueError, match="should be None when the loss_type is CE"):
        Config("SASRec", "toy", config_dict={"train_neg_sample_args": mine})


# ---------------------------------------------------------------- hash


def test_hash(tmp_path):
    def made(model="VLSID", dataset="toy", **settings):
        return Config(model, dataset, config_dict={"tokenizer": "rkmeans", **settings}).hash()

    assert made() == made() == made(sid_n_levels=3), "the same settings, given or by default"
    volatile = {"checkpoint_dir": "a", "data_path": "b", "show_progress": False, "num_threads": 3, "state": "DEBUG",
                "result_file": "c", "resume": True, "gpu_id": "1", "use_gpu": False}  # fmt: skip
    for key, value in volatile.items():
        assert made(**{key: value}) == made(), key
    other = {"seed": 3, "epochs": 3, "sid_n_levels": 2, "content": "tfidf", "beam_width": 60, "topk": [5, 10, 50]}
    hashes = {made(**{key: value}) for key, value in other.items()}
    assert len(hashes | {made()}) == len(other) + 1
    assert len({made(), made(dataset="toy2"), made(tokenizer="vlsid")}) == 3
    file = Config("VLSID", "toy", [write_yaml(tmp_path / "a.yaml", tokenizer="rkmeans", seed=3)])
    assert file.hash() == made(seed=3), "a file or a dictionary, it is the same"


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR", "Pop"])
def test_plain_settings_are_plain(model):
    plain = Config(model, "ml-100k").plain()
    assert json.loads(json.dumps(plain)) == plain
    assert "object at 0x" not in json.dumps(plain)
    assert not {"device", "data_path", "checkpoint_dir"} & set(plain)


def test_external_settings_are_what_the_user_gave(tmp_path):
    file = write_yaml(tmp_path / "a.yaml", epochs=3, seed=3)
    config = Config("VLSID", "toy", [file], {"epochs": 4, "resume": True, "topk": [5, 10]})
    assert config.external_plain() == {"epochs": 4, "seed": 3, "topk": [5, 10]}


def test_what_recbole_writes_into_the_settings_of_a_run_does_not_make_it_another_run():
    config = Config("BERT4Rec", "ml-100k", config_dict={"seed": 1})
    before = config.hash()
    MaskItemSequence(config)
    assert config["MASK_INDEX"] and config.hash() == before
