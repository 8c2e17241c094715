"""Files are whole or absent, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
import stat

import numpy as np
import pytest
import torch

from recbole_vsid.storage import (
    atomic_path,
    check_name,
    content_hash,
    load_checkpoint,
    read_json,
    save_checkpoint,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_text(text)
        assert path.read_text() == text
    assert names(path.parent) == ["file.txt"]


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("interrupted")
    assert path.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_an_exception_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file.txt"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_files_have_the_usual_permissions(tmp_path):
    write_json(tmp_path / "atomic.json", {})
    (tmp_path / "plain.json").write_text("{}")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic.json", "plain.json")}
    assert len(modes) == 1


def test_json_round_trip(tmp_path):
    value = {"name": "Überraschung", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_number(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "value.json", {"metric": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00"])
def test_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "value.json").write_bytes(content)
    with pytest.raises(ValueError, match="value.json"):
        read_json(tmp_path / "value.json")


def test_checkpoint_round_trip(tmp_path):
    state = {"weights": torch.arange(4.0), "epoch": 3, "config": {"lr": 0.1, "name": "x"}}
    save_checkpoint(tmp_path / "model.pth", state)
    loaded = load_checkpoint(tmp_path / "model.pth")
    assert torch.equal(loaded.pop("weights"), state.pop("weights")) and loaded == state


def test_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint(path, {"weights": torch.arange(100.0)})
    whole = path.read_bytes()
    for damaged in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="model.pth is not a checkpoint"):
            load_checkpoint(path)


class Malicious:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TEST_MALICIOUS_FOLDER"],))


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, 2))])
def test_checkpoints_run_nothing(tmp_path, monkeypatch, save):
    monkeypatch.setenv("TEST_MALICIOUS_FOLDER", str(tmp_path / "created"))
    save({"weights": Malicious()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="model.pth is not a checkpoint"):
        load_checkpoint(tmp_path / "model.pth")
    assert not (tmp_path / "created").exists()


def test_a_missing_checkpoint_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.pth"):
        load_checkpoint(tmp_path / "model.pth")


def test_content_hash_depends_on_content_type_and_shape():
    array = np.arange(6, dtype=np.int32)
    assert content_hash(array) == content_hash(array.copy()) and len(content_hash(array)) == 16
    assert content_hash(array[::2]) == content_hash(array[::2].copy())
    parts = [(array,), (array.reshape(2, 3),), (array.astype(np.int64),), (array[:5],), (array, array)]
    parts += [("a",), ("b",), ("a", "b"), ("ab",), ({"x": 1},), ({"x": 2},), (np.array(["a", "b"]),)]
    assert len({content_hash(*part) for part in parts}) == len(parts)
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})


@pytest.mark.parametrize("name", ["ml-100k", "Amazon_Beauty", "a", "v1.2+x", "0"])
def test_usable_names(name):
    assert check_name(name, "dataset") == name


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", ".", "..", ".hidden", "-x", "a b", "a\n", "ü", None, 3])
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(ValueError, match="dataset="):
        check_name(name, "dataset")
