"""I19 of DIGER: on the planted problem of benchmarks/collapse.py straight-through codes collapse, explored ones stay.

The shares are of that problem, with a margin; the benchmark has all arms and several seeds.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ARMS = ("straight-through", "frqud, noise 3", "noise 3")


@pytest.fixture(scope="module")
def collapse():
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "collapse.py"
    spec = importlib.util.spec_from_file_location("collapse", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_straight_through_codes_collapse_and_explored_ones_stay(collapse, tmp_path):
    data = collapse.write_planted(tmp_path)
    ends = {arm: collapse.train(arm, 0, data)["diagnostics"] for arm in ARMS}
    shares = [ends[arm]["distinct_nearest_share"] for arm in ARMS]
    assert shares[0] < 0.25 and shares[1] > 0.35 and shares[2] > 0.55
    assert shares == sorted(shares)
    assert ends["straight-through"]["effective_nearest_3"] < 4
