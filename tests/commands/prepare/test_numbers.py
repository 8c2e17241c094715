"""What pandas cannot survive is no number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_vsid import prepare
from recbole_vsid.commands.prepare.numbers import to_numbers

CRASHING = ["1e2147483648", "11e999600000003", "12e4567890123456", "-1E+99999999999", "1e-2147483649"]


def test_long_exponents_are_no_numbers():
    found = to_numbers(pd.Series(["1", "2.5", "1e400", "x", None, 3, *CRASHING, "1e-5"], dtype=object))
    assert found.isna().tolist() == [False, False, True, True, True, False, *[True] * len(CRASHING), False]
    assert found.iloc[[0, 1, 5, -1]].tolist() == [1, 2.5, 3, 1e-5]


@pytest.mark.parametrize("values", [pd.Series(["1", str(2**63)], dtype=object), pd.Series([1, 2]), pd.Series([1.5])])
def test_other_numbers_are_those_of_pandas(values):
    pd.testing.assert_series_equal(to_numbers(values), pd.to_numeric(values))


@pytest.mark.parametrize("text", CRASHING)
def test_hashes_that_look_like_numbers(text):
    events = pd.DataFrame({"user": ["u"] * 4, "item": [f"i{k}" for k in range(4)], "time": np.arange(4)})
    items = pd.DataFrame({"item": [f"i{k}" for k in range(4)], "hash": ["a1", text, "b2", "b3"]})
    assert prepare(events, "shop", items, item_columns="hash")["item_columns"]["hash"]["type"] == "token"
    with pytest.raises(ValueError, match="1 of 4 times cannot be read, that of row 2 first"):
        prepare(events.assign(time=["1", text, "2", "3"]), "other")
    with pytest.raises(ValueError, match="1 of 4 values are no numbers, that of row 2 first"):
        prepare(events.assign(rating=["1", text, "2", "3"]), "third", where="rating > 1")
