"""Names of points cover as little as they can."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from recbole_vsid.leaderboard.labels import LETTER_WIDTH, LINE_HEIGHT, MARKER, PANEL, POSITIONS, label_positions

SHARE = st.floats(0.05, 0.95)


def box(x, y, name, position):
    """Left, bottom, right, top in pixels of a name, from plotly's words."""
    vertical, horizontal = position.split()
    width, gap = LETTER_WIDTH * len(name), MARKER / 2
    x, y = x * PANEL[0], y * PANEL[1]
    beside = gap if vertical == "middle" else 0
    left = {"right": x + beside, "left": x - beside - width, "center": x - width / 2}[horizontal]
    bottom = {"top": y + gap, "bottom": y - gap - LINE_HEIGHT, "middle": y - LINE_HEIGHT / 2}[vertical]
    return left, bottom, left + width, bottom + LINE_HEIGHT


def shared(first, second):
    """The area two boxes have in common, in square pixels."""
    wide, high = (min(first[side + 2], second[side + 2]) - max(first[side], second[side]) for side in (0, 1))
    return max(wide, 0) * max(high, 0)


def covered(x, y, names, positions):
    """What names cover of points and of each other, and what leaves the plot."""
    boxes = [box(*each) for each in zip(x, y, names, positions)]
    centres, half = [(a * PANEL[0], b * PANEL[1]) for a, b in zip(x, y)], MARKER / 2
    points = [(a - half, b - half, a + half, b + half) for a, b in centres]
    pairs = [shared(*pair) for pair in itertools.combinations(boxes, 2)]
    onto = [shared(boxes[i], points[j]) for i, j in itertools.permutations(range(len(names)), 2)]
    outside = [(b[2] - b[0]) * (b[3] - b[1]) - shared(b, (0, 0, *PANEL)) for b in boxes]
    return sum(pairs) + sum(onto) + sum(outside)


def test_a_lone_name_stands_to_the_right_unless_the_plot_ends_there():
    assert label_positions([0.5], [0.5], [0], ["SASRec"]) == ["middle right"]
    assert label_positions([0.97], [0.5], [0], ["SASRec"]) == ["middle left"]


def test_a_name_stays_off_the_whiskers_of_others():
    x, y, names = [0.5, 0.53], [0.5, 0.2], ["SASRec", "Pop"]
    assert label_positions(x, y, [0, 0], names)[0] == "middle right"
    assert label_positions(x, y, [0, 0.5], names)[0] == "middle left"


def test_a_crowd_is_spread_out():
    x, y = [0.76, 0.80, 0.81, 0.75, 0.79, 0.77, 0.82], [0.69, 0.72, 0.62, 0.59, 0.46, 0.42, 0.41]
    names = ["GRU4Rec", "VLSID", "BERT4Rec", "IntRR", "DIGER", "TIGER", "ReSID"]
    assert covered(x, y, names, ["middle right"] * 7) > 500
    assert covered(x, y, names, label_positions(x, y, [0] * 7, names)) < 1


@given(st.lists(st.tuples(SHARE, SHARE, st.integers(1, 12)), min_size=1, max_size=8))
def test_never_worse_than_all_on_one_side(points):
    x, y, lengths = zip(*points)
    names = ["m" * length for length in lengths]
    positions = label_positions(x, y, [0] * len(names), names)
    assert set(positions) <= set(POSITIONS)
    # What a name covers of its own whisker of length zero is nothing, so this is all that is weighed.
    assert covered(x, y, names, positions) <= covered(x, y, names, ["middle right"] * len(names)) + 1e-2
