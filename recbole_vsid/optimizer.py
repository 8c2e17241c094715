"""Muon for the matrices inside a transformer, AdamW for everything else, as one optimizer.

Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a weight matrix by
the nearest orthogonal matrix, so that all directions of the matrix learn at the same rate. The official code of VLSID
trains with a variant of it (arXiv 2602.16375). PyTorch has Muon from 2.9 on, one matrix at a time; here matrices of
one shape are handled together, and any PyTorch that the package allows will do.
"""

from __future__ import annotations

from collections import defaultdict

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


def orthogonalize(matrices):
    """Near-orthogonal matrices with the singular vectors of ``matrices`` ``[n, rows, columns]``; bf16, same shape.

    Five steps of a quintic Newton–Schulz iteration bring all but tiny singular values into about 0.7 to 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices.size(1) <= matrices.size(2)
    x = (matrices if wide else matrices.transpose(1, 2)).bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.transpose(1, 2)


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose parameter groups with ``muon=True`` are stepped by Muon instead.

    Args:
        params: parameter groups; those with ``muon=True`` hold matrices only. Their step has a root mean square of
            about ``lr`` / sqrt(columns), whatever the gradient's scale: good values of ``lr`` are around 0.02.
        kwargs: of :class:`torch.optim.AdamW`.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One update; the gradients of Muon's matrices are used up by it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("muon"):
                self._muon_step(group)
        super().step()
        return loss

    def _muon_step(self, group):
        by_shape = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
        for shape, parameters in by_shape.items():
            gradients = [parameter.grad for parameter in parameters]
            states = [self.state[parameter] for parameter in parameters]
            for state, parameter in zip(states, parameters):
                if not state:  # AdamW looks for a step in every state that it loads
                    state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(parameter))
                state["step"] += 1
            buffers = [state["momentum_buffer"] for state in states]
            torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
            torch._foreach_lerp_(gradients, buffers, MOMENTUM)  # Nesterov
            steps = orthogonalize(torch.stack(gradients)).to(parameters[0].dtype)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(
                parameters, list(steps.unbind()), alpha=-group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
            )
            for parameter in parameters:
                parameter.grad = None  # AdamW, which comes next, leaves parameters without a gradient alone
