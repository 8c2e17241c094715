"""Which columns are lists; one odd value never decides, and is named."""

from __future__ import annotations

import pandas as pd
import pytest

from recbole_vsid.data.raw_columns import describe_items

LISTS = ["['Action', 'Drama']", "['Comedy']", "['Drama']", "['Action']", "['Comedy', 'Drama']"]
CATEGORIES = ["Pubs, Bars, Italian", "Bars, Night life", "Night life, Pubs"]


def describe(values, kind=None, separator=None):
    return describe_items(pd.Series(values, dtype=object), kind, "items.csv, column 'kinds'", separator)


@pytest.mark.parametrize(
    ("odd", "expected", "told"),
    [
        ("['Children's']", "", "left empty"),
        ("['Action', 'Drama'", "", "left empty"),
        ("'Drama']", "", "left empty"),
        ("{'a': 1}", "", "left empty"),
        ("Sci Fi", "Sci_Fi", "taken as one name each"),
        ("5", "5", "taken as one name each"),
        ("('A',)", "A", None),
        ("{'B', 'A'}", "B A", None),
        ('{B,"A c"}', "B A_c", None),
        ("[Action, Drama]", "Action Drama", None),
        ("[]", "", None),
        ("", "", None),
        ("NaN", "", None),
    ],
)
@pytest.mark.parametrize("times", [1, 40])
@pytest.mark.parametrize("kind", [None, "token_seq"])
def test_one_odd_value_among_lists(odd, expected, told, times, kind):
    found, texts, notes = describe([*LISTS * times, odd], kind)
    assert found == "token_seq" and texts.tolist() == [*LISTED * times, expected]
    if told is None:
        assert notes == []
    else:
        (note,) = notes
        row = 5 * times + 1
        assert (
            note.startswith(f"items.csv, column 'kinds': 1 values, that of row {row} first ({odd!r})") and told in note
        )


LISTED = ["Action Drama", "Comedy", "Drama", "Action", "Comedy Drama"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["('A',)", "('A','B')", "()"], ["A", "A B", ""]),
        (["{'C', 'A'}", "{'B','C','A'}"], ["C A", "B C A"]),  # in the order of the text, the same in every process
        (["{A,B}", '{"Sci Fi",B}', "{C}"], ["A B", "Sci_Fi B", "C"]),
        (["[Action, Drama]", "[Comedy]", "[Sci-Fi, War]"], ["Action Drama", "Comedy", "Sci-Fi War"]),
        (['["a", null]', '["b c"]'], ["a", "b_c"]),
        (["['a'\n 'b']"], ["a b"]),
        ([{"B", "A"}, {"C", "B"}], ["A B", "B C"]),
        ([["a"], [], None, ["b", ["c"]]], ["a", "", "", "b c"]),
    ],
)
def test_forms_of_lists(given, expected):
    assert describe(given)[:1] + (describe(given)[1].tolist(),) == ("token_seq", expected)


@pytest.mark.parametrize(
    "given",
    [
        ["[Untitled]", "[Blank]", "[Red]"],
        ["(500) Days", "Up", "[Rec]"],
        ["(1)", "(2)"],
        ["a {b} c", "{x: 1}"],
        ["Chicago, IL", "Springfield, IL", "Boston, MA", "Salem, MA"],
        ["Pan, red", "Pan, blue", "Shirt, red", "Shirt, blue"],
        ["Acme, Inc.", "Foo, Inc.", "Apple", "Apple"],
        ["AC/DC", "Metallica"] * 5,
        ["http://a.org/b", "http://a.org/c"],
        ["1,299.00", "2,299.00", "1,299.00"],
        ["2019/10", "10/2019"],
        ["First a quiet town; then, quite suddenly, a storm comes over it", "The second; of two"],
        ["Shampoo | 500 ml", "Soap | 2 pieces", "Salt"],
    ],
)
def test_texts_that_are_no_lists(given):
    kind, texts, notes = describe(given)
    assert (kind, texts.tolist(), notes) == ("token", given, [])


@pytest.mark.parametrize("mark", [", ", ",", ";", "; ", " | ", "/", " / "])
@pytest.mark.parametrize("kind", [None, "token_seq"])
def test_usual_separators_of_names_that_come_back(mark, kind):
    given = [text.replace(", ", mark) for text in CATEGORIES * 2]
    found, texts, notes = describe(given, kind)
    assert found == "token_seq" and texts[:3].tolist() == ["Pubs Bars Italian", "Bars Night_life", "Night_life Pubs"]
    assert len(notes) == 1 and f"4 names separated by {mark.strip()!r}" in notes[0] and "type token" in notes[0]
    assert describe(given, "token")[1].tolist() == given


@pytest.mark.parametrize(
    ("given", "separator", "expected"),
    [
        (["Pan, red", "Cup, blue"], ", ", ["Pan red", "Cup blue"]),
        (["Pan,red", "Cup"], ",", ["Pan red", "Cup"]),
        (["A b--B", "C--", ""], "--", ["A_b B", "C", ""]),
        (["A b", "C"], " ", ["A b", "C"]),
        (["A &gt; B"], ">", ["A B"]),
    ],
)
def test_a_named_separator(given, separator, expected):
    assert describe(given, "token_seq", separator)[1].tolist() == expected


def test_separators_that_do_nothing():
    assert "no value holds the separator ';'" in describe(["a, b"], "token_seq", ";")[2][0]
    with pytest.raises(ValueError, match="holds lists already; leave out the separator ';'"):
        describe([["a"], ["b"]], "token_seq", ";")


@pytest.mark.parametrize(
    ("given", "odd", "kind", "expected", "told"),
    [
        ([["a"], ["b"], ["c"]], "x y", "token_seq", ["a", "b", "c", "x_y"], "are no lists; each is taken as one name"),
        (["x"] * 30, ["a", "b"], "token", ["x"] * 30 + ["a, b"], "are lists; each is taken as one text"),
        (["x"] * 30, {"a": 1}, "token", ["x"] * 30 + [""], "are mappings; they are left empty"),
        (["1.5", "2.5", "3.5", "4.5"], "—", "float", ["1.5", "2.5", "3.5", "4.5", ""], "are no numbers; they are left"),
        (["1.5", "2.5", "3.5", "4.5"], "$6", "float", ["1.5", "2.5", "3.5", "4.5", ""], "are no numbers"),
        ([1.5, 2.5, 3.5, 4.5], "inf", "float", ["1.5", "2.5", "3.5", "4.5", ""], "are no numbers"),
    ],
)
def test_a_few_values_of_another_kind(given, odd, kind, expected, told):
    found, texts, (note,) = describe([*given, odd])
    assert (found, texts.tolist()) == (kind, expected)
    assert f"1 values, that of row {len(expected)} first ({str(odd)!r}), {told}" in note


def test_a_few_mappings_in_lists():
    found, texts, (note,) = describe([["a"]] * 30 + [[{"a": 1}, "b"]])
    assert (found, texts.tolist()) == ("token_seq", ["a"] * 30 + ["b"]) and "are mappings; they are left empty" in note


@pytest.mark.parametrize(
    ("given", "kind"),
    [(["1", "2", "M", "L"], "token"), (["1.5", "x", "y", "z", "2"], "token"), (["1", "2"] * 10 + ["X"], "token")],
)
def test_more_than_a_few_values_of_another_kind(given, kind):
    found, texts, notes = describe(given)
    assert (found, texts.tolist(), notes) == (kind, given, [])
