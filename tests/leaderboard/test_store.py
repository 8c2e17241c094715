"""``results.jsonl`` survives what interrupts it."""

from __future__ import annotations

import json

import pytest

from recbole_vsid.leaderboard.store import Results, key
from tests.leaderboard.records import record, seeds


def test_what_was_added_is_read_back(tmp_path):
    results = Results(tmp_path / "new" / "folder")
    for each in seeds("SASRec", [0.1, 0.2]):
        results.add(each)
    assert Results(tmp_path / "new" / "folder").records == results.records
    assert len(results.records) == 2


def test_the_last_line_of_a_run_wins(tmp_path):
    results = Results(tmp_path)
    results.add(record(ndcg=0.1))
    results.add(record(ndcg=0.2))
    (found,) = Results(tmp_path).records.values()
    assert found["test_result"]["consumed_kept"]["ndcg@10"] == 0.2


def test_a_line_cut_off_is_left_out_and_replaced(tmp_path, caplog):
    results = Results(tmp_path)
    first, second = seeds("SASRec", [0.1, 0.2])
    results.add(first)
    with open(results.path, "a") as file:
        file.write(json.dumps(second)[:100])
    interrupted = Results(tmp_path)
    assert list(interrupted.records) == [key(first)] and "cut off" in caplog.text
    interrupted.add(second)
    assert list(Results(tmp_path).records) == [key(first), key(second)]


def test_a_last_line_left_open_is_kept(tmp_path):
    results = Results(tmp_path)
    first, second = seeds("SASRec", [0.1, 0.2])
    results.add(first)
    results.path.write_text(results.path.read_text().rstrip("\n"))
    Results(tmp_path).add(second)
    assert list(Results(tmp_path).records) == [key(first), key(second)]


@pytest.mark.parametrize("line", ["no json", "[1, 2]", '{"entry": "SASRec"}'])
def test_a_foreign_line_is_named(tmp_path, line):
    results = Results(tmp_path)
    results.add(record())
    text = results.path.read_text()
    results.path.write_text(f"{line}\n{text}")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1 is not a result record"):
        Results(tmp_path)
    assert results.path.read_text() == f"{line}\n{text}", "nothing is lost"


def test_what_another_process_added_meanwhile_is_neither_lost_nor_added_again(tmp_path):
    ours, theirs = Results(tmp_path), Results(tmp_path)
    first, second = seeds("SASRec", [0.1, 0.2])
    theirs.add(first)
    ours.add({**first, "seconds": 1.0})
    ours.add(second)
    assert list(ours.records) == [key(first), key(second)] and ours.records[key(first)] == first
    assert len(ours.path.read_text().splitlines()) == 2


def test_a_line_that_cannot_be_written_whole_is_taken_back(tmp_path, monkeypatch):
    results = Results(tmp_path)
    first, second = seeds("SASRec", [0.1, 0.2])
    results.add(first)
    before = results.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            results.add(second)
    assert results.path.read_bytes() == before and key(second) not in results.records
    results.add(second)
    assert list(Results(tmp_path).records) == [key(first), key(second)]
