"""The invariants of SASTrie's specification, under their numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_vsid.model.timeline.generative import sibling_loss
from tests.decoding.naive import code_of_item
from tests.model.timeline.tiny import HISTORIES, interaction_of, naive_items, naive_log_p, tiny_sastrie
from tests.model.tiny_intrr import FIXED, OWN, OWN_VARYING, SHARED_CODES, VARYING
from tests.property.strategies import make_table, semantic_id_tables

TABLES = {"fixed": FIXED, "own": OWN, "varying": VARYING, "own_varying": OWN_VARYING, "shared": SHARED_CODES}
CHAINS = make_table([(0, 0, 1, 1), (0, 0, 1, 2), (1, 2, 0, 0), (2, 1, 1, 3), (2, 1, 3, 3)], [4, 4, 4, 4])
DEPTHS = ["none", "linear", "transformer"]
random_tables = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(params=[*TABLES, "chains"])
def table(request):
    return {**TABLES, "chains": CHAINS}[request.param]


def states_of(model, histories=HISTORIES):
    with torch.no_grad():
        return model.state(interaction_of(histories))


def exact(model, histories=HISTORIES):
    return model._catalogue_scores(interaction_of(histories))


def of_leaves(model, scores):
    """The score of one item of each leaf."""
    return scores[:, model.trie.item[model.trie.item > 0]]


@pytest.mark.parametrize("depth", DEPTHS)
@given(table=semantic_id_tables(), own=st.sampled_from(["all", "leaf", "none"]))
@random_tables
def test_1_probabilities_sum_to_one(depth, table, own):
    model = tiny_sastrie(table, own_vectors=own, depth_network=depth)
    rows = [[1], [table.n_items - 1, 1]]
    assert torch.allclose(of_leaves(model, exact(model, rows)).exp().sum(1), torch.ones(2), atol=1e-5)


def test_1_items_that_share_a_code_share_its_probability():
    model = tiny_sastrie(SHARED_CODES)
    scores = exact(model)
    assert torch.allclose(of_leaves(model, scores).exp().sum(1), torch.ones(4), atol=1e-5)
    assert torch.equal(scores[:, 1], scores[:, 3]) and torch.equal(scores[:, 2], scores[:, 5])


@pytest.mark.parametrize("depth", DEPTHS)
def test_2_the_loss_among_siblings_is_that_of_exact_scoring_with_its_gradients(table, depth):
    model = tiny_sastrie(table, depth_network=depth)
    targets = torch.tensor([1, 4, 2, 3, 5, 2, 1, 5, 5])
    hidden = torch.randn(len(targets), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hidden.requires_grad_()
    parameters = [hidden, *model.node_vectors.parameters(), *model.depth.parameters()]

    nodes = model.node_vectors()
    paths = model.tree.paths[targets]
    loss = sibling_loss(model.depth(hidden, paths, nodes), paths, nodes, model.tree)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)

    log_p = [naive_log_p(model, row)[int(item)] for row, item in zip(hidden, targets)]
    naive = -torch.stack(log_p).mean()
    assert torch.allclose(loss, naive, atol=1e-12)
    for mine, theirs in zip(gradients, torch.autograd.grad(naive, parameters, allow_unused=True)):
        mine, theirs = (torch.zeros(()) if each is None else each for each in (mine, theirs))
        assert torch.allclose(mine, theirs, atol=1e-10)

    with torch.no_grad():
        walked = exact(model)[0, 1:]
        state = states_of(model)[0]
        assert torch.allclose(walked, torch.stack(list(naive_log_p(model, state).values())).float(), atol=1e-5)


@pytest.mark.parametrize("depth", DEPTHS)
def test_3_a_beam_as_wide_as_the_catalogue_is_exact(table, depth):
    model = tiny_sastrie(table, depth_network=depth)
    rows = interaction_of(HISTORIES)
    items, scores = model.topk(rows, table.n_items - 1)
    assert torch.allclose(exact(model).gather(1, items), scores, atol=1e-5)
    model.rank_by = "rerank"
    reranked = model.topk(rows, table.n_items - 1)
    model.rank_by = "dense"
    dense = model.topk(rows, table.n_items - 1)
    assert torch.equal(reranked[0], dense[0])
    assert torch.allclose(reranked[1], dense[1], atol=1e-5)
    logits = states_of(model) @ naive_items(model)[1:].T
    assert torch.allclose(exact(model)[:, 1:], logits.log_softmax(1).float(), atol=1e-5)


def test_3_a_narrow_beam_is_put_in_the_dense_order():
    table = make_table([(a, b, c) for a in range(4) for b in range(4) for c in range(3)], [4, 4, 4])
    model = tiny_sastrie(table, beam_width=12)
    rows = interaction_of(HISTORIES)
    found, _ = model.topk(rows, 12)
    dense = exact(tiny_sastrie(table, rank_by="dense"))
    model.rank_by = "rerank"
    items, scores = model.topk(rows, 12)
    assert torch.equal(items.sort(1).values, found.sort(1).values)
    assert torch.equal(dense.gather(1, items).argsort(1, descending=True), torch.arange(12).expand(4, 12))
    assert torch.allclose(scores.exp().sum(1), torch.ones(4))  # among the items found


@pytest.mark.parametrize("depth", DEPTHS)
def test_4_one_pass_is_row_by_row(table, depth):
    model = tiny_sastrie(table, depth_network=depth)
    whole = interaction_of([[1, 5, 3, 4, 5], [3, 1, 2]])
    terms = model.losses(whole)
    log_p, log_q = [], []
    items = naive_items(model)[1:]
    for row in ([1, 5, 3, 4, 5], [3, 1, 2]):
        for n in range(1, len(row)):
            state = states_of(model, [row[:n]])[0]
            log_p.append(naive_log_p(model, state)[row[n]])
            log_q.append((items @ state).log_softmax(0)[row[n] - 1])
    assert torch.allclose(terms["generation"], -torch.stack(log_p).mean(), atol=1e-10)
    assert torch.allclose(terms["dense"], -torch.stack(log_q).mean(), atol=1e-10)


def test_5_one_level_of_codes_is_an_ordinary_softmax():
    codes = make_table([(3,), (0,), (2,), (4,), (1,)], [5])
    settings_ = {"own_vectors": "none", "depth_network": "none", "dense_weight": 0.0}
    model = tiny_sastrie(codes, **settings_)
    histories = [[1, 5, 3, 4, 5], [3, 1, 2]]
    loss = model.losses(interaction_of(histories))["generation"]
    # Its codes are its items, so this is SASRec with cross-entropy over one table of item embeddings.
    embedding = model.node_vectors.code.weight[1:][[3, 0, 2, 4, 1]]
    by_hand = []
    for row in histories:
        hidden = model.timeline(embedding[torch.tensor(row) - 1].unsqueeze(0))[0]
        by_hand += [(hidden[n] @ embedding.T).log_softmax(0)[row[n + 1] - 1] for n in range(len(row) - 1)]
    assert torch.allclose(loss, -torch.stack(by_hand).mean(), atol=1e-12)
    dense = tiny_sastrie(codes, **{**settings_, "generative_weight": 0.0, "dense_weight": 1.0, "rank_by": "dense"})
    assert torch.allclose(loss, dense.losses(interaction_of(histories))["dense"], atol=1e-12)


@pytest.mark.parametrize("own", ["all", "leaf", "none"])
def test_6_an_item_without_own_vectors_is_ranked_and_changes_no_other(own):
    codes = [(0, 0, 1), (0, 0, 2), (1, 2, 0), (2, 1, 1), (2, 1, 3)]
    before = make_table(codes, [4, 4, 4])
    # One beside a leaf's only child, one on a chain that it parts, one below a new branch.
    after = make_table([*codes, (1, 2, 1), (2, 0, 0), (3, 0, 0)], [4, 4, 4])
    model = tiny_sastrie(before, own_vectors=own, rank_by="dense")
    old = exact(model)
    old_items = naive_items(model) if own == "all" else None
    model.use_table(after, "cpu")
    assert model.n_items == 9
    new = exact(model)
    assert new[:, 1:].isfinite().all()
    assert torch.allclose(old[:, 1:] - old[:, 1:2], new[:, 1:6] - new[:, 1:2], atol=1e-5)
    if own == "all":
        vectors = model.node_table().of_items(model.tree.paths)
        assert torch.allclose(vectors[:6], old_items)
        code = model.node_vectors.code.weight
        # Item 6 shares the chain (1, 2) with item 3, whose own vector belongs to the leaf and stays there.
        assert torch.allclose(vectors[6], code[1 + 1] + code[5 + 2] + code[9 + 1])
        # Item 7 goes off the chain (2, 1) after 2, and has the own vector of what it shares.
        shared = model.node_vectors.own.weight[model.node_vectors.own_row[model.tree.paths[4, 0]]]
        assert torch.allclose(vectors[7], code[1 + 2] + code[5 + 0] + code[9 + 0] + shared)
    for ranking in ("generative", "rerank"):
        model.rank_by = ranking
        found, scores = model.topk(interaction_of(HISTORIES), 8)
        assert (found.sort(1).values == torch.arange(1, 9)).all() and scores.isfinite().all()


def test_6_a_later_table_with_other_codes_is_refused():
    model = tiny_sastrie(FIXED)
    other = make_table([(0, 2, 1), (1, 0, 0), (1, 2, 2), (2, 1, 0), (0, 0, 0), (2, 2, 1), (2, 0, 0)], [3, 3, 3])
    with pytest.raises(ValueError, match="must keep the codes of all items"):
        model.use_table(other, "cpu")


@given(table=semantic_id_tables(), seed=st.integers(0, 1000))
@random_tables
def test_7_merged_chains_change_no_probability(table, seed):
    # naive_log_p walks every level of the unmerged tree, with probability one where there is only one child.
    model = tiny_sastrie(table, seed=seed)
    with torch.no_grad():
        naive = naive_log_p(model, states_of(model, [[1]])[0])
    scores = exact(model, [[1]])[0]
    assert all(abs(float(scores[item]) - float(value)) < 1e-5 for item, value in naive.items())
    steps = {item: len(path[path > 0]) for item, path in enumerate(model.tree.paths.numpy())}
    n_children = model.tree.trie.child_offsets.diff()
    assert ((n_children[1:] != 1).all()) and all(steps[item] <= table.lengths[item] for item in steps)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("ranking", ["generative", "rerank", "dense"])
def test_8_a_sub_tree_is_normalised_over_itself(table, depth, ranking):
    model = tiny_sastrie(table, depth_network=depth, rank_by=ranking)
    whole = exact(model)
    kept = [1, 3, 5]
    model.trie = model.restricted_trie(kept)
    items, scores = model.topk(interaction_of(HISTORIES), 5)
    assert set(items.unique().tolist()) == {0, *kept}
    restricted = exact(model)
    assert (restricted[:, [0, 2, 4]] == -torch.inf).all()
    assert torch.allclose(restricted.gather(1, items[:, :3]), scores[:, :3], atol=1e-5)
    if ranking == "generative":
        state = states_of(model)[0]
        codes = {item: code for item, code in code_of_item(model.semantic_ids).items() if item in kept}
        with torch.no_grad():
            naive = naive_log_p(model, state, codes)
        assert all(abs(float(restricted[0, item]) - float(naive[item])) < 1e-5 for item in kept)
    else:
        assert torch.allclose(restricted[:, kept], whole[:, kept].log_softmax(1), atol=1e-5)


def test_9_bf16_is_within_noise_of_fp32(table):
    model = tiny_sastrie(table, dtype=torch.float32)
    rows = interaction_of(HISTORIES[1:])
    full = model.losses(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.losses(rows)
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        assert abs(float(half[name].detach() / value.detach()) - 1) < 0.02


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return result


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("dense", [0.0, 1.0])
def test_10_no_tensor_of_targets_times_catalogue(depth, dense):
    rng = np.random.default_rng(0)
    codes = {tuple(row) for row in rng.integers(0, 13, (4000, 3)).tolist()}
    table = make_table(sorted(codes), [13, 13, 13])
    n_items, n_targets = table.n_items - 1, 16 * 40
    model = tiny_sastrie(
        table, dtype=torch.float32, depth_network=depth, dense_weight=dense, full_softmax_items=n_items
    )
    rows = interaction_of(rng.integers(1, n_items, (16, 41)).tolist())
    with LargestTensor() as largest:
        sum(model.losses(rows).values()).backward()
    # Nor does the exact dense head hold all logits at once.
    limit = 2**21 if dense else n_targets * n_items // 4
    assert largest.elements <= limit < n_targets * n_items or n_targets * n_items < 2**21
    assert n_targets * n_items // 4 > largest.elements or dense
