"""Files are whole or absent, and nothing in them runs."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import stat
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from recbole_vsid.storage import (
    STALE_SECONDS,
    atomic_path,
    check_name,
    check_writable,
    checksum,
    content_hash,
    load_checkpoint,
    read_json,
    remove_stale,
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


# ------------------------------------------------------------------ checksums

STATE = {
    "weights": torch.linspace(-1, 1, 400),
    "half": torch.ones(3, 2, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 3),
    "epoch": 3,
    "settings": {"rate": 0.1, "names": ["a", "b"], "nothing": None, "on": True, 7: (1, 2)},
}


def test_a_checksum_follows_every_name_kind_shape_and_bit():
    others = [
        {**STATE, "epoch": 4},
        {**STATE, "epoch": 3.0},
        {**STATE, "epoch": "3"},
        {**STATE, "scalar": torch.tensor(2.5, dtype=torch.float64)},
        {**STATE, "half": STATE["half"].T},
        {**STATE, "none": torch.zeros(3, 0)},
        {**STATE, "weights": -STATE["weights"].flip(0) + 0.0 * STATE["weights"] + torch.eye(400)[0] * 1e-7},
        {**STATE, "settings": {**STATE["settings"], "names": ["ab"]}},
        {**STATE, "settings": {**STATE["settings"], "names": ("a", "b")}},
        {**STATE, "settings": {**STATE["settings"], "on": 1}},
        {**STATE, "new": None},
        {key: value for key, value in STATE.items() if key != "epoch"},
    ]
    found = {checksum(state) for state in (STATE, *others)}
    assert len(found) == 1 + len(others) and all(len(each) == 64 for each in found)
    copied = {**STATE, "weights": torch.stack([STATE["weights"]] * 2, 1)[:, 0]}  # the same numbers, strided
    assert checksum(copied) == checksum(STATE)
    sparse = [torch.sparse_coo_tensor([[0, 2]], values, (4,), check_invariants=True) for values in ([1.0, 2], [1.0, 3])]
    assert checksum(sparse[0]) != checksum(sparse[1]) and checksum(sparse[0]) == checksum(sparse[0].clone())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / "x.pth", STATE)
    loaded = load_checkpoint(tmp_path / "x.pth")
    assert checksum(loaded) == checksum(STATE) and loaded.keys() == STATE.keys()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "x.pth"
    save_checkpoint(path, STATE)
    return path, path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_a_value(saved, place, bit):
    """Most are refused; those in the archive's own fields that nobody reads change nothing."""
    path, whole = saved
    damaged = bytearray(whole)
    damaged[place % len(whole)] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        loaded = load_checkpoint(path)
    except ValueError as error:
        assert "x.pth" in str(error) and len(str(error)) < len(str(path)) + 120
    else:
        assert checksum(loaded) == checksum(STATE)


def test_flipped_bits_of_numbers_are_refused(saved):
    path, whole = saved
    raw = STATE["weights"].numpy().tobytes()
    assert whole.count(raw) == 1
    for place in range(0, len(raw), 97):
        damaged = bytearray(whole)
        damaged[whole.index(raw) + place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="x.pth is damaged: its content does not match its checksum"):
            load_checkpoint(path)


@pytest.mark.parametrize("state", [{"weights": torch.ones(2)}, torch.ones(2), [1], {}])
def test_files_without_a_checksum_are_of_an_older_version(tmp_path, state):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth has no checksum: it is of an older version"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_wrong_file_gives_one_short_line(tmp_path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"weights": Malicious}))
    with pytest.raises(ValueError) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(tmp_path / "x.pth")
    words = str(raised.value).removeprefix(str(tmp_path / "x.pth"))
    assert words == " is not a checkpoint of this package: damaged, or written by another program"


# --------------------------------------------------------------- places to write


def make_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def make_link(target):
    def make(path):
        (path.parent / "target").write_text("mine")
        (path.parent / "folder").mkdir()
        path.symlink_to(path.parent / target)

    return make


IN_THE_WAY = {
    "a FIFO": os.mkfifo if os.name == "posix" else None,
    "a socket": make_socket,
    "a folder": Path.mkdir,
    "a link": make_link("target"),
    "a link to nothing": make_link("gone"),
    "a link to a folder": make_link("folder"),
}


@pytest.mark.skipif(os.name != "posix", reason="kinds of files are POSIX's")
@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_plain_file_is_never_replaced(tmp_path, kind):
    path = tmp_path / "out.json"
    IN_THE_WAY[kind](path)
    before = {each: os.lstat(each).st_mode for each in tmp_path.iterdir()}
    words = " ".join(kind.split()[:2])
    with pytest.raises(OSError, match=f"result_file='.*out.json' is {words}, not a file"):
        check_writable(path, "result_file")
    with pytest.raises(OSError, match=f"out.json is {words}, not a file"):
        write_json(path, {})
    assert {each: os.lstat(each).st_mode for each in tmp_path.iterdir()} == before


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="devices are POSIX's")
def test_a_device_is_refused():
    with pytest.raises(OSError, match="output_file='/dev/null' is a device"):
        check_writable("/dev/null", "output_file")  # only looked at: as root a write would replace it


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x" * 300, "is not usable as a path|cannot be written"),
        ("y" * 250, "cannot be written"),
        ("a\0b", "not usable"),
    ],
)
def test_paths_that_are_none(path, words):
    with pytest.raises(OSError, match=f"table_file=.*({words})"):
        check_writable(path, "table_file")


def test_places_that_can_be_written(tmp_path):
    (tmp_path / "there").write_text("x")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    for path in ("there", "new", "new/folder/file", "linked/file", "linked/new/file"):
        check_writable(tmp_path / path, "result_file")
    assert names(tmp_path) == ["linked", "there"], "the check leaves nothing"
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for path in ("there/file", "lost/file"):
        with pytest.raises(OSError, match="is not a folder"):
            check_writable(tmp_path / path, "result_file")


# ------------------------------------------------------------------- full disks


@contextmanager
def full_disk(n_bytes):
    """Within the block no file can grow beyond ``n_bytes``."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = {
    "json": lambda path: write_json(path, ["x" * 9] * 9999),
    "checkpoint": lambda path: save_checkpoint(path, {"weights": torch.zeros(99_999)}),
    "safetensors": lambda path: _atomically(path, lambda file: save_file({"x": torch.zeros(99_999)}, file)),
    "npy": lambda path: _atomically(path, lambda file: np.save(file.open("wb"), np.zeros(99_999))),
    "torch": lambda path: _atomically(path, lambda file: torch.save(torch.zeros(99_999), file)),
}


def _atomically(path, write):
    with atomic_path(path) as temporary:
        write(temporary)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("n_bytes", [0, 1024, 5000])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_what_was_whole(tmp_path, writer, n_bytes):
    path = tmp_path / "file.out"
    path.write_text("old")
    other = tmp_path / "last.pth"
    other.write_text("kept")
    with full_disk(n_bytes), pytest.raises(OSError, match="file.out cannot be written: "):
        WRITERS[writer](path)
    assert path.read_text() == "old" and names(tmp_path) == ["file.out", "last.pth"]


def test_what_a_new_file_voids_stays_until_it_is_there(tmp_path):
    best, last = tmp_path / "best.pth", tmp_path / "last.pth"
    last.write_text("of the run before")
    with full_disk(5000), pytest.raises(OSError):
        save_checkpoint(best, {"weights": torch.zeros(99_999)}, voids=[last])
    assert names(tmp_path) == ["last.pth"]
    save_checkpoint(best, STATE, voids=[last])
    assert names(tmp_path) == ["best.pth"]


def test_errors_of_other_files_are_told_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="other.csv"), atomic_path(tmp_path / "x"):
        (tmp_path / "other.csv").read_text()
    with pytest.raises(OSError, match="x cannot be written: No space left"), atomic_path(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --------------------------------------------------------------- what is left over


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    old, young = time.time() - STALE_SECONDS - 60, time.time() - STALE_SECONDS / 2
    left = {"file.json.abcd_123.tmp": old, "file.json.abcdefgh.tmp": young, "other.json.abcdefgh.tmp": old,
            "file.json.tmp": old, "my.notes.tmp": old, "file.json": old}  # fmt: skip
    for name, changed in left.items():
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (changed, changed))
    (tmp_path / "folder.abcdefgh.tmp").mkdir()
    os.utime(tmp_path / "folder.abcdefgh.tmp", (old, old))
    write_json(tmp_path / "file.json", {})
    kept = set(left) - {"file.json.abcd_123.tmp"}
    assert set(names(tmp_path)) == kept | {"folder.abcdefgh.tmp"}
    remove_stale(tmp_path)
    assert set(names(tmp_path)) == kept - {"other.json.abcdefgh.tmp"} | {"folder.abcdefgh.tmp"}
    remove_stale(tmp_path / "no such folder")


def test_names_with_wildcards_are_names(tmp_path):
    for name in ("x.abcdefgh.tmp", "[x].abcdefgh.tmp"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1, 1))
    write_json(tmp_path / "[x]", {})
    assert names(tmp_path) == ["[x]", "x.abcdefgh.tmp"]


def test_files_are_flushed_through_a_handle_that_may_write(tmp_path, monkeypatch):
    """Windows refuses to flush others."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    monkeypatch.setattr(os, "fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
    write_json(tmp_path / "x", {})
    assert modes == [os.O_RDWR]
