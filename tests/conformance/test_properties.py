"""Every key of every property file is read by something, here or in RecBole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import recbole
import yaml

import recbole_vsid
from recbole_vsid.config import properties_folder
from recbole_vsid.tokenizer.famae import FAMAESettings


def source(module):
    return "\n".join(path.read_text(encoding="utf-8") for path in Path(module.__file__).parent.rglob("*.py"))


OURS, RECBOLES = source(recbole_vsid), source(recbole)
FILES = sorted(path for kind in ("", "model", "dataset") for path in (properties_folder() / kind).glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_key_is_read(path):
    for key in set(yaml.safe_load(path.read_text(encoding="utf-8"))) - set(FAMAESettings.keys()):
        reads = re.compile(
            rf"""((config|final_config_dict|self)(\.get\(|\[)|_find\(dataset, |_names\(config, )["']{key}["']"""
        )
        assert reads.search(OURS) or reads.search(RECBOLES), f"{path.name}: nothing reads {key!r}"
