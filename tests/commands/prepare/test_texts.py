"""HTML in texts, texts that are too long, and columns that describe nothing."""

from __future__ import annotations

import pandas as pd
import pytest

from recbole_vsid.commands.prepare.read_back import LONGEST_VALUE
from recbole_vsid.commands.prepare.texts import why_no_content
from recbole_vsid.data.raw_columns import describe_items


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Salt &amp; pepper", "Salt & pepper"),
        ("Salt &amp;amp; pepper", "Salt & pepper"),
        ("<b>Lamp</b> 5&quot;", 'Lamp 5"'),
        ("Desk &#39;one&#39; &#x41;&nbsp;!", "Desk 'one' A !"),
        ("one<br/>two<p class='x'>three</p>", "one two three"),
        ("H<sub>2</sub>O", "H2O"),
        ("&lt;i&gt;Up&lt;/i&gt;", "Up"),
        ("a<script>var x = '<b>';</script>b<!-- no -->c", "a b c"),
        ('Lamp <span id="title" class="a', "Lamp"),
        ("I <3 you", "I <3 you"),
        ("a < b > c, R&D; x", "a < b > c, R&D; x"),
        ("?a=1&copy=2", "?a=1&copy=2"),
        ("<Untitled>", "<Untitled>"),
    ],
)
def test_html(given, expected):
    kind, texts, notes = describe_items(pd.Series([given, "plain"], dtype=object), "token", "here")
    assert texts.tolist() == [expected, "plain"]
    assert len(notes) == (given != expected)
    assert all(note.startswith("here: HTML entities and tags of 1 values are read") for note in notes)


def test_html_in_lists_and_paths():
    for given, expected in (
        ([["A &amp; B", "x", "<i>D</i>"], ["<b>C</b>"]], ["A_&_B x D", "C"]),
        (["['A &amp; B']", "['It&#39;s']"], ["A_&_B", "It's"]),
        (["Home &gt; Kitchen &amp; Bath", "Home"], ["Home Kitchen_&_Bath", "Home"]),
    ):
        kind, texts, notes = describe_items(pd.Series(given, dtype=object), None, "here")
        assert (kind, texts.tolist()) == ("token_seq", expected) and len(notes) == 1 and "HTML" in notes[0]


@pytest.mark.parametrize(
    ("given", "kind", "length"),
    [
        ("x" * LONGEST_VALUE, "token", LONGEST_VALUE),
        ("x" * (LONGEST_VALUE + 1), "token", LONGEST_VALUE),
        ("word " * 40_000, "token_seq", LONGEST_VALUE - LONGEST_VALUE % 5 - 1),
        ([f"image{i:05}" for i in range(30_000)], None, LONGEST_VALUE - LONGEST_VALUE % 11 - 1),
        (["a", "x" * (LONGEST_VALUE + 1)], None, 1),
    ],
)
def test_texts_that_are_too_long(given, kind, length):
    _, texts, notes = describe_items(pd.Series(["short", given], index=[4, 8], dtype=object), kind, "here")
    assert len(texts[8]) == length and texts[4] == "short"
    told = [note for note in notes if "131,072 characters" in note]
    assert len(told) == (given != "x" * LONGEST_VALUE)
    assert all("here: 1 values" in note and "that of row 9 first" in note for note in told)


def test_half_a_character_has_no_utf8():
    assert describe_items(pd.Series(["a\ud83db"]), None, "here")[1].tolist() == ["a b"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["true", "false", "true"], "flags"),
        (["Yes", "no", ""], "flags"),
        (["same"] * 10, "the same for all items"),
        (["same"] * 9, None),
        (["same"] * 10 + [""], None),
        (["https://a.org/1.jpg", "http://b.org/x"], "links or names of files"),
        (["a.jpg", "b.png?x=1"], "links or names of files"),
        (["2019-10-01", "2019-10-02 10:00:00"], "dates"),
        (["01/10/2019", "2.10.2019"], "dates"),
        (["1995", "2003"], None),
        ([f"40063813339{i:02}" for i in range(9)], "another number of each item"),
        ([f"B00X{i:06}" for i in range(9)], "another number of each item"),
        ([f"4006381333{i:03}.0" for i in range(9)], "another number of each item"),
        ([f"B00X{i % 8:06}" for i in range(9)], None),
        ([str(10**7 * 3**i) for i in range(9)], None),
        (["Lamp", "Table", "Chairs", "Desks", "Bookshelf", "Wardrobe"], None),
    ],
)
def test_columns_that_say_nothing(given, reason):
    texts = pd.Series(given, dtype=object)
    assert why_no_content(texts, "token", texts) == reason


def test_dates_and_lists_of_links_say_nothing():
    dates = pd.Series(pd.to_datetime(["2019-10-01", None]))
    assert why_no_content(dates, "token", pd.Series(["2019-10-01", ""])) == "dates"
    lists = pd.Series(["a.jpg b.jpg", "c.jpg", ""])
    assert why_no_content(lists, "token_seq", lists) == "links or names of files"
