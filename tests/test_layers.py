"""The two ways to attend, which a device and the need of gradients choose between, agree."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_vsid.layers import ATTENTION_SCALE, Transformer, causal_attention


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("length", [1, 7])
def test_attention_with_gradients_equals_the_fused_kernel(dtype, tolerance, length):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, 2, length, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    ours = causal_attention(*inputs)
    with torch.no_grad():
        without_gradient = causal_attention(*inputs)
    fused = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=ATTENTION_SCALE)
    assert ours.dtype == fused.dtype == without_gradient.dtype == dtype
    torch.testing.assert_close(ours, fused, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(without_gradient, fused, atol=tolerance, rtol=tolerance)
    upstream = torch.randn(ours.shape, generator=generator).to(dtype)
    for one, other in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(fused, inputs, upstream)):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_no_position_sees_a_later_one():
    transformer = Transformer(16, 2, 8)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = transformer(x), transformer(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])
