"""The Recursive-Assignment Network against the authors' code and against its recursion, one row at a time.

The golden file holds a small random network and what the released code of IntRR (github.com/AMAP-ML/IntRR) makes of it.
Numbered invariants are those of section 7.3 of the specification of IntRR (arXiv 2602.20704).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.decoding.exact import score_first_order
from recbole_vsid.decoding.trie import PrefixTrie
from recbole_vsid.model.ran import RecursiveAssignment, Walk
from tests.model.tiny_intrr import naive_walk
from tests.property.strategies import make_table

GOLDEN = Path(__file__).parent.parent / "golden" / "intrr.npz"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def golden_network(golden):
    network = RecursiveAssignment([12] * 4, 16, 24)
    state = {f"codebooks.{level}.weight": golden[f"codebook{level + 1}"] for level in range(4)}
    for question in range(3):
        for ours, theirs in {"inward": "in", "outward": "out"}.items():
            for part in ("weight", "bias"):
                state[f"questions.{question}.{ours}.{part}"] = golden[f"mlp{question + 2}.{theirs}.{part}"]
    network.load_state_dict(state)
    return network


def network_of(sizes, width=7, hidden_size=9, seed=0, std=1.0):
    """A network whose distributions are neither flat nor saturated."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RecursiveAssignment(sizes, width, hidden_size, std)


def some(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_paths(sizes, n, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], dim=1)


# -------------------------------------------------------------------- the official code


def test_a_free_walk_equals_the_official_code(golden):
    network = golden_network(golden)
    contexts, logits = network.free(golden["input.guidance"], "ste")
    torch.testing.assert_close(sum(contexts), golden["expected.free.ste.token"], **CLOSE)
    for level in range(4):
        torch.testing.assert_close(logits[level], golden[f"expected.free.ste.logits{level + 1}"], **CLOSE)
    argmax_path = torch.stack([level.argmax(-1) for level in logits], dim=1)
    assert torch.equal(argmax_path, golden["expected.free.ste.argmax_path"])


def test_a_given_path_equals_the_official_code(golden):
    network, path = golden_network(golden), golden["input.path"]
    logits = network.along(golden["input.guidance"], path)
    loss = sum(F.cross_entropy(level, codes) for level, codes in zip(logits, path.T))
    torch.testing.assert_close(loss, golden["expected.teacher.loss"], **CLOSE)
    loss.backward()
    for level in range(4):
        torch.testing.assert_close(logits[level], golden[f"expected.teacher.logits{level + 1}"], **CLOSE)
        gradient = network.codebooks[level].weight.grad
        torch.testing.assert_close(gradient, golden[f"expected.teacher.grad.codebook{level + 1}"], **CLOSE)


def test_a_walk_of_beams_equals_the_official_code(golden):
    path, walk = golden["input.path"], Walk(golden_network(golden), golden["input.guidance"])
    for level in range(4):
        logits = walk.logits(level, path[:, level - 1 : level] if level else None)
        torch.testing.assert_close(logits[:, 0], golden[f"expected.teacher.logits{level + 1}"], **CLOSE)


# ------------------------------------------------------------------------ the recursion


def check_equal_with_gradients(network, guidance, ours, naive):
    """Two lists of tensors are equal, and so are the gradients of a random linear function of them."""
    upstream = [some(*each.shape, seed=10 + i) for i, each in enumerate(ours)]
    gradients = []
    for outputs in (ours, naive):
        loss = sum((weight * each).sum() for weight, each in zip(upstream, outputs))
        gradients.append(torch.autograd.grad(loss, [guidance, *network.parameters()]))
    assert len(ours) == len(naive)
    for one, other in zip(ours, naive):
        torch.testing.assert_close(one, other, **CLOSE)
    for name, one, other in zip(["guidance", *dict(network.named_parameters())], *gradients):
        scale = 1 + other.abs().max().item()
        torch.testing.assert_close(one / scale, other / scale, **CLOSE, msg=lambda text, n=name: f"{n}: {text}")


problems = given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from([0.3, 1.5]),
    st.integers(0, 99),
)
some_examples = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.mark.parametrize("assign", ["soft", "ste"])
@some_examples
@problems
def test_a_free_walk_equals_the_recursion(assign, sizes, n, std, seed):
    network, guidance = network_of(sizes, seed=seed, std=std), some(n, 7, seed=seed).requires_grad_()
    contexts, logits = network.free(guidance, assign)
    rows = [naive_walk(network, row, assign=assign) for row in guidance]
    naive = [torch.stack(level) for part in (0, 1) for level in zip(*(row[part] for row in rows))]
    check_equal_with_gradients(network, guidance, [*contexts, *logits], naive)


@some_examples
@problems
def test_a_given_path_equals_the_recursion(sizes, n, std, seed):
    network, guidance = network_of(sizes, seed=seed, std=std), some(n, 7, seed=seed).requires_grad_()
    path = some_paths(sizes, n, seed)
    rows = [naive_walk(network, row, codes)[1] for row, codes in zip(guidance, path.tolist())]
    naive = [torch.stack(level) for level in zip(*rows)]
    check_equal_with_gradients(network, guidance, network.along(guidance, path), naive)


def test_an_ended_path_is_walked_as_if_it_went_on_with_code_0():
    sizes, guidance = [3, 4, 5], some(3, 7)
    network = network_of(sizes)
    ended, goes_on = torch.tensor([[2, -1, -1], [1, 3, -1], [0, 2, 4]]), torch.tensor([[2, 0, 0], [1, 3, 0], [0, 2, 4]])
    for one, other in zip(network.along(guidance, ended), network.along(guidance, goes_on)):
        assert torch.equal(one, other)


def test_half_precision_ends_at_the_logits_and_the_contexts():
    network, guidance, path = network_of([3, 4, 5]), some(6, 7), some_paths([3, 4, 5], 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (contexts, logits), along = network.free(guidance, "soft"), network.along(guidance, path)
    assert {each.dtype for each in [*contexts, *logits, *along]} == {torch.float32}
    expected_contexts, expected = network.free(guidance, "soft")
    for one, other in zip(
        [*contexts, *logits, *along], [*expected_contexts, *expected, *network.along(guidance, path)]
    ):
        torch.testing.assert_close(one, other, atol=0.15, rtol=0.05)


def test_the_spread_of_the_codewords():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {std: RecursiveAssignment([400, 300], 64, 8, std) for std in (None, 1.0)}
    for std, network in networks.items():
        for codebook in network.codebooks:
            assert codebook.weight.std().item() == pytest.approx(std or 1 / 8, rel=0.03)


# ----------------------------------------------------------------- a walk for many beams


@some_examples
@problems
def test_invariant_10_beams_have_the_logits_of_the_path_they_follow(sizes, n, std, seed):
    network, guidance = network_of(sizes, seed=seed, std=std), some(n, 7, seed=seed)
    walk, beams = Walk(network, guidance), 3
    paths = some_paths(sizes, n * beams, seed)
    along = network.along(guidance.repeat_interleave(beams, dim=0), paths)
    assert walk.logits(0).shape == (n, 1, sizes[0])
    torch.testing.assert_close(walk.logits(0).expand(n, beams, -1).flatten(0, 1), along[0], **CLOSE)
    for level in range(1, len(sizes)):
        before = paths[:, level - 1].view(n, beams)
        logits = walk.logits(level, before)
        assert logits.shape == (n, beams, sizes[level])
        torch.testing.assert_close(logits.flatten(0, 1), along[level], **CLOSE)
        of_all = walk.logits(level)
        assert of_all.shape == (n, sizes[level - 1], sizes[level])
        torch.testing.assert_close(of_all[torch.arange(n).unsqueeze(1), before], logits, **CLOSE)


# ---------------------------------------------------------------------------- invariants


def test_invariants_2_and_3_soft_contexts_are_mixtures():
    """With fewer codewords than dimensions a context has one set of coefficients; it must be the distribution."""
    network = network_of([3, 6, 5, 1])
    contexts, logits = network.free(some(20, 7), "soft")
    for context, level, codebook in zip(contexts, logits, network.codebooks):
        shares = torch.linalg.lstsq(codebook.weight.T.double(), context.T.double()).solution.T
        assert (shares > -1e-6).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(20, dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(shares.float(), level.softmax(1), **CLOSE)


def test_invariant_2_the_probabilities_of_all_paths_sum_to_one():
    sizes = [3, 2, 4]
    every_path = [(a, b, c) for a in range(3) for b in range(2) for c in range(4)]
    table = make_table(every_path, sizes, shared_vocabulary=False)
    walk, trie = Walk(network_of(sizes), some(5, 7)), PrefixTrie.from_table(table)
    for renormalize in ("none", "all"):  # no path is missing, so there is nothing to renormalise
        scores = score_first_order(walk.logits, trie, table.vocabularies(), renormalize)
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(5), atol=1e-6, rtol=0)


def test_invariant_3_straight_through_contexts_are_codewords():
    network = network_of([3, 6, 5])
    contexts, logits = network.free(some(20, 7), "ste")
    for context, level, codebook in zip(contexts, logits, network.codebooks):
        torch.testing.assert_close(context, codebook.weight[level.argmax(1)], **CLOSE)
    soft, _ = network.free(some(20, 7), "soft")
    assert not torch.allclose(soft[0], contexts[0], atol=1e-2)


@pytest.mark.parametrize("changed", range(4))
def test_invariant_6_a_code_counts_for_the_next_level_only(changed):
    sizes = [5, 5, 5, 5]
    network, guidance, path = network_of(sizes), some(6, 7), some_paths(sizes, 6)
    other = path.clone()
    other[:, changed] = (other[:, changed] + 1) % 5
    for level, (one, another) in enumerate(zip(network.along(guidance, path), network.along(guidance, other))):
        if level == changed + 1:
            assert ((one - another).abs().amax(1) > 1e-3).all()
        else:
            assert torch.equal(one, another)


@pytest.mark.parametrize(("width", "hidden_size", "size"), [(64, 128, 32), (64, 128, 128), (256, 512, 128)])
def test_invariant_13_the_loss_starts_near_that_of_guessing(width, hidden_size, size):
    network = network_of([size] * 4, width, hidden_size, std=None)
    guidance, path = some(500, width), some_paths([size] * 4, 500)
    with torch.no_grad():
        loss = sum(F.cross_entropy(level, codes) for level, codes in zip(network.along(guidance, path), path.T))
    assert loss.item() == pytest.approx(4 * math.log(size), rel=0.15)
