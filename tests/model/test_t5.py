"""The encoder–decoder against Hugging Face's T5, incremental decoding against whole prefixes, and its dropout."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recbole_vsid.model.dropout import Dropout, byte_dropout
from recbole_vsid.model.t5 import BeamDecoder, Stack, attend, relative_buckets
from tests.model.tiny_tiger import interaction_of, tiny_tiger
from tests.property.strategies import make_table

GOLDEN = Path(__file__).parent.parent / "golden" / "t5.npz"
N_TOKENS = 39  # of the golden vocabulary; the token behind them begins the decoder and pads

# Hugging Face's names → ours, in this order.
RENAMED = [
    (r"^shared\.", "token_embedding."),
    (r"^lm_head\.", "head."),
    (r"block\.0\.layer\.0\.SelfAttention\.relative_attention_bias", "bias.table"),
    (r"final_layer_norm", "norm"),
    (r"block\.", "layers."),
    (r"layer\.\d\.(SelfAttention|EncDecAttention|DenseReluDense)", r"\1"),
    (r"layer\.0\.layer_norm", "self_norm"),
    (r"^(decoder.*)layer\.1\.layer_norm", r"\1cross_norm"),
    (r"layer\.\d\.layer_norm", "ff_norm"),
    ("SelfAttention", "self_attention"),
    ("EncDecAttention", "cross_attention"),
    ("DenseReluDense", "feed_forward"),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file}
    return {name: array.long() if array.dtype == torch.int32 else array for name, array in arrays.items()}


def golden_model(golden, tied):
    """A TIGER whose every item *i* has the one token *i* − 1, with the golden weights."""
    table = make_table([(token,) for token in range(N_TOKENS)], [N_TOKENS])
    sizes = {"hidden_size": 16, "n_heads": 2, "head_size": 12, "inner_size": 24}
    model = tiny_tiger(table, tie_embeddings=tied, dropout_prob=0.1, **sizes)
    state = {}
    for name, weight in golden.items():
        if name.endswith(".weight"):
            for pattern, ours in RENAMED:
                name = re.sub(pattern, ours, name)
            state[name] = weight
    if tied:
        del state["head.weight"]
    else:
        state["head.weight"] = state["head.weight"][:N_TOKENS]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) == {"codes", "code_lengths"}
    return model


def stacks(seed=0, dropout=0.0, n_layers=2):
    """An encoder and a decoder, both of width 12, whose weights are large enough to matter."""
    torch.manual_seed(seed)
    pair = [Stack(12, n_layers, 2, 5, 20, dropout, is_decoder, is_decoder) for is_decoder in (False, True)]
    for module in (module for stack in pair for module in stack.modules()):
        if isinstance(module, nn.RMSNorm):
            nn.init.normal_(module.weight, mean=1, std=0.3)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Linear):  # the output matrices are zero at the start
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return pair


def ragged(lengths):
    """True behind each row's length."""
    return torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)


# ------------------------------------------------------------------------ Hugging Face


@pytest.mark.parametrize("gradient", [True, False], ids=["explicit attention", "fused attention"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_equals_hugging_face(golden, tied, gradient):
    model, close = golden_model(golden, tied), {"atol": 1e-5, "rtol": 1e-5}
    rows = [row[:length].tolist() for row, length in zip(golden["input_ids"] + 1, golden["lengths"])]
    with torch.set_grad_enabled(gradient):
        memory, padding = model.encode(interaction_of(rows))
        assert torch.equal((~padding).sum(1), golden["lengths"])
        torch.testing.assert_close(memory[~padding], golden["expected.encoder_hidden"][~padding], **close)
        hidden = model.decoder(model.token_embedding(golden["decoder_input_ids"]), None, memory, padding)
        torch.testing.assert_close(hidden, golden["expected.decoder_hidden"], **close)
        expected = golden["expected.tied_logits" if tied else "expected.logits"]
        torch.testing.assert_close(model._logits(hidden, 0), expected[..., :N_TOKENS], **close)


# ------------------------------------------------------------------ relative positions


def naive_bucket(distance, two_sided):
    """The rule of section 2.1 with whole numbers only, so that no logarithm is rounded.

    With E exact distances in a direction, the k-th logarithmic bucket begins at E · (128 / E)^(k / E).
    """
    if two_sided:
        n, first, distance = 16, 16 * (distance > 0), abs(distance)
    else:
        n, first, distance = 32, 0, max(-distance, 0)
    exact = n // 2
    if distance < exact:
        return first + distance
    k = sum(distance**exact >= exact**exact * (128 // exact) ** k for k in range(1, exact))
    return first + exact + k


@pytest.mark.parametrize("two_sided", [True, False])
def test_relative_buckets(golden, two_sided):
    distance = golden["distance"]
    buckets = relative_buckets(distance, two_sided)
    assert buckets.tolist() == [naive_bucket(d, two_sided) for d in distance.tolist()]
    assert torch.equal(buckets, golden["expected.buckets"][0 if two_sided else 1])
    # Two-sided, the first bucket of the keys behind the query would be that of distance 0.
    assert set(buckets.tolist()) == set(range(32)) - ({16} if two_sided else set())
    assert (relative_buckets(torch.tensor([-128, -1000]), two_sided) == (15 if two_sided else 31)).all()


# --------------------------------------------------------------------------- attention


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_attention_with_gradients_equals_the_fused_kernel(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8, generator=generator).to(dtype).requires_grad_() for n in (4, 7, 7))
    bias = torch.randn(3, 2, 4, 7, generator=generator).masked_fill(ragged([7, 3, 1])[:, None, None], -torch.inf)
    bias.requires_grad_()
    ours = attend(q, k, v, bias)
    with torch.no_grad():
        without_gradient = attend(q, k, v, bias)
    fused = F.scaled_dot_product_attention(q, k, v, bias.to(dtype), scale=1.0).transpose(1, 2).flatten(2)
    assert ours.dtype == without_gradient.dtype == dtype
    torch.testing.assert_close(ours, fused, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(without_gradient, fused, atol=tolerance, rtol=tolerance)
    upstream, inputs = torch.randn(ours.shape, generator=generator).to(dtype), (q, k, v, bias)
    for one, other in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(fused, inputs, upstream)):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("gradient", [True, False])
def test_padding_does_not_change_a_row(gradient):
    encoder, decoder = stacks()
    lengths, generator = [9, 4, 1], torch.Generator().manual_seed(1)
    x, y = torch.randn(3, 9, 12, generator=generator), torch.randn(3, 3, 12, generator=generator)
    padding = ragged(lengths)
    with torch.set_grad_enabled(gradient):
        memory = encoder(x, padding)
        written = decoder(y, None, memory, padding)
        for row, length in enumerate(lengths):
            alone = encoder(x[row : row + 1, :length])
            torch.testing.assert_close(memory[row, :length], alone[0], atol=1e-5, rtol=1e-5)
            alone = decoder(y[row : row + 1], None, alone, torch.zeros(1, length, dtype=torch.bool))
            torch.testing.assert_close(written[row], alone[0], atol=1e-5, rtol=1e-5)


def test_the_encoder_sees_all_and_the_decoder_only_what_is_before():
    encoder, decoder = stacks()
    x = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(2))
    changed, nothing_padded = x.clone(), torch.zeros(2, 6, dtype=torch.bool)
    changed[:, 4:] += 1
    assert not torch.allclose(encoder(x)[:, 0], encoder(changed)[:, 0], atol=1e-3)
    before, after = (decoder(each, None, x, nothing_padded) for each in (x, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients_reach_every_parameter(dropout):
    encoder, decoder = stacks(dropout=dropout)
    x, y = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    padding = ragged([5, 3])
    (decoder(y, None, encoder(x, padding), padding) * torch.randn(2, 4, 12)).sum().backward()
    for stack in (encoder, decoder):
        for name, parameter in stack.named_parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 1e-4, name


# ----------------------------------------------------------------- incremental decoding


@st.composite
def searches(draw):
    """``(memory lengths, parents)``: of each step after the first, which beams of the one before its beams continue."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    width, steps = 1, []
    for _ in range(draw(st.integers(1, 4))):
        previous, width = width, draw(st.integers(1, 4))
        beams = st.lists(st.integers(0, previous - 1), min_size=width, max_size=width)
        steps.append([draw(beams) for _ in lengths])
    return lengths, steps


@settings(max_examples=40, deadline=None)
@given(searches(), st.integers(0, 2**32 - 1))
def test_beams_equal_whole_prefixes(search, seed):
    (lengths, steps), generator = search, torch.Generator().manual_seed(seed)
    _, stack = stacks()
    stack.eval()
    memory, padding = torch.randn(len(lengths), max(lengths), 12, generator=generator), ragged(lengths)
    with torch.no_grad():
        decoder = BeamDecoder(stack, memory, padding)
        prefixes = torch.randn(len(lengths), 1, 1, 12, generator=generator)  # [B, W, n, width]
        hidden = decoder.step(prefixes[:, :, -1])
        for position, parents in enumerate([None, *map(torch.tensor, steps)]):
            if parents is not None:
                x = torch.randn(*parents.shape, 12, generator=generator)
                hidden = decoder.step(x, parents)
                kept = torch.stack([row[chosen] for row, chosen in zip(prefixes, parents)])
                prefixes = torch.cat([kept, x.unsqueeze(2)], dim=2)
            assert decoder.n_steps == position + 1
            n_beams = prefixes.size(1)
            rows = torch.arange(len(lengths)).repeat_interleave(n_beams)
            whole = stack(prefixes.flatten(0, 1), None, memory[rows], padding[rows])[:, -1]
            torch.testing.assert_close(hidden.flatten(0, 1), whole, atol=1e-5, rtol=1e-5)


# ----------------------------------------------------------------------------- dropout


@pytest.mark.parametrize(("rate", "share"), [(0.1, 26 / 256), (0.5, 0.5), (0.9, 230 / 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_byte_dropout_drops_a_share_and_keeps_the_mean(rate, share, dtype):
    torch.manual_seed(3)
    dropped = byte_dropout(torch.ones(1003, 1001, dtype=dtype), rate)  # not a whole number of words
    assert dropped.dtype == dtype and dropped.shape == (1003, 1001)
    deviation = (share * (1 - share) / dropped.numel()) ** 0.5
    assert (dropped == 0).double().mean().item() == pytest.approx(share, abs=5 * deviation)
    kept = dropped[dropped != 0].unique()
    assert kept.tolist() == pytest.approx([1 / (1 - share)], rel=1e-6 if dtype == torch.float32 else 4e-3)


def test_byte_dropout_draws_every_element_alone():
    """Each of the eight bytes of a word drops as often as the others, and no two of them together more than chance."""
    torch.manual_seed(4)
    n = 200_000
    zero = (byte_dropout(torch.ones(n, 8), 0.5) == 0).double() - 0.5
    assert (zero.mean(0).abs() < 5 * 0.5 / n**0.5).all()
    # Products of two centred coins have a standard deviation of 1/4; neighbours within a word and across words.
    together = (zero.T @ zero / n).fill_diagonal_(0)
    assert (together.abs() < 5 * 0.25 / n**0.5).all()
    assert abs((zero[:-1, -1] * zero[1:, 0]).mean()) < 5 * 0.25 / n**0.5


def test_byte_dropout_follows_the_seed_and_passes_gradients():
    x = torch.randn(40, 7, requires_grad=True)
    torch.manual_seed(5)
    first, second = byte_dropout(x, 0.3), byte_dropout(x, 0.3)
    torch.manual_seed(5)
    assert torch.equal(byte_dropout(x, 0.3), first) and not torch.equal(first, second)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(gradient, first.detach() / x.detach())


def test_dropout_in_evaluation_and_at_rate_0_is_nothing():
    x, state = torch.randn(5, 6), torch.get_rng_state()
    assert torch.equal(Dropout(0.5).eval()(x), x) and torch.equal(Dropout(0.0).train()(x), x)
    assert torch.equal(torch.get_rng_state(), state), "no random numbers are drawn for it"
    assert not torch.equal(Dropout(0.5).train()(x), x)


def test_a_stack_drops_in_training_only():
    encoder, _ = stacks(dropout=0.3)
    x = torch.randn(2, 5, 12)
    assert not torch.allclose(encoder(x), encoder(x))
    encoder.eval()
    torch.testing.assert_close(encoder(x), encoder(x), atol=0, rtol=0)


@pytest.mark.parametrize("cross", [False, True], ids=["encoder", "decoder"])
def test_dropout_stands_where_t5_has_it(monkeypatch, cross):
    dropped = []

    def record(x, rate):
        dropped.append((tuple(x.shape), rate))
        return x

    for module in ("dropout", "t5"):
        monkeypatch.setattr(f"recbole_vsid.model.{module}.dropout", record)
    stack = stacks(dropout=0.3, n_layers=1)[cross]
    memory = (torch.randn(2, 7, 12), ragged([7, 3])) if cross else ()
    stack(torch.randn(2, 5, 12), None, *memory)
    residual, inner = (2, 5, 12), (2, 5, 20)
    attention = [[(2, 2, 5, n), residual] for n in ([5, 7] if cross else [5])]  # the weights, then what is added
    assert dropped == [(shape, 0.3) for shape in [residual, *sum(attention, []), inner, residual, residual]]
