"""Every tokenizer of the package passes the same suite."""

from __future__ import annotations

import pytest

from recbole_vsid.registry import TOKENIZERS
from recbole_vsid.tokenizer.dvae_tokenizer import DVAETokenizer, FixedDVAETokenizer
from recbole_vsid.tokenizer.gaoq import GAOQTokenizer
from recbole_vsid.tokenizer.opq import OPQTokenizer
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from recbole_vsid.tokenizer.rqvae import RQVAETokenizer
from recbole_vsid.tokenizer.rvq import RVQTokenizer
from tests.conformance.tokenizer_suite import TokenizerConformance, clustered

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


class TestNormalizedRKMeans(TestRKMeans):
    quick = {"vocab_size": 8, "n_levels": 3, "normalize_residuals": True, "init": "k-means++"}


class TestOPQ(TokenizerConformance):
    tokenizer = OPQTokenizer
    quick = {"vocab_size": 8, "n_levels": 3}
    tiny = {"vocab_size": 2}


class TestPQ(TestOPQ):
    quick = {"vocab_size": 8, "n_levels": 3, "rotation": "none"}


class TestVariableLength(TokenizerConformance):
    tokenizer = DVAETokenizer
    quick = QUICK_DVAE
    tiny = {"vocab_size": 2, "free_bits": 0.3, "updates": 20}


class TestFixedLength(TokenizerConformance):
    tokenizer = FixedDVAETokenizer
    quick = QUICK_DVAE
    tiny = {"vocab_size": 2, "free_bits": 0.3, "updates": 20}


class TestRQVAE(TokenizerConformance):
    tokenizer = RQVAETokenizer
    quick = {"vocab_size": 8, "latent_size": 8, "hidden_sizes": [32], "epochs": 40}
    tiny = {"vocab_size": 2}


class TestRQVAEWithRunningMeans(TestRQVAE):
    quick = {**TestRQVAE.quick, "codebook": "ema", "sinkhorn": True}


class TestRVQ(TokenizerConformance):
    tokenizer = RVQTokenizer
    quick = {"vocab_size": 8, "updates": 50}
    tiny = {"vocab_size": 2}


class TestGAOQ(TokenizerConformance):
    tokenizer = GAOQTokenizer
    quick = {"branches": [4, 3]}
    tiny = {"branches": "auto"}
    roomy = {"leaf_codes": 8}

    def test_a_vocabulary_larger_than_the_catalogue_is_refused(self):
        data, _ = clustered(n_items=10)
        with pytest.raises(ValueError, match=r"sid_branches=\[11, 2\]"):
            self.fit(data, branches=[11, 2])


def test_no_tokenizer_is_left_out():
    suites = [TestRQVAE, TestRVQ, TestRKMeans, TestOPQ, TestVariableLength, TestFixedLength, TestGAOQ]
    assert {suite.tokenizer.name for suite in suites} == set(TOKENIZERS)
