"""The dense head: a softmax over all items by the dot products of the state with their vectors.

Up to a stated number of items it is exact; above, the items behind the partition function are sampled, with the
logarithm of their probability of being drawn subtracted (logQ correction; Bengio and Senecal 2008; Yi et al. 2019).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_vsid.decoding.trie import ragged
from recbole_vsid.model.timeline.generative import at_least_fp32
from recbole_vsid.model.timeline.tree import CodeTree
from recbole_vsid.model.timeline.vectors import NodeTable

LOGITS_AT_ONCE = 2**21
LARGEST_FAMILY = 256


class SoftmaxLoss(torch.autograd.Function):
    """Summed cross-entropy of ``states @ items.T``, without ever holding all logits.

    The gradient of a softmax needs nothing but the softmax, so both come from the same logits, some rows at a time and
    in fp32 whatever the operands are: less than half the time of a product and ``cross_entropy`` in bf16 on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """``states`` ``[n, width]``, ``items`` ``[m, width]``, ``targets`` int64 ``[n]`` → scalar, at least fp32."""
        precise = torch.promote_types(states.dtype, torch.float32)
        loss = states.new_zeros((), dtype=precise)
        of_states, of_items_ = torch.empty_like(states), torch.zeros_like(items, dtype=precise)
        rows = max(16, LOGITS_AT_ONCE // len(items))
        for part, answer, gradient in zip(states.split(rows), targets.split(rows), of_states.split(rows)):
            answer = answer.unsqueeze(1)
            logits = (part @ items.T).to(precise)
            logits -= logits.amax(1, keepdim=True)
            loss -= logits.gather(1, answer).sum()
            share = logits.exp_()
            total = share.sum(1, keepdim=True)
            loss += total.log().sum()
            share /= total
            share.scatter_add_(1, answer, share.new_full(answer.shape, -1.0))
            share = share.to(states.dtype)
            torch.mm(share, items, out=gradient)
            of_items_ += share.T @ part
        ctx.save_for_backward(of_states, of_items_.to(items.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_states, of_items_ = ctx.saved_tensors
        return gradient * of_states, gradient * of_items_, None


def full_loss(states: Tensor, targets: Tensor, table: NodeTable, tree: CodeTree) -> Tensor:
    """Mean over targets of −log q(target).

    Args:
        states: ``[n, width]``.
        targets: int64 ``[n]``, item ids.
        table: of all nodes.
    """
    items = table.of_items(tree.paths[1:])
    return SoftmaxLoss.apply(states, items, targets - 1) / len(states)


class Candidates(NamedTuple):
    """Items drawn for a batch.

    Attributes:
        items: int64 ``[m]``, distinct, ascending; all targets are among them.
        log_share: fp32 ``[m]``, logarithm of the probability with which each is among the candidates of a target that
            is not of its family.
    """

    items: Tensor
    log_share: Tensor


class ItemSampler:
    """Draws the candidates of a sampled softmax: the targets of the batch, their siblings, and items at random.

    All targets share them. The siblings of a target, items below the same node as its leaf, are there for certain; any
    other item is there if one of the other targets is of its family, or by the uniform draw.

    Args:
        tree: the tree of all items.
        popularity: ``[n_items]``, training events per item, to which targets are distributed alike.
        n_uniform: items drawn uniformly, with replacement.
    """

    def __init__(self, tree: CodeTree, popularity: Tensor, n_uniform: int) -> None:
        self.n_uniform = n_uniform
        paths = tree.paths[1:]
        step = (paths > 0).sum(1, keepdim=True)
        family = torch.where(step[:, 0] > 1, paths.gather(1, (step - 2).clamp(min=0))[:, 0], 0)
        family = F.pad(family.unique(return_inverse=True)[1] + 1, (1, 0))
        sizes = family.bincount()
        # A large family would be the whole catalogue; each of its members is a family by itself.
        alone = (sizes > LARGEST_FAMILY)[family]
        family[alone] = len(sizes) + torch.arange(int(alone.sum()), device=family.device)
        self.family = family = family.unique(return_inverse=True)[1]
        self.members = family.argsort(stable=True)
        self.offsets = F.pad(family.bincount().cumsum(0), (1, 0))
        weight = popularity.to(family.device, torch.float64)
        self.share = weight.new_zeros(len(self.offsets) - 1).index_add_(0, family, weight) / weight.sum()

    def draw(self, targets: Tensor) -> Candidates:
        """Candidates for ``targets`` int64 ``[n]``."""
        n_items = len(self.family) - 1
        siblings, _ = ragged(self.offsets, self.family[targets].unique())
        uniform = torch.randint(1, n_items + 1, (self.n_uniform,), device=targets.device)
        items = torch.cat([self.members[siblings], uniform]).unique()
        absent = (len(targets) - 1) * torch.log1p(-self.share[self.family[items]].clamp(max=1 - 1e-9))
        absent = absent + self.n_uniform * math.log1p(-1 / max(n_items, 2))
        return Candidates(items, torch.log(-torch.expm1(absent)).float())

    def loss(self, states: Tensor, targets: Tensor, drawn: Candidates, table: NodeTable, tree: CodeTree) -> Tensor:
        """Mean over targets of −log q(target), its partition function estimated from the candidates.

        Every candidate stands for as many items as its probability says, siblings of the target only for themselves; so
        the estimate has the partition function as its mean.
        """
        logits = at_least_fp32(states @ table.of_items(tree.paths[drawn.items]).T)
        certain = self.family[targets].unsqueeze(1) == self.family[drawn.items]
        logits = logits - drawn.log_share.masked_fill(certain, 0.0)
        return F.cross_entropy(logits, torch.searchsorted(drawn.items, targets))
