"""Invariants of ReSID's quantiser (arXiv 2602.02338); 1 to 10 are those of its specification."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from recbole_vsid.tokenizer import alignment, gaoq
from recbole_vsid.tokenizer.alignment import align, make_anchors, number_siblings
from recbole_vsid.tokenizer.base import TokenizerInput, unit_rows
from recbole_vsid.tokenizer.gaoq import GAOQTokenizer, auto_branches
from tests.tokenizer.synthetic import zipf_catalogue

B1, B2 = 6, 10
N_ITEMS = 608  # not a multiple of 6, so parents, cells and leaves all come in two sizes


@pytest.fixture(scope="module")
def data():
    return zipf_catalogue(N_ITEMS, d=32)


def fitted(data, seed=0, **settings):
    values = {"branches": [B1, B2], "restarts": 1, **settings}
    return GAOQTokenizer(GAOQTokenizer.Settings(**values), seed=seed).fit(data)


@pytest.fixture(scope="module")
def tokenizer(data):
    return fitted(data)


@pytest.fixture(scope="module")
def local(data):
    return fitted(data, alignment="local")


def codes_of(tokenizer, data):
    return tokenizer.content_codes(data)[0]


def scaled(tokenizer, data):
    """The vectors as the clusters see them."""
    learnt = tokenizer.hierarchy
    return (data.embedding[1:] - learnt.mean) / learnt.scale


def catalogue(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return TokenizerInput(
        embedding=np.vstack([np.zeros_like(vectors[:1]), vectors]),
        popularity=np.arange(len(vectors) + 1),
        item_tokens=np.array(["[PAD]"] + [f"i{i}" for i in range(len(vectors))]),
    )


def partition(*columns):
    """Group numbers in the order of first appearance, equal for equal partitions."""
    seen = {}
    return [seen.setdefault(key, len(seen)) for key in zip(*columns)]


# ---------------------------------------------------------------- invariants


def test_invariant_1_all_codes_differ_and_no_cell_is_larger_than_the_last_vocabulary(tokenizer, data):
    codes = codes_of(tokenizer, data)
    assert len(np.unique(codes, axis=0)) == N_ITEMS
    cells = np.bincount(codes[:, 0] * B2 + codes[:, 1])
    assert tokenizer.vocab_sizes == (B1, B2, cells.max()) == (B1, B2, 11)
    assert (codes >= 0).all() and (codes < tokenizer.vocab_sizes).all()
    table = tokenizer.encode(data)
    assert np.array_equal(table.codes[1:], codes)
    assert table.provenance["collisions"]["items"] == table.provenance["collisions"]["moved"] == 0


def test_invariant_2_siblings_differ_by_at_most_one_item(tokenizer, data):
    codes = codes_of(tokenizer, data)
    assert set(np.bincount(codes[:, 0])) == {101, 102}
    for parent in range(B1):
        assert set(np.bincount(codes[codes[:, 0] == parent, 1])) == {10, 11}


def test_invariant_3_anchors_are_orthonormal_and_shared_by_all_parents_of_a_level(data, monkeypatch):
    calls = []
    monkeypatch.setattr(
        alignment, "align", lambda residuals, anchors: calls.append(anchors) or align(residuals, anchors)
    )
    fitted(data)
    for anchors in calls:
        assert np.linalg.norm(anchors @ anchors.T - np.eye(len(anchors))) < 1e-10
    parents, cells = calls[:B1], calls[B1:]
    assert len(cells) == B1 * B2
    assert all(np.array_equal(anchors, parents[0]) for anchors in parents)
    assert all(np.array_equal(anchors, cells[0]) for anchors in cells)
    assert np.linalg.norm(parents[0] - cells[0][:B2]) > 1


def test_invariant_4_every_parent_uses_every_code_once(tokenizer, local, data):
    codes, by_kmeans = codes_of(tokenizer, data), codes_of(local, data)
    # The same cells with other numbers, each number once per parent.
    assert partition(codes[:, 0], codes[:, 1]) == partition(by_kmeans[:, 0], by_kmeans[:, 1])
    assert len(np.unique(codes[:, :2], axis=0)) == B1 * B2
    counts = np.bincount(codes[:, 1], minlength=B2)
    assert (np.abs(counts - N_ITEMS / B2) <= B1).all()


def test_invariant_5_no_other_numbering_has_a_larger_sum_of_cosines():
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=(20, 64))
    anchors = make_anchors("qr", 20, residuals, [], rng)
    cosines = unit_rows(residuals) @ anchors.T
    rows, best = np.arange(20), align(residuals, anchors)
    assert sorted(best) == list(range(20))
    for other in [rows, *(rng.permutation(20) for _ in range(100))]:
        assert cosines[rows, best].sum() > cosines[rows, other].sum()
    assert cosines[rows, best].mean() > 0.1
    few = cosines[:4, :5]  # more anchors than children: all injections can be tried
    assert few[rows[:4], align(residuals[:4], anchors[:5])].sum() == pytest.approx(
        max(few[rows[:4], list(choice)].sum() for choice in permutations(range(5), 4))
    )


def test_invariant_6_the_order_of_siblings_does_not_matter():
    rng = np.random.default_rng(1)
    residuals = rng.normal(size=(60, 16))
    anchors = make_anchors("qr", 12, residuals, [], rng)
    families = np.split(np.arange(60), [12, 22, 34, 46, 48])
    expected = number_siblings(residuals, families, anchors)
    assert np.array_equal(
        number_siblings(residuals, [rng.permutation(family) for family in families], anchors), expected
    )


@pytest.mark.parametrize("factor", [1e-20, 0.003, 1e6])
def test_invariant_7_scaling_changes_no_code(tokenizer, data, factor):
    other = replace(data, embedding=(data.embedding.astype(np.float64) * factor).astype(np.float32))
    assert np.array_equal(codes_of(fitted(other), other), codes_of(tokenizer, data))


def test_invariant_7_rotating_vectors_and_anchors_together_changes_no_code(tokenizer, data, monkeypatch):
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0]
    other = replace(data, embedding=(data.embedding @ rotation).astype(np.float32))
    assert not np.array_equal(codes_of(fitted(other), other), codes_of(tokenizer, data))
    monkeypatch.setattr(gaoq, "make_anchors", lambda *arguments: make_anchors(*arguments) @ rotation)
    assert np.array_equal(codes_of(fitted(other), other), codes_of(tokenizer, data))


def test_invariant_8_alignment_leaves_the_conditional_entropy_alone(tokenizer, local, data):
    def conditional_entropy(codes):
        joint = np.bincount(codes[:, 0] * B2 + codes[:, 1], minlength=B1 * B2).reshape(B1, B2) / N_ITEMS
        return -(joint * np.log(joint / joint.sum(1, keepdims=True))).sum()

    codes, by_kmeans = codes_of(tokenizer, data), codes_of(local, data)
    assert not np.array_equal(codes[:, 1], by_kmeans[:, 1])
    assert conditional_entropy(codes) == pytest.approx(conditional_entropy(by_kmeans), abs=1e-12)


def coherence(tokenizer, data):
    """Mean cosine of parent-centred items with the same second code under different parents."""
    codes = codes_of(tokenizer, data)
    units = unit_rows(scaled(tokenizer, data) - tokenizer.hierarchy.parents[codes[:, 0]])
    cosines = units @ units.T
    return cosines[(codes[:, None, 1] == codes[:, 1]) & (codes[:, None, 0] != codes[:, 0])].mean()


def test_invariant_9_a_code_means_the_same_under_different_parents(tokenizer, local, data):
    assert abs(coherence(local, data)) < 0.01
    assert coherence(tokenizer, data) > 0.03


def test_invariant_10_planted_offsets_get_one_code_each_under_all_parents():
    rng = np.random.default_rng(0)
    n_parents, n_offsets, per_cell = 5, 8, 6
    parent, offset = (axis.ravel() for axis in np.indices((n_parents, n_offsets, per_cell))[:2])
    centres, offsets = 10 * rng.normal(size=(n_parents, 40)), rng.normal(size=(n_offsets, 40))
    order = rng.permutation(len(parent))
    parent, offset = parent[order], offset[order]
    planted = catalogue(centres[parent] + offsets[offset] + 0.001 * rng.normal(size=(len(parent), 40)))
    codes = codes_of(fitted(planted, branches=[n_parents, n_offsets], restarts=5), planted)
    assert len(set(zip(parent, codes[:, 0]))) == n_parents
    assert len(set(zip(offset, codes[:, 1]))) == n_offsets


# ---------------------------------------------------------- numbering, anchors


def test_more_codes_than_dimensions_use_opposite_directions():
    anchors = make_anchors("qr", 9, np.zeros((1, 5)), [], np.random.default_rng(0))
    np.testing.assert_allclose(anchors[:5] @ anchors[:5].T, np.eye(5), atol=1e-12)
    assert np.array_equal(anchors[5:], -anchors[:4])
    with pytest.raises(ValueError, match="7 children cannot have different codes among 6 anchors"):
        align(np.ones((7, 5)), anchors[:6])


def test_anchors_from_the_data_align_better_than_random_ones(data):
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=(120, 32)) * np.arange(1, 33) ** -0.5
    families = np.split(np.arange(120), 10)
    matched = {}
    for kind in ("qr", "pca", "refined"):
        anchors = make_anchors(kind, 13, residuals, families, np.random.default_rng(1))
        assert anchors.shape == (13, 32)
        np.testing.assert_allclose(np.linalg.norm(anchors, axis=1), 1, atol=1e-6)
        matched[kind] = (unit_rows(residuals) * anchors[number_siblings(residuals, families, anchors)]).sum(1).mean()
    assert matched["qr"] * 1.3 < matched["pca"] < matched["refined"]
    for kind in ("pca", "refined"):
        assert len(np.unique(codes_of(fitted(data, anchors=kind), data), axis=0)) == N_ITEMS


def test_a_refined_anchor_that_nothing_is_matched_with_stays():
    residuals = np.random.default_rng(0).normal(size=(3, 6))
    fixed = make_anchors("qr", 5, residuals, [np.arange(3)], np.random.default_rng(2))
    moved = make_anchors("refined", 5, residuals, [np.arange(3)], np.random.default_rng(2))
    used = align(residuals, moved)
    np.testing.assert_allclose(moved[used], unit_rows(residuals), atol=1e-6)
    unused = np.setdiff1d(np.arange(5), used)
    assert np.array_equal(moved[unused], fixed[unused])


def test_arrival_order_numbers_the_items_of_a_cell_one_after_the_other(tokenizer, data):
    codes, matched = codes_of(fitted(data, leaf_order="arrival"), data), codes_of(tokenizer, data)
    assert np.array_equal(codes[:, :2], matched[:, :2]) and not np.array_equal(codes[:, 2], matched[:, 2])
    for cell in range(B1 * B2):
        column = codes[codes[:, 0] * B2 + codes[:, 1] == cell, 2]
        assert np.array_equal(column, np.arange(len(column)))


# ------------------------------------------------------------ sizes of catalogues


def test_automatic_branches_follow_the_catalogue():
    sizes = (1, 2, 3, 60, 300, 2_000, 6_000, 12_101, 20_000, 500_000)
    assert [auto_branches(n) for n in sizes] == [
        (1, 1), (2, 2), (2, 2), (2, 2), (2, 10), (8, 16), (16, 24), (24, 32), (32, 40), (178, 186),
    ]  # fmt: skip


@pytest.mark.parametrize("n_items", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("branches", ["auto", "largest"])
def test_tiny_catalogues(n_items, branches):
    data = catalogue(np.random.default_rng(0).normal(size=(n_items, 9)))
    tokenizer = fitted(data, branches=[min(2, n_items), n_items] if branches == "largest" else branches)
    table = tokenizer.encode(data)
    assert table.n_items == n_items + 1
    codes, cells = table.codes[1:], tokenizer.hierarchy.cells
    assert np.isfinite(tokenizer.prefix_errors(data.embedding[1:], codes)).all()
    for cell in np.unique(codes[:, :2], axis=0):
        members = (codes[:, :2] == cell).all(1)
        np.testing.assert_allclose(cells[tuple(cell)], scaled(tokenizer, data)[members].mean(0), atol=1e-5)
        if members.sum() == 1:
            # Nothing is left to be matched, neither in fit nor for an item that comes later.
            assert codes[members, 2] == 0
            nothing_left = data.embedding[1:][members]
            assert tokenizer.code_distances(nothing_left, codes[members], 2).argmin() == 0


def test_items_with_the_same_vector_get_codes_of_their_own():
    rng = np.random.default_rng(0)
    data = catalogue(np.r_[np.tile(rng.normal(size=(1, 8)), (70, 1)), rng.normal(size=(30, 8))])
    table = fitted(data, branches=[4, 5]).encode(data)
    assert table.n_items == 101  # SemanticIDs refuses codes that are shared


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"branches": [41, 2]}, r"sid_branches=\[41, 2\].*at most 40 and 8: there are 40 items"),
        ({"branches": [2, 41]}, r"sid_branches=\[2, 41\].*at most 40 and 8"),
        ({"branches": [2, 9]}, r"sid_branches=\[2, 9\].*8 directions, two for each of the 4 dimensions"),
        ({"branches": [2, 2]}, r"sid_branches=\[2, 2\].*product is larger: their cells have 10 items.* 8 directions"),
        ({"branches": "auto"}, r"sid_branches='auto'.*cells have 10 items"),
        ({"branches": [2, 4], "leaf_codes": 4}, "sid_leaf_codes=4.*from 5, the items of the largest cell, to 8"),
        ({"branches": [2, 4], "leaf_codes": 9}, "sid_leaf_codes=9.*from 5"),
    ],
)
def test_settings_that_do_not_fit_the_catalogue_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        fitted(catalogue(np.random.default_rng(0).normal(size=(40, 4))), **changes)


@pytest.mark.parametrize(
    "name, value",
    [
        ("branches", 24),
        ("branches", [24]),
        ("branches", [24, 0]),
        ("branches", [24, 32.0]),
        ("branches", [24, True]),
        ("branches", "many"),
        ("leaf_codes", 0),
        ("leaf_codes", "all"),
        ("iterations", 0),
        ("restarts", 1.5),
        ("alignment", "global"),
        ("leaf_order", "local"),
        ("anchors", "random"),
        ("collisions", "suffix"),
    ],
)
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError) as refusal:
        GAOQTokenizer.Settings(**{name: value})
    assert str(refusal.value).startswith(f"sid_{name}={value!r} is not usable")


# --------------------------------------------------------------- reconstruction


def test_prefixes_are_decoded_to_centroids_and_a_step_along_the_direction(tokenizer, data):
    codes, learnt = codes_of(tokenizer, data), tokenizer.hierarchy
    first, second, third = codes.T
    x = scaled(tokenizer, data)
    for parent in range(B1):
        np.testing.assert_allclose(learnt.parents[parent], x[first == parent].mean(0), atol=1e-5)
    residuals = x - learnt.cells[first, second]
    # The step is the least-squares one, so the third code lowers the squared error, here by n * step^2.
    projections = (residuals * learnt.leaf_anchors[third]).sum(1)
    assert learnt.leaf_step == pytest.approx(projections.mean(), rel=1e-4) and learnt.leaf_step > 0
    gain = np.square(residuals).sum() - np.square(residuals - learnt.leaf_step * learnt.leaf_anchors[third]).sum()
    assert gain == pytest.approx(N_ITEMS * learnt.leaf_step**2, rel=1e-2)

    errors = tokenizer.prefix_errors(data.embedding[1:], codes)
    decoded = learnt.cells[first, second] * learnt.scale + learnt.mean
    np.testing.assert_allclose(
        errors[:, 1], np.square(unit_rows(data.embedding[1:]) - unit_rows(decoded)).sum(1), atol=1e-5
    )
    means = errors.mean(0)
    assert means[0] > means[1] > means[2]
    with pytest.raises(ValueError, match=r"codes must be \(608, 3\) and lie below \(6, 10, 11\)"):
        tokenizer.prefix_errors(data.embedding[1:], codes + 1)


# ------------------------------------------------------------------- new items


def test_assign_takes_the_nearest_parent_its_nearest_child_and_the_best_direction(tokenizer, data):
    new = zipf_catalogue(200, d=32, seed=5)
    learnt, x = tokenizer.hierarchy, scaled(tokenizer, new)
    codes, lengths = tokenizer.assign(new.embedding[1:])
    assert (lengths == 3).all()
    for row, (first, second, third) in zip(x, codes):
        assert first == np.square(row - learnt.parents).sum(1).argmin()
        assert second == np.square(row - learnt.cells[first]).sum(1).argmin()
        assert third == (learnt.leaf_anchors @ (row - learnt.cells[first, second])).argmax()
    for level in range(3):
        nearest = tokenizer.code_distances(new.embedding[1:], codes, level).argmin(1)
        assert np.array_equal(nearest, codes[:, level])


def test_a_code_without_a_cell_is_taken_last():
    data = catalogue(np.random.default_rng(0).normal(size=(5, 8)))
    tokenizer = fitted(data, branches=[2, 4])  # parents of two and three items
    codes = tokenizer.assign_full(data.embedding[1:])
    occupied = tokenizer.hierarchy.occupied
    assert sorted(occupied.sum(1)) == [2, 3] and occupied[codes[:, 0], codes[:, 1]].all()
    distances = tokenizer.code_distances(data.embedding[1:], codes, 1)
    for row, has_cell in zip(distances, occupied[codes[:, 0]]):
        assert row[has_cell].max() < row[~has_cell].min() < np.inf


def with_new_items(data, vectors):
    """``data`` and, among its items, new ones that are more popular than all of them; and which rows are old."""
    n_old, n_new = len(data.embedding), len(vectors)
    joined = TokenizerInput(
        embedding=np.concatenate([data.embedding, vectors]),
        popularity=np.concatenate([data.popularity, np.full(n_new, data.popularity.max() + 1)]),
        item_tokens=np.concatenate([data.item_tokens, [f"new {i}" for i in range(n_new)]]),
    )
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(n_old + n_new - 1)]
    order[order < n_old] = np.arange(n_old)  # the old ones stay in their order
    shuffled = TokenizerInput(joined.embedding[order], joined.popularity[order], joined.item_tokens[order])
    return shuffled, order < n_old


def test_new_items_move_to_free_leaves_and_leave_the_others_where_they_are(data):
    tokenizer = fitted(data, leaf_codes=16)
    # Copies of items compete for their very leaves, and more come than a cell can hold.
    vectors = np.r_[data.embedding[1:41], np.tile(data.embedding[7], (30, 1))]
    joined, old = with_new_items(data, vectors)
    table = tokenizer.encode(joined)
    assert table.unique and table.n_items == len(data.embedding) + 70
    assert np.array_equal(table.codes[old][1:], codes_of(tokenizer, data))
    first = table.codes[~old, 0]
    assert np.array_equal(first, tokenizer.assign(joined.embedding[~old])[0][:, 0])
    extended = tokenizer.extend(tokenizer.encode(data), joined.embedding[~old], joined.item_tokens[~old])
    assert np.array_equal(extended.codes[: len(data.embedding)], tokenizer.encode(data).codes)


def test_new_items_without_room_name_the_setting(data):
    tokenizer = fitted(data)
    joined, _ = with_new_items(data, np.tile(data.embedding[7], (30, 1)))
    with pytest.raises(ValueError, match="sid_leaf_codes='auto'.*at least 14 when.*13[12] share .* 10 x 11 leaves"):
        tokenizer.encode(joined)


def test_an_item_is_known_by_its_token_and_its_vector(tokenizer, data):
    expected = codes_of(tokenizer, data)
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(N_ITEMS)]
    shuffled = TokenizerInput(data.embedding[order], data.popularity[order], data.item_tokens[order])
    assert np.array_equal(codes_of(tokenizer, shuffled), expected[order[1:] - 1])
    # Balanced clusters: some item is not in the nearest one, so its code cannot come from assign.
    assigned = tokenizer.assign_full(data.embedding[1:])
    assert not np.array_equal(assigned, expected)
    unknown = int((assigned != expected).any(1).argmax())
    renamed = data.item_tokens.copy()
    renamed[unknown + 1] = "another"
    assert np.array_equal(codes_of(tokenizer, replace(data, item_tokens=renamed))[unknown], assigned[unknown])
    moved = data.embedding.copy()
    moved[unknown + 1, 0] += 1e-6
    codes = codes_of(tokenizer, replace(data, embedding=moved))
    assert np.array_equal(codes[unknown], assigned[unknown])
    assert np.array_equal(np.delete(codes, unknown, 0), np.delete(expected, unknown, 0))


# ------------------------------------------------------------ seeds and states


def test_the_seed_decides(tokenizer, data):
    again, other = fitted(data), fitted(data, seed=1)
    assert all(np.array_equal(tensor, again.state_dict()[name]) for name, tensor in tokenizer.state_dict().items())
    assert not np.array_equal(codes_of(other, data), codes_of(tokenizer, data))
    assert np.array_equal(codes_of(fitted(data, seed=-1), data), codes_of(fitted(data, seed=2**32 - 1), data))


def test_a_state_in_a_file_gives_the_same_codes(tokenizer, data, tmp_path):
    save_file(tokenizer.state_dict(), tmp_path / "state.safetensors")
    restored = GAOQTokenizer()
    restored.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert restored.vocab_sizes == tokenizer.vocab_sizes
    assert restored.encode(data).codes.tolist() == tokenizer.encode(data).codes.tolist()
    new = zipf_catalogue(50, d=32, seed=5).embedding
    assert np.array_equal(restored.assign(new)[0], tokenizer.assign(new)[0])
    with pytest.raises(ValueError, match="no state of tokenizer 'gaoq'"):
        restored.load_state_dict({"centroids": None})


@pytest.mark.parametrize("call", ["assign", "content_codes", "encode", "state_dict", "vocab_sizes"])
def test_before_fit(call, data):
    tokenizer = GAOQTokenizer()
    calls = {
        "assign": lambda: tokenizer.assign(data.embedding),
        "content_codes": lambda: tokenizer.content_codes(data),
        "encode": lambda: tokenizer.encode(data),
        "state_dict": lambda: tokenizer.state_dict(),
        "vocab_sizes": lambda: tokenizer.vocab_sizes,
    }
    with pytest.raises(RuntimeError, match="call fit"):
        calls[call]()
