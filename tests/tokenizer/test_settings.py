from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_vsid.registry import TOKENIZERS as ALL_TOKENIZERS
from recbole_vsid.registry import get_tokenizer
from recbole_vsid.tokenizer.defaults import auto_vocab_size
from recbole_vsid.tokenizer.dvae_tokenizer import DVAETokenizer, FixedDVAETokenizer, TokenizerCollapse
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from tests.tokenizer.synthetic import catalogue, zipf_catalogue

PROPERTIES = Path(__file__).parents[2] / "properties" / "tokenizer"
TOKENIZERS = (DVAETokenizer, FixedDVAETokenizer, RKMeansTokenizer)


@pytest.mark.parametrize("tokenizer", map(get_tokenizer, ALL_TOKENIZERS), ids=lambda tokenizer: tokenizer.name)
def test_property_file_lists_every_setting_with_its_default(tokenizer):
    values = yaml.safe_load((PROPERTIES / f"{tokenizer.name}.yaml").read_text())
    values = {key: value for key, value in values.items() if key.startswith("sid_")}  # the others are of content
    defaults = {"sid_" + name: value for name, value in asdict(tokenizer.Settings()).items()}
    assert set(tokenizer.Settings.keys()) == set(values)
    assert values == defaults
    # A float written like 3e-3 would come out of YAML as text.
    assert {key: type(value) for key, value in values.items()} == {key: type(v) for key, v in defaults.items()}
    assert tokenizer.Settings.from_config(values) == tokenizer.Settings()


@pytest.mark.parametrize(
    "name, value",
    [
        ("vocab_size", 1),
        ("vocab_size", "big"),
        ("vocab_size", 64.0),
        ("vocab_size", True),
        ("max_length", 1),
        ("hidden_size", 0),
        ("hidden_size", 100),
        ("decoder_multiplier", 0),
        ("decoder_layers", 0),
        ("batch_size", 0),
        ("updates", "many"),
        ("learning_rate", 0.0),
        ("learning_rate", "3e-3"),
        ("learning_rate", math.nan),
        ("weight_decay", -0.1),
        ("dropout", 1.0),
        ("codebook_dropout", -0.1),
        ("logit_scale", 0),
        ("step_size", math.inf),
        ("beta", -1),
        ("free_bits", -1),
        ("length_cost", -1),
        ("smoothing", 1.1),
        ("tau_start", 0),
        ("tau_end", 0),
        ("tau_fraction", 1.5),
        ("schedule", "cosine"),
        ("warm_fraction", -0.5),
        ("on_collapse", "ignore"),
    ],
)
def test_bad_dvae_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^sid_{name}={value!r} is not usable"):
        DVAETokenizer.Settings(**{name: value})


@pytest.mark.parametrize(
    "name, value",
    [("vocab_size", 1), ("n_levels", 0), ("max_iterations", 0), ("tolerance", -1.0), ("popularity_weighted", 1)],
)
def test_bad_rkmeans_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^sid_{name}={value!r} is not usable"):
        RKMeansTokenizer.Settings(**{name: value})


def test_free_bits_must_leave_something_to_pay():
    with pytest.raises(ValueError, match="sid_free_bits=2.0.*below 1.95"):
        DVAETokenizer.Settings(vocab_size=7)
    assert DVAETokenizer.Settings(vocab_size=8).free_bits == 2.0


def test_fixed_length_has_no_settings_about_length():
    assert set(DVAETokenizer.Settings.keys()) - set(FixedDVAETokenizer.Settings.keys()) == {
        "sid_length_cost",
        "sid_smoothing",
    }
    assert FixedDVAETokenizer.Settings(max_length=1).max_length == 1


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.name)
def test_more_codewords_than_items_are_refused(tokenizer):
    data = zipf_catalogue(40, d=16)
    with pytest.raises(ValueError, match="sid_vocab_size=41 is not usable.*at most 40"):
        tokenizer(tokenizer.Settings(vocab_size=41)).fit(data)


def test_automatic_vocabulary_grows_with_the_catalogue_and_stays_below_it():
    sizes = {n: auto_vocab_size(n) for n in (1, 2, 8, 100, 1_000, 2_000, 5_000, 20_000, 100_000, 400_000)}
    assert sizes == {
        1: 1,
        2: 2,
        8: 8,
        100: 25,
        1_000: 64,
        2_000: 64,
        5_000: 128,
        20_000: 256,
        100_000: 1024,
        400_000: 4096,
    }


def test_tiny_catalogue_works_at_default_vocabulary_and_is_no_collapse():
    data = zipf_catalogue(12, d=8)
    tokenizer = DVAETokenizer(DVAETokenizer.Settings(hidden_size=64, updates=200, batch_size=32)).fit(data)
    codes, lengths = tokenizer.assign(data.embedding[1:])
    assert tokenizer.vocab_sizes == (8,) * 4
    assert len(np.unique(codes, axis=0)) >= 6
    assert lengths.min() >= 1


def small(tokenizer, **settings):
    values = {"hidden_size": 64, "vocab_size": 16, "updates": 20, "batch_size": 64, **settings}
    return tokenizer(tokenizer.Settings(**values))


def test_collapse_names_the_numbers_and_the_settings():
    data = zipf_catalogue(200, d=16)
    with pytest.raises(TokenizerCollapse) as collapse:
        small(DVAETokenizer, warm_fraction=0.0, length_cost=1000.0, updates=100).fit(data)
    for text in (
        "one token",
        "sid_length_cost=1000.0",
        "sid_updates=100",
        "sid_vocab_size=16",
        "mean length 1.00",
        "200",
    ):
        assert text in str(collapse.value)


def test_full_lengths_are_a_collapse_of_the_variable_tokenizer_only(caplog):
    data = zipf_catalogue(200, d=16)
    settings = {"warm_fraction": 0.0, "beta": 0.0, "updates": 150, "max_length": 3}
    tokenizer = small(DVAETokenizer, on_collapse="warn", **settings).fit(data)
    assert (tokenizer.assign(data.embedding[1:])[1] == 3).mean() > 0.95
    assert "full length" in caplog.text and "raise sid_length_cost" in caplog.text
    caplog.clear()
    fixed = small(FixedDVAETokenizer, **{**settings, "updates": 300}).fit(data)
    assert (fixed.assign(data.embedding[1:])[1] == 3).all()
    assert caplog.text == ""


def test_items_with_the_same_vector_are_no_collapse():
    rng = np.random.default_rng(0)
    data = catalogue(np.repeat(rng.standard_normal((8, 16)), 50, axis=0), np.full(400, 5))
    tokenizer = small(FixedDVAETokenizer, updates=150).fit(data)
    assert len(np.unique(tokenizer.assign(data.embedding[1:])[0], axis=0)) <= 8


def test_divergence_is_reported():
    with pytest.raises(TokenizerCollapse, match="sid_learning_rate=1e\\+30"):
        small(DVAETokenizer, learning_rate=1e30).fit(zipf_catalogue(50, d=16))


def test_no_training_events():
    data = catalogue(np.random.default_rng(0).standard_normal((30, 8)), np.zeros(30))
    with pytest.raises(ValueError, match="training events"):
        small(DVAETokenizer).fit(data)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.name)
def test_before_fit(tokenizer):
    with pytest.raises(RuntimeError, match="fit"):
        tokenizer().assign(np.ones((2, 4), dtype=np.float32))
    with pytest.raises(ValueError, match=f"no state of tokenizer '{tokenizer.name}'"):
        tokenizer().load_state_dict({"weight": None})
