"""The dVAE against numbers of the authors' released code (see tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_vsid.tokenizer.dvae import (
    DVAEDecoder,
    DVAEEncoder,
    fixed_length_loss,
    length_posterior,
    squared_errors,
    variable_length_loss,
)
from recbole_vsid.tokenizer.dvae_tokenizer import DVAETokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "vlsid_tokenizer.npz"
STOP_KEYS = ("stop_branch", "stop_transformer", "stop_predictor", "stop_bias")


class Golden:
    """The arrays of the file under this package's parameter names, and both models built from them."""

    def __init__(self):
        with np.load(GOLDEN) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        weights = {key.replace(".block", ".blocks."): value for key, value in arrays.items()}
        self.state = {key: value for key, value in weights.items() if key.startswith(("encoder.", "decoder."))}
        self.input = {key[6:]: value for key, value in arrays.items() if key.startswith("input.")}
        self.expected = {key[9:]: value for key, value in arrays.items() if key.startswith("expected.")}
        self.x = self.input["x"]
        self.unit = torch.nn.functional.normalize(self.x, dim=-1)

    def models(self, stop_head=True):
        encoder = DVAEEncoder(16, 64, 32, 5, stop_head=stop_head)
        decoder = DVAEDecoder(16, 128, 32, 2)
        for name, module in (("encoder.", encoder), ("decoder.", decoder)):
            part = {key[8:]: value for key, value in self.state.items() if key.startswith(name)}
            if not stop_head:
                part = {key: value for key, value in part.items() if not key.startswith(STOP_KEYS)}
            module.load_state_dict(part)  # strict: no weight may be missing or left over
        return encoder, decoder

    def scalar(self, name):
        return float(self.input[name])


@pytest.fixture(scope="module")
def golden():
    return Golden()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_variable_length_loss_terms_and_gradients(golden):
    encoder, decoder = golden.models()
    out = encoder(golden.unit, golden.scalar("tau"), noise=golden.input["gumbel_noise"])
    terms = variable_length_loss(
        golden.unit,
        decoder(out.relaxed_tokens),
        out.token_logits,
        out.stop_logits,
        beta=golden.scalar("beta"),
        length_cost=golden.scalar("length_cost"),
        free_bits=golden.scalar("free_bits"),
        smoothing=0.1,
    )
    for name in ("loss", "reconstruction", "token_kl", "mean_length", "length_entropy"):
        close(getattr(terms, name).detach(), golden.expected[f"varlen.{name}"])
    terms.loss.backward()
    for name in ("codebook", "stop_bias", "log_step_size"):
        close(getattr(encoder, name).grad, golden.expected[f"varlen.grad.{name}"])


def test_logits_relaxed_tokens_and_length_distribution(golden):
    encoder, _ = golden.models()
    with torch.no_grad():
        out = encoder(golden.unit, golden.scalar("tau"), noise=golden.input["gumbel_noise"])
        log_q, log_survival = length_posterior(out.stop_logits)
    close(out.token_logits, golden.expected["token_logits"])
    close(out.relaxed_tokens, golden.expected["relaxed_tokens"])
    close(log_q, golden.expected["varlen.log_length_probability"])
    close(log_survival, golden.expected["varlen.log_survival"])


def test_fixed_length_loss(golden):
    encoder, decoder = golden.models(stop_head=False)
    with torch.no_grad():
        out = encoder(golden.unit, golden.scalar("tau"), noise=golden.input["gumbel_noise"])
        assert out.stop_logits is None
        terms = fixed_length_loss(
            golden.unit,
            decoder(out.relaxed_tokens),
            out.token_logits,
            beta=golden.scalar("beta"),
            free_bits=golden.scalar("free_bits"),
        )
    for name in ("loss", "reconstruction", "token_kl"):
        close(getattr(terms, name), golden.expected[f"fixed.{name}"])


def test_hard_codes_lengths_and_prefix_reconstructions(golden):
    encoder, decoder = golden.models()
    with torch.no_grad():
        codes, stop_logits = encoder.encode(golden.unit)
        reconstructions = decoder.decode(codes)
    assert torch.equal(codes.int(), golden.expected["codes"])
    assert torch.equal(length_posterior(stop_logits)[0].argmax(1).int() + 1, golden.expected["lengths"])
    assert len(set(golden.expected["lengths"].tolist())) > 1
    close(reconstructions, golden.expected["prefix_reconstruction"])


def test_tokenizer_with_golden_weights(golden):
    tokenizer = DVAETokenizer()
    tokenizer.load_state_dict(golden.state)
    codes, lengths = tokenizer.assign(golden.x.numpy())
    expected, expected_lengths = golden.expected["codes"].numpy(), golden.expected["lengths"].numpy()
    behind = np.arange(5) >= expected_lengths[:, None]
    assert np.array_equal(lengths, expected_lengths)
    assert np.array_equal(codes, np.where(behind, -1, expected))
    assert np.array_equal(tokenizer.assign_full(golden.x.numpy()), expected)
    errors = squared_errors(golden.unit, golden.expected["prefix_reconstruction"]).numpy()
    np.testing.assert_allclose(tokenizer.prefix_errors(golden.x.numpy(), expected), errors, rtol=0, atol=1e-5)
