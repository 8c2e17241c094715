"""Which files a run's checkpoints and results are made of."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from recbole_vsid import quick_start, run
from recbole_vsid.config import Config
from recbole_vsid.run_files import DataNote, data_files, data_hash, is_interrupted
from recbole_vsid.trainer import run_folder


@pytest.fixture
def settings(data_path, tmp_path, small_settings):
    shutil.copytree(data_path, tmp_path / "data")
    return small_settings("VLSID", data_path=str(tmp_path / "data"), epochs=1)


def change(settings):
    with open(Path(settings["data_path"]) / "toy" / "toy.item", "a", encoding="utf-8") as items:
        items.write("i99\tshade\tgroup1\n")


def files_hash(settings):
    return data_hash(data_files(Config("VLSID", "toy", config_dict=settings)))


def test_all_files_that_are_named_count(settings):
    before = files_hash(settings)
    Path("content.txt").write_text("1")
    given = Config("VLSID", "toy", config_dict={**settings, "additional_feat_suffix": ["extra"]})
    assert [path.name for path in data_files(given)][-1] == "toy.extra" and data_hash(data_files(given)) == before
    (Path(settings["data_path"]) / "toy" / "toy.extra").write_text("x:token\n")
    assert data_hash(data_files(given)) != before and files_hash(settings) == before
    change(settings)
    assert files_hash(settings) != before


def test_a_run_that_was_interrupted_goes_on_only_with_the_files_it_started_from(settings, monkeypatch):
    folder = run_folder(Config("VLSID", "toy", config_dict=settings))
    with monkeypatch.context() as patched:
        patched.setattr(quick_start, "request_milliseconds", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("VLSID", "toy", config_dict=settings)
    assert is_interrupted(folder, files_hash(settings)) and not is_interrupted(folder, "other")
    change(settings)
    assert not is_interrupted(folder, files_hash(settings))

    # By hand it goes on all the same, with semantic IDs of the files as they were: nobody takes that over.
    assert run("VLSID", "toy", config_dict={**settings, "resume": True})["data_hash"] is None


def test_a_finished_run_carries_the_hash_in_its_record_only(settings):
    record = run("VLSID", "toy", config_dict=settings)
    folder = run_folder(Config("VLSID", "toy", config_dict=settings))
    assert {path.name for path in folder.iterdir()} == {"best.pth", "last.pth", "result.json"}
    assert record["data_hash"] == files_hash(settings) == json.loads((folder / "result.json").read_text())["data_hash"]
    assert not is_interrupted(folder, files_hash(settings))
    assert run("VLSID", "toy", config_dict={**settings, "resume": True})["data_hash"] == record["data_hash"]


def test_a_note_never_speaks_for_checkpoints_of_other_files(settings):
    config = Config("VLSID", "toy", config_dict=settings)
    folder = run_folder(config)
    folder.mkdir(parents=True)
    for name in ("best.pth", "last.pth"):
        (folder / name).touch()
    assert not is_interrupted(folder, files_hash(settings)), "nobody knows"
    DataNote(config, folder, resumed=True).write()
    DataNote(config, folder, resumed=False).begin()
    assert not is_interrupted(folder, files_hash(settings)), "of files as they were"
    note = DataNote(config, folder, resumed=False)
    note.write()
    note.write()
    assert is_interrupted(folder, files_hash(settings))
    change(settings)
    DataNote(config, folder, resumed=False)  # started anew, and killed before its first checkpoint
    assert not (folder / "data_hash").exists() and not is_interrupted(folder, files_hash(settings))
    (folder / "last.pth").unlink()
    DataNote(config, folder, resumed=False).begin()
    assert (folder / "data_hash").read_text() == files_hash(settings), "before there is a checkpoint to be killed after"
    (folder / "last.pth").touch()
    (folder / "data_hash").write_bytes(b"\xff")
    assert not is_interrupted(folder, files_hash(settings))
    for text in ("[]", "{", '{"data_hash": 3}'):
        (folder / "data_hash").unlink(missing_ok=True)
        (folder / "result.json").write_text(text)
        os.utime(folder / "last.pth")
        assert not is_interrupted(folder, files_hash(settings))
        os.utime(folder / "result.json")
        assert not is_interrupted(folder, files_hash(settings))
