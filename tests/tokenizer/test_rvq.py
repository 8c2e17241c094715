"""Residual vector quantisation by gradient descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_vsid.tokenizer.base import TokenizerInput, unit_rows
from recbole_vsid.tokenizer.kmeans import kmeans_plus_plus
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from recbole_vsid.tokenizer.rvq import RVQTokenizer, draw_batches
from tests.tokenizer.synthetic import catalogue, zipf_catalogue

QUICK = {"vocab_size": 16, "updates": 100, "batch_size": 256}


@pytest.fixture(scope="module")
def data():
    return zipf_catalogue(600, d=24)


def tokenizer(seed=0, **changes):
    return RVQTokenizer(RVQTokenizer.Settings(**{**QUICK, **changes}), seed=seed)


@pytest.fixture(scope="module")
def fitted(data):
    return tokenizer().fit(data)


def test_residuals_are_normalised_before_the_codeword_is_subtracted(data, fitted):
    """IntRR, 3.2: x_l = R_(l-1) / |R_(l-1)|, k_l = argmin |x_l - B_l[k]|, R_l = x_l - B_l[k_l]."""
    x = data.embedding[1:]
    codes, lengths = fitted.assign(x)
    books = fitted.state_dict()["centroids"].double().numpy()
    for row, residual in enumerate(x.astype(np.float64)):
        for level, book in enumerate(books):
            residual = residual / np.linalg.norm(residual)
            code = np.square(residual - book).sum(1).argmin()
            assert codes[row, level] == code
            residual = residual - book[code]
    assert (lengths == 3).all()


def test_raw_residuals_are_a_choice(data):
    raw = tokenizer(normalize_residuals=False).fit(data)
    books = raw.state_dict()["centroids"].numpy()
    codes, _ = raw.assign(data.embedding[1:])
    residual = data.embedding[1:] - books[0][codes[:, 0]]
    assert np.array_equal(codes[:, 1], ((residual[:, None] - books[1]) ** 2).sum(2).argmin(1))


def test_a_level_is_adagrad_on_the_summed_squared_error(data):
    """One update with all items moves a codeword by the learning rate towards its items (IntRR, 3.3)."""
    one = tokenizer(updates=1, n_levels=1, batch_size=600, learning_rate=0.02).fit(data)
    rows = torch.from_numpy(unit_rows(data.embedding[1:]))
    seeds = rows[torch.from_numpy(np.random.default_rng(0).choice(600, 192, replace=False))]
    start = kmeans_plus_plus(seeds, 16, torch.ones(192).double(), torch.Generator().manual_seed(0))
    codes = torch.cdist(rows.double(), start.double()).argmin(1)
    gradient = torch.zeros(16, 24).index_add_(0, codes, 2 * (start[codes] - rows))
    # Adagrad's first step is the sign of the gradient.
    torch.testing.assert_close(one.state_dict()["centroids"][0], start - 0.02 * gradient.sign(), atol=1e-5, rtol=0)


def test_training_lowers_the_error_of_every_level(data):
    x = data.embedding[1:]
    errors = []
    for updates in (1, 400):
        trained = tokenizer(updates=updates, learning_rate=0.02).fit(data)
        errors.append(trained.prefix_errors(x, trained.assign(x)[0]).mean(0))
    assert (errors[1] < 0.97 * errors[0]).all()
    assert (np.diff(errors[1]) < 0).all(), "and every level adds to the ones before"


def test_codes_are_about_as_good_as_those_of_kmeans(data):
    settings = RKMeansTokenizer.Settings(vocab_size=16, normalize_residuals=True)
    reference = RKMeansTokenizer(settings).fit(data)
    x = data.embedding[1:]
    ours, theirs = (t.prefix_errors(x, t.assign(x)[0]).mean(0) for t in (tokenizer(updates=500).fit(data), reference))
    assert (np.abs(ours / theirs - 1) < 0.1).all()


def test_one_level_is_plain_vector_quantisation(data):
    plain = tokenizer(n_levels=1).fit(data)
    x = unit_rows(data.embedding[1:])
    codes, lengths = plain.assign(x)
    (book,) = plain.state_dict()["centroids"]
    assert codes.shape == (600, 1) and (lengths == 1).all() and plain.vocab_sizes == (16,)
    expected = np.square(x - F.normalize(book[codes[:, 0]], dim=1).numpy()).sum(1)
    np.testing.assert_allclose(plain.prefix_errors(x, codes)[:, 0], expected, atol=1e-5)


def test_the_nearest_codeword_is_the_code_at_every_level(data, fitted):
    x = data.embedding[1:]
    codes, _ = fitted.assign(x)
    for level in range(3):
        assert np.array_equal(fitted.code_distances(x, codes, level).argmin(1), codes[:, level])


def test_memory_mapped_vectors_give_the_same_codes(data, fitted, tmp_path):
    np.save(tmp_path / "vectors.npy", data.embedding)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    again = tokenizer().fit(TokenizerInput(mapped, data.popularity, data.item_tokens))
    assert np.array_equal(again.assign(mapped[1:])[0], fitted.assign(data.embedding[1:])[0])


def test_items_with_the_same_vector_share_a_code():
    data = catalogue(np.repeat(np.random.default_rng(0).standard_normal((20, 8)), 3, axis=0), np.full(60, 5))
    fitted = tokenizer(vocab_size=20, n_levels=2).fit(data)
    codes, _ = fitted.assign(data.embedding[1:])
    assert np.array_equal(codes[0::3], codes[1::3]) and np.array_equal(codes[0::3], codes[2::3])
    assert np.isfinite(fitted.prefix_errors(data.embedding[1:], codes)).all()
    assert fitted.encode(data).unique


def test_every_row_is_drawn_once_before_one_is_drawn_again():
    batches = draw_batches(10, 4, np.random.default_rng(0))
    for _ in range(3):
        passes = [next(batches) for _ in range(3)]
        assert sorted(np.concatenate(passes)) == list(range(10))
        assert max(map(len, passes)) <= 4


def test_a_state_of_another_tokenizer_is_refused():
    with pytest.raises(ValueError, match="no state of tokenizer 'rvq'"):
        RVQTokenizer().load_state_dict({"weight": torch.ones(2)})
    with pytest.raises(RuntimeError, match="'rvq'.*fit"):
        RVQTokenizer().assign(np.ones((2, 4), dtype=np.float32))


@pytest.mark.parametrize(
    "name, value",
    [
        ("vocab_size", 1),
        ("n_levels", 0),
        ("normalize_residuals", "yes"),
        ("updates", 0),
        ("batch_size", 0.5),
        ("learning_rate", 0),
        ("fit_rows", "all"),
        ("collisions", "wrap"),
    ],
)
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError) as refusal:
        RVQTokenizer.Settings(**{name: value})
    assert str(refusal.value).startswith(f"sid_{name}={value!r} is not usable")
