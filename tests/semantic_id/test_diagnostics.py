from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from recbole_vsid.semantic_id.collisions import append_suffix
from recbole_vsid.semantic_id.diagnostics import diagnose, print_diagnostics
from recbole_vsid.semantic_id.table import SemanticIDs


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
    assert result["collisions"] == {
        "distinct_codes": 4,
        "distinct_share": 0.8,
        "shared": {"events": pytest.approx(0.07), "items": pytest.approx(0.4)},
        "largest_group": 2,
    }
    first, second, third = result["positions"]
    entropy = -(0.6 * math.log(0.6) + 2 * 0.2 * math.log(0.2))
    assert first == {"items": 5, "used": 3, "usage": 0.6, "perplexity": pytest.approx(math.exp(entropy))}
    assert second == {"items": 4, "used": 2, "usage": 0.4, "perplexity": pytest.approx(2.0)}
    assert third == {"items": 2, "used": 1, "usage": 0.2, "perplexity": pytest.approx(1.0)}
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
    assert result["collisions"]["shared"]["items"] == 0
    assert result["positions"][1]["usage"] == 0.5


def test_arrays_of_the_wrong_size_are_refused(table):
    with pytest.raises(ValueError, match="popularity must have 6"):
        diagnose(table, POPULARITY[1:])
    for bad in (np.zeros((6, 3)), np.zeros((5, 2)), np.zeros(5)):
        with pytest.raises(ValueError, match="prefix_errors must be"):
            diagnose(table, POPULARITY, bad)


def test_printed_table_shows_the_figures(table):
    console = Console(file=io.StringIO(), width=120)
    print_diagnostics(diagnose(table, POPULARITY, ERRORS), console)
    text = console.file.getvalue()
    for figure in ("1.130", "2.200", "2.130", "7.0%", "40.0%", "4 (80.0%)", "head", "90.0% of events", "0.1550"):
        assert figure in text
    print_diagnostics(diagnose(table, np.zeros(6, dtype=int)), console)  # no events, no errors
    assert "–" in console.file.getvalue()
