"""The price of a token that is found while fitting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.tokenizer.dvae_settings import DVAESettings
from recbole_vsid.tokenizer.dvae_tokenizer import DVAETokenizer, TokenizerCollapse
from recbole_vsid.tokenizer.vlsid.length_cost import LengthCost, best_mean_length, cost_of_length
from tests.tokenizer.synthetic import catalogue, zipf_catalogue


def energies(seed, n=64, max_length=4, scale=30.0):
    """Falling errors of the prefixes, as energies."""
    drops = torch.rand(n, max_length, generator=torch.Generator().manual_seed(seed)) * scale
    return drops.flip(1).cumsum(1).flip(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1.05, 3.95), st.floats(0.1, 300))
def test_the_cost_meets_the_wanted_length(seed, length, scale):
    energy = energies(seed, scale=scale)
    cost = cost_of_length(energy, length)
    free = best_mean_length(energy, 0.0)
    if free <= length:
        assert cost == 0
    else:
        assert best_mean_length(energy, cost) == pytest.approx(length, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_codes_get_shorter_as_the_cost_rises(seed):
    lengths = [best_mean_length(energies(seed), cost) for cost in (0, 1, 5, 10, 20, 40, 1000)]
    assert lengths == sorted(lengths, reverse=True)
    assert 1 <= lengths[-1] < 1.001


def test_steps_follow_the_gap_and_never_pay_for_tokens():
    cost = LengthCost(4, 0.002, 0.1, 2.0)
    with pytest.raises(RuntimeError, match="start"):
        cost.follow(2.0, 1.0)
    cost.start(torch.rand(32, 4).sort(dim=1, descending=True).values, torch.full((32, 4), 3.0))
    first = cost.value
    assert cost.target == 2.5 and first > 0
    cost.follow(3.5, 1.0)
    assert cost.price > cost.value > first
    before = cost.value
    cost.follow(3.5, 0.0)
    assert cost.value == before and cost.price > before, "no more integral steps at the end"
    for _ in range(10_000):
        cost.follow(1.0, 1.0)
    assert cost.value == cost.price == 0


def flat_catalogue(n, d):
    """Vectors without structure, bought equally often: every token removes about as much error as the one before."""
    vectors = np.random.default_rng(3).standard_normal((n, d))
    return catalogue(vectors, np.full(n, 5))


SMALL = {"hidden_size": 64, "vocab_size": 16, "updates": 300, "batch_size": 64, "max_length": 3}


def test_the_default_serves_what_the_price_of_before_refuses():
    data = flat_catalogue(200, 16)
    with pytest.raises(TokenizerCollapse, match="full length"):
        DVAETokenizer(DVAESettings(**SMALL, length_cost=7.0)).fit(data)
    tokenizer = DVAETokenizer(DVAESettings(**SMALL)).fit(data)
    lengths = tokenizer.assign(data.embedding[1:])[1]
    assert 1.2 < lengths.mean() < 2.8, "(1 + 3) / 2 when training is long enough for lengths to be decided"
    assert len(np.unique(lengths)) > 1
    assert tokenizer.found["length_cost"] > 7


def test_a_given_price_is_kept():
    tokenizer = DVAETokenizer(DVAESettings(**{**SMALL, "updates": 20}, length_cost=7.0, on_collapse="warn"))
    tokenizer.fit(zipf_catalogue(50, d=16))
    assert tokenizer.found == {}


def test_the_schedule_of_the_paper_needs_a_number():
    with pytest.raises(ValueError, match="sid_length_cost='auto' is not usable: it must be a number with sid_schedule"):
        DVAESettings(schedule="paper")
