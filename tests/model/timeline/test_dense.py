"""The dense head: its fused gradient, and sampling against the exact softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_vsid.model.timeline import base, dense
from recbole_vsid.model.timeline.dense import ItemSampler, SoftmaxLoss, full_loss
from tests.model.timeline.tiny import HISTORIES, interaction_of, tiny_sastrie
from tests.property.strategies import make_table

CODES = [(a, b, c) for a in range(4) for b in range(3) for c in range(1 + (a + b) % 4)]
TABLE = make_table(CODES, [4, 4, 4])


@pytest.mark.parametrize("at_once", [1, 40, 2**21])
def test_loss_and_gradients_are_those_of_cross_entropy(monkeypatch, at_once):
    monkeypatch.setattr(dense, "LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    states, items = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (50, 13))
    targets = torch.randint(0, 13, (50,), generator=generator)
    states.requires_grad_()
    items.requires_grad_()
    fused = 3 * SoftmaxLoss.apply(states, items, targets)
    plain = 3 * F.cross_entropy(states @ items.T, targets, reduction="sum")
    assert torch.allclose(fused, plain, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(fused, (states, items)), torch.autograd.grad(plain, (states, items))):
        assert torch.allclose(mine, theirs, atol=1e-12)


def sampled(n_uniform, popularity=None):
    model = tiny_sastrie(TABLE, full_softmax_items=0, uniform_negatives=n_uniform)
    if popularity is not None:
        model.sampler = ItemSampler(model.tree, torch.as_tensor(popularity), n_uniform)
    return model


def test_the_sample_holds_targets_and_their_siblings_once():
    model = sampled(4)
    targets = torch.tensor([1, 5, 5, 9])
    items = model.sampler.draw(targets).items.tolist()
    assert items == sorted(set(items)) and 0 not in items
    codes = {item: CODES[item - 1] for item in range(1, TABLE.n_items)}
    # (0, 0) and (2, 1) lead to one item each, which is then a leaf among the children of the code before.
    leaf_parents = {item: model.tree.paths[item][model.tree.paths[item] > 0].tolist()[:-1] for item in codes}
    for target in targets.tolist():
        assert {item for item in codes if leaf_parents[item] == leaf_parents[target]} <= set(items)


def test_families_too_large_are_no_families(monkeypatch):
    monkeypatch.setattr(dense, "LARGEST_FAMILY", 2)
    sampler = sampled(1).sampler
    sizes = sampler.offsets.diff()
    assert sizes.max() <= 2 and sizes.sum() == TABLE.n_items
    assert torch.allclose(sampler.share.sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("n_uniform", [1, 6])
def test_the_estimated_partition_function_is_right_on_average(n_uniform):
    """Invariant of logQ: over draws of uniform items and of the other targets, its mean is the exact one."""
    popularity = np.r_[0, np.random.default_rng(1).integers(1, 9, TABLE.n_items - 1)].astype(float)
    model = sampled(n_uniform, popularity)
    table, tree = model.node_vectors(), model.tree
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(1, 8, dtype=torch.float64, generator=generator)
    items = table.of_items(tree.paths[1:])
    exact = (items @ state[0]).logsumexp(0).exp()
    target, ratios = torch.tensor([7]), []
    torch.manual_seed(0)
    for _ in range(3000):
        others = torch.multinomial(torch.from_numpy(popularity), 3, replacement=True, generator=generator)
        drawn = model.sampler.draw(torch.cat([target, others]))
        loss = model.sampler.loss(state, target, drawn, table, tree)
        # loss = log Z − logit of the target, which stands for itself only
        ratios.append(float(((loss + items[6] @ state[0]).exp() / exact).detach()))
    error = np.std(ratios) / len(ratios) ** 0.5
    assert abs(np.mean(ratios) - 1) < 4 * error and error < 0.02


def test_a_sample_of_everything_is_the_exact_loss():
    model = sampled(20000)
    rows = interaction_of(HISTORIES)
    exact = tiny_sastrie(TABLE).losses(rows)
    found = model.losses(rows)
    assert torch.allclose(found["dense"], exact["dense"], atol=1e-6)
    assert torch.allclose(found["generation"], exact["generation"], atol=1e-12)


@pytest.mark.parametrize("depth", ["none", "transformer"])
@pytest.mark.parametrize("dense_weight", [0.0, 1.0])
def test_vectors_of_some_nodes_give_the_same_loss_and_gradients(monkeypatch, depth, dense_weight):
    changes = {"depth_network": depth, "dense_weight": dense_weight, "full_softmax_items": 0}
    rows, results = interaction_of(HISTORIES), []
    for most_nodes in (base.MOST_NODES, 1):
        monkeypatch.setattr(base, "MOST_NODES", most_nodes)
        model = tiny_sastrie(TABLE, **changes)
        torch.manual_seed(0)
        loss = sum(model.losses(rows).values())
        used = [parameter for parameter in model.parameters() if parameter.requires_grad]
        results.append((loss, torch.autograd.grad(loss, used, allow_unused=True)))
    (whole, whole_gradients), (some, some_gradients) = results
    assert torch.allclose(whole, some, atol=1e-12)
    for mine, theirs in zip(whole_gradients, some_gradients):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.allclose(mine, theirs, atol=1e-12)


def test_the_exact_loss_takes_every_item_into_account():
    model = tiny_sastrie(TABLE)
    states = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    targets, table = torch.tensor([1, 2, 3, 4, 4]), model.node_vectors()
    logits = states @ table.of_items(model.tree.paths[1:]).T
    assert torch.allclose(full_loss(states, targets, table, model.tree), F.cross_entropy(logits, targets - 1))
