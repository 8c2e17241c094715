"""JSON and Python objects in every layout; digits, lists and mappings survive, and what is broken is named by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.commands.prepare import json_lines
from recbole_vsid.commands.prepare.json_lines import JsonFile

OBJECTS = [{"user": "ä\u2028", "item": 1, "tags": ["x"]}, {"user": "b", "item": 2, "about": {"k": None}, "tags": []}]


def read(content, columns=None):
    Path("a.json").write_bytes(content.encode() if isinstance(content, str) else content)
    file = JsonFile(Path("a.json"))
    return file.read(columns or file.columns)


LAYOUTS = {
    "lines": "\n".join(map(json.dumps, OBJECTS)),
    "lines with blank ones": "\n\n"
    + "\r\n \r\n".join(json.dumps(each, ensure_ascii=False) for each in OBJECTS)
    + "\n\n",
    "lines that end in commas": ",\n".join(map(json.dumps, OBJECTS)),
    "CR": "\r".join(map(json.dumps, OBJECTS)),
    "array": json.dumps(OBJECTS),
    "pretty array": json.dumps(OBJECTS, indent=2),
    "pretty objects": "\n".join(json.dumps(each, indent=4) for each in OBJECTS),
    "arrays": "\n".join(json.dumps([each]) for each in OBJECTS),
    "an array of lines": "[\n" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]\n",
    "Python lines": "\n".join(map(repr, OBJECTS)),
    "Python 2 lines": "\n".join(map(repr, OBJECTS)).replace("'user'", "u'user'"),
    "a Python list": repr(OBJECTS),
    "a pretty Python list": repr(OBJECTS).replace("}, {", "},\n {"),
    "JSON, then Python": json.dumps(OBJECTS[0]) + "\n" + repr(OBJECTS[1]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, encoding):
    table = read(LAYOUTS[layout].encode(encoding))
    assert table.columns.tolist() == ["user", "item", "tags", "about"]
    expected = [{**dict.fromkeys(table.columns), **each} for each in OBJECTS]
    assert table.astype(object).to_dict("records") == expected
    assert table["item"].dtype == "int64"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda each: st.lists(each, max_size=2) | st.dictionaries(st.text(max_size=2), each, max_size=2),
    max_leaves=4,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=2, max_size=4), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, objects, python):
    path = tmp_path_factory.mktemp("json") / "a.json"
    text = "\n".join(map(repr if python else json.dumps, objects)) + "\n"
    if python and ("inf" in text or any(0xD800 <= ord(letter) < 0xE000 for letter in text)):
        return  # Python writes no literal of these
    path.write_text(text, encoding="utf-8")
    file = JsonFile(path)
    table = file.read(file.columns)
    for place, each in enumerate(objects):
        for name, found in table.iloc[place].items():
            assert found == each.get(name) or (found != found and each.get(name) is None)


def test_digits_survive_beside_missing_values():
    table = read('{"u": 9007199254740993, "i": 12345678901234567890123, "f": 1.5}\n{"u": null, "i": 1}\n{"u": 2}')
    assert table["u"].tolist() == [9007199254740993, None, 2]
    assert table["i"].tolist() == [12345678901234567890123, 1, None]
    assert table["f"].dtype == "float64" and table["f"].isna().tolist() == [False, True, True]


def test_numbers_that_json_does_not_have():
    table = read('{"a": NaN, "b": Infinity}\n{"a": 1, "b": -Infinity}')
    assert table["a"].tolist() == [None, 1] and table["b"].tolist() == [float("inf"), -float("inf")]


def test_only_columns_of_one_kind_are_typed():
    table = read('{"a": true, "b": 1, "c": "1"}\n{"a": false, "b": true, "c": 2}')
    assert table.dtypes.astype(str).tolist() == ["bool", "object", "object"]
    assert table["c"].tolist() == ["1", 2]


def test_columns_that_the_file_lacks_are_missing():
    assert read('{"a": 1}\n{"a": 2}', ["b", "a"]).to_dict("list") == {"b": [None, None], "a": [1, 2]}


def test_halves_of_characters():
    python, half = "{'a': u'\\ud83d\\ude00', 'b': ['\\ud83d']}\n", '{"a": "\\ud83d\\ude00", "b": "x\\uD83D"}\n'
    assert read(python + half).to_numpy().tolist() == [["😀", ["\ufffd"]], ["😀", "x\ufffd"]]


def test_nothing_runs():
    with pytest.raises(ValueError, match="a.json, line 1"):
        read("{'a': __import__('os').getcwd()}\n")


def test_a_key_that_stands_twice():
    assert read('{"a": 1, "a": 1}\n{"a": 2}')["a"].tolist() == [1, 2]
    for line in ('{"a": 1, "a": 2}', "{'a': 1, 'a': 2}", '{"b": {"a": 1, "a": 2}}'):
        for before in ("", '{"b": 1}\n', '{\n"b": 1}\n' * (line[1] == '"')):
            with pytest.raises(ValueError, match=f"a.json, line {before.count(chr(10)) + 1} .* 'a' stands twice"):
                read(before + line)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a": 1}\n{"a": 2\n{"a": 3}', r"line 2 is not readable as a JSON object or a Python dict: Expecting ',' del"),
        ('{"a": 1}\n\n{"a": "x', r"line 3 .*column 7\); it is the last: is the file cut off\?"),
        ("{'a': 1}\n{'a': 2", "line 2 .*column .*; it is the last"),
        ("{'a': 1}\n{'a': nan}\n{'a': 1}", "line 2 .*: it holds something else than texts"),
        ('[{"a": 1},\n{"a": 2},\n{"a": 3', "line 3 is not readable"),
        ('[\n{"a": 1},\n{"a": oops}]', "line 3 is not readable .*column 7"),
        ('[{"a": 1},\n{"a": 2}', r"a.json ends before its array does: is the file cut off\?"),
        ('{"a": 1}\n[1]', r"line 2: '\[1\]' is no object with names"),
        ('{"a": 1}\n7', "line 2: '7' is no object"),
        ("[1, 2]", "line 1: '1' is no object"),
        ("user,item\n1,2\n", "line 1 is not readable"),
        ('{"u1": ["i1", "i2"], "u2": ["i3"]}', "holds one object of lists or mappings"),
        ('{"data": [{"a": 1}]}', "holds one object of lists or mappings"),
        ("", "a.json has no rows"),
        ("[]", "a.json has no rows"),
        ('{"a": ' + "[" * 100_000, "line 1"),
        (b'{"a": "\xe9"}', "line 1 holds 0xe9"),
    ],
)
def test_what_is_broken_is_named_by_line(content, told):
    with pytest.raises(ValueError, match=told):
        read(content)


@pytest.mark.parametrize("line", ["{'a': 7}", '{"a": 7'])
def test_one_line_among_many(line, monkeypatch):
    monkeypatch.setattr(json_lines, "CHUNK_ROWS", 999)
    lines = ['{"a": 1}'] * 12_345
    lines[5432] = line
    if line.endswith("}"):
        assert read("\n".join(lines))["a"].sum() == 12_345 + 6
    else:
        with pytest.raises(ValueError, match="line 5433 is not"):
            read("\n".join(lines))
