"""A line of ``results.jsonl`` whose parts are odd is named, or shown as far as it goes; never a traceback."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from recbole_vsid.leaderboard.page import write_reports
from recbole_vsid.leaderboard.shape import check_record
from recbole_vsid.leaderboard.store import Results
from tests.leaderboard.records import record

ODD = (None, True, -1, 10**400, float("nan"), float("inf"), 1e300, "", "text", "\ud800", [], [1], {}, {"a": 1})
MISSING = object()


def places(value, path=()):
    """Paths of all parts of nested lists and dictionaries."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(path, value):
    """A record in which the part at ``path`` is ``value``, or missing."""
    found = part = copy.deepcopy(record(tokenizer="rkmeans"))
    for key in path[:-1]:
        part = part[key]
    if value is MISSING:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return found


def test_odd_parts_are_named_or_shown(tmp_path):
    n_refused, shown = 0, {}
    for path in places(record(tokenizer="rkmeans")):
        makes_a_board = path[0] in ("protocol", "dataset")  # with pictures of its own, which take their time
        for value in (MISSING, *ODD[: 1 if makes_a_board else None]):
            odd = changed(path, value)
            try:
                check_record(odd)
            except ValueError as error:
                assert "\n" not in str(error) and len(str(error)) < 200
                n_refused += 1
                continue
            shown[path] = odd if path == ("entry",) else {**odd, "entry": f"{odd['entry']} {len(shown)}"}
    assert n_refused > 500 and len(shown) > 50, (n_refused, len(shown))
    write_reports([record(), *shown.values()], {}, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.count("| SASRec") > 50 and "nan" not in text.lower()


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("cost", "training_seconds"), [1], r"cost.training_seconds=\[1\] must be a finite number"),
        (("test_result", "consumed_kept", "ndcg@10"), float("nan"), "ndcg@10=nan must be a finite number"),
        (("test_result", "consumed_masked"), MISSING, "test_result has no 'consumed_masked'"),
        (("learning_curve", 0, "epoch"), "1", r"learning_curve\[0\].epoch='1' must be a finite number"),
        (("machine",), None, "machine=None must be a mapping"),
        (("arguments",), "--model=Pop", "arguments='--model=Pop' must be a list"),
        (("seed",), [1], r"seed=\[1\] must be a whole number"),
        (("test_breakdown", "cutoff"), MISSING, "test_breakdown has no 'cutoff'"),
    ],
)
def test_the_line_and_the_part_are_named(path, value, told, tmp_path):
    lines = [json.dumps(each) for each in (record("Pop"), changed(path, value))]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"line 2 is not a result record: .*{told}.*set another output_dir"):
        Results(tmp_path)


def test_lines_of_odd_shapes(tmp_path):
    for line in ("[]", "1", "null", '"x"', "[" * 100_000, '{"entry": ' + "9" * 5000 + "}", "\x00", "NaN"):
        (tmp_path / "results.jsonl").write_text(f"{line}\n")
        with pytest.raises(ValueError, match="line 1 is not a result record"):
            Results(tmp_path)


def test_the_results_of_the_repository_are_sound():
    found = sorted((Path(__file__).resolve().parents[2] / "results").glob("*/results.jsonl"))
    assert found and all(Results(path.parent).records for path in found)


def test_whole_records_without_a_complete_line_end_are_not_taken_for_cut_off(tmp_path):
    """Only what is no JSON was cut off; another line would be lost with the next one added."""
    (tmp_path / "results.jsonl").write_text('{"entry": "SASRec"}')
    with pytest.raises(ValueError, match="line 1 is not a result record"):
        Results(tmp_path)


def test_a_record_without_finite_numbers_is_not_added(tmp_path):
    for path, value in ((("cost", "request_ms"), float("inf")), (("valid_result",), {"ndcg@10": float("nan")})):
        with pytest.raises(ValueError, match=r"request_ms|JSON compliant"):
            Results(tmp_path).add(changed(path, value))
    assert not (tmp_path / "results.jsonl").exists()
