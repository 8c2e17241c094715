"""HSTU against the authors' code and against loops over queries and keys.

The golden file holds one random block and what the released code of IntRR (github.com/AMAP-ML/IntRR) makes of it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recbole_vsid.model.hstu import EPSILON, HSTU, Block
from recbole_vsid.model.t5 import relative_buckets
from tests.model.test_t5 import ragged

GOLDEN = Path(__file__).parent.parent / "golden" / "intrr.npz"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def stack(n_layers=2, dropout=0.0, seed=0):
    """A stack of width 12 with two heads, whose weights are large enough to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = HSTU(12, n_layers, 2, dropout)
        for parameter in made.parameters():
            nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.5)
    return made


def vectors(*shape, seed=1):
    return torch.randn(*shape, 12, generator=torch.Generator().manual_seed(seed))


def test_a_block_equals_the_official_code():
    with np.load(GOLDEN) as file:
        golden = {name: torch.from_numpy(file[name]) for name in file if name.startswith("hstu.")}
    made = HSTU(16, 1, int(golden["hstu.heads"]), 0.1).eval()
    renamed = {"norm": "norm", "in": "inward", "out": "outward"}
    state = {f"{o}.{part}": golden[f"hstu.{t}.{part}"] for t, o in renamed.items() for part in ("weight", "bias")}
    made.layers[0].load_state_dict({**state, "bias.table.weight": golden["hstu.relative_bias"]})
    real = ~ragged(golden["hstu.input.lengths"].tolist())
    y = made(golden["hstu.input.x"])
    torch.testing.assert_close(y[real], golden["hstu.expected.y"][real], **CLOSE)


def naive_block(block, x):
    """One block on one row ``[n, width]``, a query, a head and a key at a time."""
    (n_heads, size), n = block.heads, len(x)
    u, v, q, k = block.inward(block.norm(x)).split(x.size(1), dim=1)
    attended = torch.zeros_like(x)
    for head in range(n_heads):
        own = slice(head * size, (head + 1) * size)
        for i in range(n):
            weights = []
            for j in range(i + 1):
                bucket = relative_buckets(torch.tensor(j - i), two_sided=False)
                logit = q[i, own] @ k[j, own] / math.sqrt(size) + block.bias.table.weight[bucket, head]
                weights.append(torch.log(1 + torch.exp(logit)))
            total = sum(weights) + EPSILON
            attended[i, own] = sum(weight / total * v[j, own] for j, weight in enumerate(weights))
    return x + block.outward(attended * u * torch.sigmoid(u))


def test_a_stack_equals_loops_over_queries_and_keys():
    made, x = stack(n_layers=3), vectors(2, 20)  # beyond the 16 distances that have a bucket each
    with torch.no_grad():
        y = made(x)
        for row, expected in zip(y, x):
            for block in made.layers:
                expected = naive_block(block, expected)
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(y, x, atol=0.1)


def test_no_position_sees_a_later_one():
    made, x = stack(), vectors(2, 9)
    changed = x.clone()
    changed[:, 5:] = vectors(2, 4, seed=2)
    before, after = made(x), made(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert ((before[:, 5:] - after[:, 5:]).abs().amax(-1) > 1e-3).all()


def test_padding_on_the_right_does_not_matter():
    made, lengths = stack(), [9, 4, 1]
    x = vectors(3, 9)
    for wider in (x, torch.cat([x, vectors(3, 30, seed=2)], dim=1)):
        y = made(wider)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(y[row, :length], made(x[row : row + 1, :length])[0], **CLOSE)


def test_attention_weights():
    logits = torch.tensor([[0.0, -math.inf, 2.0, -50.0, 80.0], [-math.inf] * 5, [-9.0] * 5])
    weights = Block.weigh(logits)
    softplus = [math.log1p(math.exp(each)) for each in (0.0, -math.inf, 2.0, -50.0, 80.0)]
    torch.testing.assert_close(weights[0], torch.tensor(softplus) / sum(softplus))
    assert weights[0, 1] == 0 and weights[0].sum().item() == pytest.approx(1)
    assert weights[1].tolist() == [0] * 5, "nothing to read is no error"
    share = math.log1p(math.exp(-9.0))
    assert weights[2].tolist() == pytest.approx([share / (5 * share + 1e-8)] * 5)
    half = Block.weigh(logits.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, weights)


def test_a_hidden_key_has_no_part_in_a_block():
    block, x = stack().layers[0], vectors(2, 6)
    bias = block.bias.causal(6, x.device)
    bias[..., 2] = -torch.inf
    changed = x.clone()
    changed[:, 2] = vectors(2, seed=2)
    seen = torch.arange(6) != 2
    one, other = block(x, bias), block(changed, bias)
    assert torch.equal(one[:, seen], other[:, seen]) and not torch.allclose(one[:, 2], other[:, 2], atol=1e-3)
    assert not torch.allclose(block(x, block.bias.causal(6, x.device))[:, 3:], one[:, 3:], atol=1e-4)


def test_an_untrained_block_changes_nothing():
    x = vectors(2, 6)
    assert torch.equal(HSTU(12, 3, 2, 0.0)(x), x)


def test_keys_and_values_are_kept_for_those_who_ask():
    made, x, cache = stack(n_layers=3), vectors(2, 5), []
    torch.testing.assert_close(made(x, cache), made(x))
    assert len(cache) == 3 and all(each.shape == (2, 2, 5, 6) for pair in cache for each in pair)
    _, k, v, _ = made.layers[0].project(x)
    assert torch.equal(cache[0][0], k.transpose(1, 2)) and torch.equal(cache[0][1], v.transpose(1, 2))


def test_gradients_reach_every_parameter_and_stay_finite():
    made, x = stack(dropout=0.2), vectors(2, 5)
    (made(x) * vectors(2, 5, seed=3)).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 1e-4, name


def test_dropout_is_on_what_a_block_adds_and_in_training_only(monkeypatch):
    dropped = []

    def record(x, rate):
        dropped.append((tuple(x.shape), rate))
        return torch.zeros_like(x)

    monkeypatch.setattr("recbole_vsid.model.dropout.dropout", record)
    made, x = stack(dropout=0.3), vectors(2, 5)
    assert torch.equal(made(x), x) and dropped == [((2, 5, 12), 0.3)] * 2
    assert not torch.equal(made.eval()(x), x) and len(dropped) == 2
