"""Conditions on rows: what they keep, and that nothing else than comparisons is read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.commands.prepare.where import Condition

ROWS = pd.DataFrame(
    {
        "event": ["view", "buy", "", "cart"],
        "rating": ["4", "3.5", "", "5.0"],
        "Event Type": ["a", "b", "c", "d"],
        "n": [1, 2, np.nan, 4],
        "new": [True, False, True, True],
        "when": pd.to_datetime(["2019-01-01", "2019-06-01", "2020-01-01", None]),
    }
)


def holds(text):
    return Condition(text, list(ROWS), "events.csv").holds(ROWS).astype(int).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("event == 'buy'", [0, 1, 0, 0]),
        ("event in ['buy', 'cart'] and rating >= 4", [0, 0, 0, 1]),
        ("rating > 3.9 or n == 2", [1, 1, 0, 1]),
        ("not (rating < 4)", [1, 0, 1, 1]),
        ("rating != 4", [0, 1, 1, 1]),
        ("3 < rating < 5", [1, 1, 0, 0]),
        ("5 > rating", [1, 1, 0, 0]),
        ("rating == '4'", [1, 0, 0, 0]),
        ("event != ''", [1, 1, 0, 1]),
        ("event == ''", [0, 0, 1, 0]),
        ("event not in ('view',)", [0, 1, 1, 1]),
        ('`Event Type` == "b"', [0, 1, 0, 0]),
        ("n in [-1, 4]", [0, 0, 0, 1]),
        ("new == True", [1, 0, 1, 1]),
        ("when >= '2019-03-01'", [0, 1, 1, 0]),
    ],
)
def test_what_it_keeps(text, expected):
    assert holds(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("__import__('os').system('true') == 1", "each comparison is one of a column with a value"),
        ("event", "'event' is no comparison"),
        ("event == n", "each comparison is one of a column with a value"),
        ("event.x == 1", "each comparison is one of a column with a value"),
        ("n == 9**9**9", "neither a column, a text nor a number"),
        ("event == f'{1}'", "neither a column, a text nor a number"),
        ("[event for event in n]", "is no comparison"),
        ("(n := 1) == 1", "each comparison is one of a column with a value"),
        ("event = 'buy'", "where=\"event = 'buy'\" is not usable: invalid syntax"),
        ("rating >", "invalid syntax"),
        ("event is None", "comparisons are"),
        ("event in 'buy'", "`in` stands between a column and a list"),
        ("event in []", "a list must hold texts or numbers"),
        ("event in [1, 'a']", "a list must hold texts or numbers"),
        ("price == 1", r"'price' is no column; those of events.csv are \['event', 'rating'"),
        ("event > 3", r"column 'event': 3 of 4 values are no numbers, that of row 1 first \('view'\)"),
        ("n == '4'", "holds numbers; compare it with 4 without quotes"),
        ("new == 1", "holds bool values"),
        ("when == 'soon'", "holds dates, and 'soon' is none"),
        ("(" * 5000 + "n == 1" + ")" * 5000, "is not usable"),
        ("not " * 2000 + "n == 1", "is not usable"),
        ("n == 1\0", "is not usable"),
        ("", "is not usable: conditions are like"),
        (None, "is not usable: conditions are like"),
    ],
)
def test_what_it_refuses(text, told):
    with pytest.raises(ValueError, match=told):
        holds(text)


@settings(max_examples=100, deadline=None)
@given(st.text("envw=<>!()[]'\"`0.,- andotri\\\n", max_size=20))
def test_any_text_is_read_or_refused_in_one_error(text):
    try:
        found = holds(text)
    except ValueError as error:
        assert "where=" in str(error)
    else:
        assert len(found) == len(ROWS)
