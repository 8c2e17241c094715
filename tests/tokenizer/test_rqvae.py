"""The RQ-VAE: quantiser, balanced assignment, running means, restarts, the state that is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.semantic_id.collisions import collision_figures, sinkhorn
from recbole_vsid.tokenizer import residual as residual_module
from recbole_vsid.tokenizer import rqvae
from recbole_vsid.tokenizer.base import TokenizerInput, unit_rows
from recbole_vsid.tokenizer.kmeans import nearest, squared_distances
from recbole_vsid.tokenizer.residual import ResidualQuantizer, RunningMeans, balanced_codes, quantisation_loss
from recbole_vsid.tokenizer.rqvae import RQVAE, RQVAETokenizer
from tests.tokenizer.synthetic import catalogue, zipf_catalogue

QUICK = {"vocab_size": 16, "latent_size": 8, "hidden_sizes": [32], "epochs": 30, "batch_size": 128}


@pytest.fixture(scope="module")
def data():
    return zipf_catalogue(600, d=24)


def tokenizer(seed=0, **changes):
    return RQVAETokenizer(RQVAETokenizer.Settings(**{**QUICK, **changes}), seed=seed)


@pytest.fixture(scope="module")
def fitted(data):
    return tokenizer().fit(data)


def random_quantizer(n_levels=3, vocab_size=8, latent_size=4, seed=0):
    quantizer = ResidualQuantizer(n_levels, vocab_size, latent_size)
    noise = torch.randn(quantizer.codebooks.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        quantizer.codebooks.copy_(noise)
    return quantizer


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------- quantiser


def test_network_is_mirrored_and_starts_without_biases():
    model = RQVAE([24, 16, 12, 8], n_levels=2, vocab_size=5)
    widths = [[tuple(layer.weight.shape) for layer in part if hasattr(layer, "weight")] for part in
              (model.encoder, model.decoder)]  # fmt: skip
    assert widths == [[(16, 24), (12, 16), (8, 12)], [(12, 8), (16, 12), (24, 16)]]
    assert all((value == 0).all() for key, value in model.state_dict().items() if key.endswith("bias"))
    quantised, levels = model.quantizer(model.encoder(normal(7, 24)))
    assert model.decoder(quantised).shape == (7, 24)
    assert [tuple(part.shape) for part in levels[1]] == [(7, 8), (7, 8), (7,)]


def test_recursion_equals_a_plain_loop():
    quantizer, latent = random_quantizer(), normal(50, 4)
    value, levels = quantizer(latent)
    books = quantizer.codebooks.detach().double().numpy()
    for row, vector in enumerate(latent.double().numpy()):
        total = np.zeros(4)
        for level, book in enumerate(books):
            np.testing.assert_allclose(levels[level][0][row].detach(), vector - total, atol=1e-5)
            code = int(np.square(vector - total - book).sum(1).argmin())
            assert int(levels[level][2][row]) == code
            total += book[code]
        np.testing.assert_allclose(value[row].detach(), total, atol=1e-5)
    codes = torch.stack([codes for _, _, codes in levels], 1)
    torch.testing.assert_close(quantizer.residual(latent, codes[:, :2]), levels[2][0])
    torch.testing.assert_close(quantizer.partial_sums(codes)[-1], value)


def test_encoder_learns_from_the_reconstruction_and_the_first_commitment_only():
    quantizer, latent = random_quantizer(), normal(20, 4).requires_grad_()
    value, levels = quantizer(latent)
    target = normal(20, 4, seed=3)
    (gradient,) = torch.autograd.grad(F.mse_loss(value, target), latent)
    torch.testing.assert_close(gradient, 2 * (value.detach() - target) / value.numel())  # straight through
    value, levels = quantizer(latent)
    (gradient,) = torch.autograd.grad(quantisation_loss(levels, beta=0.25), latent)
    first = 2 * 0.25 * (latent - levels[0][1]) / latent.numel() / len(levels)
    torch.testing.assert_close(gradient, first.detach())
    assert not levels[1][0].requires_grad and not levels[2][0].requires_grad


def test_codewords_learn_from_their_own_level_only():
    quantizer, latent = random_quantizer(), normal(20, 4)
    value, levels = quantizer(latent)
    assert not value.requires_grad, "the reconstruction does not train the codewords"
    quantisation_loss(levels, beta=0.25).backward()
    for level, (residual, words, codes) in enumerate(levels):
        expected = torch.zeros(8, 4).index_add_(0, codes, 2 * (words - residual).detach() / latent.numel() / 3)
        torch.testing.assert_close(quantizer.codebooks.grad[level], expected)


def test_loss_is_the_mean_over_levels():
    levels = random_quantizer()(normal(20, 4))[1]
    expected = np.mean([1.25 * float((words - residual).square().mean().detach()) for residual, words, _ in levels])
    assert float(quantisation_loss(levels, beta=0.25).detach()) == pytest.approx(expected, rel=1e-6)


def test_start_is_the_kmeans_of_the_residuals(monkeypatch):
    monkeypatch.setattr(residual_module, "KMEANS_ITERATIONS", 200)  # until it has converged
    quantizer, latent = ResidualQuantizer(2, 6, 4), normal(200, 4)
    shares = quantizer.initialise(latent, torch.Generator().manual_seed(0))
    residual = latent
    for level, codebook in enumerate(quantizer.codebooks.detach()):
        codes = nearest(residual, codebook)
        torch.testing.assert_close(shares[level], torch.bincount(codes, minlength=6) / 200)
        for code in range(6):
            torch.testing.assert_close(codebook[code], residual[codes == code].mean(0), atol=1e-3, rtol=0)
        residual = residual - codebook[codes]


def test_centring_changes_the_bias_only():
    model, x, mean = RQVAE([24, 16, 8], 2, 5), normal(9, 24), normal(24, seed=4)
    plain = model.encoder(x - mean)
    model.centre(mean)
    torch.testing.assert_close(model.encoder(x), plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.decoder(torch.zeros(1, 8))[0], mean)


# ---------------------------------------------------- balanced assignment


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.integers(0, 2**16), st.sampled_from([1e-3, 1.0, 1e3]))
def test_balanced_codes_equal_the_plan_computed_with_logarithms(n, vocab_size, seed, scale):
    rows, codebook = normal(n, 3, seed=seed) * scale, normal(vocab_size, 3, seed=seed + 1) * scale
    plan = sinkhorn(squared_distances(rows, codebook).numpy())
    chosen = plan[np.arange(n), balanced_codes(rows, codebook).numpy()]
    np.testing.assert_allclose(chosen, plan.max(1), rtol=1e-4)


def test_diger_i16_half_of_the_codewords_far_away():
    """DIGER, I16: nearest codes use the near half, unevenly; balanced ones use all about equally, 32 rows each."""
    rows, codebook = normal(1024, 4), normal(32, 4, seed=2)
    codebook[16:] += 10
    counts = torch.bincount(nearest(rows, codebook), minlength=32)
    assert (counts[16:] == 0).all() and counts.max() > 150
    counts = torch.bincount(balanced_codes(rows, codebook), minlength=32)
    assert counts.min() >= 8 and counts.max() <= 64


# ----------------------------------------------------------- running means


def test_running_means_follow_the_formula():
    quantizer = random_quantizer(n_levels=2, vocab_size=5)
    books, mass = quantizer.codebooks.detach().double().numpy().copy(), np.full((2, 5), 3.0)
    means = RunningMeans(quantizer.codebooks, torch.from_numpy(mass).float(), decay=0.9)
    sums = books * mass[:, :, None]
    for seed in range(4):
        levels = quantizer(normal(30, 4, seed=seed))[1]
        levels = [(residual.clone(), words, codes) for residual, words, codes in levels]
        means.update(levels)
        for level, (residual, _, codes) in enumerate(levels):
            for code in range(5):
                own = residual[codes == code].double().numpy()
                mass[level, code] = 0.9 * mass[level, code] + 0.1 * len(own)
                sums[level, code] = 0.9 * sums[level, code] + 0.1 * own.sum(0)
        np.testing.assert_allclose(quantizer.codebooks.detach(), sums / mass[:, :, None], atol=1e-5)


def test_a_running_mean_of_nothing_stays_where_it_is():
    quantizer = random_quantizer(n_levels=1, vocab_size=3)
    with torch.no_grad():
        quantizer.codebooks[0, 2] = 50.0
    means = RunningMeans(quantizer.codebooks, torch.full((1, 3), 1.0), decay=0.1)
    for seed in range(60):  # 0.1 ** 60 is no float32
        means.update(quantizer(normal(30, 4, seed=seed))[1])
    torch.testing.assert_close(quantizer.codebooks[0, 2].detach(), torch.full((4,), 50.0))


# ---------------------------------------------------------------- restarts


def test_restarted_codewords_become_used():
    quantizer, latent = random_quantizer(n_levels=3, vocab_size=16), normal(400, 4)
    with torch.no_grad():
        quantizer.codebooks *= 0.3
        quantizer.codebooks[:, 4:12] += 40

    def used():
        return torch.stack([torch.bincount(codes, minlength=16) > 0 for _, _, codes in quantizer(latent)[1]])

    before, kept = used(), quantizer.codebooks.detach().clone()
    assert not before[:, 4:12].any() and before[:, :4].any()
    means = RunningMeans(quantizer.codebooks, torch.full((3, 16), 2.0), decay=0.9)
    quantizer.restart(~before, latent, torch.Generator().manual_seed(0))
    means.restart(~before)
    assert torch.equal(quantizer.codebooks.detach()[before], kept[before]), "used codewords stay"
    assert used()[~before].float().mean() > 0.9
    torch.testing.assert_close(means.sums / means.mass[:, :, None], quantizer.codebooks.detach())


def test_restarts_prefer_rows_with_large_errors():
    latent = torch.cat([torch.zeros(95, 2) + 0.01 * normal(95, 2), torch.full((5, 2), 3.0)])
    quantizer = ResidualQuantizer(1, 4, 2)
    quantizer.restart(torch.tensor([[False, True, True, True]]), latent, torch.Generator().manual_seed(0))
    assert (quantizer.codebooks[0, 1:] == 3).all()


def test_restarts_do_without_any_error():
    quantizer, latent = ResidualQuantizer(2, 4, 2), torch.zeros(6, 2)
    quantizer.restart(torch.tensor([[False, True, True, True]] * 2), latent, torch.Generator().manual_seed(0))
    assert (quantizer.codebooks == 0).all()


# ------------------------------------------------------------------- training


def share(fitted, data):
    return collision_figures(fitted.assign(data.embedding[1:])[0])["item_share"]


@pytest.mark.parametrize("choice", [{}, {"codebook": "ema"}, {"sinkhorn": True}], ids=str)
def test_every_way_of_training_tells_items_apart(data, choice):
    few = tokenizer(**choice).fit(data)
    codes, _ = few.assign(data.embedding[1:])
    assert share(few, data) < 0.5
    assert min(len(np.unique(column)) for column in codes.T) >= 15, "of 16 codewords"
    errors = few.prefix_errors(data.embedding[1:], codes).mean(0)
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.95


def test_kmeans_start_collides_far_less_than_a_random_one(data, monkeypatch):
    first_epoch = share(tokenizer(epochs=1).fit(data), data)

    def random_start(quantizer, latent, generator):
        torch.nn.init.normal_(quantizer.codebooks, std=float(latent.std()), generator=generator)
        return torch.full(quantizer.codebooks.shape[:2], 1 / 16)

    monkeypatch.setattr(ResidualQuantizer, "initialise", random_start)
    assert first_epoch < 0.5 * share(tokenizer(epochs=1).fit(data), data)


def test_kept_state_has_the_fewest_collisions_of_the_second_half(data, monkeypatch):
    seen = []

    def figures(codes):
        found = collision_figures(codes)
        # Made up, with the minimum neither at the start nor at the end.
        found["items"] = [0, 9, 8, 7, 6, 3, 5, 3, 6, 7][len(seen)]
        seen.append(codes.copy())
        return found

    monkeypatch.setattr(rqvae, "collision_figures", figures)
    kept = tokenizer(epochs=10).fit(data)
    codes, _ = kept.assign(data.embedding[1:])
    assert len(seen) == 10 and np.array_equal(codes, seen[7]), "the later of two equal ones"
    assert not np.array_equal(codes, seen[5]) and not np.array_equal(codes, seen[9])


def test_divergence_is_reported(data):
    with pytest.raises(ValueError, match="lower sid_learning_rate=1e\\+30"):
        tokenizer(learning_rate=1e30).fit(data)


def test_automatic_epochs_shrink_with_the_catalogue(data, monkeypatch):
    seen, epoch = [], RQVAETokenizer._epoch

    def spy(tokenizer, embedding, batches, *rest):
        seen.append(len(batches))
        return epoch(tokenizer, embedding, batches, *rest)

    monkeypatch.setattr(RQVAETokenizer, "_epoch", spy)
    monkeypatch.setattr(rqvae, "AUTO_UPDATES", 40)
    tokenizer(epochs="auto", batch_size=100).fit(data)
    assert seen == [6] * 10, "at least ten epochs"
    seen.clear()
    tokenizer(epochs="auto", batch_size=600).fit(data)
    assert seen == [1] * 40


def test_memory_mapped_vectors_give_the_same_codes(data, fitted, tmp_path):
    np.save(tmp_path / "vectors.npy", data.embedding)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    again = tokenizer().fit(TokenizerInput(mapped, data.popularity, data.item_tokens))
    assert np.array_equal(again.assign(mapped[1:])[0], fitted.assign(data.embedding[1:])[0])


def test_a_large_catalogue_is_sampled(data, monkeypatch):
    sizes, initialise = [], ResidualQuantizer.initialise

    def spy(quantizer, latent, generator):
        sizes.append(len(latent))
        return initialise(quantizer, latent, generator)

    monkeypatch.setattr(ResidualQuantizer, "initialise", spy)
    monkeypatch.setattr(rqvae, "SAMPLE_ROWS", 100)
    monkeypatch.setattr(rqvae, "SAMPLE_ROWS_PER_CODEWORD", 10)
    assert share(tokenizer().fit(data), data) < 0.5
    assert sizes == [160]


# ------------------------------------------------------------------- encoding


def test_the_nearest_codeword_is_the_code_at_every_level(data, fitted):
    x = data.embedding[1:]
    codes, lengths = fitted.assign(x)
    assert (lengths == 3).all() and codes.dtype == np.int32
    for level in range(3):
        distances = fitted.code_distances(x, codes, level)
        assert distances.shape == (600, 16) and distances.dtype == np.float32
        assert np.array_equal(distances.argmin(1), codes[:, level])
    latent = fitted.model.encoder(torch.from_numpy(unit_rows(x))).detach().double()
    books = fitted.model.quantizer.codebooks.detach().double()
    expected = torch.cdist(latent - books[0][codes[:, 0]] - books[1][codes[:, 1]], books[2]).square()
    np.testing.assert_allclose(distances, expected, atol=1e-4)


def test_prefix_errors_decode_partial_sums(data, fitted):
    x = unit_rows(data.embedding[1:])
    codes, _ = fitted.assign(x)
    books = fitted.model.quantizer.codebooks.detach()
    for level in range(3):
        total = sum(book[ids] for book, ids in zip(books[: level + 1], codes.T))
        decoded = fitted.model.decoder(total).detach().numpy()
        expected = np.square(x - unit_rows(decoded)).sum(1)
        np.testing.assert_allclose(fitted.prefix_errors(x, codes)[:, level], expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.zeros((600, 2), int), np.full((600, 3), 16), np.full((600, 3), -1)])
def test_bad_codes_are_refused(data, fitted, bad):
    with pytest.raises(ValueError, match=r"codes must be \(600, 3\) and lie below \(16, 16, 16\)"):
        fitted.prefix_errors(data.embedding[1:], bad)


@pytest.mark.parametrize("policy", ["suffix", "nearest", "sinkhorn"])
def test_every_policy_makes_codes_unique(data, policy):
    few = catalogue(data.embedding[1:201], data.popularity[1:201])
    table = tokenizer(epochs=3, vocab_size=12, collisions=policy).fit(few).encode(few)
    assert table.provenance["collisions"]["items"] > 0, "else there is nothing to resolve"
    assert table.unique and table.max_length == (4 if policy == "suffix" else 3)


def test_items_may_share_codes():
    data = catalogue(np.repeat(np.random.default_rng(0).standard_normal((20, 8)), 3, axis=0), np.full(60, 5))
    table = tokenizer(collisions="none").fit(data).encode(data)
    assert not table.unique and table.provenance["collisions"]["items"] == 60


def test_a_state_brings_its_sizes(data):
    deep = tokenizer(hidden_sizes=[10, 9, 8, 7, 6, 5], latent_size=3, epochs=1).fit(data)
    state = dict(sorted(deep.state_dict().items()))
    restored = RQVAETokenizer()
    restored.load_state_dict(state)
    assert np.array_equal(restored.assign(data.embedding)[0], deep.assign(data.embedding)[0])
    assert restored.vocab_sizes == (16,) * 3
    state.pop("decoder.0.weight")
    with pytest.raises(ValueError, match="no state of tokenizer 'rqvae'"):
        RQVAETokenizer().load_state_dict(state)


def test_before_fit():
    with pytest.raises(RuntimeError, match="fit"):
        RQVAETokenizer().assign(np.ones((2, 4), dtype=np.float32))


@pytest.mark.parametrize(
    "name, value",
    [
        ("vocab_size", 1),
        ("n_levels", 0),
        ("latent_size", 0),
        ("hidden_sizes", 512),
        ("hidden_sizes", [512, 0]),
        ("hidden_sizes", ["512"]),
        ("codebook", "kmeans"),
        ("ema_decay", 1.0),
        ("sinkhorn", 1),
        ("beta", -0.1),
        ("vq_weight", 0),
        ("epochs", 0),
        ("epochs", "all"),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("weight_decay", -1),
        ("collisions", "wrap"),
    ],
)
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError) as refusal:
        RQVAETokenizer.Settings(**{name: value})
    assert str(refusal.value).startswith(f"sid_{name}={value!r} is not usable")
