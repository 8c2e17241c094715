"""Codes against content and sequences: every measure against loops over pairs, and planted data."""

from __future__ import annotations

import json
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.semantic_id import geometry
from recbole_vsid.semantic_id.diagnostics import diagnose
from recbole_vsid.semantic_id.geometry import (
    code_alignment,
    content_similarity,
    cooccurrence_recall,
    mean_cosine,
    prefix_groups,
    sample_pairs,
)
from tests.property.strategies import content_codes, make_table, semantic_id_tables


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def mean(values):
    return sum(values) / len(values) if values else None


def prefixes(codes):
    """Rows of codes as tuples without padding."""
    return [tuple(code for code in row if code >= 0) for row in codes.tolist()]


def share_tokens(one, other, n):
    return len(one) >= n and one[:n] == other[:n]


@pytest.fixture
def tree():
    """240 items in a tree 6 × 4: codes ``[240, 2]`` and their groups."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(6, size=240), rng.integers(4, size=240)], axis=1)
    return codes, prefix_groups(codes)


@settings(max_examples=60, deadline=None)
@given(content_codes())
def test_groups_are_the_different_prefixes(arguments):
    codes = arguments["codes"][1:]
    groups = prefix_groups(codes)
    for t in range(codes.shape[1]):
        texts = [tuple(row[: t + 1]) for row in codes.tolist()]
        assert groups[:, t].max() + 1 == len(set(texts))
        assert len(set(zip(texts, groups[:, t].tolist()))) == len(set(texts))


# --------------------------------------------------------------- content cosine


def test_pairs_are_drawn_evenly_and_within_their_group():
    groups = np.array([5, 2, 5, 9, 5, 2])
    rows, mates, n_paired = sample_pairs(groups, np.random.default_rng(0), 60_000)
    assert n_paired == 5
    assert (groups[rows] == groups[mates]).all() and (rows != mates).all()
    counts = np.zeros((6, 6), dtype=int)
    np.add.at(counts, (rows, mates), 1)
    # Every item but the lonely one 12,000 times, each of its mates as often as the others.
    expected = np.zeros((6, 6))
    expected[1, 5] = expected[5, 1] = 12_000
    for one, other in permutations((0, 2, 4), 2):
        expected[one, other] = 6_000
    np.testing.assert_allclose(counts, expected, atol=500)
    assert sample_pairs(np.arange(4), np.random.default_rng(0))[2] == 0


@pytest.mark.parametrize("length", [3, 1])
def test_similarity_agrees_with_all_pairs(length):
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, length + 1, size=30)
    codes = np.where(np.arange(length) < lengths[:, None], rng.integers(3, size=(30, length)), -1)
    vectors = rng.normal(size=(30, 4)) + 2 * np.eye(4)[codes[:, 0]]
    result = content_similarity(vectors, codes, prefix_groups(codes))
    texts = prefixes(codes)
    for n, figures in enumerate(result["prefixes"], start=1):
        of_items = [
            [cosine(vectors[i], vectors[j]) for j in range(30) if i != j and share_tokens(texts[i], texts[j], n)]
            for i in range(30)
        ]
        of_items = [mean(cosines) for cosines in of_items if cosines]
        assert figures["items"] == pytest.approx(len(of_items) / 30)
        assert figures["cosine"] == pytest.approx(mean(of_items), abs=0.02)
    random = mean([cosine(vectors[i], vectors[j]) for i, j in combinations(range(30), 2)])
    assert result["random"] == pytest.approx(random, abs=0.02)
    assert result["prefixes"][0]["cosine"] > result["random"] + 0.1


def test_only_sampled_pairs_of_a_mapped_file_are_read(tmp_path, tree, monkeypatch):
    codes, groups = tree
    vectors = np.random.default_rng(2).normal(size=(240, 8)).astype(np.float16)
    np.save(tmp_path / "content.npy", vectors)
    mapped = np.load(tmp_path / "content.npy", mmap_mode="r")
    whole = [measure(vectors, codes, groups) for measure in (content_similarity, code_alignment)]
    assert [measure(mapped, codes, groups) for measure in (content_similarity, code_alignment)] == whole

    class Reads:
        rows = 0

        def __getitem__(self, index):
            self.rows += len(index)
            return mapped[index]

    monkeypatch.setattr(geometry, "SAMPLED_ITEMS", 60)
    reads = Reads()
    sampled = code_alignment(reads, codes, groups)
    assert reads.rows == 60 and 0 < sampled[0]["pairs"] < whole[1][0]["pairs"] / 8
    assert sampled == code_alignment(mapped, codes, groups, seed=0) != code_alignment(mapped, codes, groups, seed=1)


def test_pairs_in_parts_give_the_same_mean(monkeypatch):
    rng = np.random.default_rng(3)
    vectors, left, right = rng.normal(size=(20, 5)), rng.integers(20, size=101), rng.integers(20, size=101)
    expected = mean([cosine(vectors[i], vectors[j]) for i, j in zip(left, right)])
    for size in (7, 101, 500):
        monkeypatch.setattr(geometry, "PAIRS_AT_ONCE", size)
        assert mean_cosine(vectors, left, right) == pytest.approx(expected, abs=1e-6)


def test_items_without_content_do_not_count():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 1]])
    vectors = np.array([[1.0, 0], [0, 0], [0, 2.0], [1.0, 1], [1, -1], [3, 1]])
    result = content_similarity(vectors, codes, prefix_groups(codes))
    assert result["prefixes"][1]["cosine"] == pytest.approx(0)  # rows 3 and 4 alone; row 1 has no direction
    without = np.array([0, 2, 3, 4, 5])
    aligned = code_alignment(vectors, codes, prefix_groups(codes))
    assert aligned == code_alignment(vectors[without], codes[without], prefix_groups(codes[without]))
    nothing = content_similarity(np.zeros((6, 2)), codes, prefix_groups(codes))
    assert nothing["random"] is None and nothing["prefixes"][0] == {"items": 1.0, "cosine": None}
    assert code_alignment(np.zeros((6, 2)), codes, prefix_groups(codes)) == [
        {"position": 2, "cross_parent": None, "all": None, "pairs": 0}
    ]


# -------------------------------------------------------------------- alignment


def naive_alignment(vectors, texts, t):
    """Cosines of parent-centred unit vectors of all pairs with the same token at ``t``: other parents, any parent."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [row for row, code in enumerate(texts) if len(code) > t]
    centred = {}
    for row in rows:
        siblings = [other for other in rows if texts[other][:t] == texts[row][:t]]
        centred[row] = units[row] - units[siblings].mean(0)
    rows = [row for row in rows if np.linalg.norm(centred[row]) > 1e-6]
    pairs = [(one, other) for one, other in combinations(rows, 2) if texts[one][t] == texts[other][t]]
    across = [(one, other) for one, other in pairs if texts[one][:t] != texts[other][:t]]
    return tuple(mean([cosine(centred[one], centred[other]) for one, other in each]) for each in (across, pairs))


@settings(max_examples=60, deadline=None)
@given(content_codes(max_items=20), st.integers(0, 5))
def test_alignment_agrees_with_all_pairs(arguments, seed):
    codes = arguments["codes"][1:]
    # Few different vectors: some items are exactly like their siblings and have no direction.
    vectors = np.random.default_rng(seed).integers(1, 4, size=(len(codes), 3)).astype(float)
    result = code_alignment(vectors, codes, prefix_groups(codes))
    assert [each["position"] for each in result] == list(range(2, codes.shape[1] + 1))
    for each in result:
        across, every = naive_alignment(vectors, prefixes(codes), each["position"] - 1)
        assert each["cross_parent"] == (None if across is None else pytest.approx(across, abs=1e-9))
        assert each["all"] == (None if every is None else pytest.approx(every, abs=1e-9))
        assert (each["pairs"] == 0) == (across is None)


def test_an_aligned_numbering_is_told_from_a_local_one():
    # ReSID, invariant 9: vectors are parent + offset of the child + noise, with the same offsets under all parents.
    rng = np.random.default_rng(4)
    parents, offsets = 4 * rng.normal(size=(12, 32)), rng.normal(size=(8, 32))
    parent, child = np.repeat(np.arange(12), 80), np.tile(np.repeat(np.arange(8), 10), 12)
    vectors = parents[parent] + offsets[child] + 0.5 * rng.normal(size=(960, 32))
    shuffled = np.stack([rng.permutation(8) for _ in range(12)])[parent, child]

    def measured(code):
        codes = np.stack([parent, code], axis=1)
        return code_alignment(vectors, codes, prefix_groups(codes))[0]

    aligned, local = measured(child), measured(shuffled)
    assert aligned["cross_parent"] > 0.5
    assert abs(local["cross_parent"]) < 0.05
    # The pairs of one parent look alike under any numbering and would hide the difference.
    assert local["all"] > local["cross_parent"] + 0.03
    assert aligned["pairs"] == 8 * 66 * 10 * 10


# ------------------------------------------------------------------- sequences


def log(*sequences):
    items = np.array([item for sequence in sequences for item in sequence], dtype=np.int64)
    return SimpleNamespace(items=items, offsets=np.cumsum([0, *map(len, sequences)]))


def sequences_of(n_items):
    return st.lists(st.lists(st.integers(1, n_items), max_size=6), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_recall_of_neighbours_agrees_with_loops(data):
    codes = data.draw(content_codes(max_items=8))["codes"][1:]
    sequences = data.draw(sequences_of(len(codes)))
    texts, events = prefixes(codes), np.bincount(log(*sequences).items, minlength=len(codes) + 1)[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "EVENTS_AT_ONCE", data.draw(st.sampled_from([1, 3, 100])))
        result = cooccurrence_recall(codes, prefix_groups(codes), events.astype(float), log(*sequences))
    pairs = [(a - 1, b - 1) for sequence in sequences for a, b in zip(sequence, sequence[1:]) if a != b]
    assert result["pairs"] == len(pairs)
    drawn = {(i, j): int(events[i] * events[j]) for i, j in permutations(range(len(codes)), 2)}
    for n, figures in enumerate(result["prefixes"], start=1):
        recall = mean([share_tokens(texts[a], texts[b], n) for a, b in pairs])
        possible = sum(drawn.values())
        meet = sum(weight for (i, j), weight in drawn.items() if share_tokens(texts[i], texts[j], n))
        assert figures["recall"] == (None if recall is None else pytest.approx(recall))
        assert figures["random"] == (pytest.approx(meet / possible, abs=1e-12) if possible else None)
        if recall is not None and meet:
            assert figures["lift"] == pytest.approx(recall * possible / meet)
        else:
            assert figures["lift"] is None


def test_neighbours_planted_in_one_branch_are_found():
    codes = np.stack([np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)], axis=1)
    rng = np.random.default_rng(5)
    sequences = [1 + 5 * rng.integers(4) + rng.permutation(5) for _ in range(200)]
    events = np.bincount(np.concatenate(sequences), minlength=21)[1:].astype(float)
    first, second = cooccurrence_recall(codes, prefix_groups(codes), events, log(*sequences))["prefixes"]
    assert first["recall"] == 1 and first["random"] == pytest.approx(4 / 19, abs=0.01)
    assert second == {"recall": 0.0, "random": 0.0, "lift": None}


def test_users_do_not_run_into_each_other():
    codes = np.array([[0], [0], [1]])
    result = cooccurrence_recall(codes, prefix_groups(codes), np.ones(3), log([1], [], [2, 3], [], [1, 2], []))
    assert result["pairs"] == 2 and result["prefixes"][0]["recall"] == 0.5


def test_ids_outside_the_table_are_refused():
    codes = np.array([[0], [1]])
    for item in (0, 3):
        with pytest.raises(ValueError, match=r"must lie in 1\.\.2, not"):
            cooccurrence_recall(codes, prefix_groups(codes), np.ones(2), log([1, item]))


# -------------------------------------------------------------------- altogether


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_table_gives_plain_json_values(data):
    if data.draw(st.booleans()):
        table = data.draw(semantic_id_tables())
    else:
        code = data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=6))
        table = make_table(code, (2, 2), unique=False, prefix_free=False)
    n = table.n_items - 1
    sequences = log(*data.draw(sequences_of(n)))
    popularity = np.bincount(sequences.items, minlength=n + 1)
    embedding = np.random.default_rng(0).integers(-1, 2, size=(n + 1, 2)).astype(np.float32)
    result = diagnose(table, popularity, None, embedding, sequences)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result == diagnose(table, popularity, None, embedding, sequences)
    embedding[0], popularity[0] = 99, 99  # the padding item counts nowhere
    assert result == diagnose(table, popularity, None, embedding, sequences)
