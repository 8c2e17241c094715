"""The cache: what is the same is read, what differs or is damaged is made again, and nothing half-written is seen."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import recbole_vsid.cache as module
from recbole_vsid.cache import cached
from recbole_vsid.config import Config
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.data.hook import fit_tokenizer
from recbole_vsid.tokenizer.base import TokenizerInput
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer

KEY = {"data": "abc", "settings": {"size": 3, "rate": 0.1, "names": ["a", "ü"], "nothing": None}, "seed": 1}
TENSORS = {
    "codes": torch.arange(6, dtype=torch.int32).reshape(2, 3),
    "scale": torch.tensor(0.5),
    "none": torch.zeros(0),
}


class Builder:
    """Counts how often it was called."""

    def __init__(self, tensors=TENSORS, values=None):
        self.tensors, self.values, self.calls = tensors, values or {"name": "x", "share": 0.25}, 0

    def __call__(self):
        self.calls += 1
        return self.tensors, self.values


def the_entry(folder="cache"):
    (path,) = Path(folder).glob("*.safetensors")
    return path


def test_the_second_call_reads_what_the_first_one_built():
    build = Builder()
    _, built, hit = cached("cache", "kind", KEY, build)
    tensors, values, second_hit = cached("cache", "kind", KEY, build)
    assert (build.calls, hit, second_hit) == (1, False, True)
    assert set(tensors) == set(TENSORS) and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert values == built and values["name"] == "x" and values["seconds"] >= 0
    assert os.listdir("cache") == [the_entry().name], "no temporary file is left"


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"data": "abd"}, {"settings": {**KEY["settings"], "size": 4}}, {"new": True}]
)
def test_any_other_key_is_another_entry(other):
    build = Builder()
    cached("cache", "kind", KEY, build)
    cached("cache", "kind", {**KEY, **other}, build)
    cached("cache", "sort", KEY, build)
    assert build.calls == 3 and len(os.listdir("cache")) == 3


def test_another_version_of_the_code_is_another_entry(monkeypatch):
    build = Builder()
    cached("cache", "kind", KEY, build)
    monkeypatch.setattr(module, "code_version", lambda: "other")
    cached("cache", "kind", KEY, build)
    assert build.calls == 2 and len(os.listdir("cache")) == 2


def test_the_version_of_the_code_follows_its_text(monkeypatch, tmp_path):
    package = Path(module.__file__).parent
    for source in ("cache.py", "layers.py", "tokenizer/rkmeans.py", "semantic_id/table.py"):
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (tmp_path / source).write_text((package / source).read_text())
    monkeypatch.setattr(module, "__file__", str(tmp_path / "cache.py"))
    versions = []
    for change in (None, "cache.py", "tokenizer/rkmeans.py", "layers.py"):
        if change:
            with open(tmp_path / change, "a") as file:
                file.write("# changed\n")
        versions.append(module.code_version.__wrapped__())
    assert versions[0] == versions[1], "how an entry is stored does not change what it holds"
    assert len(set(versions)) == 3


def test_without_a_folder_nothing_is_kept():
    build = Builder()
    assert cached(None, "kind", KEY, build)[2] is False and cached(None, "kind", KEY, build)[2] is False
    assert build.calls == 2 and os.listdir() == []


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("place", [10, 200, -1, -13])
def test_a_flipped_byte_is_noticed_and_the_entry_made_again(caplog, place):
    build = Builder()
    cached("cache", "kind", KEY, build)
    data = bytearray(the_entry().read_bytes())
    data[place] ^= 1
    the_entry().write_bytes(data)
    tensors, _, hit = cached("cache", "kind", KEY, build)
    assert (build.calls, hit) == (2, False) and torch.equal(tensors["codes"], TENSORS["codes"])
    (message,) = warned(caplog)
    assert "is not usable" in message and "made again" in message and str(the_entry()) in message
    assert cached("cache", "kind", KEY, build)[2] is True and build.calls == 2


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 1000])
def test_a_file_of_something_else_is_replaced(caplog, content):
    build = Builder()
    cached("cache", "kind", KEY, build)
    the_entry().write_bytes(content)
    cached("cache", "kind", KEY, build)
    assert build.calls == 2 and len(warned(caplog)) == 1
    assert cached("cache", "kind", KEY, build)[2] is True


def test_a_foreign_entry_is_not_believed(caplog):
    cached("cache", "kind", KEY, Builder())
    mine = the_entry()
    cached("cache", "kind", {**KEY, "seed": 2}, Builder({"codes": torch.zeros(1)}))
    (other,) = set(Path("cache").iterdir()) - {mine}
    os.replace(other, mine)
    build = Builder()
    assert torch.equal(cached("cache", "kind", KEY, build)[0]["codes"], TENSORS["codes"]) and build.calls == 1
    assert "other data, settings or code" in warned(caplog)[0]


def test_values_changed_by_hand_are_noticed(caplog):
    cached("cache", "kind", KEY, Builder())
    tensors = load_file(the_entry())
    entry = json.dumps({"key": {**KEY, "kind": "kind", "code": module.code_version()}, "values": {"name": "forged"}})
    save_file(tensors, the_entry(), metadata={"entry": entry, "checksum": "0" * 64})
    assert cached("cache", "kind", KEY, Builder())[1]["name"] == "x" and "checksum" in warned(caplog)[0]


def test_a_folder_that_cannot_be_written_costs_no_result(caplog):
    Path("cache").write_text("a file")
    tensors, _, hit = cached("cache", "kind", KEY, Builder())
    assert hit is False and torch.equal(tensors["codes"], TENSORS["codes"])
    assert "cannot be written" in warned(caplog)[0] and "cache_dir='cache'" in warned(caplog)[0]


def test_a_failed_build_leaves_nothing():
    def fail():
        raise ValueError("collapsed")

    with pytest.raises(ValueError, match="collapsed"):
        cached("cache", "kind", KEY, fail)
    assert not Path("cache").exists() or os.listdir("cache") == []


# ------------------------------------------------------------------ processes


def _hang_in_the_write(folder):
    """Writes the beginning of an entry, says so, and waits to be killed."""

    def slow_save(tensors, path, metadata):
        Path(path).write_bytes(b"half of an entry")
        Path("writing").touch()
        time.sleep(60)

    module.save_file = slow_save
    cached(folder, "kind", KEY, Builder())


def test_a_kill_during_writing_leaves_no_entry(caplog):
    process = multiprocessing.get_context("fork").Process(target=_hang_in_the_write, args=("cache",))
    process.start()
    for _ in range(500):
        if Path("writing").exists():
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (leftover,) = Path("cache").iterdir()
    assert leftover.suffix == ".tmp"
    build = Builder()
    assert cached("cache", "kind", KEY, build)[2] is False and build.calls == 1
    assert cached("cache", "kind", KEY, build)[2] is True and warned(caplog) == []
    assert leftover.exists(), "it may belong to a process at work"
    os.utime(leftover, (1, 1))
    the_entry().unlink()
    cached("cache", "kind", KEY, build)
    assert not leftover.exists() and the_entry().is_file()


def _build_in_a_process(barrier, results):
    barrier.wait()
    tensors, values, _ = cached("cache", "kind", KEY, Builder({"codes": torch.arange(200_000)}))
    results.put((int(tensors["codes"].sum()), values["name"]))


def test_processes_that_build_the_same_entry_do_not_harm_each_other(caplog):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_build_in_a_process, args=(barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {(200_000 * 199_999 // 2, "x")}
    build = Builder()
    assert cached("cache", "kind", KEY, build)[2] is True and build.calls == 0 and warned(caplog) == []


# ----------------------------------------------------------- fitted tokenizers


@pytest.fixture
def fits(monkeypatch):
    """A list that grows whenever a tokenizer is fitted."""
    calls, fit = [], RKMeansTokenizer.fit
    monkeypatch.setattr(RKMeansTokenizer, "fit", lambda self, data: calls.append(self.seed) or fit(self, data))
    return calls


def build(small_settings, **changes):
    dataset = SemanticIDDataset(Config("VLSID", "toy", config_dict=small_settings("VLSID", **changes)))
    dataset.build()
    return dataset


def test_a_second_run_takes_the_fitted_tokenizer(small_settings, fits):
    first, second = build(small_settings), build(small_settings, cache_dir="saved/cache")
    assert len(fits) == 1
    assert first.semantic_ids == second.semantic_ids and first.tokenizer_report == second.tokenizer_report
    assert first.semantic_ids.provenance == second.semantic_ids.provenance
    assert build(small_settings, cache_dir=None).semantic_ids == first.semantic_ids and len(fits) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"user_inter_num_interval": "[9,inf)"},
        {"item_inter_num_interval": "[11,inf)"},
        {"sid_vocab_size": 7},
        {"content_dim": 7},
        {"content_weights": [1, 2]},
    ],
)
def test_another_seed_filter_setting_or_content_is_fitted_anew(small_settings, fits, change):
    build(small_settings)
    build(small_settings, **change)
    assert len(fits) == 2


def test_other_settings_of_the_recommender_are_not(small_settings, fits):
    build(small_settings)
    build(small_settings, hidden_size=128, epochs=7, beam_width=30)
    assert len(fits) == 1


def test_a_cached_tokenizer_encodes_new_items_like_the_fitted_one(small_settings, fits):
    dataset = build(small_settings, cache_dir=None)
    dataset.config["cache_dir"] = "kept"
    fitted, restored = fit_tokenizer(dataset).tokenizer, fit_tokenizer(dataset).tokenizer
    assert len(fits) == 2
    new = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    assert np.array_equal(fitted.assign(new)[0], restored.assign(new)[0])
    data = TokenizerInput(np.vstack([0 * new[:1], new]), np.zeros(6, int), np.array(["[PAD]", *"abcde"]))
    assert fitted.encode(data) == restored.encode(data)
