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
from recbole_vsid.tokenizer.joint import JointSettings


def source(module):
    return "\n".join(path.read_text(encoding="utf-8") for path in Path(module.__file__).parent.rglob("*.py"))


OURS, RECBOLES = source(recbole_vsid), source(recbole)
FILES = sorted(path for kind in ("", "model", "dataset") for path in (properties_folder() / kind).glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_key_is_read(path):
    by_settings_classes = {*FAMAESettings.keys(), *JointSettings.keys()}
    for key in set(yaml.safe_load(path.read_text(encoding="utf-8"))) - by_settings_classes:
        reads = re.compile(
            rf"""((config|final_config_dict|self)(\.get\(|\[)|_find\(dataset, |_names\(config, )["']{key}["']"""
        )
        assert reads.search(OURS) or reads.search(RECBOLES), f"{path.name}: nothing reads {key!r}"


def test_joint_settings_stand_in_diger_s_file_with_their_defaults():
    values = yaml.safe_load((properties_folder() / "model" / "DIGER.yaml").read_text(encoding="utf-8"))
    joint = {key: value for key, value in values.items() if key.startswith(JointSettings.prefix)}
    assert sorted(joint) == sorted(JointSettings.keys())
    assert JointSettings.from_config(joint) == JointSettings()
