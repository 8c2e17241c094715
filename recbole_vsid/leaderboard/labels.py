"""Where the names of points stand in a scatter plot, so that they cover neither points nor each other."""

from __future__ import annotations

import numpy as np

# Pixels: the plot's size on a page of usual width, a marker with its gap, and the letters of the page's font.
PANEL = (480, 320)
MARKER, WHISKER = 16, 4
LETTER_WIDTH, LINE_HEIGHT = 7.5, 16
# In order of preference.
POSITIONS = {
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, 1),
    "top left": (-1, 1),
    "bottom right": (1, -1),
    "bottom left": (-1, -1),
    "top center": (0, 1),
    "bottom center": (0, -1),
}
SWEEPS = 4


def label_positions(x, y, half_lengths, names):
    """Plotly's ``textposition`` for every point.

    Every name in turn takes the position where it covers least of the rest, a few times over.

    Args:
        x, y: places of the points as shares of the plot's width and height, ``[n]``.
        half_lengths: of their vertical whiskers, as shares of its height, ``[n]``.
        names: their names, ``[n]``.

    Returns:
        list of n keys of ``POSITIONS``.
    """
    points = np.column_stack([x, y]) * PANEL
    sizes = np.array([(LETTER_WIDTH * len(name), LINE_HEIGHT) for name in names])
    markers = _boxes(points, np.full_like(points, MARKER))
    whiskers = _boxes(points, np.column_stack([np.full(len(names), WHISKER), 2 * PANEL[1] * np.array(half_lengths)]))
    options = np.array(list(POSITIONS.values()))
    # A name above or below in a corner begins at the middle of its marker, as plotly draws it.
    gaps = np.where((options[:, :1] != 0) & (options[:, 1:] != 0), (0, MARKER / 2), (MARKER / 2, MARKER / 2))
    chosen = np.zeros(len(names), dtype=int)
    for _ in range(SWEEPS):
        for index, (point, size) in enumerate(zip(points, sizes)):
            taken = _boxes(points + options[chosen] * (gaps[chosen] + sizes / 2), sizes)
            others = np.arange(len(names)) != index
            obstacles = np.concatenate([markers[others], taken[others], whiskers])
            candidates = _boxes(point + options * (gaps + size / 2), np.broadcast_to(size, options.shape))
            inside = _overlap(candidates, np.array([[0, 0, *PANEL]]))
            hidden = size.prod() - inside.sum(1)
            covered = _overlap(candidates, obstacles).sum(1)
            chosen[index] = np.argmin(np.round(hidden + covered, 6))
    return [list(POSITIONS)[choice] for choice in chosen]


def _boxes(centres, sizes):
    """Left, bottom, right, top, ``[n, 4]``."""
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def _overlap(first, second):
    """Areas that boxes share, ``[n, m]``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)
