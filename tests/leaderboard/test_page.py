"""The three files: the same numbers everywhere, protocols apart, nothing from outside."""

from __future__ import annotations

import re
from html import unescape

import pandas as pd
import pytest

from recbole_vsid.leaderboard.page import write_reports
from tests.browser import browser, errors, needs_browser  # noqa: F401 - a fixture
from tests.leaderboard.records import record, seeds


@pytest.fixture
def written(tmp_path):
    records = seeds("SASRec", [0.0423, 0.0427, 0.0425], dataset="amazon-beauty")
    records += seeds("IntRR", [0.0319, 0.0317, 0.0321], tokenizer="rkmeans", dataset="amazon-beauty")
    records += seeds("Pop", [0.0101, 0.0102, 0.0103], dataset="amazon-beauty")
    records.append(record("VLSID", ndcg=0.0632, tokenizer="vlsid", dataset="ml-100k"))
    markdown, table, page = write_reports(records, {}, tmp_path / "board")
    return markdown.read_text(encoding="utf-8"), pd.read_csv(table), page


def test_markdown_shows_protocols_apart_with_intervals_and_marks(written):
    markdown, _, _ = written
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    header = lines[0].split(" | ")
    assert header[1:5] == ["NDCG@10, consumed kept", "Recall@10, consumed kept", "NDCG@10, consumed masked",
                           "Recall@10, consumed masked"]  # fmt: skip
    sasrec, intrr = lines[2].split(" | "), lines[3].split(" | ")
    assert sasrec[0] == "| SASRec" and sasrec[1] == "**.0425 ± .0005**" and sasrec[3].startswith("**.0850")
    assert intrr[0] == "| IntRR" and intrr[1] == ".0319 ± .0005 ▼"
    assert intrr[-1] == "[.0384 / .0640] |" and "arXiv 2602.20704" in markdown
    assert "--model=SASRec --dataset=amazon-beauty --seed=1 '--topk=[5, 10]'" in markdown
    assert markdown.index("## amazon-beauty") < markdown.index("## ml-100k")
    assert markdown.count("published, not measured here") == 1, "no such column where no paper gives figures"
    assert ".0632 ± .0059° " in markdown, "one seed: over users"


def test_csv_holds_every_number(written):
    _, table, _ = written
    assert len(table) == 4 * 2 * 2
    row = table[(table.entry == "IntRR") & (table.protocol == "consumed_masked") & (table.metric == "ndcg@10")].iloc[0]
    assert row["mean"] == pytest.approx(0.0638) and row["against_best_baseline"] == "worse" and row.seeds == "1 2 3"
    assert row.published == 0.0384 and row.training_seconds == 52.0
    assert table[table.entry == "Pop"].published.isna().all()


def test_the_page_needs_nothing_from_outside(written):
    text = written[2].read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?plotly\.js v.*?</script>", "", text, flags=re.DOTALL)
    assert len(own) < len(text) / 10, "plotly is in the page"
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', own)
    for name in ("SASRec", "IntRR", ".0319", "Each model", "full catalogue", "consumed masked"):
        assert name in unescape(own)


def test_texts_from_records_are_no_markup(tmp_path):
    nasty = record("SASRec", dataset="a</script><b>&")
    nasty["arguments"] = ["--dataset=<img src=x onerror=alert(1)>"]
    page = write_reports([nasty], {}, tmp_path)[2].read_text(encoding="utf-8")
    assert "<img src=x" not in page and "a</script><b>" not in page


def test_runs_without_curves_or_groups_are_shown_without_those_pictures(tmp_path):
    bare = record("Pop", test_breakdown={}, learning_curve=[])
    page = write_reports([bare], {}, tmp_path)[2].read_text(encoding="utf-8")
    assert "Learning curves" not in page and "by popularity" not in page and "Tokens per item" in page


@needs_browser
def test_the_page_draws_and_sorts(written, browser):  # noqa: F811
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(written[2].as_uri())
    marks = (
        "return [...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('.points path').length)"
    )
    WebDriverWait(browser, 60).until(lambda driver: all(driver.execute_script(marks)))
    assert len(browser.execute_script(marks)) == 10, "five pictures per dataset, each with marks"
    assert errors(browser) == []
    published = "return [...document.querySelectorAll('table.board')].map(t => t.querySelectorAll('.published').length)"
    assert browser.execute_script(published) == [4, 0], "head and rows of Beauty; nothing for ml-100k"
    names = "return [...document.querySelector('table.board').tBodies[0].rows].map(row => row.cells[0].textContent)"
    assert browser.execute_script(names) == ["SASRec", "IntRR", "Pop"]
    head = "document.querySelector('table.board').tHead.rows[1].cells[1].click()"
    browser.execute_script(head)
    browser.execute_script(head)
    assert browser.execute_script(names) == ["Pop", "IntRR", "SASRec"]
    assert len(browser.get_screenshot_as_png()) > 20_000
