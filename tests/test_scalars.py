"""What TensorBoard is given, read back from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_vsid import run
from recbole_vsid.schedule import share_of_peak


@pytest.fixture
def scalars(small_settings):
    """``scalars(model, **changes)``: train, and return the record and what was written, tag → {epoch: value}."""

    def scalars(model, **changes):
        record = run(model, "toy", config_dict=small_settings(model, **changes))
        (folder,) = (folder for folder in Path("log_tensorboard").iterdir() if folder.is_dir())
        reader = EventAccumulator(str(folder), {"scalars": 0})
        reader.Reload()
        tags = reader.Tags()["scalars"]
        return record, {tag: {event.step: event.value for event in reader.Scalars(tag)} for tag in tags}

    return scalars


@pytest.mark.parametrize(("model", "terms"), [("VLSID", {"generation"}), ("IntRR", {"generation", "alignment"}),
                                              ("DIGER", {"generation", "quantisation", "reconstruction"})])  # fmt: skip
def test_terms_of_the_loss_add_up(scalars, model, terms):
    record, found = scalars(model)
    assert {tag.partition("/")[2] for tag in found if tag.startswith("LossTerms/")} == terms
    for point in record["learning_curve"]:
        epoch = point["epoch"] - 1
        assert found["Loss/Train"][epoch] == pytest.approx(point["train_loss"], rel=1e-5)
    ratios = {
        epoch: sum(found[f"LossTerms/{term}"][epoch] for term in terms) / total
        for epoch, total in found["Loss/Train"].items()
    }
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5), "RecBole's is the sum over updates, these are means"
    assert 1 / ratios[0] == pytest.approx(round(1 / ratios[0]), rel=1e-5)


def test_rates_speed_and_validation(scalars):
    record, found = scalars("VLSID", epochs=4, learner="muon", muon_learning_rate=0.02)
    for epoch in range(4):
        share = share_of_peak((epoch + 1) / 4, 0.05, 0.1)
        assert found["LearningRate/muon"][epoch] == pytest.approx(0.02 * share)
        assert found["LearningRate/matrices"][epoch] == pytest.approx(0.01 * share)
    assert all(value > 0 for value in found["Speed/targets_per_second"].values())
    best = max(record["learning_curve"], key=lambda point: point["valid_score"])["epoch"] - 1
    for protocol, metrics in record["valid_result"].items():
        for metric, value in metrics.items():
            assert found[f"Validation/{protocol}/{metric}"][best] == pytest.approx(value, abs=1e-6)


def test_the_table(scalars):
    record, found = scalars("TIGER")
    report = record["semantic_ids"]
    assert found["SemanticIDs/full_length/events"][0] == pytest.approx(report["length"]["full"]["events"])
    assert found["SemanticIDs/content_length/items"][0] == pytest.approx(report["length"]["content"]["items"])
    for number, position in enumerate(report["positions"], 1):
        assert found[f"SemanticIDs/position_{number}/used"][0] == position["used"]
        assert found[f"SemanticIDs/position_{number}/perplexity"][0] == pytest.approx(position["perplexity"])


def test_the_watch_over_moving_codes(scalars):
    record, found = scalars("DIGER")
    assert len(record["code_watch"]) == 2
    for row in record["code_watch"]:
        assert found["Codes/distinct_nearest"][row["epoch"]] == row["distinct_nearest"]
        assert found["Codes/gradient_norm"][row["epoch"]] == pytest.approx(row["gradient_norm"], rel=1e-5)
    assert {"LearningRate/codebooks", "LearningRate/matrices"} <= set(found)


def test_diagnostics(scalars):
    record, found = scalars("IntRR")
    assert json.dumps(sorted(record["diagnostics"])) == json.dumps(
        sorted(tag.partition("/")[2] for tag in found if tag.startswith("Diagnostics/"))
    )


def test_recboles_models_have_both_protocols(scalars):
    record, found = scalars("BPR")
    assert found["Validation/consumed_masked/ndcg@10"].keys() == {0, 1}
    assert not [tag for tag in found if tag.startswith("LossTerms/")]
    assert record["learning_curve"][1]["train_loss"] == pytest.approx(found["Loss/Train"][1], rel=1e-5)
