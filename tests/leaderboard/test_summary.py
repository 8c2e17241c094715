"""Which runs are compared, and how: boards, intervals, marks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from recbole_vsid.evaluation.collector import KEPT, MASKED
from recbole_vsid.leaderboard.store import key
from recbole_vsid.leaderboard.summary import BETTER, UNCLEAR, WORSE, boards, p_value, published
from tests.leaderboard.records import record, seeds

NDCG = (KEPT, "ndcg@10")


def rows(records, wanted=()):
    (board,) = boards(records, wanted)
    return {row.entry: row for row in board.rows}


def test_mean_and_students_interval_over_seeds():
    values = [0.05, 0.06, 0.055]
    estimate = rows(seeds("SASRec", values))["SASRec"].metrics[NDCG]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert estimate.over == "seeds" and estimate.mean == pytest.approx(np.mean(values))
    assert [estimate.mean - estimate.half_width, estimate.mean + estimate.half_width] == pytest.approx([low, high])


def test_one_seed_has_an_interval_over_users():
    estimate = rows([record(error=0.002)])["SASRec"].metrics[NDCG]
    assert estimate.over == "users" and estimate.half_width == pytest.approx(1.96 * 0.002)
    assert rows([record(test_breakdown={}, cutoff=10)])["SASRec"].metrics[NDCG].half_width is None


def test_other_data_and_other_splits_are_never_on_one_board():
    other_data = record("GRU4Rec", dataset="other")
    other_split = record("Pop")
    other_split["protocol"] = {**other_split["protocol"], "split": {"RS": [8, 1, 1]}}
    found = boards([record(), other_data, other_split])
    assert [[row.entry for row in board.rows] for board in found] == [["SASRec"], ["GRU4Rec"], ["Pop"]]


def test_runs_of_other_settings_are_not_averaged():
    old = seeds("SASRec", [0.01, 0.02])
    new = seeds("SASRec", [0.05, 0.07])
    for each in new:
        each["identity"] = "with other files"
    (board,) = boards(old + new)
    assert board.rows[0].metrics[NDCG].values == (0.05, 0.07) and board.left_out == 2
    # Those asked for win over the last ones.
    assert rows(old + new, [key(each) for each in old])["SASRec"].metrics[NDCG].values == (0.01, 0.02)


def test_of_an_entry_that_was_asked_for_only_the_settings_asked_for_are_shown():
    old, other = seeds("SASRec", [0.01, 0.02]), record("Pop")
    (board,) = boards([*old, other], [("SASRec", "toy", 1, "other settings, which failed")])
    assert [row.entry for row in board.rows] == ["Pop"] and board.left_out == 2
    assert boards(old, [("SASRec", "toy", 1, "other settings, which failed")]) == []
    assert len(boards(old, [("SASRec", "elsewhere", 1, "of other data")])[0].rows) == 1


def test_rows_are_best_first_and_baselines_have_no_tokenizer():
    (board,) = boards([record("A", ndcg=0.01), record("B", ndcg=0.03, tokenizer="rkmeans"), record("C", ndcg=0.02)])
    assert [row.entry for row in board.rows] == ["B", "C", "A"]
    assert [row.is_baseline for row in board.rows] == [False, True, True]
    assert board.best_baseline == {KEPT: "C", MASKED: "C"}


def test_the_best_baseline_may_differ_between_protocols():
    (board,) = boards([record("A", ndcg=0.05, masked=0.06), record("B", ndcg=0.04, masked=0.09)])
    assert board.best_baseline == {KEPT: "A", MASKED: "B"}


def test_marks_over_seeds_are_welchs_test():
    found = rows(
        seeds("SASRec", [0.050, 0.051, 0.052])
        + seeds("Good", [0.080, 0.081, 0.083], tokenizer="rkmeans")
        + seeds("Same", [0.040, 0.053, 0.060], tokenizer="rkmeans")
        + seeds("Bad", [0.010, 0.011, 0.013], tokenizer="rkmeans")
    )
    assert [found[name].verdicts[NDCG] for name in ("Good", "Same", "Bad")] == [BETTER, UNCLEAR, WORSE]
    assert NDCG not in found["SASRec"].verdicts, "the best baseline is not compared with itself"
    expected = stats.ttest_ind([0.050, 0.051, 0.052], [0.040, 0.053, 0.060], equal_var=False).pvalue
    assert p_value(found["SASRec"].metrics[NDCG], found["Same"].metrics[NDCG]) == pytest.approx(expected)


def test_holms_correction_makes_many_comparisons_stricter():
    best, close = seeds("SASRec", [0.050, 0.052, 0.054]), seeds("Close", [0.045, 0.047, 0.049], tokenizer="rkmeans")
    alone = rows(best + close)["Close"]
    assert p_value(alone.metrics[NDCG], rows(best)["SASRec"].metrics[NDCG]) < 0.05
    assert alone.verdicts[NDCG] == WORSE
    many = [each for name in "abcdef" for each in seeds(name, [0.05, 0.051, 0.055], tokenizer="rkmeans")]
    assert rows(best + close + many)["Close"].verdicts[NDCG] == UNCLEAR


def test_marks_of_single_seeds_are_a_z_test_over_users():
    found = rows([record(ndcg=0.05, error=0.001), record("Near", ndcg=0.049, error=0.001, tokenizer="t"),
                  record("Far", ndcg=0.04, error=0.001, tokenizer="t")])  # fmt: skip
    assert (found["Near"].verdicts[NDCG], found["Far"].verdicts[NDCG]) == (UNCLEAR, WORSE)
    z = 0.01 / np.hypot(0.001, 0.001)
    assert p_value(found["SASRec"].metrics[NDCG], found["Far"].metrics[NDCG]) == pytest.approx(2 * stats.norm.sf(z))


def test_one_seed_against_several_has_no_mark():
    found = rows([*seeds("SASRec", [0.05, 0.06]), record("One", ndcg=0.01, tokenizer="t")])
    assert found["One"].verdicts == {}


def test_entries_that_no_seed_changes_are_compared_over_users():
    found = rows(seeds("Pop", [0.05, 0.05]) + seeds("Other", [0.03, 0.03]) + seeds("Near", [0.0499, 0.0499]))
    assert found["Other"].verdicts[NDCG] == WORSE and found["Near"].verdicts[NDCG] == UNCLEAR
    unknown = rows(seeds("Pop", [0.05, 0.05]) + seeds("Other", [0.01, 0.01], test_breakdown={}))
    assert unknown["Other"].verdicts == {}, "nothing tells"


def at(cutoffs, **changes):
    """A record with NDCG and Recall at ``cutoffs``."""
    scores = {f"{metric}@{cutoff}": 0.1 for metric in ("ndcg", "recall") for cutoff in cutoffs}
    return record(test_result={KEPT: scores, MASKED: scores}, **changes)


def test_the_cutoff_is_one_that_all_have():
    assert boards([at([5, 10, 20]), at([10, 20], entry="B")])[0].cutoff == 10
    assert boards([at([5, 20]), at([5, 10, 20, 50], entry="B")])[0].cutoff == 20
    (board,) = boards([at([5], entry="A"), at([10, 20], entry="B"), at([20], entry="C")])
    assert board.cutoff == 20 and [row.entry for row in board.rows] == ["B", "C"] and board.left_out == 1
    asked = at([20, 50], entry="New")
    (board,) = boards([at([5, 10], entry="A"), at([5, 10], entry="B"), asked], [key(asked)])
    assert [row.entry for row in board.rows] == ["New"], "those asked for decide"
    (board,) = boards([at([5]), at([10, 20], identity="new")])
    assert board.cutoff == 10 and board.left_out == 1, "what is not shown does not decide"


def test_published_figures_have_a_source_and_stand_apart():
    assert published("amazon-beauty", "IntRR")["source"].startswith("arXiv 2602.20704")
    assert published("toy", "IntRR") is None
