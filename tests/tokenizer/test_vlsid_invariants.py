"""Properties that the variable-length tokenizer must have (arXiv 2602.16375), one test per property."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_vsid.tokenizer.base import unit_rows
from recbole_vsid.tokenizer.dvae import (
    DVAEDecoder,
    DVAEEncoder,
    fixed_length_loss,
    gumbel_noise,
    length_posterior,
    schedule,
    squared_errors,
    token_kl,
    uniform_prefix_loss,
    variable_length_loss,
)
from recbole_vsid.tokenizer.dvae_tokenizer import DVAETokenizer, FixedDVAETokenizer, draw_events
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from tests.tokenizer.synthetic import catalogue, zipf_catalogue

D, H, V, T, B = 16, 64, 12, 5, 32


LENGTH_COSTS = (1.0, 4.0, 20.0)


@functools.cache
def zipf():
    return zipf_catalogue(500, d=32, n_top=12, n_sub=6)


@functools.cache
def trained(uniform=False, tokenizer=DVAETokenizer, **settings):
    """A tokenizer trained on the small Zipf catalogue; ``uniform`` takes the popularity away from training."""
    values = dict(hidden_size=64, vocab_size=48, batch_size=128, max_length=3, on_collapse="warn")
    values.update(updates=700, warm_fraction=0.7)  # so small a run needs more of it to learn the later tokens
    data = zipf()
    if uniform:
        data = catalogue(data.embedding[1:], np.ones(500))
    return tokenizer(tokenizer.Settings(**{**values, **settings}), seed=0).fit(data)


def mean_lengths(tokenizer):
    """Mean length over training events, over items, and the lengths, on the Zipf catalogue."""
    lengths = tokenizer.assign(zipf().embedding[1:])[1]
    return np.average(lengths, weights=zipf().popularity[1:]), lengths.mean(), lengths


def models(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, decoder = DVAEEncoder(D, H, V, T), DVAEDecoder(D, H, V, 1)
        for module in (encoder, decoder):
            for parameter in module.parameters():
                if not parameter.any():  # zero-initialised blocks would hide a leak between positions
                    torch.nn.init.normal_(parameter, std=0.3)
        return encoder, decoder, F.normalize(torch.randn(B, D), dim=-1)


def test_invariant_01_length_distribution():
    stop_logits = torch.rand(1000, T - 1, generator=torch.Generator().manual_seed(0)) * 60 - 30
    log_q, log_survival = length_posterior(stop_logits)
    q, survival = log_q.exp(), log_survival.exp()
    torch.testing.assert_close(q.sum(1), torch.ones(1000), atol=1e-5, rtol=0)
    torch.testing.assert_close(survival, q.flip(1).cumsum(1).flip(1), atol=1e-5, rtol=0)
    torch.testing.assert_close((q * torch.arange(1, T + 1)).sum(1), survival.sum(1), atol=1e-5, rtol=0)
    assert (survival[:, 0] == 1).all() and (survival.diff(dim=1) <= 0).all()
    assert torch.isfinite(log_q).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_invariant_02_never_stopping_is_the_fixed_length_loss(smoothing):
    encoder, decoder, x = models()
    output = encoder(x, 0.7, noise=gumbel_noise((T, B, V), generator=torch.Generator().manual_seed(1)))
    reconstructions, beta, cost = decoder(output.relaxed_tokens), 0.01, 3.0
    never = torch.full_like(output.stop_logits, -60.0)
    variable = variable_length_loss(x, reconstructions, output.token_logits, never, beta, cost, 0.01, smoothing)
    fixed = fixed_length_loss(x, reconstructions, output.token_logits, beta, 0.01)
    errors = squared_errors(x, reconstructions).mean(0)
    expected = fixed.loss + beta * cost * T + smoothing * (errors.mean() - errors[-1])
    torch.testing.assert_close(variable.loss, expected, atol=1e-6, rtol=0)
    assert fixed.token_kl > 0


def test_invariant_03_optimal_lengths_have_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    beta, cost, free_bits, smoothing = 0.3, 0.4, 0.2, 0.1
    x = F.normalize(torch.randn(6, D, generator=generator), dim=-1)
    noise = torch.randn(6, T, D, generator=generator) * torch.linspace(1, 0.1, T)[:, None]
    reconstructions = F.normalize(x.unsqueeze(1) + 0.5 * noise, dim=-1)
    token_logits = torch.randn(6, T, V, generator=generator)
    stop_logits = torch.zeros(6, T - 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([stop_logits], max_iter=300, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        terms = variable_length_loss(x, reconstructions, token_logits, stop_logits, beta, cost, free_bits, smoothing)
        terms.loss.backward()
        return terms.loss

    optimizer.step(closure)
    price = cost * torch.arange(1, T + 1) + F.relu(token_kl(token_logits) - free_bits).cumsum(1)
    optimum = (-(1 - smoothing) * squared_errors(x, reconstructions) / beta - price).softmax(1)
    torch.testing.assert_close(length_posterior(stop_logits.detach())[0].exp(), optimum, atol=1e-3, rtol=0)
    assert optimum.max() < 0.99 and optimum.std() > 0.05  # otherwise the check would say little


def test_invariant_04_nothing_looks_ahead():
    encoder, decoder, x = models()
    states = torch.randn(B, T, H, generator=torch.Generator().manual_seed(0))
    changed = states.clone()
    changed[:, 3] += 1
    with torch.no_grad():
        before, after = encoder.stop_head(states), encoder.stop_head(changed)
        codes = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))
        other = codes.clone()
        other[:, 2] = (codes[:, 2] + 1) % V
        first, second = decoder.decode(codes), decoder.decode(other)
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[:, 2] != after[:, 2]).all()
    assert torch.equal(first[:, :2], second[:, :2])
    assert (first[:, 2] != second[:, 2]).any(1).all()


def test_invariant_05_hard_ids_equal_one_hot_tokens():
    _, decoder, _ = models()
    codes = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(decoder.decode(codes), decoder(F.one_hot(codes, V).float()), atol=1e-6, rtol=0)


def test_invariant_06_ranges():
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(token_kl(torch.full((3, T, V), 7.0)), torch.zeros(3, T), atol=1e-5, rtol=0)
    kl = token_kl(torch.randn(50, T, V, generator=generator) * torch.logspace(-2, 3, 50)[:, None, None])
    assert kl.min() > -1e-5 and kl.max() < math.log(V) + 1e-5 and kl.max() > math.log(V) - 0.1
    x = F.normalize(torch.randn(50, D, generator=generator), dim=-1)
    y = F.normalize(torch.randn(50, T, D, generator=generator), dim=-1)
    y[0, 0], y[0, 1] = x[0], -x[0]
    errors = squared_errors(x, y)
    torch.testing.assert_close(errors, 2 - 2 * (x.unsqueeze(1) * y).sum(-1), atol=1e-5, rtol=0)
    assert errors[0, 0] == 0 and errors[0, 1] == pytest.approx(4) and errors.min() >= 0


def test_invariant_07_start_of_training():
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = DVAEEncoder(D, 128, 64, T)
            x = F.normalize(torch.randn(256, D), dim=-1)
        with torch.no_grad():
            output = encoder(x, 1.0, generator=torch.Generator().manual_seed(seed))
        q = length_posterior(output.stop_logits)[0].exp()
        assert 1.5 <= float((q * torch.arange(1, T + 1)).sum(1).mean()) <= 2.4
        assert output.token_logits.abs().max() <= 5 + 1e-4
        assert encoder.stop_bias.abs().max() == 0


def test_invariant_08_lengths_at_the_extremes_of_the_price():
    short = trained(length_cost=1000.0, warm_fraction=0.0, updates=100)
    assert mean_lengths(short)[1] < 1.05
    long = trained(beta=0.0, warm_fraction=0.0, updates=200)
    assert mean_lengths(long)[1] > 3 - 0.05


def test_invariant_09_lengths_fall_with_the_price():
    lengths = [mean_lengths(trained(length_cost=cost))[0] for cost in LENGTH_COSTS]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] > 0.5


def test_invariant_10_popular_items_get_shorter_codes():
    over_events, over_items, lengths = mean_lengths(trained(length_cost=LENGTH_COSTS[1]))
    assert over_items - over_events >= 0.3
    order = np.argsort(-zipf().popularity[1:])
    assert lengths[order[:10]].mean() < lengths[order[250:]].mean() - 0.3


def test_invariant_10_control_without_popularity_there_is_no_gap():
    over_events, over_items, _ = mean_lengths(trained(uniform=True, length_cost=LENGTH_COSTS[1]))
    with_popularity = mean_lengths(trained(length_cost=LENGTH_COSTS[1]))
    assert abs(over_events - over_items) < 0.15
    assert abs(over_events - over_items) < 0.5 * (with_popularity[1] - with_popularity[0])


def test_invariant_13_encoding_does_not_depend_on_the_batch():
    tokenizer, x = trained(length_cost=LENGTH_COSTS[1]), zipf().embedding[1:]
    codes, lengths = tokenizer.assign(x)
    assert np.array_equal(tokenizer.assign(x)[0], codes)
    order = np.random.default_rng(0).permutation(len(x))
    shuffled, shuffled_lengths = tokenizer.assign(x[order])
    assert np.array_equal(shuffled, codes[order]) and np.array_equal(shuffled_lengths, lengths[order])
    assert np.array_equal(np.vstack([tokenizer.assign(x[i : i + 1])[0] for i in range(10)]), codes[:10])
    twice = np.vstack([x, 3 * x])  # more rows than one chunk; only directions count
    assert np.array_equal(tokenizer.assign(twice)[0], np.vstack([codes, codes]))
    errors = tokenizer.prefix_errors(x, tokenizer.assign_full(x))
    assert np.array_equal(tokenizer.prefix_errors(x[order], tokenizer.assign_full(x[order])), errors[order])


def test_invariant_13_same_seed_same_weights():
    settings = dict(hidden_size=64, vocab_size=16, batch_size=32, updates=12, dropout=0.1, codebook_dropout=0.1)
    states = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed in (0, 0, 1):
            torch.rand(7), np.random.rand(7)
            before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
            tokenizer = DVAETokenizer(DVAETokenizer.Settings(**settings, on_collapse="warn"), seed=seed).fit(zipf())
            assert torch.equal(before[0], torch.random.get_rng_state())
            assert np.array_equal(before[1], np.random.get_state()[1])
            states.append(tokenizer.state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["encoder.codebook"], states[2]["encoder.codebook"])


def test_invariant_14_residual_kmeans_improves_with_every_level():
    x = unit_rows(zipf().embedding[1:])
    tokenizer = RKMeansTokenizer(RKMeansTokenizer.Settings(vocab_size=24, n_levels=4)).fit(zipf())
    codes, residual, errors = tokenizer.assign(x)[0], x.copy(), [1.0]
    for level, centroids in enumerate(tokenizer.state_dict()["centroids"].numpy()):
        residual = residual - centroids[codes[:, level]]
        errors.append(np.square(residual).sum(1).mean())
    assert all(after < before for before, after in zip(errors, errors[1:]))


def test_warming_up_is_the_loss_at_full_smoothing_without_kl():
    encoder, decoder, x = models()
    output = encoder(x, 1.0, generator=torch.Generator().manual_seed(0))
    reconstructions = decoder(output.relaxed_tokens)
    warm = uniform_prefix_loss(x, reconstructions)
    full = variable_length_loss(x, reconstructions, output.token_logits, output.stop_logits, 0.0, 9.0, 0.0, 1.0)
    torch.testing.assert_close(warm.loss, full.loss, atol=1e-6, rtol=0)
    full.loss.backward()
    assert encoder.stop_bias.grad.abs().max() == 0


def test_schedules():
    two_phase = DVAETokenizer.Settings(tau_fraction=0.5)
    assert schedule(two_phase, 0, 100) == (1.0, 0.0, True)
    assert schedule(two_phase, 25, 100)[0] == pytest.approx(0.75)
    assert schedule(two_phase, 49, 100)[1:] == (0.0, True)
    assert schedule(two_phase, 50, 100) == (0.5, 0.002, False)
    paper = DVAETokenizer.Settings(schedule="paper", warm_fraction=0.2, length_cost=7.0)
    assert schedule(paper, 0, 100) == (1.0, 0.0, False)
    assert schedule(paper, 10, 100) == (pytest.approx(0.75), pytest.approx(0.001), False)
    assert schedule(paper, 20, 100) == (0.5, 0.002, False)


def test_items_are_drawn_as_often_as_they_occur():
    counts = np.array([3, 0, 1, 6])
    draws = np.concatenate(list(draw_events(counts, 1000, 50, np.random.default_rng(0))))
    assert draws.shape == (50_000,)
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / 50_000, counts / 10, atol=0.01)
    assert (draws != 1).all()


@pytest.mark.parametrize("tokenizer", [DVAETokenizer, FixedDVAETokenizer])
def test_state_restores_a_fresh_tokenizer(tokenizer):
    settings = tokenizer.Settings(
        hidden_size=64, vocab_size=16, batch_size=32, updates=12, max_length=3, decoder_multiplier=2, decoder_layers=2,
        on_collapse="warn",
    )  # fmt: skip
    first = tokenizer(settings).fit(zipf())
    x = zipf().embedding[1:]
    second = tokenizer()  # other sizes in its settings
    second.load_state_dict(first.state_dict())
    assert second.vocab_sizes == (16,) * 3
    for one, other in zip(first.assign(x), second.assign(x)):
        assert np.array_equal(one, other)
    full = first.assign_full(x)
    assert full.min() >= 0
    assert np.array_equal(first.prefix_errors(x, full), second.prefix_errors(x, full))
    with pytest.raises(ValueError, match="assign_full"):
        first.prefix_errors(x, np.where(np.arange(3) > 0, -1, full))
    wrong = FixedDVAETokenizer() if tokenizer is DVAETokenizer else DVAETokenizer()
    with pytest.raises(ValueError, match=f"no state of tokenizer '{wrong.name}'"):
        wrong.load_state_dict(first.state_dict())


def test_fixed_length_tokenizer_learns_the_full_code():
    tokenizer = trained(tokenizer=FixedDVAETokenizer, updates=300)
    x = zipf().embedding[1:]
    codes, lengths = tokenizer.assign(x)
    assert (lengths == 3).all() and np.array_equal(codes, tokenizer.assign_full(x))
    errors = np.average(tokenizer.prefix_errors(x, codes), axis=0, weights=zipf().popularity[1:])
    assert errors[2] < 0.4 and errors[2] < errors[0]
    assert tokenizer.encode(zipf()).shared_vocabulary
