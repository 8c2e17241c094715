"""Metrics by popularity of the target, their error over users, and what a record says of the machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_vsid import run
from recbole_vsid.evaluation.breakdown import GROUPS, popularity_groups, user_metrics
from recbole_vsid.evaluation.collector import PROTOCOL_NAMES


def test_groups_cut_consumption_in_thirds():
    counts = [0, 1, 6, 2, 3, 0]  # 12 in all: a group ends where 4 and 8 are reached
    consumed = csr_matrix(np.array([[user < count for count in counts] for user in range(6)]))
    assert popularity_groups(consumed).tolist() == [2, 2, 0, 2, 1, 2]


def test_groups_equal_a_walk_over_the_items():
    rng = np.random.default_rng(0)
    consumed = rng.random((50, 30)) < rng.random(30) ** 2
    counts = consumed.sum(axis=0)
    expected, before = np.empty(30, dtype=int), 0
    for item in sorted(range(30), key=lambda item: (-counts[item], item)):
        expected[item] = min(3 * before // counts.sum(), 2)
        before += counts[item]
    assert popularity_groups(csr_matrix(consumed)).tolist() == expected.tolist()


def test_user_metrics_need_exactly_one_target():
    hits = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1]])
    found = user_metrics({"rec.topk": hits}, 2)
    assert found["recall@2"].tolist() == [1, 0, 1]
    assert found["ndcg@2"] == pytest.approx([1 / np.log2(3), 0, 1])
    assert user_metrics({"rec.topk": torch.tensor([[1, 1, 2]])}, 2) is None
    assert user_metrics({}, 2) is None


@pytest.mark.parametrize("model", ["VLSID", "BPR"])
def test_a_record_adds_up(model, small_settings):
    record = run(model, "toy", config_dict=small_settings(model, topk=[5, 10]))
    found, groups = record["test_breakdown"], record["test_breakdown"]["groups"]
    assert sum(group["targets"] for group in groups.values()) == record["protocol"]["test_users"]
    assert sum(group["items"] for group in groups.values()) == record["protocol"]["candidates"]
    for protocol in PROTOCOL_NAMES:
        for metric, total in record["test_result"][protocol].items():
            if metric in ("recall@10", "ndcg@10"):
                parts = [groups[name]["targets"] * (found[protocol][name][metric] or 0.0) for name in GROUPS]
                assert sum(parts) / record["protocol"]["test_users"] == pytest.approx(total, abs=2e-6)
                assert found[protocol]["standard_error"][metric] > 0
    assert [point["epoch"] for point in record["learning_curve"]] == [1, 2]
    assert max(point["valid_score"] for point in record["learning_curve"]) == pytest.approx(
        record["valid_result"]["consumed_kept"]["ndcg@10"], abs=1e-6
    )
    assert record["cost"]["request_ms"] > 0 and record["machine"]["device"] == "cpu"
    assert record["settings"]["epochs"] == 2


def test_users_with_several_targets_have_no_breakdown(small_settings):
    settings = small_settings("BPR", eval_args={"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO"})
    assert run("BPR", "toy", config_dict=settings)["test_breakdown"] == {}
