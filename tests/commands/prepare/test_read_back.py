"""What was written is compared with what RecBole reads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_vsid.commands.prepare.read_back import LONGEST_VALUE, check_file

FRAME = pd.DataFrame(
    {"item_id:token": ["a", 'b"', "c"], "title:token": ["x y", "", "'z'"], "price:float": ["1.5", "", "2"],
     "tags:token_seq": ["p q", "r", ""]}
)  # fmt: skip


def write(frame):
    frame.to_csv("shop.item", sep="\t", index=False)
    return Path("shop.item")


def test_a_faithful_file_passes():
    check_file(write(FRAME), "shop.item", FRAME)
    times = pd.DataFrame({"user_id:token": ["a"] * 3, "timestamp:float": [1.6e9, 1.6e9 + 1e-6, 7e-19]})
    check_file(write(times), "shop.inter", times)


@pytest.mark.parametrize(
    ("column", "row", "value", "told"),
    [
        ("title:token", 0, "other", "column 'title': row 1 reads back as 'other', not 'x y'"),
        ("title:token", 2, "NA", "column 'title': row 3 reads back as nothing, not \"'z'\""),
        ("title:token", 1, "new", "column 'title': row 2 reads back as 'new', not nothing"),
        ("price:float", 2, "2.1", "column 'price': row 3 reads back as '2.1', not '2'"),
        ("price:float", 1, "0", "column 'price': row 2 reads back as '0.0', not nothing"),
        ("tags:token_seq", 0, "p", "column 'tags': row 1 reads back as 'p', not 'p q'"),
        ("price:float", 0, "a lot", "shop.item would not be readable by RecBole, so nothing is written"),
    ],
)
def test_a_value_that_differs_is_named(column, row, value, told):
    changed = FRAME.copy()
    changed.loc[row, column] = value
    with pytest.raises(ValueError, match=told):
        check_file(write(changed), "shop.item", FRAME)


@pytest.mark.parametrize("rows", [2, 4])
def test_rows_that_are_lost_or_new(rows):
    changed = pd.concat([FRAME, FRAME])[:rows]
    with pytest.raises(ValueError, match="rows"):
        check_file(write(changed), "shop.item", FRAME)


def test_quotes_that_swallow_rows():
    FRAME.to_csv("shop.item", sep="\t", index=False, quoting=csv.QUOTE_NONE, escapechar="\\")
    Path("shop.item").write_text(Path("shop.item").read_text().replace("x y", '"x y'))
    with pytest.raises(ValueError, match="shop.item"):
        check_file(Path("shop.item"), "shop.item", FRAME)


def test_the_longest_value_is_that_of_the_csv_module():
    assert csv.field_size_limit() == LONGEST_VALUE
    for length, fits in ((LONGEST_VALUE, True), (LONGEST_VALUE + 1, False)):
        frame = pd.DataFrame({"item_id:token": ["a"], "title:token": ["x" * length]})
        if fits:
            check_file(write(frame), "shop.item", frame)
        else:
            with pytest.raises(ValueError, match="field larger than field limit"):
                check_file(write(frame), "shop.item", frame)


def test_more_rows_than_are_read_at_once(monkeypatch):
    monkeypatch.setattr("recbole_vsid.commands.prepare.read_back.CHUNK_ROWS", 7)
    frame = pd.DataFrame({"item_id:token": [f"i{i}" for i in range(20)], "price:float": np.arange(20) / 7})
    check_file(write(frame), "shop.item", frame)
    changed = frame.copy()
    changed.loc[15, "item_id:token"] = "other"
    with pytest.raises(ValueError, match="row 16 reads back as 'other', not 'i15'"):
        check_file(write(changed), "shop.item", frame)
