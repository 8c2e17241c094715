"""What is said where times leave the order of events open."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_vsid.commands.prepare.order import combined_times, order_notes, rating_note


def test_several_times_keep_their_order():
    rng = np.random.default_rng(3)
    for gap in (1, 86_400):
        keys = [rng.integers(0, 5, 200) * gap, rng.normal(size=200), rng.integers(0, 2, 200)]
        keys[1][::4] = 0.5
        seconds, exact = combined_times(keys, keys[0])
        expected = sorted(range(200), key=lambda row: tuple(key[row] for key in keys))
        assert (np.diff(seconds[expected]) >= 0).all() and (np.diff(exact[expected]) >= 0).all()
        rows = pd.DataFrame(dict(enumerate(keys)))
        assert len(np.unique(seconds)) == len(np.unique(exact)) == len(rows.drop_duplicates())
        assert (np.floor(seconds / gap) == keys[0] / gap).all(), "no event moves to another day"


@pytest.mark.parametrize(
    ("users", "times", "unit", "told"),
    [
        ([0, 0, 1, 1], [1, 2, 1, 2], None, []),
        ([0, 0, 1, 1], [5, 5, 7, 8], None, ["50% of the events share their time with another event of the same user"]),
        ([0, 0, 1, 1], [5, 5, 5, 5], None, ["all times are equal"]),
        ([0, 1, 0, 1, 0], [9, 9, 8, 7, 8], None, ["40% of the events", "sorted newest first"]),
        ([0, 1, 2], [157 * 10**10, 157 * 10**10, 158 * 10**10], "milliseconds", ["as if a spreadsheet"]),
        ([0, 1, 2], [1_600_000_000, 1_600_086_400, 1_600_000_001], "seconds", []),
        ([0, 1, 2], 86_400_000 * np.arange(18_001, 18_004), "milliseconds", []),
        ([0], [5], None, []),
    ],
)
def test_notes_on_the_order(users, times, unit, told):
    notes = order_notes(np.array(users), np.array(times), unit, "events.csv", "day")
    assert len(notes) == len(told) and all(word in note for word, note in zip(told, notes))


@pytest.mark.parametrize(
    ("users", "numbers", "column", "told"),
    [
        ([0, 0, 1, 1], [5, 4, 3, 5], "Book-Rating", True),
        ([0, 0, 1, 1], [5, 4, 3, 5], "col3", True),
        ([0, 0, 1, 1], [1, 2, 2, 1], "position", False),
        ([0, 0, 1, 1], [0, 1, 3, 4], "step", False),
        ([0, 0, 1, 1], [500, 400, 300, 500], "session", False),
    ],
)
def test_ratings_taken_for_times(users, numbers, column, told):
    notes = rating_note(np.array(users), np.array(numbers), "events.csv", column)
    assert bool(notes) == told and all("set time=row" in note for note in notes)
