"""The cached decoder against the forward pass over the whole sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.layers import CachedDecoder, Transformer

HEAD_DIM = 8


def random_transformer(n_heads=2, n_layers=2):
    transformer = Transformer(n_heads * HEAD_DIM, n_layers, HEAD_DIM).eval()
    for parameter in transformer.parameters():  # also those that start at zero
        torch.nn.init.normal_(parameter, std=0.4)
    return transformer


def decode_both(transformer, lengths, beams):
    """Random contexts and suffixes, beams reordered at random: ``(cached, uncached)`` outputs."""
    width = transformer.blocks[0].q.in_features
    lengths = torch.tensor(lengths)
    context = torch.randn(len(lengths), int(lengths.max()) + 1, width)
    decoder = CachedDecoder(transformer)
    cached = [decoder.prefill(context, lengths)]
    expected = [torch.stack([transformer(row[None, :n])[0, -1] for row, n in zip(context, lengths)])]
    paths = [[row[:n]] for row, n in zip(context, lengths)]
    for n_beams in beams:
        x = torch.randn(len(lengths), n_beams, width)
        parents = torch.randint(len(paths[0]), (len(lengths), n_beams))
        cached.append(decoder.step(x, parents))
        paths = [
            [torch.cat([paths[b][parents[b, w]], x[b, w : w + 1]]) for w in range(n_beams)] for b in range(len(lengths))
        ]
        expected.append(torch.stack([torch.stack([transformer(p[None])[0, -1] for p in row]) for row in paths]))
    return cached, expected


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 2),
    st.integers(0, 1000),
)
def test_equals_the_uncached_forward(lengths, beams, n_heads, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        cached, expected = decode_both(random_transformer(n_heads), lengths, beams)
    for fast, slow in zip(cached, expected):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_reads_padding_nowhere():
    torch.manual_seed(0)
    decoder = CachedDecoder(random_transformer())
    context, x = torch.randn(2, 6, 16), torch.randn(2, 3, 16)
    lengths, parents = torch.tensor([2, 6]), torch.zeros(2, 3, dtype=torch.int64)
    first, second = decoder.prefill(context, lengths), decoder.step(x, parents)
    context[0, 2:] = 100.0
    torch.testing.assert_close(decoder.prefill(context, lengths), first)
    torch.testing.assert_close(decoder.step(x, parents), second)


def test_context_is_never_repeated_per_beam():
    decoder = CachedDecoder(random_transformer(n_layers=1))
    decoder.prefill(torch.randn(2, 50, 16), torch.tensor([50, 3]))
    for parents in (torch.zeros(2, 30, dtype=torch.int64), torch.randint(30, (2, 30))):
        decoder.step(torch.randn(2, 30, 16), parents)
    tensors = [tensor for layer in decoder._context + decoder._suffix for tensor in layer]
    stored = sum(x.numel() for pair in tensors for x in (pair if isinstance(pair, tuple) else (pair,)))
    assert stored == 2 * 2 * 16 * (50 + 2 * 30)


def test_bf16_autocast():
    torch.manual_seed(0)
    transformer = random_transformer()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cached, expected = decode_both(transformer, [5, 1, 3], [4, 6, 2])
    for fast, slow in zip(cached, expected):
        torch.testing.assert_close(fast.float(), slow.float(), atol=0.1, rtol=0.1)


def test_a_decoder_can_be_used_again():
    torch.manual_seed(0)
    transformer = random_transformer()
    decoder, fresh = CachedDecoder(transformer), CachedDecoder(transformer)
    decoder.prefill(torch.randn(1, 9, 16), torch.tensor([9]))
    decoder.step(torch.randn(1, 4, 16), torch.zeros(1, 4, dtype=torch.int64))
    context, lengths = torch.randn(3, 4, 16), torch.tensor([4, 1, 2])
    x, parents = torch.randn(3, 2, 16), torch.zeros(3, 2, dtype=torch.int64)
    for one in (decoder, fresh):
        one.prefill(context, lengths)
    assert torch.equal(decoder.step(x, parents), fresh.step(x, parents))


@pytest.mark.parametrize("lengths", [[0, 3], [4, 1]])
def test_empty_and_too_long_contexts_are_refused(lengths):
    with pytest.raises(ValueError, match="1..3"):
        CachedDecoder(random_transformer()).prefill(torch.randn(2, 3, 16), torch.tensor(lengths))
