"""Whatever is given for whatever setting: it is taken, or refused in one line that names the setting."""

from __future__ import annotations

import copy
import math

import pytest

from recbole_vsid.config import Config, join_files, split_files
from recbole_vsid.registry import MODELS, TOKENIZERS
from recbole_vsid.settings import find_rule

# What RecBole and this package write into a configuration by themselves.
NOT_OF_THE_USER = {"MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "valid_neg_sample_args", "single_spec",
                   "test_neg_sample_args", "local_rank", "model", "dataset"}  # fmt: skip
NEVER = (
    math.nan,
    math.inf,
    -math.inf,
    -(10**30),
    10**30,
    1e30,
    [math.nan],
    {"a": math.inf},
    [[math.nan]],
    {1: 2},
    [None],
)
ODD = (-1, -0.5, 2**40, "", [], {}, "x", "nan", "[", "a\0b", "a\nb", True, None, 0, 1.5, (1, "a"), {"max_norm": "x"})

COMBINATIONS = [
    *((model, {}) for model in ("SASRec", "GRU4Rec", "BPR", "Pop", "NeuMF", "NARM", "NGCF", "SHAN", *MODELS)),
    *(("VLSID", {"tokenizer": tokenizer}) for tokenizer in TOKENIZERS),
]


def keys(model, given):
    return sorted(Config(model, "toy", config_dict=given)._settings - NOT_OF_THE_USER)


def keys_of_its_own(model, given):
    """Those that the combination before it, of RecBole's models or of this package's, does not have."""
    config = Config(model, "toy", config_dict=given)
    first = "VLSID" if config.is_generative else "SASRec"
    if (model, given) == (first, {}):
        return keys(model, given)
    return sorted(set(keys(model, given)) - set(keys(first, {})))


@pytest.mark.parametrize(("model", "given"), COMBINATIONS, ids=str)
def test_every_setting_refuses_what_makes_no_sense_by_name(model, given):
    for key in keys_of_its_own(model, given):
        for value in (*NEVER, *ODD):
            before = copy.deepcopy(value)
            try:
                Config(model, "toy", config_dict={**given, key: value})
            except ValueError as error:
                assert key in str(error) or "unknown" in str(error), (key, value, error)
                assert "\n" not in str(error), (key, value)
            else:
                assert not any(value is each for each in NEVER), f"{key}={value!r} is taken"
            assert repr(value) == repr(before)


@pytest.mark.parametrize("model", [*MODELS, "SASRec", "BPR"])
def test_every_setting_has_a_rule(model):
    """None as the default says nothing about what is allowed, so that a rule has to."""
    config = Config(model, "toy")
    own = config.is_generative
    for key in keys(model, {}):
        default = config.internal_config_dict.get(key)
        if default != "auto" and key not in ("tokenizer", "metrics"):
            assert find_rule(key, default, own) is not None, key


@pytest.mark.parametrize(
    "files",
    [
        [], ["a.yaml"], ["a.yaml", "b.yaml"], ["my folder/a.yaml"], [r"dataset\my-shop\my-shop.yaml"],
        [r"C:\Users\Ana Belén\a.yaml", "b.yaml"], ["it's.yaml", 'a "b".yaml'], ["a,b.yaml"], ["'", '"', " ", "#x", "~"],
        ["日 本.yaml", "a\tb.yaml"], ["a'\"b c'", "\\"],
    ],
)  # fmt: skip
def test_files_that_are_joined_are_split_again(files):
    assert split_files(join_files(files)) == files
