"""Kinds of tables by content and extension, several files as one table, and headers that are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from recbole_vsid import prepare
from recbole_vsid.cli import main
from recbole_vsid.data.raw_tables import RawTable, find_column


def write(**files):
    for name, content in files.items():
        path = Path(name.replace("__", "/").replace("_DOT_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(source, **options):
    table = RawTable(source, "interactions", **options)
    return table.read(table.columns, ["time"]).to_dict("list"), table.notes


EXPECTED = {"user": ["a", "b"], "item": ["x", "y"], "time": [1, 2]}
CSV = "user,item,time\na,x,1\nb,y,2\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.CSV", CSV),
        ("a.csv", gzip.compress(CSV.encode(), mtime=0)),
        ("a.gz", gzip.compress(CSV.replace(",", "\t").encode(), mtime=0)),
        ("a.txt", CSV.replace(",", "::")),
        ("part-00000", CSV.replace(",", " ")),
        ("a.txt", '{"user": "a", "item": "x", "time": 1}\n{"user": "b", "item": "y", "time": 2}\n'),
        ("a.dat", "[{'user': 'a', 'item': 'x', 'time': 1},\n {'user': 'b', 'item': 'y', 'time': 2}]"),
        ("a.csv", CSV.encode("utf-16")),
        ("a.tsv", CSV.replace(",", "\t").encode("utf-8-sig")),
    ],
)
def test_kinds_of_files(name, content):
    write(**{name.replace(".", "_DOT_"): content})
    assert read(name)[0] == EXPECTED


def test_parquet_by_content():
    pytest.importorskip("pyarrow")
    pd.DataFrame(EXPECTED).to_parquet("a.csv")
    assert read("a.csv")[0] == EXPECTED


def test_a_guess_of_an_unknown_extension_is_told():
    write(a_DOT_dat=CSV.replace(",", "|"), b_DOT_dat="nothing\nto see\n")
    assert read("a.dat")[1] == ["a.dat: its columns look separated by '|'; if they are not, set separator"]
    with pytest.raises(ValueError, match="interactions='b.dat' must end in one of .csv"):
        read("b.dat")


# ---------------------------------------------------------------- several files


@pytest.mark.parametrize(
    "source", ["parts", "parts/*", "parts/p-2.csv,parts/p-10.csv", ["parts/p-2.csv", "parts/p-10.csv"]]
)
def test_parts(source):
    write(
        parts___SUCCESS="",
        **{"parts__p-2_DOT_csv": "user,item,time\na,x,1\n", "parts__p-10_DOT_csv": "time,user,item\n2,b,y\n"},
    )
    if source == "parts/*":
        Path("parts/_SUCCESS").unlink()
    assert read(source)[0] == EXPECTED


def test_parts_with_other_columns_are_named():
    write(p__a_DOT_csv=CSV, p__b_DOT_csv="user,item,when\na,x,1\n")
    with pytest.raises(ValueError, match=r"b.csv has the columns \['user', 'item', 'when'\], and .*a.csv has"):
        read("p")


def test_parts_without_a_header():
    write(**{"p__part-0": "a\tx\t1\n", "p__part-1": "b\ty\t2\n"})
    assert read("p", columns="user,item,time")[0] == EXPECTED
    write(**{"p__part-0": "a\tx\t1\na\tz\t3\n"})
    with pytest.raises(ValueError, match="part-0: its first line .* looks like data"):
        RawTable("p", "interactions")


def test_parts_of_json_may_lack_keys():
    write(p__a_DOT_json='{"user": 9007199254740993}\n{"user": 1}', p__b_DOT_json='{"user": 1.5, "item": 2}')
    assert read("p")[0] == {"user": [9007199254740993, 1, 1.5], "item": [None, None, 2]}


def test_notes_of_many_parts_are_few():
    write(**{f"p__{place}_DOT_csv": "user,item,time\na,x\n" for place in range(30)})
    notes = read("p")[1]
    assert len(notes) == 11 and notes[-1] == "p: 20 more notes on other files"


# --------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("1::101::4::978300001\n1::102::3::978300002", "columns=user,item,rating,time"),
        ("u1 i1 1600000000\nu2 i2 1600000001", "columns=user,item,time"),
        ("1 5\n1 7", "columns=user,item"),
        ("1 1\n1 2", "columns=user,item"),
        ("u1\ti1\t2020-01-01\nu2\ti2\t2020-01-02", "columns=user,item,time"),
        ("7;2;3;4;5\n2;3;4;5;6", "columns=user,item,rating,time,…"),
    ],
)
def test_data_in_place_of_a_header(line, advice):
    write(a_DOT_txt=line)
    with pytest.raises(ValueError, match=f"a.txt: its first line .* looks like data; name .* header, like {advice}"):
        RawTable("a.txt", "interactions")


@pytest.mark.parametrize(
    "header", ["key,0,1,2", "item,0,7", "0,1,2", "a,b,2x", "movieId,1995,2000", "key,1995,1996", "who,what,2020"]
)
def test_headers_with_numbers(header):
    width = header.count(",") + 1
    write(a_DOT_csv=header + "\n" + ",".join(["1"] * width) + "\n")
    assert RawTable("a.csv", "items").columns == header.split(",")


@pytest.mark.parametrize("header", ["user,item,rating,time", "User,Item,x,y", "userId,movieId,rating,timestamp"])
def test_a_header_in_place_of_data(header):
    write(a_DOT_csv=header + "\n1,2,3,4\n")
    with pytest.raises(ValueError, match="a.csv has a header .*; leave out columns"):
        RawTable("a.csv", "interactions", columns="user,item,rating,time")


def test_what_to_do_when_no_column_is_known():
    write(a_DOT_csv="who,what\na,b\n")
    with pytest.raises(ValueError, match=r"none looks like the user; set user=<column> \(or, .* columns=user,item\)"):
        find_column(RawTable("a.csv", "interactions"), "user", None)
    wide = RawTable(pd.DataFrame({f"c{place}": ["x"] for place in range(50)}), "interactions")
    with pytest.raises(ValueError, match=r"'c29'\] and 20 more: none looks like the user; set user=<column>$"):
        find_column(wide, "user", None)


# ---------------------------------------------------------------- command line


def test_movielens_as_it_is_published(capsys):
    write(
        ratings_DOT_dat="".join(f"{u}::{i}::4::{978300000 + u + i}\n" for u in range(1, 6) for i in range(1, 6)),
        movies_DOT_dat="".join(
            f"{i}::Café No. {i}, The (1995)::{'Drama|' * (i > 2)}Comedy\n" for i in range(1, 6)
        ).encode("latin-1"),
    )
    command = ["prepare", "--interactions=ratings.dat", "--items=movies.dat", "--dataset=ml", "--separator=::",
               "--columns=user,item,rating,time", "--items_columns=item,title,genres"]  # fmt: skip
    assert main(command) == 2
    assert "movies.dat is not readable as UTF-8 text: line 1 holds 0xe9" in capsys.readouterr().err
    assert main([*command, "--encoding=latin-1"]) == 0
    assert Path("dataset/ml/ml.item").read_text(encoding="utf-8").splitlines()[1] == (
        "1\tCafé No. 1, The (1995)\tComedy"
    )
    assert len(Path("dataset/ml/ml.inter").read_text().splitlines()) == 26


@pytest.mark.parametrize("separator", [";", "|", " ", "::", "tab", r"\x01"])
def test_separators_on_the_command_line(separator, capsys):
    sign = {"tab": "\t", r"\x01": "\x01"}.get(separator, separator)
    write(
        a_DOT_txt="".join(
            sign.join(["user", "item", "time"] if not u else [f"u{u}", "i", "7"]) + "\n" for u in range(3)
        )
    )
    assert main(["prepare", "--interactions=a.txt", "--dataset=shop", f"--separator={separator}"]) == 0


def test_images_beside_texts():
    pytest.importorskip("pyarrow")
    events = pd.DataFrame({"user": ["u"] * 2, "item": ["i", "j"], "time": [1, 2]})
    items = pd.DataFrame({"item": ["i", "j"], "title": ["one", "two"], "image": [b"\x89PNG\xff"] * 2})
    items.to_parquet("items.parquet")
    assert list(RawTable("items.parquet", "items").read(["image"])["image"]) == [b"\x89PNG\xff"] * 2
    assert "title" in prepare(events, "shop", "items.parquet")["item_columns"]


def test_utf8_that_is_read_as_something_else_is_told():
    write(a_DOT_csv="user,item,time\né,x,1\n", b_DOT_csv="user,item,time\né,x,1\n".encode("latin-1"), c_DOT_csv=CSV)
    assert read("a.csv", encoding="latin-1")[1] == [
        "a.csv: read as latin-1, but it is UTF-8; if so, leave out encoding"
    ]
    assert read("b.csv", encoding="latin-1") == ({"user": ["é"], "item": ["x"], "time": [1]}, [])
    assert read("c.csv", encoding="cp1252")[1] == []
