"""``docs/extending.md``: its files, put where it says, pass the suites of all tokenizers and models."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_vsid import registry
from recbole_vsid.cli import main
from recbole_vsid.quick_start import load
from tests.documents import ROOT, blocks

# Tests of the model suite that look at the trainer, whatever the model.
OF_THE_TRAINER = ("validat", "interrupted", "bad_input")
BLOCKS = blocks("extending.md")
FILES = {file: text for file, language, text in BLOCKS if language == "yaml" or text.startswith('"""')}


def changed(text, diff):
    """``text`` with the lines of ``diff`` removed and added."""
    lines = diff.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[0] != other) for other in "+-")
    assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in the file"
    return text.replace(before, after)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout with all files and changes of the document."""
    for name in ("recbole_vsid", "properties", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in FILES.items():
        assert not (tmp_path / file).exists()
        (tmp_path / file).write_text(text, encoding="utf-8")
    for file, language, text in BLOCKS:
        if language == "diff":
            (tmp_path / file).write_text(changed((tmp_path / file).read_text(encoding="utf-8"), text), encoding="utf-8")
    return tmp_path


def test_both_examples_pass_the_conformance_suites(checkout):
    """The commands of the document, as one, without the tests of the trainer."""
    commands = [line for _, language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    tests = [shlex.split(line) for line in commands if line.startswith("pytest ")]
    paths = [part for command in tests for part in command if part.startswith("tests/")]
    of_the_examples = " or ".join(command[command.index("-k") + 1] for command in tests)
    wanted = f"({of_the_examples})" + "".join(f" and not {name}" for name in OF_THE_TRAINER)
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-k", wanted, *paths],
        cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-3000:]
    (passed,) = re.findall(r"(\d+) passed", outcome.stdout)
    assert int(passed) >= 30


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith(".py")])
def test_each_example_has_at_most_50_lines_of_code(file):
    lines = [line for line in FILES[file].splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 50
    assert all(len(line) <= 120 for line in lines)


# ------------------------------------------------------- outside the checkout


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The example's model in a project of its own, registered as the document says."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_project").mkdir()
    for file in ("recbole_vsid/model/sid_gru.py", "properties/model/SIDGRU.yaml"):
        (tmp_path / "my_project" / Path(file).name).write_text(FILES[file], encoding="utf-8")
    (call,) = [line for *_, text in BLOCKS for line in text.splitlines() if line.startswith("register_model(")]
    exec(call, {"register_model": registry.register_model})
    yield
    for known in (registry.MODELS, registry.OUTSIDE_PROPERTIES):
        del known["SIDGRU"]


def test_a_registered_model_trains_and_is_loaded(registered, data_path):
    small = ["--epochs=1", "--hidden_size=32", "--tokenizer=rkmeans", "--sid_vocab_size=8", "--content_dim=8"]
    assert main(["--model=SIDGRU", "--dataset=toy", f"--data_path={data_path}", "--show_progress=false", *small]) == 0
    (best,) = Path("saved").glob("SIDGRU-toy-*/best.pth")
    config, *_, model = load(best)
    assert (config["hidden_size"], config["epochs"], config["dropout_prob"]) == (32, 1, 0.1)
    assert type(model).__module__ == "my_project.sid_gru"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("my_project.sid_gru", "it must be like 'package.module:Class'"),
        ("my_project.sid_gru:", "it must be like 'package.module:Class'"),
        ("my_project.vlsid:VLSID", "there is another model of the name 'VLSID'"),
        ("my_project.sasrec:SASRec", "there is another model of the name 'SASRec'"),
    ],
)
def test_a_registration_that_cannot_work_is_refused(target, told):
    with pytest.raises(ValueError, match=told):
        registry.register_model(target, ROOT / "properties" / "model" / "VLSID.yaml")


def test_a_property_file_that_is_missing_is_refused():
    with pytest.raises(FileNotFoundError, match="properties of Mine: there is no file 'absent.yaml'"):
        registry.register_model("my_project.mine:Mine", "absent.yaml")
