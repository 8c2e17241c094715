"""Text tables: what is read is what was written, and rows that do not fit are named by line."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.commands.prepare.delimited import CountedText, DelimitedFile, guess_separator, read_separator


def read(content, separator=",", columns=None, inferred=(), **options):
    Path("a.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    file = DelimitedFile(Path("a.csv"), separator, **options)
    return file.read(columns or file.columns, inferred), file.notes


def rows(content, separator=",", **options):
    table, _ = read(content, separator, **options)
    return [table.columns.tolist(), *table.to_numpy().tolist()]


# ------------------------------------------------------------------ separators


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::", " ", "\x01", "¦", "||", "~~~", ", ", "abc"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_separator(separator, end):
    table = [["user", "item", "text"], ["u1", "i1", f'say "{separator}"'], ["u2", "i2", "l1\nl2"], ["u3", "", "Ä😀"]]
    quoted = [['"{}"'.format(value.replace('"', '""')) for value in row] for row in table]
    assert rows(end.join(map(separator.join, quoted)), separator) == table


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_separator_that_goes_over_a_block(size):
    text = CountedText(io.StringIO("a::b:::c\r\n::x:\r:", newline=""), Path("a"), "::", "\x1f")
    blocks = iter(lambda: text.read(size), "")
    assert "".join(blocks) == "a\x1fb\x1f:c\r\n\x1fx:\r:"
    assert (text.n_separators, text.n_lines) == (3, 3)


@given(st.text("a:\r\n", max_size=12), st.integers(1, 4), st.sampled_from(["::", ":::", ":a:"]))
def test_blocks_give_what_the_whole_text_gives(content, size, separator):
    whole, parts = (
        CountedText(io.StringIO(content, newline=""), Path("a"), separator, "\x1f") for _ in range(2)
    )  # fmt: skip
    assert "".join(iter(lambda: parts.read(size), "")) == whole.read() == content.replace(separator, "\x1f")
    assert parts.n_lines == whole.n_lines == len(io.StringIO(content, newline=None).readlines())
    assert parts.n_separators == whole.n_separators


@pytest.mark.parametrize(
    ("given", "separator"),
    [("tab", "\t"), (r"\t", "\t"), (r"\x01", "\x01"), (r"\u00a6", "¦"), ("::", "::"), (" ", " "), (None, None)],
)
def test_the_setting(given, separator):
    assert read_separator(given) == separator


@pytest.mark.parametrize("given", ["", '"', "\n", ",\r", 7, [","], r"\x00", "\x1f"])
def test_separators_that_are_refused(given):
    with pytest.raises(ValueError, match="separator=.* is not usable: it must be the characters between two columns"):
        read_separator(given)


@pytest.mark.parametrize(
    ("lines", "separator"),
    [
        (["user;item;time", "u;i;1,5"], ";"),
        (["user\titem, or so\ttime", "u\ti\t1"], "\t"),
        (["1::2::3", "1::4::5"], "::"),
        (["1 5", "2 7"], " "),
        (["u|i|2020-01-01 10:00", "u|i|2020-01-01 11:00"], "|"),
        (['user;item', '"a;b";c'], ";"),
        (["only", "1"], None),
        (["a;b", "1"], None),
        ([], None),
    ],
)  # fmt: skip
def test_a_guess(lines, separator):
    assert guess_separator(lines) == separator


def test_another_separator_is_taken_with_a_note():
    table, notes = read("user;item\nu;i\n")
    assert table.to_numpy().tolist() == [["u", "i"]]
    assert notes == ["a.csv: its columns are separated by ';', not by ','"]
    assert read("only\nx\n")[1] == []


# --------------------------------------------------------------- values and rows


@st.composite
def tables(draw):
    values = st.text("ab,;:\"'\\ \n\r\t#é\u2028\x85\x1c", max_size=6)
    width = draw(st.integers(2, 4))
    return draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=1, max_size=5))


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([",", ";", "::", "\t"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_what_is_written_is_read(table, separator, encoding):
    names = [f"c{place}" for place in range(len(table[0]))]
    quoted = [['"{}"'.format(value.replace('"', '""')) for value in row] for row in table]
    text = "\n".join(map(separator.join, quoted)) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text.encode(encoding))
        try:
            found = DelimitedFile(path, separator, names=names).read(names)
        except ValueError as error:  # values that look like rows between quotes
            assert "seem to hold other rows" in str(error) and separator in ("\t", "::")
        else:
            assert found.to_numpy().tolist() == table


def test_names_for_a_file_without_a_header():
    content = "1::101::4::978300001\n1::102::3::978300002\n"
    table, notes = read(content, "::", ["time", "user"], ["time"], names=["user", "item", "", "time"])
    assert table.to_dict("list") == {"time": [978300001, 978300002], "user": ["1", "1"]} and notes == []
    for names in (["user", "item"], list("abcde")):
        with pytest.raises(ValueError, match=f"a.csv, line 1 has 4 values .* for {len(names)} columns"):
            read(content, "::", names=names)


def test_texts_longer_than_the_limit_of_csv():
    limit = csv.field_size_limit()
    long = "x y" * 100_000
    assert rows(f"item,text\ni0,{long}\n") == [["item", "text"], ["i0", long]]
    with pytest.raises(ValueError, match="line 3 has 3 values for 2 columns"):
        read(f"item,text\ni0,{long}\ni1,x,y\n")
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a,b,c\n1,2,3,4\n", r"line 2 has 4 values for 3 columns \('1', '2', '3', '4'\); values that hold ',' must"),
        ("a,b,c\n1,2,3,4\n1,2,3,4\n", "line 2 has 4 values"),
        ("a,b,c\n1,2,3\n1,2,3,4\n", "line 3 has 4 values"),
        ("a,b,c\n1\n1,2,3,4\n", "line 3 has 4 values"),
        ('a,b,c\n1,2,"x\ny"\n\n1,2,3,4\n', "line 5 has 4 values"),
        ("a,b,c\n1,'x, y',3\n", "line 2 has 4 values"),
        ('a,b,c\n1,"x \\", y",3\n', "line 2 has 4 values"),
        ("a,b\r1,2\r1,2,3\r", "line 3 has 3 values for 2 columns"),
        ("a,b,c\n1,2,3,\n1,2,3,4\n", "line 3 has 4 values"),
        ("a,b,c\n1,2,3,,\n", "line 2 has 5 values"),
        ('a,b\n1,2\n3,"x\n4,5\n', "line 3: the quotation mark of a value has no second one"),
        ("a,b\n1,2\n3,x\0y\n", "a.csv holds a NUL byte in line 3"),
        ("a,b\n1,2\n".encode("utf-16-le"), "a.csv holds a NUL byte in line 1: .*encoding=utf-16-le"),
        (b"a,b\n1,\xe9\n", "line 2 holds 0xe9"),
        ("", "a.csv is empty"),
        (" \n\n", "a.csv is empty"),
    ],
)
def test_files_that_do_not_fit_are_named_by_line(content, told):
    with pytest.raises(ValueError, match=f"^a.csv.*{told}|^{told}"):
        read(content)


def test_the_control_character_that_stands_in():
    assert rows("a,b\n1,\x1f\n") == [["a", "b"], ["1", "\x1f"]]
    with pytest.raises(ValueError, match=r"a.csv holds the control character '\\x1f' in line 2"):
        read("a::b\n1::\x1f\n", "::")


def test_rows_that_all_end_in_a_separator():
    assert rows("a,b\n1,2,\n3,4,\n") == [["a", "b"], ["1", "2"], ["3", "4"]]


def test_short_rows_are_told():
    table, notes = read("a,b,c\n1,2\n1,2,3\n")
    assert table["c"].tolist() == ["", "3"] and notes[0].startswith("a.csv: some rows have fewer values than columns")


def test_blank_lines_are_no_rows():
    assert rows("\n\na,b\n\n1,2\n  \n3,4\n\n") == [["a", "b"], ["1", "2"], ["3", "4"]]


def test_only_a_header():
    assert len(read("a,b\n")[0]) == 0


def test_quotation_marks_after_backslashes_are_told():
    assert read('a,b\n1,"C:\\"\n2,"say \\"""\n"x\\""",y\n')[1] == []
    assert "1 quotation marks are written as" in read('a,b\n1,"say \\"hi\\""\n')[1][0]
