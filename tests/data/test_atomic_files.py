"""Atomic files: what RecBole would drop, shift or cut off in silence is refused by file, line, column and value."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest

from recbole_vsid.data.atomic_files import AtomicFile, values_of_any_length

HEADER = "item_id:token\ttitle:token\tgenre:token_seq\tprice:float\tshape:float_seq"
ROWS = [[f"i{i}", f"Thing {i}", f"Action g{i}", f"{i}.5", f"1 {i}"] for i in range(8)]


def write(folder, rows=ROWS, header=HEADER, end="\n", encoding="utf-8", separator="\t"):
    path = folder / "shop.item"
    lines = [header.replace("\t", separator), *(separator.join(row) for row in rows)]
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def changed(*changes):
    """ROWS with changes (row, column, value)."""
    rows = [list(row) for row in ROWS]
    for row, column, value in changes:
        rows[row][column] = value
    return rows


def check(path, separator="\t", encoding="utf-8"):
    file = AtomicFile(path, separator, encoding)
    file.check()
    return file


def refused(path, *told, **settings):
    with pytest.raises(ValueError) as error:
        check(path, **settings)
    for part in ("shop.item", *told):
        assert part in str(error.value), error.value


# ---------------------------------------------------------------- rows between quotation marks


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("first, last", [(3, 6), (3, 4), (0, 7)])
@pytest.mark.parametrize("column", range(5))
def test_rows_between_two_quotation_marks(tmp_path, column, first, last, end):
    rows = changed((first, column, '"' + ROWS[first][column]), (last, column, ROWS[last][column] + '"'))
    name = HEADER.split("\t")[column].split(":")[0]
    told = (f"line {first + 2}, column {name!r}", f"to line {last + 2}", "remove the quotation marks")
    refused(write(tmp_path, rows, end=end), *told)
    rows.insert(first + 1, [""])
    refused(write(tmp_path, rows, end=end), f"line {first + 2}", f"to line {last + 3}")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("title", ["over\ntwo lines", "over\n\nthree", "one\n\ttab", 'with "" marks\nin it', "\n"])
def test_a_text_may_go_over_lines(tmp_path, title, end):
    path = write(tmp_path, changed((2, 1, '"' + title.replace("\n", end) + '"')), end=end)
    rows = [row for _, _, row in check(path).rows()]
    assert len(rows) == len(ROWS) and rows[2][1] == title.replace("\n", end).replace('""', '"')


@pytest.mark.parametrize("value", ['12" disc', "“curly” ‘quotes’", "'single'", '"a ""b"" c"', '""', "back\\slash", "#"])
def test_quotation_marks_that_are_read_as_they_were_meant(tmp_path, value):
    file = check(write(tmp_path, changed((2, 1, value))))
    expected = pd.read_csv(tmp_path / "shop.item", sep="\t", dtype=str, engine="python", keep_default_na=False)
    assert [row for _, _, row in file.rows()] == expected.to_numpy().tolist()


@pytest.mark.parametrize(
    "changes, told",
    [
        ([(3, 1, '"open')], ["line 5, column 'title'", "'\"open' begins with", "unexpected end of data"]),
        ([(7, 4, '"1 7')], ["line 9, column 'shape'", "does not end with one"]),
        ([(3, 1, '"Great" she said')], ["line 5, column 'title'", '"Great" she said']),
        ([(3, 1, '"Thing'), (5, 2, 'Action"')], ["line 5 (item_id 'i3')", "4 columns", "5", "to line 7"]),
        ([(3, 2, '"Action'), (5, 1, 'Thing"')], ["line 5 (item_id 'i3')", "6 columns", "5", "to line 7"]),
        ([(3, 1, '"Thing'), (3, 2, 'Action"')], ["line 5 (item_id 'i3')", "4 columns"]),
    ],
)
def test_other_quotation_marks(tmp_path, changes, told):
    refused(write(tmp_path, changed(*changes)), *told)


# ---------------------------------------------------------------- shifted columns, odd bytes, long values


@pytest.mark.parametrize("row", [0, 3, 7])
def test_rows_with_more_or_fewer_columns_than_the_header(tmp_path, row):
    told = (f"line {row + 2} (item_id 'i{row}')", "field_separator='\\t'")
    refused(write(tmp_path, changed((row, 1, "a\ttab"))), "6 columns", *told)
    refused(write(tmp_path, [each[: 4 if i == row else 5] for i, each in enumerate(ROWS)]), "4 columns", *told)
    refused(write(tmp_path, changed((row, 1, "two\nlines"))), "2 columns", *told)
    refused(write(tmp_path, [[*each, ""] for each in ROWS]), "line 2", "6 columns")


def test_blank_lines_are_no_rows_and_count_as_lines(tmp_path):
    path = write(tmp_path, [*ROWS[:2], [""], ["  "], *ROWS[2:]])
    file = check(path)
    assert [first for first, _, _ in file.rows()] == [2, 3, 6, 7, 8, 9, 10, 11]
    assert file.line_of(0) == 2 and file.line_of(2) == 6


def test_nul_bytes(tmp_path):
    refused(write(tmp_path, changed((4, 1, "a\0b"))), "line 6", "NUL bytes")
    refused(write(tmp_path, encoding="utf-16-le"), "line 1", "NUL bytes", "set encoding")


def test_texts_above_the_limit_of_csv(tmp_path):
    limit = csv.field_size_limit()
    path = write(tmp_path, changed((4, 1, "x" * (limit + 1)), (5, 2, '"' + "y\n" * limit + '"')))
    rows = [row for _, _, row in check(path).rows()]
    assert len(rows[4][1]) == limit + 1 and len(rows[5][2]) == 2 * limit and csv.field_size_limit() == limit
    with pytest.raises(ZeroDivisionError), values_of_any_length():
        assert csv.field_size_limit() > limit
        1 / 0  # noqa: B018
    assert csv.field_size_limit() == limit


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding, setting", [("utf-8-sig", "utf-8"), ("utf-8-sig", None), ("utf-16", "utf-16")])
def test_byte_order_marks_are_read(tmp_path, encoding, setting):
    file = check(write(tmp_path, changed((1, 1, "é")), encoding=encoding), encoding=setting)
    assert list(file.types)[0] == "item_id" and file.encoding in ("utf-8-sig", "utf-16")


def test_wrong_encodings_name_the_setting(tmp_path):
    coffee = changed((4, 1, "Café"))
    refused(write(tmp_path, coffee, encoding="cp1252"), "line 6", "0xe9", "encoding='utf-8'", "cp1252")
    assert check(tmp_path / "shop.item", encoding="cp1252").encoding == "cp1252"
    refused(write(tmp_path, header=HEADER.replace("genre", "génre"), encoding="cp1252"), "line 1", "0xe9")
    refused(write(tmp_path, encoding="utf-16"), "set encoding=utf-16")
    refused(write(tmp_path, encoding="utf-32"), "set encoding=utf-32")
    refused(write(tmp_path, encoding="utf-8-sig"), "set encoding=utf-8", encoding="latin-1")
    for unknown in ("utf-9", "base64"):
        with pytest.raises(ValueError, match=f"encoding='{unknown}' is not usable"):
            AtomicFile(write(tmp_path), "\t", unknown)


# ---------------------------------------------------------------- the header


@pytest.mark.parametrize("separator", [",", ";", "|", "::", " "])
def test_another_separator_is_named(tmp_path, separator):
    rows = [[value.replace(" ", "_") for value in row] for row in ROWS]
    path = write(tmp_path, rows, separator=separator)
    refused(path, "field_separator='\\t' the header is one column", f"set field_separator={separator!r}")
    assert len([*check(path, separator).rows()]) == len(ROWS)


def test_separators_that_cannot_be(tmp_path):
    for separator in ("", ":", '"', "\n", None, 3):
        with pytest.raises(ValueError, match="field_separator=.* is not usable"):
            AtomicFile(write(tmp_path), separator)
    with pytest.raises(ValueError, match=r"field_separator='\|\|' is not usable: pandas reads it as a pattern"):
        check(write(tmp_path, separator="||"), "||")


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("title:token", "title", "the column 'title', and it has no type"),
        ("title:token", "ti:tle:token", "the column 'ti:tle:token', and 'tle:token' is no type"),
        ("title:token", "title:str", "'str' is no type; .* token, float, token_seq, float_seq"),
        ("title:token", "title:Token", "'Token' is no type"),
        ("title:token", ":token", "the column ':token', and it has no name"),
        ("title:token", "", "the column '', and it has no type"),
        ("title:token", "price:token", "the column 'price:float', and another one has its name"),
        (HEADER, HEADER + "\t", "the column '', and it has no type"),
        (HEADER, '"' + HEADER + '"', "'float_seq\"' is no type|its name begins with '\"'"),
        (HEADER, "\ufeff\ufeff" + HEADER, "its name begins with '\ufeff'|ufeff"),
        (HEADER, "\t".join(ROWS[0]), "the column 'i0', and it has no type"),
        (HEADER, "item_id,title", "one column, 'item_id,title', and it has no type; set field_separator"),
        (HEADER, "", "has no header"),
    ],
)
def test_headers_that_are_none(tmp_path, old, new, told):
    with pytest.raises(ValueError, match=told):
        check(write(tmp_path, header=HEADER.replace(old, new)))


def test_files_without_rows(tmp_path):
    for content in ("", "\n", HEADER, HEADER + "\n\n"):
        (tmp_path / "shop.item").write_text(content)
        refused(tmp_path / "shop.item", "no header" if not content.strip() else "a header and no rows")


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("value", ["$6.5", "1,299.00", "—", "2021-01-01", "6.5 EUR", "0x10", "[PAD]"])
def test_numbers_in_words(tmp_path, value):
    file = check(write(tmp_path, changed((1, 3, "nan"), (2, 3, ""), (4, 3, value), (5, 3, "other"))))
    with pytest.raises(ValueError) as error:
        file.refuse_number(file.types, " ")
    for part in ("shop.item, line 6 (item_id 'i4')", "'price:float'", f"{value!r} is no number", "unload_col"):
        assert part in str(error.value)
    file.refuse_number(set(file.types) - {"price"}, " ")


def test_lists_of_numbers_in_words(tmp_path):
    file = check(write(tmp_path, changed((1, 4, ""), (2, 4, "NA"), (4, 4, "1 2;5"))))
    with pytest.raises(ValueError, match="line 6 .*'shape:float_seq': '2;5' is no number with seq_separator=' '"):
        file.refuse_number(file.types, " ")


def test_infinite_numbers(tmp_path):
    file = check(write(tmp_path))
    feat = pd.DataFrame({"price": [1.0, np.nan, 1e39, np.inf], "shape": [np.ones(2)] * 4})
    with pytest.raises(ValueError, match=r"line 4 .*'price:float': '1e\+39' is no finite number"):
        file.refuse_infinite(feat, ["price", "shape"])
    file.refuse_infinite(feat, ["shape"])
    feat["shape"] = [np.ones(2), np.ones(0), np.array([1, np.nan]), np.ones(1)]
    with pytest.raises(ValueError, match="line 4 .*'shape:float_seq': 'nan' is no finite number"):
        file.refuse_infinite(feat, ["shape"])
