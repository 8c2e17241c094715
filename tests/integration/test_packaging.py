"""Both kinds of install find the property files; RecBole is there on every Python; the README and the code agree."""

from __future__ import annotations

import configparser
import importlib
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import recbole_vsid
from recbole_vsid.cli import main
from recbole_vsid.registry import CONTENT_ENCODERS, MODELS, TOKENIZERS, get_content_encoder, get_model, get_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_carries_the_property_files(tmp_path):
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    # A copy, so that building leaves nothing in the checkout.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("recbole_vsid", "properties"):
        shutil.copytree(ROOT / name, source / name)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    code = "from recbole_vsid.config import properties_folder as f; print(f())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(target), "PATH": ""}, check=True,
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert Path(found) == target / "recbole_vsid" / "properties"
    names = {path.relative_to(found) for path in Path(found).rglob("*.yaml")}
    assert names == {path.relative_to(ROOT / "properties") for path in (ROOT / "properties").rglob("*.yaml")}
    packaged = {path.relative_to(target) for path in (target / "recbole_vsid").rglob("*.py")}
    assert packaged == {path.relative_to(ROOT) for path in (ROOT / "recbole_vsid").rglob("*.py")}


def test_the_checkout_finds_its_own_property_files():
    from recbole_vsid.config import properties_folder

    assert properties_folder() == ROOT / "properties"


@pytest.mark.parametrize(
    "names, get", [(MODELS, get_model), (TOKENIZERS, get_tokenizer), (CONTENT_ENCODERS, get_content_encoder)]
)
def test_every_registered_name_can_be_imported_and_stands_in_the_readme(names, get):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in names:
        assert callable(get(name)) and f"`{name}`" in readme


def test_decoding_knows_no_model_and_tokenizers_know_no_recommender():
    forbidden = {
        "decoding": "model|data|tokenizer|trainer|quick_start",
        "tokenizer": "model|data|trainer|quick_start|decoding",
        "semantic_id": "model|data|trainer|quick_start|decoding|tokenizer",
    }
    for folder, others in forbidden.items():
        for path in (ROOT / "recbole_vsid" / folder).glob("*.py"):
            found = re.findall(rf"(?:from|import) recbole_vsid\.({others})\b", path.read_text(encoding="utf-8"))
            assert not found, f"{path.name} imports {found}"


def test_recboles_quick_start_is_never_imported():
    assert importlib.import_module("recbole_vsid.quick_start") and "recbole.quick_start" not in sys.modules


def _setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser["options"]


def _needs(python):
    """Name → what setup.cfg asks for on that Python."""
    needs = [Requirement(line) for line in _setup()["install_requires"].split("\n") if line]
    return {
        canonicalize_name(need.name): need.specifier
        for need in needs
        if need.marker is None or need.marker.evaluate({"python_version": python})
    }


@pytest.mark.parametrize("python", ["3.9", "3.10", "3.11"])
def test_recbole_is_a_requirement_where_pip_can_install_it(python):
    assert python in SpecifierSet(_setup()["python_requires"])
    assert _needs(python)["recbole"] == SpecifierSet(f"=={recbole_vsid.RECBOLE}")


@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_on_newer_pythons_all_that_recbole_asks_for_but_ray_is_required(python):
    assert python in SpecifierSet(_setup()["python_requires"])
    needs, before = _needs(python), _needs("3.11")
    asked = [Requirement(line) for line in metadata.requires("recbole")]
    asked = {canonicalize_name(need.name): need.specifier for need in asked if need.marker is None}
    assert "ray" in asked and "recbole" not in needs
    assert asked.keys() - {"ray"} <= needs.keys()
    for name in needs.keys() - before.keys() - {"setuptools"}:
        assert needs[name] == asked[name], name


def test_one_version_of_recbole_everywhere():
    install = f"pip install --no-deps recbole=={recbole_vsid.RECBOLE} &&"
    commands = re.findall(r"^python3 -m venv .*", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 2 and all(install in command for command in commands)
    assert metadata.version("recbole") == recbole_vsid.RECBOLE


def test_the_pins_can_be_had_on_every_python_they_are_for():
    lines = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    for line in lines:
        pin = Requirement(line)
        assert str(pin.marker) == 'python_version >= "3.11"', line
        try:
            allowed = metadata.metadata(pin.name).get("Requires-Python")
        except metadata.PackageNotFoundError:  # of an extra that is not installed here
            continue
        if metadata.version(pin.name) in pin.specifier:
            assert all(python in SpecifierSet(allowed or "") for python in ("3.11.0", "3.12.0", "3.13.0")), line


@pytest.mark.parametrize("found", [None, "1.2.0"])
def test_without_the_right_recbole_the_command_that_installs_it_is_named(found, monkeypatch, capsys):
    def version(name):
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "recbole", None)
    assert main(["--model=Pop"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and "pip install --no-deps recbole==1.2.1" in error.splitlines()[0]
    assert found is None or found in error
    with pytest.raises(ImportError, match="pip install --no-deps recbole==1.2.1"):
        _ = recbole_vsid.run
    assert main(["--version"]) == main(["--help"]) == 0


def test_a_recbole_without_a_version_is_taken_as_it_is(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    recbole_vsid.check_recbole()
