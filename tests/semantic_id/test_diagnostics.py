from __future__ import annotations

import json
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from recbole_vsid.semantic_id.collisions import append_suffix, resolve_collisions
from recbole_vsid.semantic_id.diagnostics import diagnose
from recbole_vsid.semantic_id.table import SemanticIDs
from tests.property.strategies import content_codes, make_table


def names(n):
    return np.array(["[PAD]"] + [f"i{i}" for i in range(1, n)])


@pytest.fixture
def table():
    """Five items: a popular one of length 1, two that collide, two of length 3."""
    codes = [[-1, -1, -1], [4, -1, -1], [0, 1, -1], [0, 1, -1], [0, 2, 3], [1, 2, 3]]
    return append_suffix(codes, np.array([0, 1, 2, 2, 3, 3]), (5, 5, 5), True, POPULARITY, names(6), {})


POPULARITY = np.array([0, 90, 4, 3, 2, 1])
ERRORS = np.array([[0.1, 0.1, 0.1], [0.5, 0.2, 0.2], [0.5, 0.3, 0.1], [1.0, 0.5, 0.0], [1.0, 0.5, 0.25]])


def test_figures_by_hand(table):
    result = json.loads(json.dumps(diagnose(table, POPULARITY, ERRORS), allow_nan=False))
    assert result["n_items"] == 5 and result["n_events"] == 100
    assert result["vocab_sizes"] == [5, 5, 5] and result["n_tokens"] == 7
    length = result["length"]
    assert length["content"] == {"events": pytest.approx(1.13), "items": pytest.approx(2.2)}
    assert length["with_suffix"] == {"events": pytest.approx(2.13), "items": pytest.approx(3.2)}
    assert length["histogram"] == [1, 2, 2]
    assert length["full"] == length["with_suffix"]
    assert result["collisions"] == {
        "distinct_codes": 4,
        "distinct_share": 0.8,
        "shared": {"events": pytest.approx(0.07), "items": pytest.approx(0.4)},
        "largest_group": 2,
        "group_sizes": [
            {"size": 1, "groups": 3, "events": pytest.approx(0.93), "items": pytest.approx(0.6)},
            {"size": 2, "groups": 1, "events": pytest.approx(0.07), "items": pytest.approx(0.4)},
        ],
        "policy": None,
        "moved": None,
        "before": None,
        "after": {"distinct_codes": 5, "items": 0, "item_share": 0.0, "largest_group": 1},
    }
    first, second, third = result["positions"]
    entropy = -(0.6 * math.log(0.6) + 2 * 0.2 * math.log(0.2))
    assert first == {
        "items": 5,
        "used": 3,
        "usage": 0.6,
        "dead": 2,
        "top_share": pytest.approx(0.6),
        "entropy": pytest.approx(entropy),
        "perplexity": pytest.approx(math.exp(entropy)),
        "conditional_entropy": pytest.approx(entropy),
        "conditional_perplexity": pytest.approx(math.exp(entropy)),
    }
    # Three items go on below token 0, with the tokens 1, 1, 2; one below token 1.
    below = 3 / 4 * -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert (second["items"], second["used"], second["dead"], second["top_share"]) == (4, 2, 3, 0.5)
    assert second["perplexity"] == pytest.approx(2) and second["conditional_entropy"] == pytest.approx(below)
    assert (third["items"], third["used"], third["dead"], third["top_share"]) == (2, 1, 4, 1.0)
    assert third["perplexity"] == 1 and third["conditional_perplexity"] == 1
    error = result["reconstruction"]
    assert error["prefixes"][0] == {"events": pytest.approx(0.155), "items": pytest.approx(0.62)}
    chosen = [0.1, 0.2, 0.3, 0.0, 0.25]
    assert error["chosen_length"]["items"] == pytest.approx(np.mean(chosen))
    assert error["chosen_length"]["events"] == pytest.approx(np.average(chosen, weights=POPULARITY[1:]))


def test_popularity_groups():
    n = 101
    lengths = np.r_[0, np.full(5, 1), np.full(15, 2), np.full(80, 3)]
    rows = np.arange(n)[:, None] % 100
    codes = np.where(np.arange(3) < lengths[:, None], rows, -1)
    popularity = np.r_[0, np.full(5, 1000), np.full(15, 100), np.full(80, 1)]
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(n - 1)]
    table = append_suffix(codes[order], lengths[order], (100,) * 3, True, popularity[order], names(n), {})
    groups = diagnose(table, popularity[order])["length"]["groups"]
    assert {name: (group["items"], group["mean_length"]) for name, group in groups.items()} == {
        "head": (5, 1.0),
        "mid": (15, 2.0),
        "tail": (80, 3.0),
    }
    assert groups["head"]["event_share"] == pytest.approx(5000 / 6580)


def test_own_vocabulary_per_position():
    codes = np.array([[-1, -1], [2, 0], [2, 0], [2, 1], [0, 1]])
    table = append_suffix(codes, np.array([0, 2, 2, 2, 2]), (3, 2), False, np.zeros(5), names(5), {})
    result = diagnose(table, np.zeros(5, dtype=int))
    assert result["vocab_sizes"] == [3, 2]
    assert result["length"]["content"] == {"events": None, "items": 2.0}
    assert result["length"]["groups"]["head"]["event_share"] is None
    assert result["collisions"]["shared"] == {"events": None, "items": 0.5}
    assert result["reconstruction"] is None
    # Content that may end early leaves suffix ids behind the content's at an inner position.
    codes = np.array([[-1, -1], [2, -1], [1, 0], [1, 1]])
    table = append_suffix(codes, np.array([0, 1, 2, 2]), (3, 2), False, np.ones(4), names(4), {})
    assert diagnose(table, np.ones(4, dtype=int))["vocab_sizes"] == [3, 2]


def test_table_without_suffix():
    codes = [[-1, -1], [0, 1], [1, 0], [1, 1]]
    table = SemanticIDs(codes, [0, 2, 2, 2], (2, 4), False, names(4))
    result = diagnose(table, [0, 3, 2, 1])
    assert result["vocab_sizes"] == [2, 4]
    assert result["length"]["with_suffix"] is None and result["length"]["content"]["items"] == 2
    assert result["length"]["full"] == result["length"]["content"]
    assert result["collisions"]["shared"]["items"] == 0
    assert result["positions"][1]["usage"] == 0.5


def test_arrays_of_the_wrong_size_are_refused(table):
    with pytest.raises(ValueError, match="popularity must have 6"):
        diagnose(table, POPULARITY[1:])
    for bad in (np.zeros((6, 3)), np.zeros((5, 2)), np.zeros(5)):
        with pytest.raises(ValueError, match="prefix_errors must be"):
            diagnose(table, POPULARITY, bad)
    for bad in (np.zeros((5, 2)), np.zeros(6)):
        with pytest.raises(ValueError, match=r"embedding must be \[6, d\]"):
            diagnose(table, POPULARITY, embedding=bad)


def entropy_of(labels):
    return -sum(n / len(labels) * math.log(n / len(labels)) for n in Counter(labels).values())


@settings(max_examples=60, deadline=None)
@given(content_codes(), st.booleans())
def test_figures_of_the_codes_agree_with_loops(arguments, with_suffix):
    content = [tuple(code[:n]) for code, n in zip(arguments["codes"].tolist()[1:], arguments["lengths"][1:])]
    sizes = arguments["vocab_sizes"][: max(map(len, content))]
    if with_suffix:
        table = append_suffix(**arguments)
    else:
        table = make_table(content, sizes, len(set(sizes)) == 1, unique=False, prefix_free=False)
    popularity = arguments["popularity"]
    result = json.loads(json.dumps(diagnose(table, popularity), allow_nan=False))
    n, events = len(content), popularity[1:]

    assert result["length"]["full"]["items"] == pytest.approx(np.mean([len(code) + with_suffix for code in content]))
    lengths = [len(code) for code in content]
    if len(set(lengths)) == 1 or len(set(events)) == 1:
        assert result["length"]["popularity_correlation"] is None
    else:
        expected = np.corrcoef(rankdata(lengths), rankdata(events))[0, 1]
        assert result["length"]["popularity_correlation"] == pytest.approx(expected)

    members = Counter(content)
    for each in result["collisions"]["group_sizes"]:
        inside = [members[code] == each["size"] for code in content]
        assert each["groups"] == sum(count == each["size"] for count in members.values()) > 0
        assert each["items"] == pytest.approx(sum(inside) / n)
        assert each["events"] == (pytest.approx(sum(events[inside]) / sum(events)) if sum(events) else None)
    assert sum(each["size"] * each["groups"] for each in result["collisions"]["group_sizes"]) == n
    assert result["collisions"]["after"]["items"] == (0 if with_suffix else sum(m for m in members.values() if m > 1))

    assert result["vocab_sizes"] == sizes
    for t, position in enumerate(result["positions"]):
        below = defaultdict(list)
        for code in content:
            if len(code) > t:
                below[code[:t]].append(code[t])
        tokens = [token for group in below.values() for token in group]
        assert position["items"] == len(tokens)
        assert position["used"] == len(set(tokens)) and position["dead"] == sizes[t] - len(set(tokens))
        assert position["top_share"] == pytest.approx(max(Counter(tokens).values()) / len(tokens))
        assert position["entropy"] == pytest.approx(entropy_of(tokens), abs=1e-12)
        conditional = sum(len(group) / len(tokens) * entropy_of(group) for group in below.values())
        assert position["conditional_entropy"] == pytest.approx(conditional, abs=1e-12)
        assert position["conditional_perplexity"] == pytest.approx(math.exp(conditional))


def test_renumbering_below_a_parent_keeps_the_conditional_entropy():
    # ReSID, invariant 8: H(c_2 | c_1) cannot tell an aligned numbering from any other.
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(6, size=300), rng.integers(5, size=300)], axis=1)
    renumbered = codes.copy()
    renumbered[:, 1] = np.stack([rng.permutation(5) for _ in range(6)])[codes[:, 0], codes[:, 1]]
    tables = [
        make_table(list(map(tuple, each.tolist())), (6, 5), False, unique=False, prefix_free=False)
        for each in (codes, renumbered)
    ]
    one, other = (diagnose(table, np.ones(301))["positions"][1] for table in tables)
    assert one["conditional_entropy"] == pytest.approx(other["conditional_entropy"], abs=1e-12)
    assert one["entropy"] != other["entropy"]


@pytest.mark.parametrize("policy", ["suffix", "nearest", "none"])
def test_collisions_before_and_after_their_resolution(policy):
    codes = np.array([[-1, -1], [0, 0], [0, 0], [0, 0], [0, 1], [1, 0]])
    table = resolve_collisions(
        policy, codes, np.array([0, 2, 2, 2, 2, 2]), (2, 4), False, np.arange(6), names(6), {},
        distances=lambda rows, prefix, level: np.tile(np.arange(4.0), (len(rows), 1)),
    )  # fmt: skip
    result = diagnose(table, np.arange(6))["collisions"]
    before = {"distinct_codes": 3, "items": 3, "item_share": 0.6, "largest_group": 3}
    after = before if policy == "none" else {"distinct_codes": 5, "items": 0, "item_share": 0.0, "largest_group": 1}
    assert result["policy"] == policy and result["moved"] == (2 if policy == "nearest" else None)
    assert result["before"] == before and result["after"] == after
    # The content code is what is left without the suffix: as before, unless the policy changed it.
    assert result["distinct_codes"] == (5 if policy == "nearest" else 3)


@pytest.mark.parametrize(
    ("codes", "groups", "conditional"),
    [
        ([(0, 0), (0, 1), (1, 0), (1, 1)], [(1, 4)], [2, 2]),  # one item per code
        ([(0, 1)] * 4, [(4, 1)], [1, 1]),  # all items one code
        ([(0,), (1,), (2,), (2,)], [(1, 2), (2, 1)], [2 * math.sqrt(2)]),  # single tokens
    ],
)
def test_extreme_tables(codes, groups, conditional):
    table = make_table(codes, (3, 2)[: len(codes[0])], False, unique=False, prefix_free=False)
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    nobody = json.dumps(diagnose(table, np.zeros(5, dtype=int), embedding=vectors), allow_nan=False)
    result = json.loads(nobody)
    assert [(each["size"], each["groups"]) for each in result["collisions"]["group_sizes"]] == groups
    assert all(each["events"] is None for each in result["collisions"]["group_sizes"])
    assert [each["conditional_perplexity"] for each in result["positions"]] == pytest.approx(conditional)
    assert result["length"]["popularity_correlation"] is None
    assert len(result["code_alignment"]) == len(codes[0]) - 1
    assert len(result["content_similarity"]["prefixes"]) == len(codes[0])
    assert result["cooccurrence"] is None


def test_popular_items_that_are_shorter_show_in_the_correlation(table):
    correlation = diagnose(table, POPULARITY)["length"]["popularity_correlation"]
    assert correlation == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4.5, 4.5], [5, 4, 3, 2, 1])[0, 1])
    assert diagnose(table, POPULARITY[[0, 5, 4, 3, 2, 1]])["length"]["popularity_correlation"] > 0.9
