"""The quantiser of DIGER, compared with a loop over items, levels and codewords; its gradients, units and codes."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from recbole_vsid.tokenizer import joint as joint_module
from recbole_vsid.tokenizer.joint import JointSettings, JointTokenizer, carry
from recbole_vsid.tokenizer.residual import balanced_codes
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from recbole_vsid.tokenizer.rqvae import RQVAETokenizer
from tests.tokenizer.synthetic import zipf_catalogue

N_ITEMS, N_LEVELS, N_CODES, SIZE = 14, 3, 5, 4
ALL_ITEMS = torch.arange(1, N_ITEMS)
SOFT_UPDATES = ["indicator", "vector", "hard"]
CHAINS = ["sampled", "cached"]


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(encoder=None, **settings):
    """Small random vectors, so that no softmax underflows; without noise, with raw logits, unless told otherwise."""
    settings = JointSettings(**{"noise": "none", "logits": "raw", "assignment": "nearest", **settings})
    codebooks = normal(N_LEVELS, N_CODES, SIZE, seed=1) * torch.tensor([0.8, 0.6, 0.4])[:, None, None]
    joint = JointTokenizer(normal(N_ITEMS, SIZE, seed=0), encoder or nn.Identity(), codebooks, settings)
    if settings.logits == "calibrated":
        joint.logit_scale.copy_(torch.tensor([1.3, 0.6, 2.0]))
    return joint


def table_codes(n_items=N_ITEMS - 1):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, N_CODES, (n_items, N_LEVELS), generator=generator)


def naive(joint, items, cached, noise=None):
    """One training step of the method in float64, an item, a level and a codeword at a time.

    Args:
        cached: int64 ``[n, n_levels]``, the codes of the table.
        noise: added to the logits, ``[n_levels, n, V]``.

    Returns:
        codes ``[n, n_levels]``, soft ``[n, n_levels, V]``, quantisation ``[n]``, reconstruction ``[n]``.
    """
    settings, books = joint.settings, joint.codebooks.double()

    def word_of(book, code, weights):
        if settings.soft_update == "indicator":
            return (torch.eye(len(book))[code] + (weights - weights.detach())) @ book
        if settings.soft_update == "vector":
            mixture = sum(weight * word for weight, word in zip(weights, book))
            return book[code].detach() + (mixture - mixture.detach())
        return book[code]

    def subtracted(residual, word):
        return residual + (word - residual).detach() if settings.soft_update == "hard" else word

    rows = []
    for row, item in enumerate(items.tolist()):
        latent = residual = joint.encoder(joint.vectors[item]).double()
        total, quantisation, codes, soft = 0, 0, [], []
        for level, book in enumerate(books):
            distances = torch.stack([((residual - word) ** 2).sum() for word in book])
            logits = -float(joint.logit_scale[level]) * distances
            if noise is not None:
                logits = logits + noise[level, row]
            likely = (logits / settings.temperature).exp()
            weights, code = likely / likely.sum(), int(logits.argmax())
            word = word_of(book, code, weights)
            quantisation = quantisation + ((word - residual.detach()) ** 2).mean()
            quantisation = quantisation + settings.commitment * ((word.detach() - residual) ** 2).mean()
            total = total + subtracted(residual, word)
            if settings.residual_chain == "cached":
                word = word_of(book, int(cached[row, level]), weights)
            residual = residual - subtracted(residual, word)
            codes.append(code)
            soft.append(weights)
        reconstruction = ((total - latent) ** 2).mean()
        rows.append((torch.tensor(codes), torch.stack(soft), quantisation / len(books), reconstruction))
    return [torch.stack(values) for values in zip(*rows)]


def assert_equal_to_naive(quantised, expected):
    assert torch.equal(quantised.codes, expected[0])
    for ours, theirs in zip(quantised[1:], expected[1:]):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def rows_with_gradient(loss, joint):
    """Which codewords ``loss`` has a gradient at, bool ``[n_levels, V]``."""
    (gradient,) = torch.autograd.grad(loss, [joint.codebooks], retain_graph=True, allow_unused=True)
    if gradient is None:
        return torch.zeros(joint.codebooks.shape[:2], dtype=torch.bool)
    assert gradient.isfinite().all()
    return gradient.abs().sum(2) > 0


def selected_rows(codes):
    chosen = torch.zeros(N_LEVELS, N_CODES, dtype=torch.bool)
    for level in range(N_LEVELS):
        chosen[level, codes[:, level]] = True
    return chosen


# --------------------------------------------------------------------- forward pass


@pytest.mark.parametrize("soft_update", SOFT_UPDATES)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("logits, temperature, commitment", [("raw", 1.0, 0.25), ("calibrated", 1.5, 2.0)])
def test_i2_values_are_those_of_a_plain_loop(soft_update, chain, logits, temperature, commitment):
    joint = tiny(
        soft_update=soft_update, residual_chain=chain, logits=logits, temperature=temperature, commitment=commitment
    )
    items = ALL_ITEMS[[3, 0, 7, 12]]
    expected = naive(joint, items, table_codes(4))
    assert_equal_to_naive(joint.train()(items, table_codes(4)), expected)
    assert_equal_to_naive(joint.eval()(items, table_codes(4)), expected)
    follows_table = not torch.equal(expected[0], joint.assign()[items - 1])
    assert follows_table == (chain == "cached")


@pytest.mark.parametrize("soft_update", SOFT_UPDATES)
@pytest.mark.parametrize("chain", CHAINS)
def test_values_with_noise_are_those_of_a_plain_loop(monkeypatch, soft_update, chain):
    joint = tiny(soft_update=soft_update, residual_chain=chain, noise="gumbel")
    noise, seen = normal(N_LEVELS, N_ITEMS - 1, N_CODES, seed=9), []

    def planted(level, codes, logits):
        seen.append((codes, logits))
        return noise[level]

    monkeypatch.setattr(joint.exploration, "noise", planted)
    quantised = joint.train()(ALL_ITEMS, table_codes())
    assert_equal_to_naive(quantised, naive(joint, ALL_ITEMS, table_codes(), noise))
    assert not torch.equal(quantised.codes, joint.assign()), "the noise has moved some"
    for codes, logits in seen:
        assert torch.equal(codes, logits.argmax(1)) and not logits.requires_grad


@pytest.mark.parametrize("soft_update", SOFT_UPDATES)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("output", ["soft", "quantisation", "reconstruction"])
def test_gradients_are_those_of_products_with_one_hots(monkeypatch, soft_update, chain, output):
    torch.manual_seed(0)
    joint = tiny(nn.Linear(SIZE, SIZE), soft_update=soft_update, residual_chain=chain, noise="gumbel")
    noise = normal(N_LEVELS, N_ITEMS - 1, N_CODES, seed=9)
    monkeypatch.setattr(joint.exploration, "noise", lambda level, codes, logits: noise[level])
    fields = joint.train()(ALL_ITEMS, table_codes())._asdict()
    expected = dict(zip(fields, naive(joint, ALL_ITEMS, table_codes(), noise)))
    weights = normal(*fields[output].shape, seed=3)
    parameters = [joint.codebooks, *joint.encoder.parameters()]
    ours, theirs = (
        torch.autograd.grad((weights * values[output]).sum(), parameters, materialize_grads=True)
        for values in (fields, expected)
    )
    for gradient, plain in zip(ours, theirs):
        torch.testing.assert_close(gradient, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("soft_update", SOFT_UPDATES)
def test_i1_words_are_codewords_to_the_bit(soft_update):
    joint = tiny(soft_update=soft_update)
    codes, weights = table_codes()[:, 0], normal(N_ITEMS - 1, N_CODES, seed=2).softmax(1).requires_grad_()
    words = joint._words(joint.codebooks[0], codes, weights)
    assert torch.equal(words, joint.codebooks[0][codes]) and words.requires_grad


@pytest.mark.parametrize("decay", ["none", "frqud"])
def test_i2_without_training_there_is_no_noise_and_nothing_is_counted(decay):
    joint = tiny(noise="gumbel", decay=decay, noise_scale=5.0, hot_ratio=0.1)
    usage = joint.exploration.usage.clone()
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append(joint.eval()(ALL_ITEMS, table_codes()))
    for first, second in zip(*results):
        assert torch.equal(first, second)
    assert_equal_to_naive(results[0], naive(joint, ALL_ITEMS, table_codes()))
    assert torch.equal(joint.exploration.usage, usage)
    torch.manual_seed(0)
    assert not torch.equal(joint.train()(ALL_ITEMS, table_codes()).codes, results[0].codes)
    assert not torch.equal(joint.exploration.usage, usage)


def test_training_counts_noise_free_codes_before_it_tells_who_is_hot():
    """With the chain of a table of nearest codes no level's residuals are noisy, so their shares are those codes'."""
    joint = tiny(noise="gumbel", decay="frqud", usage_momentum=0.0, noise_scale=50.0, residual_chain="cached")
    nearest = joint.assign("nearest")
    torch.manual_seed(0)
    codes = joint.train()(ALL_ITEMS, nearest).codes
    for level in range(N_LEVELS):
        shares = torch.bincount(nearest[:, level], minlength=N_CODES) / (N_ITEMS - 1)
        torch.testing.assert_close(joint.exploration.usage[level], shares)
        hot = shares[nearest[:, level]] > 1.5 / N_CODES
        assert hot.any() and torch.equal(codes[~hot, level], nearest[~hot, level])
        assert not torch.equal(codes[hot, level], nearest[hot, level])


def test_i9_items_on_cold_codes_are_assigned_as_without_noise(monkeypatch):
    joint = tiny(noise="gumbel", decay="frqud", noise_scale=50.0)
    monkeypatch.setattr(joint.exploration, "count", lambda level, codes: None)
    joint.exploration.usage.copy_(torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6]))
    plain = joint.eval()(ALL_ITEMS, table_codes())
    hot = plain.codes == 4
    cold = ~hot.any(1)
    assert cold.any() and hot[:, 0].any()
    moved = torch.zeros(N_ITEMS - 1, dtype=torch.bool)
    for seed in range(20):
        torch.manual_seed(seed)
        noisy = joint.train()(ALL_ITEMS, table_codes())
        assert torch.equal(noisy.codes[cold], plain.codes[cold]) and torch.equal(noisy.soft[cold], plain.soft[cold])
        moved |= noisy.codes[:, 0] != plain.codes[:, 0]
    assert torch.equal(moved, hot[:, 0])


# ------------------------------------------------------------------------ gradient


@pytest.mark.parametrize("soft_update", SOFT_UPDATES)
def test_i12_rows_that_the_quantiser_s_losses_reach(soft_update):
    joint = tiny(soft_update=soft_update, noise="gumbel", decay="none")
    torch.manual_seed(0)
    items = ALL_ITEMS[:3]
    quantised = joint.train()(items, table_codes(3))
    reached = rows_with_gradient(quantised.quantisation.sum(), joint)
    if soft_update == "hard":
        selected = selected_rows(quantised.codes)
        assert torch.equal(reached, selected) and not selected.all()
    else:
        assert reached.all()
        assert rows_with_gradient(quantised.reconstruction.sum(), joint).all()


@pytest.mark.parametrize("chain", CHAINS)
def test_with_hard_updates_the_reconstruction_does_not_train_codebooks(chain):
    joint = tiny(soft_update="hard", residual_chain=chain)
    assert not joint(ALL_ITEMS, table_codes()).reconstruction.requires_grad
    torch.manual_seed(0)
    joint = tiny(nn.Linear(SIZE, SIZE), soft_update="hard", residual_chain=chain, noise="gumbel", decay="none")
    reconstruction = joint(ALL_ITEMS, table_codes()).reconstruction
    assert reconstruction.requires_grad and not rows_with_gradient(reconstruction.sum(), joint).any()


@pytest.mark.parametrize("soft_update", SOFT_UPDATES)
@pytest.mark.parametrize("noise", ["gumbel", "none"])
def test_i3_a_loss_on_the_codes_reaches_every_codeword(soft_update, noise):
    joint = tiny(soft_update=soft_update, noise=noise, decay="none")
    torch.manual_seed(0)
    soft = joint.train()(ALL_ITEMS[:4], table_codes(4)).soft
    weights = normal(*soft.shape, seed=3)
    assert rows_with_gradient((weights * soft).sum(), joint).all()
    for level in range(N_LEVELS):
        reached = rows_with_gradient((weights[:, level] * soft[:, level]).sum(), joint)
        assert reached[level].all() and not reached[level + 1 :].any()
        # Through the residuals; a straight-through estimator cuts these off.
        assert reached[:level].any() == (soft_update != "hard" and level > 0)
        if soft_update != "hard":
            assert reached[:level].all()


def test_carry_is_zero_with_the_gradient_of_the_product():
    weights, table = normal(6, 3, seed=0).requires_grad_(), normal(3, 2, seed=1).requires_grad_()
    direction = normal(6, 2, seed=2)
    zeros = carry(weights, table)
    assert torch.equal(zeros, torch.zeros(6, 2))
    (zeros * direction).sum().backward()
    (expected,) = torch.autograd.grad((weights @ table * direction).sum(), [weights])
    torch.testing.assert_close(weights.grad, expected)
    assert table.grad is None


# --------------------------------------------------------------------------- logits


def test_raw_logits_are_negative_squared_distances():
    joint, residual = tiny(), normal(6, SIZE, seed=4)
    for level in range(N_LEVELS):
        distances = np.square(residual.numpy()[:, None] - joint.codebooks.detach().numpy()[level]).sum(2)
        np.testing.assert_allclose(joint.logits(residual, level).detach(), -distances, atol=1e-5)


def test_minmax_logits_span_minus_1_to_1_over_a_batch():
    joint, residual = tiny(logits="minmax"), normal(6, SIZE, seed=4)
    for level in range(N_LEVELS):
        distances = np.square(residual.numpy()[:, None] - joint.codebooks.detach().numpy()[level]).sum(2)
        scaled = 1 - 2 * (distances - distances.min()) / (distances.max() - distances.min())
        np.testing.assert_allclose(joint.logits(residual, level).detach(), scaled, atol=1e-5)


def test_minmax_logits_of_equal_distances_are_finite():
    joint = tiny(logits="minmax")
    with torch.no_grad():
        joint.codebooks.zero_()
    quantised = joint(ALL_ITEMS[:1], table_codes(1))
    assert quantised.soft.isfinite().all()
    torch.testing.assert_close(quantised.soft, torch.full((1, N_LEVELS, N_CODES), 1 / N_CODES))


# ------------------------------------------------------- from a fitted tokenizer


@pytest.fixture(scope="module")
def data():
    return zipf_catalogue(300, d=12)


@pytest.fixture(scope="module")
def fitted(data):
    """name → fitted tokenizer."""
    sizes = {"vocab_size": 16, "n_levels": 3}
    rqvae = RQVAETokenizer.Settings(**sizes, hidden_sizes=[16], latent_size=6, epochs=10, batch_size=100)
    return {
        "rkmeans": RKMeansTokenizer(RKMeansTokenizer.Settings(**sizes)).fit(data),
        "rqvae": RQVAETokenizer(rqvae).fit(data),
    }


NAMES = ["rkmeans", "rqvae", "rqvae with encoder"]


def start(fitted, data, name, **settings):
    trained = {"encoder_learning_rate": 1e-3} if "encoder" in name else {}
    return JointTokenizer.start(fitted[name.split()[0]], data.embedding, JointSettings(**settings, **trained))


@pytest.mark.parametrize("logits", ["raw", "minmax", "calibrated"])
@pytest.mark.parametrize("name", NAMES)
def test_it_starts_with_the_codes_of_the_tokenizer(fitted, data, name, logits):
    tokenizer, joint = fitted[name.split()[0]], start(fitted, data, name, logits=logits)
    assert np.array_equal(joint.assign("nearest"), tokenizer.assign(data.embedding[1:])[0])
    assert isinstance(joint.encoder, nn.Identity) == ("encoder" not in name)
    if logits != "calibrated":
        assert torch.equal(joint.codebooks, tokenizer.codebooks) and torch.equal(joint.logit_scale, torch.ones(3))


def test_a_trained_encoder_starts_as_the_frozen_one(fitted, data):
    trained, frozen = start(fitted, data, "rqvae with encoder"), start(fitted, data, "rqvae")
    torch.testing.assert_close(trained.latent(ALL_ITEMS), frozen.latent(ALL_ITEMS))
    for assignment in ("nearest", "sinkhorn"):
        assert torch.equal(trained.assign(assignment), frozen.assign(assignment))
    quantised = trained(ALL_ITEMS, frozen.assign()[: len(ALL_ITEMS)])
    (quantised.quantisation + quantised.reconstruction).sum().backward()
    assert all(weight.grad.norm() > 0 for weight in trained.encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_i5_training_moves_nothing_but_what_is_trained(fitted, data, name):
    tokenizer, joint = fitted[name.split()[0]], start(fitted, data, name, decay="none")
    of_tokenizer = {key: value.clone() for key, value in tokenizer.state_dict().items()}
    vectors, codebooks = joint.vectors.clone(), joint.codebooks.detach().clone()
    assert not joint.vectors.requires_grad
    assert bool(list(joint.encoder.parameters())) == ("encoder" in name)
    optimizer = torch.optim.Adam(joint.parameters(), lr=1e-2)
    for _ in range(10):
        quantised = joint.train()(ALL_ITEMS, joint.assign("nearest")[: len(ALL_ITEMS)])
        optimizer.zero_grad()
        (quantised.quantisation.mean() + quantised.reconstruction.mean()).backward()
        optimizer.step()
    assert torch.equal(joint.vectors, vectors) and joint.vectors.grad is None
    assert ((joint.codebooks - codebooks).abs() > 0).all()
    assert all(torch.equal(value, of_tokenizer[key]) for key, value in tokenizer.state_dict().items())


def test_two_stage_codebooks_have_no_gradient():
    assert JointSettings(codebook_learning_rate=0).is_two_stage and not JointSettings().is_two_stage
    assert not JointSettings(codebook_learning_rate=0, encoder_learning_rate=1e-3).is_two_stage
    joint = tiny(codebook_learning_rate=0)
    assert not joint.codebooks.requires_grad and not joint(ALL_ITEMS, table_codes()).soft.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_standardising_is_a_change_of_unit(fitted, data, name):
    joint = start(fitted, data, name, logits="raw")
    everything = torch.arange(1, len(joint.vectors))
    before = joint.assign("nearest"), joint.assign("sinkhorn"), joint.latent(everything), joint.codebooks.clone()
    unit = before[2].double().var(0, correction=0).mean().sqrt().item()
    joint.standardise()
    latent = joint.latent(everything)
    assert latent.var(0, correction=0).mean().sqrt().item() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(latent * unit, before[2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(joint.codebooks * unit, before[3], atol=1e-5, rtol=1e-4)
    assert torch.equal(joint.assign("nearest"), before[0]) and torch.equal(joint.assign("sinkhorn"), before[1])
    spread = joint.codebooks[-1].detach().numpy().std(0)
    assert joint.spread.item() == pytest.approx(math.sqrt(np.square(spread).mean()), rel=1e-5)
    again = joint.codebooks.clone()
    joint.standardise()
    torch.testing.assert_close(joint.codebooks, again)


@pytest.mark.parametrize("name", ["rkmeans", "rqvae"])
@pytest.mark.parametrize("target", [0.3, 0.7, 0.95])
def test_calibrated_logits_leave_the_wanted_share_on_their_codes(fitted, data, name, target):
    joint = start(fitted, data, name, logit_agreement=target, decay="none")
    agreement, hot = joint.agreement()
    assert np.mean(agreement) == pytest.approx(target, abs=0.02)
    assert hot == [0, 0, 0]
    # One κ for all levels: scale times contrast.
    residual, sharpness = joint.latent(torch.arange(1, len(joint.vectors))), []
    assert residual.var(0, correction=0).mean().item() == pytest.approx(1, rel=1e-5), "in units of the deviation"
    for level, (codes, book) in enumerate(zip(joint.assign("nearest").T, joint.codebooks.detach())):
        distances = (residual[:, None] - book).square().sum(2)
        contrast = (distances.mean(1) - distances.min(1).values).mean()
        sharpness.append(joint.logit_scale[level].item() * contrast.item())
        residual = residual - book[codes]
    assert sharpness == pytest.approx([sharpness[0]] * 3, rel=1e-3)


def test_a_sample_of_the_items_calibrates_as_well(fitted, data, monkeypatch):
    whole = start(fitted, data, "rkmeans", decay="none")
    monkeypatch.setattr(joint_module, "SAMPLED_ITEMS", 100)
    sampled = start(fitted, data, "rkmeans", decay="none")
    assert {len(logits) for logits, _ in sampled._walk()} == {100}
    assert not torch.equal(sampled.logit_scale, whole.logit_scale)
    torch.testing.assert_close(sampled.logit_scale, whole.logit_scale, rtol=0.2, atol=0)


@pytest.mark.parametrize("decay, scale", [("none", 1.0), ("none", 0.4), ("frqud", 1.5)])
def test_agreement_is_the_share_of_draws_that_change_nothing(fitted, data, monkeypatch, decay, scale):
    """Monte Carlo; along the nearest codes, as with the chain of a table that holds them."""
    joint = start(fitted, data, "rkmeans", decay=decay, noise_scale=scale, residual_chain="cached")
    monkeypatch.setattr(joint.exploration, "count", lambda level, codes: None)
    nearest = joint.assign("nearest")
    shares = torch.stack([torch.bincount(codes, minlength=16) / len(nearest) for codes in nearest.T])
    joint.exploration.usage.copy_(shares)
    agreement, hot = joint.agreement()
    is_hot = torch.stack([share[codes] > 1.5 / 16 for share, codes in zip(shares, nearest.T)], 1)
    assert hot == pytest.approx(is_hot.float().mean(0).tolist()) and 0 < max(hot) < 1
    items, kept, n_draws = torch.arange(1, len(joint.vectors)), 0, 150
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(n_draws):
            kept = kept + (joint.train()(items, nearest).codes == nearest).float()
    # 45,000 draws per level: standard errors below 0.0024.
    assert agreement == pytest.approx((kept / n_draws).mean(0).tolist(), abs=0.01)
    assert min(agreement) < 0.95


# ---------------------------------------------------------------------------- codes


def test_codes_of_all_items_level_by_level(fitted, data):
    joint = start(fitted, data, "rqvae")
    by_hand = {"nearest": lambda rows, book: (rows[:, None] - book).square().sum(2).argmin(1),
               "sinkhorn": balanced_codes}  # fmt: skip
    for assignment, choose in by_hand.items():
        residual, expected = joint.vectors[1:], []
        for book in joint.codebooks.detach():
            expected.append(choose(residual, book))
            residual = residual - book[expected[-1]]
        codes = joint.assign(assignment)
        assert torch.equal(codes, torch.stack(expected, 1)) and not codes.requires_grad
        assert torch.equal(start(fitted, data, "rqvae", assignment=assignment).assign(), codes), "that of the settings"
    assert not torch.equal(joint.assign("nearest"), joint.assign("sinkhorn"))


def test_assigning_is_free_of_noise_in_training_too(fitted, data):
    joint = start(fitted, data, "rkmeans", decay="none", noise_scale=9.0)
    usage = joint.exploration.usage.clone()
    for assignment in ("nearest", "sinkhorn"):
        assert torch.equal(joint.train().assign(assignment), joint.eval().assign(assignment))
    assert torch.equal(joint.exploration.usage, usage)


def test_i16_balanced_codes_hide_dead_codewords():
    codebooks = normal(2, 16, SIZE, seed=2)
    codebooks[:, 8:] += 10
    joint = JointTokenizer(normal(513, SIZE, seed=1), nn.Identity(), codebooks, JointSettings())
    assert [len(column.unique()) for column in joint.assign("nearest").T] == [8, 8]
    assert len(joint.assign("sinkhorn")[:, 0].unique()) == 16


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_loaded_into_one_like_it(fitted, data, name):
    joint = start(fitted, data, name, decay="both")
    joint.train()(ALL_ITEMS, joint.assign()[: len(ALL_ITEMS)])
    joint.exploration.sigma.data.fill_(0.3)
    random_state = torch.get_rng_state()
    other = JointTokenizer.like(joint.state_dict(), joint.settings)
    assert torch.equal(torch.get_rng_state(), random_state)
    other.load_state_dict(joint.state_dict())
    assert [key for key, _ in other.named_parameters()] == [key for key, _ in joint.named_parameters()]
    for key, value in joint.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=0, atol=0, equal_nan=True)
    for assignment in ("nearest", "sinkhorn"):
        assert torch.equal(other.assign(assignment), joint.assign(assignment))
    assert other.agreement() == joint.agreement()


# ------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "name, value",
    [
        ("gradient_paths", "history"),
        ("gradient_paths", ["history", "future"]),
        ("gradient_paths", ["label", "label"]),
        ("gradient_paths", [["label"]]),
        ("gradient_paths", None),
        ("noise", "uniform"),
        ("noise", None),
        ("noise_scale", -0.1),
        ("noise_scale", math.inf),
        ("noise_scale", "1"),
        ("decay", "linear"),
        ("sdud", "closed"),
        ("sdud_lambda", 0),
        ("sdud_lambda", "auto"),
        ("hot_ratio", 0),
        ("usage_momentum", -0.1),
        ("usage_momentum", 1.0),
        ("logits", "scaled"),
        ("logit_agreement", 0),
        ("logit_agreement", 1),
        ("temperature", 0.0),
        ("temperature", math.nan),
        ("soft_update", "soft"),
        ("forward", "table"),
        ("residual_chain", "table"),
        ("assignment", "random"),
        ("suffix_policy", "popularity"),
        ("refresh_epochs", 0),
        ("refresh_epochs", 1.5),
        ("refresh_epochs", True),
        ("quantisation_weight", -1),
        ("commitment", -0.25),
        ("reconstruction_weight", -1),
        ("codebook_learning_rate", -1e-5),
        ("codebook_learning_rate", "fast"),
        ("encoder_learning_rate", -1e-5),
        ("encoder_learning_rate", "auto"),
        ("sigma_learning_rate", -0.01),
        ("collapse_below", -0.1),
        ("collapse_below", 1),
    ],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{re.escape(f'joint_{name}={value!r} is not usable: it must be ')}"):
        JointSettings.from_config({f"joint_{name}": value})


def test_values_at_the_ends_of_their_ranges_are_taken():
    settings = {"gradient_paths": [], "noise_scale": 0, "usage_momentum": 0.0, "codebook_learning_rate": 0.5,
                "collapse_below": 0, "quantisation_weight": 0, "reconstruction_weight": 0, "commitment": 0}  # fmt: skip
    built = JointSettings(**settings)
    assert {name: getattr(built, name) for name in settings} == settings


def test_an_agreement_that_noise_alone_would_leave_is_refused():
    tokenizer = tiny(logits="calibrated", logit_agreement=0.01)
    with pytest.raises(ValueError, match="joint_logit_agreement=0.01 is not usable: it must be greater than 0."):
        tokenizer.calibrate()
