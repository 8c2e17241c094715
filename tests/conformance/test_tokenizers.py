"""Every tokenizer of the package passes the same suite."""

from __future__ import annotations

from recbole_vsid.registry import TOKENIZERS
from recbole_vsid.tokenizer.dvae_tokenizer import DVAETokenizer, FixedDVAETokenizer
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from tests.conformance.tokenizer_suite import TokenizerConformance

QUICK_DVAE = {
    "vocab_size": 8,
    "max_length": 3,
    "hidden_size": 64,
    "updates": 150,
    "batch_size": 64,
    "free_bits": 1.0,
    "on_collapse": "warn",
}


class TestRKMeans(TokenizerConformance):
    tokenizer = RKMeansTokenizer
    quick = {"vocab_size": 8, "n_levels": 3}
    tiny = {"vocab_size": 2}


class TestWeightedRKMeans(TestRKMeans):
    quick = {"vocab_size": 8, "n_levels": 3, "popularity_weighted": True}


class TestVariableLength(TokenizerConformance):
    tokenizer = DVAETokenizer
    quick = QUICK_DVAE
    tiny = {"vocab_size": 2, "free_bits": 0.3, "updates": 20}


class TestFixedLength(TokenizerConformance):
    tokenizer = FixedDVAETokenizer
    quick = QUICK_DVAE
    tiny = {"vocab_size": 2, "free_bits": 0.3, "updates": 20}


def test_no_tokenizer_is_left_out():
    suites = [TestRKMeans, TestVariableLength, TestFixedLength]
    assert {suite.tokenizer.name for suite in suites} == set(TOKENIZERS)
