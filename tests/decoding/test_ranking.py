"""The order of a ranking against Python's own stable sort."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_vsid.decoding.ranking import best_items

# Few different scores, so that there are ties everywhere, at the cut too.
SCORES = st.sampled_from([-float("inf"), -1.0, 0.0, 0.5, 2.0])


@given(st.data(), st.integers(1, 4), st.integers(1, 30), st.integers(1, 35))
def test_of_equal_scores_the_smaller_id_comes_first(data, n_rows, n_items, k):
    rows = data.draw(st.lists(st.lists(SCORES, min_size=n_items, max_size=n_items), min_size=n_rows, max_size=n_rows))
    items, scores = best_items(torch.tensor(rows), k)
    assert items.shape == scores.shape == (n_rows, min(k, n_items))
    for row, found, values in zip(rows, items.tolist(), scores.tolist()):
        expected = sorted(range(n_items), key=lambda item: (-row[item], item))[:k]
        assert values == [row[item] for item in expected]
        finite = sum(value > -float("inf") for value in values)
        assert found[:finite] == expected[:finite]


def test_many_columns_that_are_all_equal():
    """From some size on PyTorch's own top-k takes any of them."""
    scores = torch.zeros(3, 5000)
    scores[1, 4000] = 1.0
    scores[2] = torch.arange(5000) % 2
    items, _ = best_items(scores, 5)
    assert items.tolist() == [[0, 1, 2, 3, 4], [4000, 0, 1, 2, 3], [1, 3, 5, 7, 9]]


def test_bf16_scores_tie_often():
    scores = torch.randn(20, 400, generator=torch.Generator().manual_seed(0)).bfloat16()
    items, _ = best_items(scores, 20)
    assert torch.equal(items, scores.sort(dim=1, descending=True, stable=True).indices[:, :20])
