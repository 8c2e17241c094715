"""The explorer holds the table, shows it, and lets nothing in a title become markup."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from recbole_vsid import explore
from recbole_vsid.cli import main
from recbole_vsid.explorer.build import columns, facts, page
from recbole_vsid.semantic_id import SemanticIDs
from tests.browser import browser, errors, needs_browser  # noqa: F401 - a fixture
from tests.property.strategies import semantic_id_tables

NASTY = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "quo\"te's & <b>", "", "שלום 🎧", "${x}"]


def table(codes, **changes):
    """A table of the given codes, ids ``i1``, ``i2``, …"""
    width = max(map(len, codes))
    padded = [[-1] * width] + [[*code, *[-1] * (width - len(code))] for code in codes]
    ids = ["[PAD]", *(f"i{row}" for row in range(1, len(padded)))]
    settings = {"vocab_sizes": [8] * width, "shared_vocabulary": True, "unique": False, "prefix_free": False, **changes}
    return SemanticIDs(np.array(padded), np.array([0, *map(len, codes)]), item_tokens=np.array(ids), **settings)


SMALL = table([[1, 2, 4], [1, 2, 5], [1, 3, 4], [0, 4], [2, 2, 4], [1, 4]], suffix=True)
EVENTS = np.array([0, 5, 7, 1, 0, 3, 2])


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


@given(semantic_id_tables())
def test_the_page_holds_the_table(any_table):
    n = any_table.n_items
    popularity = np.arange(n) * 3
    titles = [f"title {row}" for row in range(1, n)]
    found = data_of(page(any_table, popularity, titles, "toy"))
    width = any_table.max_length
    codes = np.array(found["codes"]).reshape(n - 1, width)
    rows = {token: row for row, token in enumerate(any_table.item_tokens.tolist())}
    order = [rows[token] for token in found["ids"]]
    assert sorted(order) == list(range(1, n))
    assert np.array_equal(codes, any_table.codes[order])
    assert found["lengths"] == any_table.lengths[order].tolist()
    assert found["events"] == popularity[order].tolist()
    assert found["titles"] == [f"title {row}" for row in order]
    assert codes.tolist() == sorted(codes.tolist()), "everything below a prefix is a range of rows"


def test_titles_are_data_never_markup():
    text = page(SMALL, EVENTS, NASTY, "a<b>&")
    assert "<img" not in text and "alert(1)</script>" not in text and "<h1>Semantic IDs of a&lt;b&gt;&amp;</h1>" in text
    found = data_of(text)
    by_id = dict(zip(found["ids"], found["titles"]))
    assert [by_id[f"i{row}"] for row in range(1, 7)] == [title or "i4" for title in NASTY]


def test_suffix_tokens_do_not_count_as_content():
    assert columns(SMALL, EVENTS, NASTY, "toy")["content_sizes"] == [4, 4, 4]
    fixed = table([[1, 0], [1, 1], [2, 0]], suffix=True, shared_vocabulary=False, vocab_sizes=[3, 2])
    assert columns(fixed, EVENTS[:4], NASTY[:3], "toy")["content_sizes"] == [3, 2]


def test_facts_tell_lengths_and_collisions():
    found = facts(SMALL, "toy")
    assert found["content tokens per item"] == "1 to 2"
    assert found["codes per position"] == "4 · 4 · 4 (the same at every position), and 4 that tell items apart"
    assert found["distinct content codes"] == "5; the largest is shared by 2 items"
    assert found["items"] == "6" and found["dataset"] == "toy"


def test_explore_writes_what_tokenize_makes(small_settings):
    settings = {key: value for key, value in small_settings("TIGER").items() if key.startswith("sid_")}
    settings |= {"data_path": small_settings()["data_path"], "tokenizer": "rkmeans", "content_dim": 8}
    file = explore("toy", config_dict=settings)
    assert file.parent == Path("saved/semantic_ids") and file.name.endswith(".explorer.html")
    found = data_of(file.read_text(encoding="utf-8"))
    assert len(found["ids"]) == 41 and found["titles"][0].startswith("shade ")
    assert found["facts"]["tokenizer"] == "rkmeans" and sum(found["events"]) > 0
    chosen = explore("toy", config_dict=settings, title_column="category", explorer_file="mine/page.html")
    assert data_of(chosen.read_text(encoding="utf-8"))["titles"][0].startswith("group")
    with pytest.raises(ValueError, match=r"title_column='price' is not usable: .*\['title', 'category'\]"):
        explore("toy", config_dict=settings, title_column="price")


def test_the_table_of_a_checkpoint(small_settings):
    from recbole_vsid import load, run

    run("VLSID", "toy", config_dict=small_settings(checkpoint_dir="saved", epochs=1))
    (checkpoint,) = Path("saved").glob("VLSID-*/best.pth")
    assert main(["explore", f"--checkpoint={checkpoint}"]) == 0
    found = data_of(checkpoint.with_name("explorer.html").read_text(encoding="utf-8"))
    model = load(checkpoint)[3]
    assert sorted(found["ids"]) == sorted(model.semantic_ids.item_tokens[1:].tolist())
    assert sorted(found["lengths"]) == sorted(model.semantic_ids.lengths[1:].tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=VLSID"], "explore trains no model"),
        (["--checkpoint=x.pth", "--dataset=toy"], "leave out --dataset"),
        (["--checkpoint=nowhere.pth"], "no checkpoint at nowhere.pth"),
        (["--tokenizer=rkmeens"], "unknown tokenizer 'rkmeens'"),
    ],
)
def test_the_command_line_refuses(arguments, message, capsys):
    assert main(["explore", *arguments]) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------ in a browser


@pytest.fixture
def shown(browser, tmp_path):  # noqa: F811
    """Open a page; returns the driver."""

    def shown(any_table, events, titles):
        file = tmp_path / "explorer.html"
        file.write_text(page(any_table, events, titles, "toy"), encoding="utf-8")
        browser.get(file.as_uri())
        assert errors(browser) == []
        return browser

    return shown


def texts(driver, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map(element => element.innerText)"
    return [" ".join(text.split()) for text in driver.execute_script(script, selector)]


@needs_browser
def test_the_tree_opens_down_to_the_items(shown):
    driver = shown(SMALL, EVENTS, NASTY)
    top = "#tree > ul > li > button"
    assert texts(driver, top) == [
        "1 e.g. <img src=x onerror=alert(1)> 4 items · 15 events",
        "2 2 4 שלום 🎧 3 events",
        "0 4 i4 0 events",
    ]
    driver.find_element("css selector", top).click()
    below = texts(driver, "#tree > ul > li > ul > li > button")
    assert below == [
        "2 e.g. <img src=x onerror=alert(1)> 2 items · 12 events",
        "4 ${x} 2 events",
        "3 4 quo\"te's & <b> 1 event",
    ]
    assert texts(driver, "#panel h2") == ["Prefix 1"]
    driver.find_element("css selector", top).click()
    assert driver.execute_script("return document.querySelector('#tree ul ul').hidden")
    assert errors(driver) == []


@needs_browser
def test_search_by_title_id_and_code(shown):
    driver = shown(SMALL, EVENTS, [f"Item number {row}" for row in range(1, 7)])
    box = driver.find_element("css selector", "#search")
    for text, expected in {
        "NUMBER 3": ["3"],
        "i5": ["5"],
        "1-2": ["2", "1"],
        "1 3": ["3"],
        "1, 2, 4": ["1"],
        "zzz": [],
    }.items():
        box.clear()
        box.send_keys(text)
        found = [title.rsplit(" ", 1)[1] for title in texts(driver, "#results .title")]
        assert found == expected, text
    box.clear()
    box.send_keys("number 2")
    assert texts(driver, "#results .title mark") == ["number", "2"]
    driver.find_element("css selector", "#results button").click()
    assert texts(driver, "#panel h2") == ["Item number 2"]
    assert texts(driver, "#tree .chosen .title") == ["Item number 2"]
    near = texts(driver, "#panel .near .link")
    assert near == [
        "Item number 1 shares 2 tokens · 5 events", "Item number 6 shares 1 token · 2 events",
        "Item number 3 shares 1 token · 1 event",
    ]  # fmt: skip
    assert len(driver.get_screenshot_as_png()) > 20_000


@needs_browser
def test_long_lists_come_in_chunks_and_search_still_reaches_their_ends(shown):
    n = 350
    wide = table([[row] for row in range(n)], vocab_sizes=[n])
    driver = shown(wide, np.arange(n + 1), [f"Title {row}" for row in range(1, n + 1)])
    rows = "#tree > ul > li > button.node"
    assert len(texts(driver, rows)) == 100
    driver.find_element("css selector", "#tree .more button").click()
    assert len(texts(driver, rows)) == 200
    assert driver.execute_script("return document.activeElement === document.querySelectorAll(arguments[0])[100]", rows)
    driver.execute_script("reveal(data.titles.indexOf('Title 1'))")  # the least popular
    assert len(texts(driver, rows)) == n and texts(driver, "#tree .chosen .title") == ["Title 1"]


@needs_browser
def test_pictures_count_what_is_there(shown):
    driver = shown(SMALL, EVENTS, NASTY)
    captions = texts(driver, "#use figcaption")
    assert captions[0].startswith("position 1 3 of 4 codes used, 1 dead") and captions[0].endswith("most used: 4 items")
    assert captions[1].startswith("position 2 2 of 4 codes used") and len(captions) == 2, "suffixes are no content"
    assert len(texts(driver, "#lengths .group")) == 6
    driver = shown(table([[1], [2]]), np.array([0, 1, 1]), ["a", "b"])
    assert texts(driver, "#lengths p") == ["Every item has 1 content token."]
    driver = shown(table([[1, 4], [1, 5], [2, 4]], suffix=True), np.array([0, 1, 1, 1]), ["a", "b", "c"])
    assert texts(driver, "#use figcaption")[1].startswith("last token (tells items apart) 2 of 4 codes used")


@needs_browser
def test_equally_popular_items_are_not_grouped_by_their_codes(shown):
    short_first = table([[row] if row < 100 else [row, 0] for row in range(200)], vocab_sizes=[200, 200])
    mixed = np.random.default_rng(0).permutation(200)
    names = np.array(["[PAD]", *(f"i{number:03}" for number in mixed)])
    driver = shown(dataclasses.replace(short_first, item_tokens=names), np.ones(201, dtype=int), ["x"] * 200)
    means = [float(text.split("mean ")[1]) for text in texts(driver, "#lengths .group")]
    assert len(means) == 10 and all(1.1 < mean < 1.9 for mean in means)


@needs_browser
def test_the_panel_keeps_focus_and_starts_at_its_top(shown):
    n = 60
    driver = shown(
        table([[0, row] for row in range(n)], vocab_sizes=[n, n]), np.arange(n + 1), [f"T {i}" for i in range(n)]
    )
    driver.execute_script("panel.style.height = '9rem'; showItem(0); panel.scrollTop = 300")
    driver.execute_script(
        "const near = panel.querySelectorAll('.link'); near[9].focus({preventScroll: true}); near[9].click()"
    )
    assert driver.execute_script("return [panel.scrollTop, document.activeElement.tagName]") == [0, "H2"]


@needs_browser
def test_items_that_share_a_code_and_a_single_item(shown):
    driver = shown(table([[1, 2], [1, 2], [1, 2]]), np.array([0, 1, 3, 2]), ["a", "b", "c"])
    driver.execute_script("reveal(0)")
    assert texts(driver, "#tree li li li .title") == ["b", "c", "a"]
    driver = shown(table([[3]]), np.array([0, 4]), ["only"])
    assert texts(driver, "#tree .title") == ["only"]
    driver.find_element("css selector", "#tree button").click()
    assert "No other item shares its first token." in texts(driver, "#panel p")
