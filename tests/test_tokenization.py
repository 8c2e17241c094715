"""The verb ``tokenize``: tables without a recommender, tokenizers side by side, tables from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_vsid import run
from recbole_vsid.cli import main
from recbole_vsid.config import Config
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.quick_start import load
from recbole_vsid.semantic_id import SemanticIDs
from recbole_vsid.tokenization import compare, tokenize


@pytest.fixture
def settings(data_path):
    """``settings(**changes)``: a config_dict that fits R-KMeans on toy in an instant."""
    quick = {"data_path": str(data_path), "tokenizer": "rkmeans", "sid_vocab_size": 8, "sid_n_levels": 2,
             "content_dim": 8, "seed": 1, "num_threads": 1, "show_progress": False, "use_gpu": False}  # fmt: skip
    return lambda **changes: {**quick, **changes}


def command(settings):
    return [f"--{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in settings.items()]


def test_the_table_is_the_one_that_training_uses(settings, small_settings):
    result = tokenize("toy", config_dict=settings())
    dataset = SemanticIDDataset(Config("VLSID", "toy", config_dict=small_settings("VLSID", cache_dir=None)))
    dataset.build()
    assert result["table"] == dataset.semantic_ids == SemanticIDs.load(result["file"])
    assert result["tokenizer"] == "rkmeans" and result["fit_seconds"] >= 0 and result["peak_memory_mb"] > 10
    assert result["file"].parent == Path("saved/semantic_ids") and "rkmeans-toy-seed1" in result["file"].name
    written = json.loads(result["file"].with_name(result["file"].stem + ".diagnostics.json").read_text())
    assert written["provenance"] == result["table"].provenance
    assert written["collisions"] == result["collisions"] and written["n_items"] == 41


def test_the_command_prints_the_diagnostics_and_where_the_table_is(settings, capsys):
    assert main(["tokenize", "--dataset=toy", "--table_file=out/ids.json", *command(settings())]) == 0
    printed = capsys.readouterr().out
    assert "Semantic IDs: out/ids.json" in printed and "disambiguation" in printed
    codes = json.loads(Path("out/ids.json").read_text())
    assert len(codes) == 41 and set(map(len, codes.values())) == {3}
    assert Path("out/ids.diagnostics.json").is_file()


def test_tokenizers_side_by_side(settings, capsys):
    given = {key: value for key, value in settings().items() if key != "tokenizer"}
    assert main(["tokenize", "--dataset=toy", "--compare=rkmeans,opq", *command(given)]) == 0
    printed = capsys.readouterr().out
    header = next(line for line in printed.splitlines() if "rkmeans" in line)
    assert "opq" in header
    assert len(list(Path("saved/semantic_ids").glob("*.safetensors"))) == 2


def test_one_that_fails_does_not_stop_the_others(settings):
    given = {key: value for key, value in settings(sid_max_length=1).items() if key != "tokenizer"}
    reports = compare(["vlsid", "rkmeans"], "toy", config_dict=given)
    assert "sid_max_length=1 is not usable" in reports["vlsid"]
    assert reports["rkmeans"]["n_items"] == 41


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tokenise"], "unknown verb 'tokenise'; known: train, tokenize"),
        (["tokenize", "--model=VLSID"], "tokenize trains no model; leave out --model=VLSID"),
        (["tokenize", "--tokenizer=rqvea"], "unknown tokenizer 'rqvea'. Did you mean 'rqvae'?"),
        (["tokenize", "--compare=rkmeans,nothing"], "unknown tokenizer 'nothing'"),
        (["tokenize", "--compare="], "compare names no tokenizer"),
        (["tokenize", "--compare=rkmeans", "--table_file=x.json"], "--compare goes without"),
        (["tokenize", "--compare=rkmeans", "--sid_updates=3"], "none of rkmeans knows the setting 'sid_updates'"),
        (["tokenize", "--tokenizer=rkmeans", "--table_file=x.csv"], "x.csv"),
        (["tokenize", "--tokenizer=rkmeans", "--sid_collisions=hash"], "suffix or nearest or sinkhorn or none"),
        (["tokenize", "--sid_file=absent.json"], "absent.json"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, told, data_path, capsys):
    assert main([arguments[0], "--dataset=toy", f"--data_path={data_path}", *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error and not Path("saved/cache").exists()


# ------------------------------------------------------------- tables from files


@pytest.mark.parametrize("name", ["ids.safetensors", "ids.json"])
def test_an_imported_table_trains(settings, small_settings, name):
    table = tokenize("toy", config_dict=settings(), table_file=name)["table"]
    result = run("VLSID", "toy", config_dict=small_settings("VLSID", sid_file=name))
    assert result["tokenizer"] == "file" and result["semantic_ids"]["provenance"]["file"] == name
    assert result["cost"]["tokens_per_item"] == 3
    _, dataset, _, model = load(next(Path("saved").glob("*/best.pth")))
    assert np.array_equal(dataset.semantic_ids.codes, table.codes)
    own = run("VLSID", "toy", config_dict=small_settings("VLSID", checkpoint_dir="own"))
    if name.endswith(".safetensors"):
        assert own["test_result"] == result["test_result"], "the same codes in the same vocabularies"


@pytest.mark.parametrize(
    ("name", "form"), [("x.npy", None), ("x.pt", None), ("x.index.json", None), ("x.json", "tokens")]
)
def test_every_format_comes_back(settings, small_settings, name, form):
    table = tokenize("toy", config_dict=settings(), table_file=name, table_format=form)["table"]
    ids = {} if form else {"sid_file_ids": f"{Path(name).stem}.ids.txt"}
    dataset = SemanticIDDataset(Config("VLSID", "toy", config_dict=small_settings("VLSID", sid_file=name, **ids)))
    dataset.build()
    assert np.array_equal(dataset.semantic_ids.codes, table.codes)
    assert dataset.semantic_ids.provenance["data_fingerprint"] == table.provenance["data_fingerprint"]


def test_items_that_an_imported_table_lacks_are_named(settings, small_settings):
    tokenize("toy", config_dict=settings(), table_file="ids.json")
    codes = json.loads(Path("ids.json").read_text())
    del codes["i7"]
    Path("ids.json").write_text(json.dumps(codes))
    with pytest.raises(ValueError, match="i7"):
        run("VLSID", "toy", config_dict=small_settings("VLSID", sid_file="ids.json"))


def test_shared_codes_train_and_rank_all_their_items(small_settings):
    changes = {"sid_collisions": "none", "sid_vocab_size": 3, "sid_n_levels": 2}
    result = run("VLSID", "toy", config_dict=small_settings("VLSID", **changes))
    assert result["semantic_ids"]["collisions"]["largest_group"] > 1
    _, dataset, loaders, model = load(next(Path("saved").glob("*/best.pth")))
    interaction = next(iter(loaders[2]))[0]
    items, scores = model.topk(interaction, 41)
    codes = dataset.semantic_ids.codes
    assert all(sorted(row) == list(range(1, 42)) for row in items.tolist())
    same = (codes[items[:, 1:]] == codes[items[:, :-1]]).all(-1)
    assert same.any() and torch.equal(scores[:, 1:][same], scores[:, :-1][same])
    assert (items[:, 1:][same] > items[:, :-1][same]).all(), "the smaller id first"


@pytest.mark.parametrize("policy", ["nearest", "sinkhorn"])
def test_moved_codes_need_no_final_token(small_settings, policy):
    result = run("VLSID", "toy", config_dict=small_settings("VLSID", sid_collisions=policy))
    assert result["cost"]["tokens_per_item"] == 2
    assert result["semantic_ids"]["provenance"]["collisions"]["policy"] == policy
