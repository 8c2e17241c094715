"""Whatever is written where it cannot or must not be: one line before any work, and nothing that is there is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import recbole_vsid.storage
from recbole_vsid.cli import main
from recbole_vsid.quick_start import load
from recbole_vsid.storage import STALE_SECONDS, load_checkpoint
from tests.test_storage import full_disk, make_link, make_socket

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kinds of files are POSIX's")


@pytest.fixture
def arguments(small_settings):
    """``arguments("TIGER", epochs=1)``: a fast model's settings as the command line takes them."""

    def arguments(model, **changes):
        settings = small_settings(model, **changes)
        texts = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
        return [f"--model={model}", "--dataset=toy", *texts]

    return arguments


@pytest.fixture
def refused(capsys):
    """``refused(command, *told)``: exit code 2 and one line, before anything is fitted or trained."""

    def refused(command, *told):
        capsys.readouterr()
        assert main(command) == 2
        captured = capsys.readouterr()
        (line,) = [line for line in captured.err.splitlines() if line.startswith(("error:", "Traceback"))]
        assert line.startswith("error:") and all(part in line for part in told), line
        assert "Semantic IDs" not in captured.out and "training" not in captured.out

    return refused


KINDS = {
    "a FIFO": os.mkfifo if os.name == "posix" else None,
    "a socket": make_socket,
    "a link": make_link("target"),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_output_setting_takes_plain_files_only(arguments, refused, tmp_path, kind):
    out = tmp_path / "out" / "x.json"
    out.parent.mkdir()
    KINDS[kind](out)
    before = {path: os.lstat(path).st_mode for path in out.parent.iterdir()}
    data = next(each for each in arguments("Pop") if each.startswith("--data_path"))
    table = ["--dataset=toy", data, "--tokenizer=rkmeans", "--sid_vocab_size=8", "--content_dim=8"]
    for setting, command in {
        "result_file": arguments("Pop", epochs=1),
        "table_file": ["tokenize", *table, "--table_format=codes"],
        "explorer_file": ["explore", *table],
        "output_file": ["tune", "--model=VLSID", "--dataset=toy", data],
        "recommendations_file": ["recommend", "--checkpoint=never-opened.pth"],
    }.items():
        refused([*command, f"--{setting}={out}"], f"{setting}=", kind, "not a file")
    assert {path: os.lstat(path).st_mode for path in out.parent.iterdir()} == before


@pytest.mark.parametrize("name", ["best.pth", "last.pth", "result.json"])
def test_the_files_of_a_run_are_plain_too(arguments, refused, name):
    command = arguments("TIGER", epochs=1)
    assert main(command) == 0
    (folder,) = Path("saved").glob("TIGER-*")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(command, "checkpoint_dir=", name, "a FIFO")


# ------------------------------------------------------------------- full disks


def test_a_run_goes_on_without_last(arguments, capsys, caplog, monkeypatch):
    """Larger than ``best.pth`` by the optimizer's state, it is the first that a full disk cannot take."""
    command = arguments("TIGER", epochs=2)
    assert main([*command, "--checkpoint_dir=whole"]) == 0
    sizes = {path.name: path.stat().st_size for path in Path("whole").glob("*/*.pth")}
    limit = (sizes["best.pth"] + sizes["last.pth"]) // 2
    caplog.clear()
    with full_disk(limit):
        assert main(command) == 0
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len([each for each in warnings if "last.pth cannot be written" in each and "checkpoint_dir" in each]) == 2
    (folder,) = Path("saved").glob("TIGER-*")
    assert {path.name for path in folder.iterdir()} == {"best.pth", "result.json"}
    load(folder / "best.pth")
    results = [json.loads(next(Path(place).glob("*/result.json")).read_text()) for place in ("whole", "saved")]
    assert results[0]["test_result"] == results[1]["test_result"]
    assert "Traceback" not in capsys.readouterr().err


def test_without_best_a_run_ends_and_the_earlier_one_stays(arguments, refused):
    command = arguments("TIGER", epochs=1)
    assert main(command) == 0
    (folder,) = Path("saved").glob("TIGER-*")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with full_disk(30_000):
        assert main(command) == 2
    (folder / "data_hash").unlink()  # what the run that failed has read
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    load(folder / "best.pth")
    assert load_checkpoint(folder / "last.pth")["epoch"] == 0


def test_a_record_that_cannot_be_written_is_printed(arguments, capsys, monkeypatch):
    write_json = recbole_vsid.storage.write_json

    def full(path, value):
        with full_disk(100):
            write_json(path, value)

    monkeypatch.setattr("recbole_vsid.quick_start.write_json", full)
    assert main(arguments("Pop", epochs=1)) == 2
    captured = capsys.readouterr()
    assert "ndcg@10" in captured.out and "test users" in captured.out
    lines = [line for line in captured.err.splitlines() if line.startswith(("error:", "Traceback"))]
    assert len(lines) == 1 and "result.json cannot be written: File too large" in lines[0]
    (folder,) = Path("saved").glob("Pop-*")
    assert {path.name for path in folder.iterdir()} == {"best.pth", "data_hash"}


# --------------------------------------------------------------- what is left over


def test_a_run_removes_what_killed_ones_left(arguments):
    command = arguments("TIGER", epochs=1)
    assert main(command) == 0
    (folder,) = Path("saved").glob("TIGER-*")
    old = (folder / "best.pth").stat().st_mtime - STALE_SECONDS - 60
    for name in ("best.pth", "last.pth", "result.json", "elsewhere.csv"):
        left = folder / f"{name}.k1ll3d00.tmp"
        left.write_bytes(bytes(99))
        os.utime(left, (old, old))
    young = folder / "best.pth.atw0rk00.tmp"
    young.write_bytes(bytes(99))
    assert main([*command, "--resume=true"]) == 0
    assert {path.name for path in folder.iterdir()} == {"best.pth", "last.pth", "result.json", young.name}
