"""The noise of DIGER: its distribution, the scale that follows the loss, and which items it is for (I8 to I11)."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_vsid.tokenizer.exploration import LOSS_MOMENTUM, SMALLEST_SCALE, Exploration
from recbole_vsid.tokenizer.joint import JointSettings

# (loss, lambda, where sigma ends), from sigma = 1.
ENDS = [(5.545, 1.7, 0.6548), (3.5, 1.7, 0.1708), (2.0, 1.0, 0.4142), (2.5, 1.7, 0.0)]
CODES = torch.tensor([0, 1, 2, 3, 0, 2])


def exploration(n_levels=2, vocab_size=4, **settings):
    return Exploration(JointSettings(**settings), n_levels, vocab_size)


def with_usage(*levels, sigma=None, **settings):
    noise = exploration(len(levels), len(levels[0]), **settings)
    noise.usage.copy_(torch.tensor(levels))
    if sigma is not None:
        noise.sigma.data.fill_(sigma)
    return noise


# ---------------------------------------------------------------------- the scale


@pytest.mark.parametrize("noise", ["gumbel", "gaussian", "none"])
@pytest.mark.parametrize("decay", ["none", "sdud", "frqud", "both"])
@pytest.mark.parametrize("sdud", ["learned", "closed_form"])
def test_the_scale_is_a_parameter_only_where_it_is_learnt(noise, decay, sdud):
    module = exploration(noise=noise, decay=decay, sdud=sdud, noise_scale=0.5)
    learnt = noise != "none" and decay in ("sdud", "both") and sdud == "learned"
    assert [name for name, _ in module.named_parameters()] == ["sigma"] * learnt
    assert set(module.state_dict()) == {"sigma", "usage", "mean_loss"}
    assert module.sigma.item() == (0.5 if noise != "none" else 0.0)
    loss = module.follow(torch.tensor(9.0))
    assert (loss is not None) == learnt
    if not learnt:  # only the closed form moves it here
        follows = noise != "none" and decay in ("sdud", "both")
        assert module.sigma.item() == pytest.approx(1.3 if follows else 0.5 if noise != "none" else 0.0)


@pytest.mark.parametrize("loss, offset, end", ENDS)
def test_i8_a_learnt_scale_ends_at_the_root_of_the_loss_minus_lambda(loss, offset, end):
    module = exploration(decay="sdud", sdud_lambda=offset)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02, weight_decay=0.0)
    below_zero = False
    for _ in range(600):
        optimizer.zero_grad()
        module.follow(torch.tensor(loss)).backward()
        optimizer.step()
        below_zero |= bool(module.sigma < 0)
        module.project()
        assert module.sigma >= 0
    assert module.sigma.item() == pytest.approx(end, abs=5e-3)
    assert below_zero == (end == 0), "only the loss below lambda squared pushes it below 0"


@pytest.mark.parametrize("loss, offset, end", ENDS)
def test_i8_the_closed_form_ends_there_too(loss, offset, end):
    module = exploration(decay="both", sdud="closed_form", sdud_lambda=offset)
    module.follow(torch.tensor(loss))
    assert module.sigma.item() == pytest.approx(end, abs=1e-4), "at once with the first loss"
    for _ in range(200):
        module.follow(torch.tensor(20.0))
    assert module.sigma.item() > end + 1
    for _ in range(1000):
        module.follow(torch.tensor(loss))
    assert module.sigma.item() == pytest.approx(end, abs=5e-3)


def test_the_closed_form_follows_a_running_mean_of_the_loss():
    module = exploration(decay="sdud", sdud="closed_form", sdud_lambda=1.0)
    losses = [6.0, 2.0, 9.0, 4.0]
    mean = losses[0]
    for step, loss in enumerate(losses):
        generation = torch.tensor(loss, requires_grad=True)
        assert module.follow(generation) is None
        if step:
            mean = LOSS_MOMENTUM * mean + (1 - LOSS_MOMENTUM) * loss
        assert module.mean_loss.item() == pytest.approx(mean, rel=1e-6)
        assert module.sigma.item() == pytest.approx(math.sqrt(mean) - 1, rel=1e-5)
        assert not module.sigma.requires_grad and not module.mean_loss.requires_grad


def test_i8_the_loss_of_the_scale_has_no_gradient_but_for_the_scale():
    module = exploration(decay="sdud", sdud_lambda=1.7, noise_scale=0.8)
    generation = torch.tensor(3.0, requires_grad=True)
    loss = module.follow(generation)
    assert float(loss.detach()) == pytest.approx(3 / (2 * 2.5**2) + math.log(2.5), rel=1e-6)
    loss.backward()
    assert generation.grad is None
    assert module.sigma.grad.item() == pytest.approx(-3 / 2.5**3 + 1 / 2.5, rel=1e-5)


def test_i8_the_noise_has_no_gradient_for_the_scale():
    module = exploration(decay="both", noise_scale=0.8, hot_ratio=0.5)
    assert not module.noise(0, CODES, torch.zeros(6, 4)).requires_grad
    assert not module.scale(0, CODES).requires_grad


@pytest.mark.parametrize("sdud", ["learned", "closed_form"])
def test_i8_a_tiny_scale_is_none(sdud):
    module = with_usage([0.25] * 4, decay="sdud", sdud=sdud, sigma=0.9 * SMALLEST_SCALE)
    assert (module.noise(0, CODES, torch.zeros(6, 4)) == 0).all() and (module.scale(0, CODES) == 0).all()
    module = with_usage([0.25] * 4, decay="sdud", sdud=sdud, sigma=1.1 * SMALLEST_SCALE)
    assert (module.noise(0, CODES, torch.zeros(6, 4)) != 0).all()
    torch.testing.assert_close(module.scale(0, CODES), torch.full((6, 1), 1.1 * SMALLEST_SCALE))


# ---------------------------------------------------------------------- the noise


@pytest.mark.parametrize("noise, mean, deviation", [("gumbel", 0.5772, math.pi / math.sqrt(6)), ("gaussian", 0.0, 1.0)])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_distribution_of_the_noise(noise, mean, deviation, scale):
    module = exploration(1, 1000, noise=noise, decay="none", noise_scale=scale)
    torch.manual_seed(0)
    draws = module.noise(0, torch.zeros(400, dtype=torch.long), torch.zeros(400, 1000))
    # 400,000 draws: the standard errors are below 0.003.
    assert float(draws.mean()) == pytest.approx(scale * mean, abs=0.01 * scale)
    assert float(draws.std()) == pytest.approx(scale * deviation, abs=0.015 * scale)
    assert len(draws.unique()) > 100_000, "one draw per item and codeword"


def test_gumbel_noise_samples_from_the_softmax():
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    module = exploration(1, 4, decay="none")
    torch.manual_seed(1)
    rows = logits.expand(100_000, 4)
    codes = (rows + module.noise(0, torch.zeros(len(rows), dtype=torch.long), rows)).argmax(1)
    torch.testing.assert_close(torch.bincount(codes, minlength=4) / len(rows), logits.softmax(0), atol=0.01, rtol=0)


def test_no_noise_is_zeros_without_a_draw():
    module, state = exploration(noise="none", decay="both", noise_scale=3.0), torch.get_rng_state()
    assert torch.equal(module.noise(0, CODES, torch.ones(6, 4)), torch.zeros(6, 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("draw", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_gumbel_noise_is_finite_at_the_ends_of_the_uniform_draw(monkeypatch, draw, scale):
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, draw))
    noise = exploration(decay="none", noise_scale=scale).noise(0, CODES, torch.zeros(6, 4))
    assert noise.isfinite().all()
    assert (noise.sign() == scale * (2 * draw - 1)).all()


# ---------------------------------------------------------------- who gets it


@pytest.mark.parametrize("noise", ["gumbel", "gaussian"])
def test_i9_only_items_on_hot_codes_get_noise(noise):
    module = with_usage([0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7], noise=noise, decay="frqud", hot_ratio=1.5)
    for level, hot_code in enumerate((0, 3)):
        hot = hot_code == CODES
        drawn = module.noise(level, CODES, torch.zeros(6, 4))
        assert torch.equal(module.is_hot(level, CODES), hot)
        assert (drawn[hot] != 0).all() and (drawn[~hot] == 0).all()


def test_i9_a_code_at_the_threshold_is_not_hot():
    threshold = 1.5 / 4  # a float32
    above = float(torch.nextafter(torch.tensor(threshold), torch.tensor(1.0)))
    module = with_usage([threshold, above, 0.1, 0.0], decay="frqud", hot_ratio=1.5)
    assert module.is_hot(0, torch.arange(4)).tolist() == [False, True, False, False]
    assert module.scale(0, torch.arange(4)).squeeze(1).tolist() == [0, 1, 0, 0]


def test_i9_nothing_is_hot_at_the_start():
    module = exploration(3, 7, decay="frqud", hot_ratio=1.01)
    assert all(not module.is_hot(level, torch.arange(7)).any() for level in range(3))


@pytest.mark.parametrize("decay", ["none", "sdud"])
def test_without_frqud_the_noise_does_not_look_at_usage(decay):
    module = with_usage([0.7, 0.1, 0.1, 0.1], decay=decay, noise_scale=0.6)
    torch.testing.assert_close(module.scale(0, CODES), torch.full((6, 1), 0.6))


@pytest.mark.parametrize("sdud", ["learned", "closed_form"])
def test_i11_both_is_sigma_on_hot_codes(sdud):
    module = with_usage([0.7, 0.1, 0.1, 0.1], sigma=0.37, decay="both", sdud=sdud)
    torch.testing.assert_close(module.scale(0, CODES), 0.37 * (CODES == 0).float().unsqueeze(1))


# ------------------------------------------------------------------ running shares


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_i10_shares_follow_the_formula_and_sum_to_1(momentum):
    module = exploration(2, 5, usage_momentum=momentum)
    generator = torch.Generator().manual_seed(0)
    expected = [[1 / 5] * 5, [1 / 5] * 5]
    for update in range(30):
        level, codes = update % 2, torch.randint(0, 4, (11,), generator=generator)
        module.count(level, codes)
        for code in range(5):
            frequency = sum(int(each) == code for each in codes) / len(codes)
            expected[level][code] = momentum * expected[level][code] + (1 - momentum) * frequency
        torch.testing.assert_close(module.usage, torch.tensor(expected), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(module.usage.sum(1), torch.ones(2))


@pytest.mark.parametrize("sdud", ["learned", "closed_form"])
def test_i10_the_state_brings_back_shares_and_scale(sdud):
    module = exploration(decay="both", sdud=sdud, hot_ratio=1.1)
    for level in range(2):
        module.count(level, CODES)
    module.follow(torch.tensor(7.0))
    module.sigma.data.fill_(0.25)
    restored = exploration(decay="both", sdud=sdud, hot_ratio=1.1)
    restored.load_state_dict(module.state_dict())
    assert not torch.equal(restored.usage, exploration().usage)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(restored.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
    # The next update goes on from there.
    for each in (module, restored):
        each.count(0, CODES[:3])
        each.follow(torch.tensor(2.0))
    assert torch.equal(module.usage, restored.usage) and torch.equal(module.sigma, restored.sigma)
