"""benchmarks/timeline.py on a catalogue of some hundred items: its losses have gradients, its ways to rank agree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from recbole.data.interaction import Interaction

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The module and its options, for a measure that builds random catalogues."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import timeline

    def with_options(measure):
        monkeypatch.setattr(sys, "argv", ["timeline.py", measure, "--codewords=8", "--no-bf16", "--history=4"])
        return timeline, timeline.arguments()

    return with_options


def test_losses_reach_the_embeddings(benchmark):
    timeline, options = benchmark("catalogue")
    options.targets = 32
    model = timeline.catalogue_model(300, options)
    for name in timeline.LOSSES:
        loss = timeline.Loss(name, model, options)
        loss.alone()
        loss.update()
        value = loss._value(loss._draw(), loss.table)
        gradient = torch.autograd.grad(value, loss.table.vectors)[0]
        assert value.isfinite() and gradient.isfinite().all() and gradient.any()


def test_ways_to_rank_agree(benchmark):
    timeline, options = benchmark("latency")
    model = timeline.catalogue_model(90, options).eval()
    items = torch.arange(1, 13).view(3, 4)
    rows = Interaction({model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: torch.full((3,), 4)})
    by_p, reranked, by_q = (way() for way in timeline.searches(model, rows, options).values())
    assert torch.equal(by_q[0], reranked[0])  # the beam is as wide as the catalogue
    assert not torch.equal(by_p[0], by_q[0])
