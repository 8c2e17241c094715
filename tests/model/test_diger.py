"""DIGER: its forward pass is TIGER's, its backward pass that of soft codes; its table follows the codebooks."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from recbole_vsid.config import Config
from recbole_vsid.model.tiger import TIGER
from recbole_vsid.tokenizer.joint import PATHS
from tests.model.tiny_diger import (
    HISTORIES,
    N_CODES,
    N_ITEMS,
    N_LEVELS,
    TARGETS,
    naive_generation_loss,
    tiny_diger,
)
from tests.model.tiny_tiger import interaction_of

ROWS = interaction_of(HISTORIES, targets=TARGETS)
ITEMS = torch.tensor(sorted({*TARGETS, *(item for history in HISTORIES for item in history)}))
SUBSETS = [list(chosen) for n in range(4) for chosen in combinations(PATHS, n)]
ONLY_RECOMMENDATION = {"quantisation_weight": 0.0, "reconstruction_weight": 0.0}


def gradient_at_codebooks(model, loss):
    (gradient,) = torch.autograd.grad(loss, [model.joint.codebooks], retain_graph=True, allow_unused=True)
    return gradient


# ---------------------------------------------------------------------- gradient


@pytest.mark.parametrize("paths", SUBSETS, ids="+".join)
def test_each_path_alone_reaches_every_codeword_and_none_is_none(paths):
    """I3, I4: the recommendation loss has a gradient at all codewords of all levels; switched off there is none."""
    model = tiny_diger(gradient_paths=paths)
    gradient = gradient_at_codebooks(model, model.losses(ROWS)["generation"])
    if not paths:
        assert gradient is None
    else:
        assert gradient.isfinite().all() and gradient.norm() > 1e-10
        assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("paths", SUBSETS, ids="+".join)
def test_the_loss_and_all_gradients_are_those_of_products_with_one_hots(paths, tied):
    model = tiny_diger(gradient_paths=paths)
    if tied:
        model.head = None
    loss = model.losses(ROWS)["generation"]
    naive = naive_generation_loss(
        model, HISTORIES, TARGETS, paths, (ITEMS, model.joint(ITEMS, model._content_codes(ITEMS)))
    )
    assert loss.item() == pytest.approx(naive.item(), abs=1e-6)
    parameters = [each for name, each in model.named_parameters() if not name.startswith("joint.")]
    for ours, theirs in zip(torch.autograd.grad(loss, parameters, retain_graph=True),
                            torch.autograd.grad(naive, parameters, retain_graph=True)):  # fmt: skip
        assert torch.allclose(ours, theirs, atol=2e-6)
    if paths:
        ours, theirs = gradient_at_codebooks(model, loss), gradient_at_codebooks(model, naive)
        assert torch.allclose(ours, theirs, atol=1e-6) and theirs.norm() > 1e-4


@pytest.mark.parametrize("paths", SUBSETS, ids="+".join)
def test_the_forward_pass_is_tiger_s_to_the_bit(paths):
    """I1, I6."""
    model = tiny_diger(gradient_paths=paths, noise="gumbel", decay="none", noise_scale=3.0)
    assert torch.equal(model.losses(ROWS)["generation"], TIGER.calculate_loss(model, ROWS))


def test_the_loss_starts_at_that_of_a_uniform_guess():
    """I7."""
    model = tiny_diger(scale=0)
    n_suffixes = model.semantic_ids.vocab_sizes[-1]
    uniform = (N_LEVELS * math.log(N_CODES) + math.log(n_suffixes)) / (N_LEVELS + 1)
    assert model.losses(ROWS)["generation"].item() == pytest.approx(uniform, rel=0.05)


def test_one_batch_is_learnt_by_heart():
    """I17."""
    model = tiny_diger(noise="gumbel", decay="none")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    losses = []
    for _ in range(25):
        terms = model.losses(ROWS)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        losses.append(terms["generation"].item())
    assert losses[-1] < 0.75 * losses[0]


def test_frozen_parts_stay():
    """I5."""
    model = tiny_diger(noise="gumbel", decay="both")
    vectors = model.joint.vectors.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        model.calculate_loss(ROWS).backward()
        optimizer.step()
    assert torch.equal(model.joint.vectors, vectors) and not model.joint.vectors.requires_grad
    assert not torch.equal(model.joint.codebooks, tiny_diger().joint.codebooks)


def test_the_quantiser_s_losses_are_means_over_targets():
    model = tiny_diger(quantisation_weight=2.0, reconstruction_weight=3.0)
    rows = torch.tensor(TARGETS)
    quantised = model.joint(rows, model._content_codes(rows))  # without noise, so equal items are equal rows
    terms = model.losses(ROWS)
    assert terms["quantisation"].item() == pytest.approx(2 * quantised.quantisation.mean().item(), rel=1e-5)
    assert terms["reconstruction"].item() == pytest.approx(3 * quantised.reconstruction.mean().item(), rel=1e-5)
    assert model.calculate_loss(ROWS).item() == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-5)


def test_sampled_codes_are_read_and_written_if_asked_for():
    model = tiny_diger(forward="sampled", noise="gumbel", decay="none", noise_scale=5.0)
    torch.manual_seed(4)
    loss = model.losses(ROWS)["generation"]
    torch.manual_seed(4)
    sampled = model.joint(ITEMS, model._content_codes(ITEMS)).codes
    assert not torch.equal(sampled, model._content_codes(ITEMS))
    model.codes[ITEMS, :-1] = sampled + model.first_tokens
    assert torch.allclose(loss, TIGER.calculate_loss(model, ROWS), atol=1e-6)
    assert (gradient_at_codebooks(model, loss).abs().sum(-1) > 0).all()


def test_two_stage_training_is_tiger_s():
    model = tiny_diger(codebook_learning_rate=0)
    assert model.own_parameter_groups() == [] and not model.joint.codebooks.requires_grad
    assert torch.equal(model.calculate_loss(ROWS), TIGER.calculate_loss(model, ROWS))


def test_sigma_learns_from_its_own_loss_only():
    """I8: neither does the recommender's gradient depend on σ, nor that of σ on the quantiser's losses."""
    gradients = []
    for scale, weight in ((0.5, 1.0), (0.5, 7.0), (2.0, 1.0)):
        model = tiny_diger(
            noise="gumbel", decay="sdud", noise_scale=scale, quantisation_weight=weight, gradient_paths=[]
        )
        model.calculate_loss(ROWS).backward()
        gradients.append((model.token_embedding.weight.grad, model.joint.exploration.sigma.grad))
    assert torch.equal(gradients[0][0], gradients[2][0])
    assert torch.equal(gradients[0][1], gradients[1][1]) and gradients[0][1] != gradients[2][1]


@pytest.mark.parametrize(
    ("joint", "rates"),
    [
        ({}, [0.0]),
        ({"codebook_learning_rate": 0.3}, [0.3]),
        ({"noise": "gumbel", "decay": "both", "codebook_learning_rate": 0.3, "sigma_learning_rate": 0.2}, [0.3, 0.2]),
        ({"noise": "gumbel", "decay": "sdud", "sdud": "closed_form", "codebook_learning_rate": 0.3}, [0.3]),
    ],
)
def test_groups_have_rates_of_their_own(joint, rates):
    groups = tiny_diger(**joint).own_parameter_groups()
    assert [group["lr"] for group in groups] == rates and all(group["weight_decay"] == 0 for group in groups)


# ------------------------------------------------------------------------- table


def moved(model, size=1.5):
    with torch.no_grad():
        model.joint.codebooks.add_(size * torch.randn(model.joint.codebooks.shape))
    return model


@pytest.mark.parametrize("policy", ["rank", "sticky"])
@pytest.mark.parametrize("assignment", ["nearest", "sinkhorn"])
def test_a_new_table_is_a_fresh_assignment_and_all_follow_it(policy, assignment):
    """I13, I14: table, labels and trie are of one version, one leaf per item; noise has no part in it."""
    model = tiny_diger(suffix_policy=policy, assignment=assignment, noise="gumbel", decay="none", noise_scale=9.0)
    torch.manual_seed(0)
    for _ in range(3):
        before, sizes = model.semantic_ids, model.semantic_ids.vocab_sizes
        try:
            shares = moved(model).refresh_table()
        except ValueError:  # more items share a code than there are suffixes
            continue
        table = model.semantic_ids
        assert np.array_equal(table.codes[1:, :-1], model.joint.assign().numpy()) and table.vocab_sizes == sizes
        assert len(np.unique(table.codes, axis=0)) == N_ITEMS
        assert np.array_equal(model.codes.numpy(), table.flat_codes())
        assert model.trie.n_leaves == N_ITEMS - 1
        leaves = model.trie.item > 0
        for node in leaves.nonzero().flatten().tolist():
            assert model.trie.depth[node] == N_LEVELS + 1
        assert sorted(model.trie.item[leaves].tolist()) == list(range(1, N_ITEMS))
        changed = (table.codes[1:] != before.codes[1:]).any(1)
        assert shares["drift"] == pytest.approx(changed.mean())
        assert shares["content_drift"] == pytest.approx((table.codes[1:, :-1] != before.codes[1:, :-1]).any(1).mean())
    assert model.semantic_ids is not before


def test_beams_search_the_new_table():
    """I15: a beam as wide as the catalogue gives the teacher-forced log-probability of every item, in order."""
    model = tiny_diger(scale=0.5)
    torch.manual_seed(1)
    moved(model, 0.3).refresh_table()
    model.eval()
    model.beam_width = N_ITEMS
    rows = interaction_of(HISTORIES)
    items, scores = model.topk(rows, N_ITEMS - 1)
    naive = torch.empty(len(HISTORIES), N_ITEMS - 1)
    for item in range(1, N_ITEMS):
        pairs = interaction_of(HISTORIES, targets=[item] * len(HISTORIES))
        logits = model.target_logits(pairs)
        # Decoding shares the first token's probability among those that begin a code.
        first = model.codes[1:, 0].unique()
        logits[0] = torch.full_like(logits[0], -torch.inf).index_copy(1, first, logits[0][:, first])
        code = torch.from_numpy(model.semantic_ids.codes[item].astype(np.int64))
        naive[:, item - 1] = sum(each.log_softmax(1)[:, token] for each, token in zip(logits, code)).detach()
    best = naive.sort(descending=True)
    assert torch.allclose(scores, best.values, atol=1e-4)
    assert torch.equal(items, best.indices + 1)


@pytest.mark.parametrize("assignment", ["nearest", "sinkhorn"])
def test_diagnostics_tell_nearest_codes_from_balanced_ones(assignment):
    """I16: both are shown, whichever the table has; only the nearest tell that half of a level is dead."""
    model = tiny_diger(assignment=assignment)
    with torch.no_grad():
        model.joint.codebooks[1, 2:] += 50  # dead: no residual is near
    model.refresh_table()
    figures = model.diagnostics()
    assert figures["used_nearest_2"] <= 2 and figures["used_sinkhorn_2"] == N_CODES
    nearest, table = model.joint.assign("nearest").numpy(), model.semantic_ids.codes[1:, :-1]
    assert figures["distinct_nearest"] == len({tuple(code) for code in nearest.tolist()})
    assert figures["distinct_table"] == len({tuple(code) for code in table.tolist()})
    assert figures["distinct_nearest_share"] == figures["distinct_nearest"] / int(model.first_distinct)
    first = tiny_diger(assignment=assignment).semantic_ids.codes[1:, :-1]
    assert figures["content_drift_since_start"] == pytest.approx((first != table).any(1).mean())
    largest = max((table == code).all(1).sum() for code in table)
    assert figures["suffixes_used"] == largest / model.semantic_ids.vocab_sizes[-1]


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sid_file": "table.json"}, "sid_file='table.json' is not usable with DIGER: it must be empty"),
        ({"tokenizer": "opq"}, "tokenizer='opq' is not usable with DIGER: it must be one with residuals: rqvae"),
        ({"tokenizer": "rvq"}, "sid_normalize_residuals=True is not usable with DIGER: it must be false"),
        ({"sid_collisions": "nearest"}, "sid_collisions='nearest' is not usable with DIGER: it must be suffix"),
        (
            {"tokenizer": "rkmeans", "joint_encoder_learning_rate": 0.1},
            "joint_encoder_learning_rate=0.1 is not usable with DIGER: it must be 0: tokenizer rkmeans has no encoder",
        ),
        ({"joint_decay": "linear"}, "joint_decay='linear' is not usable"),
        ({"joint_gradient_paths": ["labels"]}, "joint_gradient_paths"),
    ],
)
def test_unusable_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config("DIGER", "ml-100k", config_dict=changes)
