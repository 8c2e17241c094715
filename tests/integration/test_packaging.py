"""Both kinds of install find the property files; the README and the code agree."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_vsid.registry import CONTENT_ENCODERS, MODELS, TOKENIZERS, get_content_encoder, get_model, get_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_carries_the_property_files(tmp_path):
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    # A copy, so that building leaves nothing in the checkout.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "recbole_vsid", "properties"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
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
