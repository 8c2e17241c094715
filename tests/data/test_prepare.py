"""``prepare``: what goes in comes out of RecBole's dataset unchanged, and what cannot is refused or told."""

from __future__ import annotations

import csv
import gzip
import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from recbole_vsid import prepare
from recbole_vsid.cli import main
from recbole_vsid.commands.prepare.events import k_core
from recbole_vsid.commands.prepare.texts import MISSING
from recbole_vsid.commands.prepare.times import read_times
from recbole_vsid.config import Config
from recbole_vsid.data.dataset import dataset_class
from recbole_vsid.data.prepare_report import print_summary
from recbole_vsid.data.raw_columns import describe_items, encode_ids
from tests.conftest import item_texts, planted_events

NASTY = "\"',;:\\#|% .0[]()NAa=é名\u2028\x85"


def load(summary, data_path):
    """The built dataset of a general model, with the property file that ``prepare`` wrote."""
    config = Config(
        "BPR", summary["dataset"], [summary["files"][-1]], {"data_path": str(data_path), "show_progress": False}
    )
    dataset = dataset_class(config)(config)
    dataset.build()
    return dataset


def loaded_events(dataset):
    """(user, item) tokens of the event log, in its order."""
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    return list(zip(users[dataset.events.users()].tolist(), items[dataset.events.items].tolist()))


def events_frame(rows):
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def small_events(n_users=3, n_items=4):
    """Every user has every item once, at 1, 2, …"""
    return events_frame([(f"u{u}", f"i{i}", 1 + i) for u in range(n_users) for i in range(n_items)])


def lines(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


# ----------------------------------------------------------------- round trip

ids = st.text(NASTY, min_size=1, max_size=5).filter(lambda text: text == text.strip() and text not in MISSING)
STEADY = [("steady", f"known {i}", 1_600_000_000_000 + i) for i in range(4)]


@st.composite
def logs(draw):
    """Events with nasty ids and times in milliseconds, ties among them, and a title per item."""
    users, items = (draw(st.lists(ids, min_size=1, max_size=4, unique=True)) for _ in range(2))
    times = st.integers(1_600_000_000_000, 1_600_000_000_002)
    rows = draw(st.lists(st.tuples(st.sampled_from(users), st.sampled_from(items), times), max_size=20))
    titles = {item: draw(st.text(NASTY + "\t\n\r", max_size=8)) for item in items}
    return [*rows, *STEADY], {**titles, **{item: "Known" for _, item, _ in STEADY}}


@settings(max_examples=25, deadline=None)
@given(logs(), st.booleans())
def test_nasty_ids_and_titles_come_back(log, from_files):
    rows, titles = log
    events = events_frame(rows)
    items = pd.DataFrame({"item_id": list(titles), "title": list(titles.values())})
    with tempfile.TemporaryDirectory() as folder:
        if from_files:
            for name, frame in (("events", events), ("items", items)):
                frame.to_csv(f"{folder}/{name}.csv", index=False, quoting=csv.QUOTE_ALL)
            events, items = f"{folder}/events.csv", f"{folder}/items.csv"
        dataset = load(prepare(events, "nasty", items, folder, item_columns="title:token"), folder)
    expected = {}
    for user, item, _ in sorted(dict.fromkeys(rows), key=lambda row: row[2]):
        expected.setdefault(user, []).append(item)
    order = dict.fromkeys(user for user, _, _ in rows)
    assert loaded_events(dataset) == [(user, item) for user in order for item in expected[user]]
    tokens = dataset.field2id_token
    loaded = dict(zip(tokens["item_id"].tolist(), tokens["title"][dataset.item_feat["title"].numpy()].tolist()))
    for item in {item for _, item, _ in rows}:
        title = re.sub(r"\s+", " ", titles[item]).strip()
        assert loaded[item] == ("[PAD]" if title in MISSING else title)


def test_the_original_dataset_has_the_same_fingerprint(data_path, tmp_path):
    columns = pd.read_csv(data_path / "toy" / "toy.inter", sep="\t", dtype=str)
    columns.columns = ["visitorId", "SKU", "created at"]
    columns.to_csv("events.tsv", sep="\t", index=False)
    dataset = load(prepare("events.tsv", "again", data_path=tmp_path), tmp_path)
    config = Config("BPR", "toy", config_dict={"data_path": str(data_path)})
    original = dataset_class(config)(config)
    original.build()
    assert dataset.fingerprint() == original.fingerprint()


def test_what_is_written():
    events = events_frame([("b", "x", 20.5), ("a", "y", 1), ("b", "y", 7), ("a", "x", 3), ("b", "y", 7)])
    items = pd.DataFrame({"item_id": ["y", "z", "x"], "the title": ['6" pan', "pot", "a\tb"], "price": [1.5, 2, None]})
    summary = prepare(events, "shop", items, "there")
    assert lines("there/shop/shop.inter") == [
        "user_id:token\titem_id:token\ttimestamp:float", "b\ty\t7.0", "b\tx\t20.5", "a\ty\t1.0", "a\tx\t3.0",
    ]  # fmt: skip
    assert lines("there/shop/shop.item") == [
        "item_id:token\tthe_title:token\tprice:float", 'y\t"6"" pan"\t1.5', "x\ta b\t",
    ]  # fmt: skip
    assert lines("there/shop/shop.yaml")[1:] == [
        "load_col:", "  inter: [user_id, item_id, timestamp]", "  item: [item_id, the_title, price]",
    ]  # fmt: skip
    assert summary["files"] == [f"there/shop/shop.{suffix}" for suffix in ("inter", "item", "yaml")]
    assert (summary["users"], summary["items"], summary["events"], summary["rows_read"]) == (2, 2, 4, 5)
    assert summary["density"] == 1 and summary["repeated_items"] == 0
    assert summary["rows_dropped"] == {"exact repetitions": 1, "too few events of the user or item": 0}
    assert summary["events_per_user"]["median"] == 2 and summary["users_tested"] == 0
    assert summary["items_left_out"] == 1
    assert summary["item_columns"]["price"] == {"type": "float", "filled": 0.5, "distinct": 1, "example": "1.5"}


# -------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    "names",
    [
        ("userId", "movieId", "timestamp"),
        ("reviewerID", "asin", "unixReviewTime"),
        ("customer_id", "SKU", "Created At"),
    ],
)
def test_usual_names_are_found(names):
    events = small_events().set_axis(names, axis=1).assign(rating=3)
    summary = prepare(events, "found")
    assert tuple(summary["columns"].values()) == names
    assert summary["notes"] == ["the DataFrame interactions: columns not used: rating"]


@pytest.mark.parametrize(
    ("names", "given", "told"),
    [
        (["who", "item", "time"], {}, r"are \['who', 'item', 'time'\]: none looks like the user; set user=<column>"),
        (["user", "asin", "parent_asin", "ts"], {}, r"\['asin', 'parent_asin'\] all look like the item; set item="),
        (["user", "item", "when"], {}, "none looks like the time; set time=<column>"),
        (["user", "item", "time"], {"item": "sku"}, "item='sku' is no column"),
        (["user", "item", "time"], {"item": "user"}, "must be three columns"),
        (["user;item;time"], {}, "or set separator, as there is only one"),
    ],
)
def test_columns_that_cannot_be_told(names, given, told):
    pd.DataFrame([["1"] * len(names)], columns=names).to_csv("events.csv", index=False)
    with pytest.raises(ValueError, match=told):
        prepare("events.csv", "shop", **given)
    assert not Path("dataset").exists()


def test_chosen_columns():
    events = small_events().set_axis(["user", "item", "when"], axis=1).assign(user_id="somebody")
    items = pd.DataFrame({"key": ["i0", "i1", "i2", "i3"], "name": list("abcd")})
    summary = prepare(events, "shop", items, user="user", time="when", items_id="key")
    assert summary["users"] == 3 and list(summary["item_columns"]) == ["name"]
    with pytest.raises(ValueError, match=r"none looks like the item; set items_id=<column>"):
        prepare(events, "other", items, user="user", time="when")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".jsonl", ".parquet", ".txt"])
def test_all_kinds_of_tables_give_the_same_files(suffix):
    events = small_events().assign(user_id=["007"] * 4 + ["7"] * 4 + ["NÄ"] * 4)
    items = pd.DataFrame({"item_id": ["i0", "i1", "i2", "i3"], "title": ["a, b", "c;d", 'é\n"', None]})
    prepare(events, "expected", items)
    options = {"separator": "|"} if suffix == ".txt" else {}
    for name, frame in (("events", events), ("items", items)):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
            frame.to_parquet(name + suffix)
        elif suffix == ".jsonl":
            frame.to_json(name + suffix, orient="records", lines=True)
        else:
            separator = {".tsv": "\t", ".txt": "|"}.get(suffix, ",")
            frame.to_csv(name + suffix, index=False, sep=separator)
    prepare("events" + suffix, "found", "items" + suffix, **options)
    for kind in ("inter", "item"):
        assert lines(f"dataset/found/found.{kind}") == lines(f"dataset/expected/expected.{kind}")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing.csv", None, "interactions='missing.csv': there is no such file"),
        ("events.xlsx", b"x", "events.xlsx is a spreadsheet.*save its sheet as CSV"),
        ("empty.csv", b"", "empty.csv is empty"),
        ("latin.csv", "user,item,time\né,b,1\n".encode("latin-1"), "latin.csv is not readable as UTF-8 text"),
        ("long.csv", b"user,item,time\na,b,1,9\na,b,2,9\n", "long.csv, line 2 has 4 values for 3 columns"),
        ("longer.csv", b"user,item,time\na,b,1\na,b,2,9\n", "longer.csv, line 3 has 4 values for 3 columns"),
        ("short.csv", b"user,item,time\na,b,1\na\n", "ids are not usable, that of row 2 first"),
        ("twice.csv", b"user,user,item,time\na,b,c,1\n", r"several columns named \['user'\]"),
        ("list.json", b'[{"user": 1}', "list.json ends before its array does"),
        ("array.json", b"[1, 2]\n[3, 4]\n", "array.json, line 1: '1' is no object"),
        ("only.csv", b"user,item,time\n", "only.csv has no rows"),
        ("nul.csv", b"user,item,time\na,b\0c,1\n", "nul.csv holds a NUL byte in line 2"),
        (
            "quote.tsv",
            b'user\titem\ttime\ttext\na\tb\t1\t"oh\na\tc\t2\tno"\n',
            "1 rows, row 1 first, seem to hold other rows",
        ),
    ],
)
def test_files_that_cannot_be_read(name, content, told):
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=told):
        prepare(name, "shop")
    assert not Path("dataset").exists()


def test_a_compressed_file_that_is_damaged():
    Path("events.csv.gz").write_bytes(gzip.compress(b"user,item,time\n" * 99)[:30])
    with pytest.raises(ValueError, match="events.csv.gz is not readable"):
        prepare("events.csv.gz", "shop")


def test_rows_over_several_lines_are_told():
    Path("events.csv").write_text('user,item,time,text\na,b,1,"oh\na,c,2,no"\na,d,3,x\n')
    said = "\n".join(prepare("events.csv", "shop")["notes"])
    assert "events.csv: 1 rows, row 1 first, seem to hold other rows" in said
    Path("events.csv").write_text('user,item,time,text\na,b,1,"oh,\nno"\na,d,3,x\n')
    assert "seem to hold" not in "\n".join(prepare("events.csv", "other")["notes"])
    Path("events.csv").write_text("user,item,time,text\na,b,1\na,d,3,x\n")
    assert "some rows have fewer values than columns" in "\n".join(prepare("events.csv", "third")["notes"])


def test_texts_that_parquet_takes_for_bytes():
    pytest.importorskip("pyarrow")
    small_events().assign(user_id=lambda table: table["user_id"].str.encode("utf-8")).to_parquet("events.parquet")
    assert prepare("events.parquet", "shop")["users"] == 3
    assert lines("dataset/shop/shop.inter")[1].startswith("u0\t")
    small_events().assign(user_id=b"\xff").to_parquet("events.parquet")
    with pytest.raises(ValueError, match="column 'user_id'.*bytes"):
        prepare("events.parquet", "other")


def test_the_index_of_a_frame_in_parquet_is_no_column(tmp_path):
    pytest.importorskip("pyarrow")
    items = pd.DataFrame({"item_id": ["i0", "i1", "i2", "i3"], "kinds": [["a"], ["b", "c"], ["d"], ["e"]]})
    pd.concat([items[:2], items[2:].set_axis([0, 1])]).to_parquet("items.parquet")
    small_events().set_index("user_id").to_parquet("events.parquet")
    prepare("events.parquet", "shop", "items.parquet")
    assert lines("dataset/shop/shop.item")[1:] == ["i0\ta", "i1\tb c", "i2\td", "i3\te"]


def test_a_separator_is_that_of_text_files():
    small_events().to_csv("events.csv", index=False, sep=";")
    pd.DataFrame({"item_id": ["i0"], "title": ["x"]}).to_json("items.jsonl", orient="records", lines=True)
    assert prepare("events.csv", "shop", "items.jsonl", separator=";")["events"] == 12


def test_columns_called_like_recboles_own_are_renamed():
    items = pd.DataFrame({"item_id": ["i0", "i1"], "item_length": ["7", "8"], "a.b": ["x", "y"], "2": ["x", "y"]})
    assert list(prepare(small_events(), "shop", items)["item_columns"]) == ["item_item_length", "a_b", "item_2"]


# ------------------------------------------------------------------------ ids


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["007", "7", "07"], ["007", "7", "07"]),
        (["12.0", "3.0"], ["12", "3"]),
        (["12.0", "3.5"], ["12.0", "3.5"]),
        ([12.0, 3.0], ["12", "3"]),
        ([2**60, 3], [str(2**60), "3"]),
        ([" a", "a ", "b c"], ["a", "a", "b c"]),
        (['"x"', "x", "'"], ['"x"', "x", "'"]),
    ],
)
def test_ids_as_text(given, expected):
    codes, texts, notes = encode_ids(pd.Series(given), "here")
    assert texts[codes].tolist() == expected
    assert codes.tolist() == pd.factorize(pd.Series(expected))[0].tolist()
    assert bool(notes) == (given in (["12.0", "3.0"], [" a", "a ", "b c"]))


@pytest.mark.parametrize("bad", ["", " ", "NA", "null", "None", "nan", "[PAD]", "a\tb", "a\nb", "a\0", None, np.nan])
def test_ids_that_recbole_would_lose(bad):
    with pytest.raises(ValueError, match="here: 2 of 4 ids are not usable, that of row 2 first"):
        encode_ids(pd.Series(["ok", bad, "NAME", bad], dtype=object), "here")


@pytest.mark.parametrize("bad", [1.5, 2.0**53, np.inf])
def test_floats_that_are_no_ids(bad):
    with pytest.raises(ValueError, match="which are no ids; read them as text"):
        encode_ids(pd.Series([1.0, bad]), "here")


@pytest.mark.parametrize("bad", [pd.Series([1.0, 2.0**24], dtype="float32"), pd.Series(["a", 2.5], dtype=object)])
def test_short_and_mixed_floats_that_are_no_ids(bad):
    with pytest.raises(ValueError, match="which are no ids; read them as text"):
        encode_ids(bad, "here")


def test_every_word_that_pandas_takes_for_missing_is_known():
    pd.DataFrame({"word": sorted(MISSING - {""}), "other": 1}).to_csv("words.csv", index=False)
    kept = pd.read_csv("words.csv", engine="python", dtype=str)["word"].dropna().tolist()
    assert kept == ["[PAD]"]
    from pandas._libs.parsers import STR_NA_VALUES

    assert STR_NA_VALUES <= MISSING


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (["i0", "i1"], "a list"),
        ([], "a list"),
        ({"$oid": "5a"}, "a mapping"),
        (np.array(["i0"]), "a list"),
        (b"i", "bytes"),
    ],
)
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_several_ids_in_a_row(bad, kind, column):
    events = small_events().astype(object)
    events.at[4, column] = bad
    with pytest.raises(ValueError, match=rf"column '{column}': row 5 holds {kind} .*each row must be one event"):
        prepare(events, "shop")
    items = pd.DataFrame({"item_id": ["i0", bad], "title": ["x", "y"]})
    with pytest.raises(ValueError, match=rf"column 'item_id': row 2 holds {kind} .*each row must be one item"):
        prepare(small_events(), "shop", items)
    assert not Path("dataset").exists()


@pytest.mark.parametrize("text", ["['i0', 'i1']", '["i0"]', "{'$oid': '5a'}"])
def test_lists_of_ids_written_as_text(text):
    with pytest.raises(ValueError, match="row 1 holds a .* where an id is expected"):
        encode_ids(pd.Series([text] * 3), "here")
    assert len(encode_ids(pd.Series([text, "i1"]), "here")[1]) == 2


def test_ids_that_are_too_long():
    with pytest.raises(ValueError, match="that of row 2 first .*more than 131,072 characters"):
        encode_ids(pd.Series(["a", "x" * 131_073]), "here")


# ---------------------------------------------------------------------- times

SECOND = 1_700_000_001


@pytest.mark.parametrize(
    ("given", "seconds", "unit"),
    [
        ([SECOND, SECOND + 1], [SECOND, SECOND + 1], "seconds"),
        ([str(SECOND), f"{SECOND}.25"], [SECOND, SECOND + 0.25], "seconds"),
        ([SECOND * 1000, SECOND * 1000 + 1], [SECOND, SECOND + 0.001], "milliseconds"),
        ([SECOND * 1000, (SECOND + 1) * 1000], [SECOND, SECOND + 1], "milliseconds"),
        ([SECOND * 10**6 + 1, SECOND * 10**6 + 2], [SECOND + 1e-6, SECOND + 2e-6], "microseconds"),
        ([SECOND * 10**9 + 1999], [SECOND + 1e-6], "nanoseconds"),
        ([3, 1, 2], [3, 1, 2], None),
        ([0.5, -1.0], [0.5, -1.0], None),
        (["20140315", "20140316"], [20140315, 20140316], None),
        (["2023-11-14", "2023-11-14T22:13:21Z"], [SECOND - SECOND % 86400, SECOND], "ISO dates"),
        (["2023-11-15T00:13:21+02:00"], [SECOND], "ISO dates"),
        (["2023-11-14 22:13:21.000001"], [SECOND + 1e-6], "ISO dates"),
        ([pd.Timestamp(SECOND, unit="s"), pd.Timestamp(SECOND, unit="s", tz="UTC")], [SECOND] * 2, "ISO dates"),
    ],
)
def test_times_become_seconds(given, seconds, unit):
    found, exact, found_unit, _ = read_times(pd.Series(given), "here")
    assert found.tolist() == seconds and found_unit == unit and len(exact) == len(given)
    assert found.dtype.kind == ("i" if all(isinstance(second, int) for second in seconds) else "f")


def test_datetime_columns():
    stamps = pd.Series(pd.to_datetime([SECOND * 1000 + 7], unit="ms"))
    zoned = stamps.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    whole = pd.Series([SECOND], dtype="uint32")
    for column in (
        whole,
        whole.astype("Int64"),
        stamps,
        zoned,
        stamps.astype("datetime64[us]"),
        stamps.dt.floor("s").astype("datetime64[s]"),
    ):
        assert read_times(column, "here")[0].round(3).tolist() in ([SECOND + 0.007], [SECOND])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["1", "", "3"], r"1 of 3 times cannot be read, that of row 2 first \(missing\)"),
        (["", "1", "3"], r"1 of 3 times cannot be read, that of row 1 first \(missing\)"),
        ([1.0, np.nan, np.inf], r"2 of 3 times cannot be read, that of row 2 first \(missing\)"),
        (["2023-01-01", "03/15/2014"], r"that of row 2 first \('03/15/2014'\); times are numbers, or ISO dates"),
        (["2023-01-01", "1600000000"], r"that of row 2 first \('1600000000'\)"),
        (["2023-02-30"], "that of row 1 first"),
        (["2023-02-20", "now"], r"that of row 2 first \('now'\)"),
        (["1600000000", "yesterday"], r"that of row 2 first \('yesterday'\)"),
        ([SECOND, SECOND, SECOND * 1000], r"1 of 3 times are no seconds since 1970, that of row 3 first"),
        ([SECOND, 0, SECOND], r"are no seconds since 1970, that of row 2 first \('0'\)"),
        ([True, False], "holds true and false"),
    ],
)
def test_times_that_cannot_be_read(given, told):
    with pytest.raises(ValueError, match=f"here.*{told}"):
        read_times(pd.Series(given), "here")


@pytest.mark.parametrize("step", [10**6, 1000, 1], ids=["ms", "us", "ns"])
def test_order_within_a_second_survives(tmp_path, step):
    rng = np.random.default_rng(step)
    times = SECOND * 10**9 + step * rng.permutation(40)
    items = [f"i{i}" for i in range(40)]
    dataset = load(prepare(events_frame(zip(["u"] * 40, items, times)), "fine", data_path=tmp_path), tmp_path)
    assert loaded_events(dataset) == [("u", items[row]) for row in np.argsort(times)]
    written = pd.read_csv(tmp_path / "fine" / "fine.inter", sep="\t")["timestamp:float"]
    assert written.is_monotonic_increasing and written.nunique() == (40 if step > 1 else 1)


def test_a_day_and_a_time_of_day():
    events = pd.DataFrame({
        "user": list("aaabbb"), "item": list("xyzxyz"), "day": ["2019-10-02"] * 3 + ["2019-10-01"] * 3,
        "clock": ["10:00", "9:00:30", "9:00"] * 2, "since": [300, 200, 100, 30, 20, 20],
    })  # fmt: skip
    assert "100% of the events share their time" in "\n".join(prepare(events, "day", time="day")["notes"])
    clock = prepare(events, "clock", time="day,clock")
    assert [line.split("\t")[1] for line in lines("dataset/clock/clock.inter")[1:]] == list("zyxzyx")
    assert clock["time"]["first"] == "2019-10-01T09:00:00+00:00" and clock["columns"]["time"] == "day,clock"
    named = prepare(events, "named", time="day,clock", time_format="%Y-%m-%d %H:%M", where="item != 'y'")
    assert lines("dataset/named/named.inter")[1:] == [lines("dataset/clock/clock.inter")[row] for row in (1, 3, 4, 6)]
    assert named["rows_dropped"]["where does not hold"] == 2
    since = prepare(events, "since", time="day, since")
    assert [line.split("\t")[1] for line in lines("dataset/since/since.inter")[1:]] == list("zyxyzx")
    assert [int(line.split("\t")[2]) % 86400 for line in lines("dataset/since/since.inter")[1:]] == [0, 1, 2, 0, 0, 1]
    assert "stand in the order of 'since'" in "\n".join(since["notes"])
    with pytest.raises(ValueError, match="'hour' is no column"):
        prepare(events, "other", time="day,hour")
    with pytest.raises(ValueError, match="names a column twice"):
        prepare(events, "other", time="day,day")


def test_the_order_of_the_rows_as_time(capsys):
    events = pd.DataFrame({"user": list("abab"), "item": list("xyzx"), "stars": [5, 4, 1, 2]})
    with pytest.raises(ValueError, match="set time=<column>, or time=row if the rows stand in the order of time"):
        prepare(events, "shop")
    assert "like ratings" in "\n".join(prepare(events, "stars", time="stars")["notes"])
    summary = prepare(events, "shop", time="row")
    assert [line.split("\t")[1] for line in lines("dataset/shop/shop.inter")[1:]] == ["x", "z", "y", "x"]
    assert summary["columns"]["time"] == "row" and summary["time"]["row_order"]
    print_summary(summary, Console(width=150))
    assert "the order of the rows" in capsys.readouterr().out
    named = prepare(events.assign(row=[4, 3, 2, 1]), "named", time="row")
    assert [line.split("\t")[1] for line in lines("dataset/named/named.inter")[1:]] == ["z", "x", "x", "y"]
    assert not named["time"]["row_order"]


def test_only_some_rows():
    events = small_events().assign(event=["view", "buy"] * 6, stars=["5", "", "3", "4"] * 3)
    events.to_csv("events.csv", index=False)
    summary = prepare("events.csv", "shop", where="event == 'view' and stars >= 4")
    assert summary["events"] == 3 and summary["rows_dropped"]["where does not hold"] == 9
    assert not [note for note in summary["notes"] if "not used" in note]
    times = prepare("events.csv", "times", where="timestamp > 2")
    assert times["events"] == 6 and times["time"]["first"] == 3
    with pytest.raises(ValueError, match="where holds for none of 12 rows"):
        prepare("events.csv", "none", where="event == 'cart'")
    events.loc[[3, 6], ["user_id", "event"]] = [["", "buy"], ["", "view"]]
    with pytest.raises(ValueError, match="1 of 6 ids are not usable, that of row 7 first"):
        prepare(events, "none", where="event == 'view'")


# --------------------------------------------------------------------- k-core


def naive_core(pairs, min_user, min_item):
    while True:
        users, items = [user for user, _ in pairs], [item for _, item in pairs]
        kept = [(u, i) for u, i in pairs if users.count(u) >= min_user and items.count(i) >= min_item]
        if kept == pairs:
            return kept
        pairs = kept


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30), st.integers(0, 4), st.integers(0, 4))
def test_k_core(pairs, min_user, min_item):
    users, items = (np.array(column, dtype=int) for column in (zip(*pairs) if pairs else ([], [])))
    kept = k_core(users, items, min_user, min_item)
    assert [pair for pair, keep in zip(pairs, kept) if keep] == naive_core(pairs, min_user, min_item)


def test_the_core_is_that_of_recboles_own_filter(tmp_path):
    rng = np.random.default_rng(5)
    events = events_frame([(f"u{u}", f"i{i}", t) for t, (u, i) in enumerate(rng.integers(0, 12, (90, 2)))])
    ours = load(prepare(events, "ours", data_path=tmp_path, min_user_events=4, min_item_events=5), tmp_path)
    whole = prepare(events, "whole", data_path=tmp_path)
    intervals = {"user_inter_num_interval": "[4,inf)", "item_inter_num_interval": "[5,inf)"}
    config = Config("BPR", "whole", [whole["files"][-1]], {"data_path": str(tmp_path), **intervals})
    theirs = dataset_class(config)(config)
    theirs.build()
    assert 0 < len(ours.inter_feat) < 90 and loaded_events(ours) == loaded_events(theirs)


def test_too_few_events_are_dropped_and_told():
    events = pd.concat([small_events(), events_frame([("rare", "i0", 1), ("u0", "odd", 9)])])
    summary = prepare(events, "core", min_user_events=2, min_item_events=2)
    assert (summary["users"], summary["items"], summary["events"]) == (3, 4, 12)
    assert summary["rows_dropped"]["too few events of the user or item"] == 2
    with pytest.raises(ValueError, match="none of 14 events is left with min_user_events=9 and min_item_events=0"):
        prepare(events, "none", min_user_events=9)
    assert not Path("dataset/none").exists()


# ---------------------------------------------------------------------- items


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (["Red pan", "Blue  pan\n", None], "token", ["Red pan", "Blue pan", ""]),
        (["N/A", "None", "x"], "token", ["", "", "x"]),
        (["007", "012"], "token", ["007", "012"]),
        (["1.5", "", "20"], "float", ["1.5", "", "20"]),
        ([1.5, None], "float", ["1.5", ""]),
        ([1995.0] * 5 + [None], "token", ["1995"] * 5 + [""]),
        ([3, 1, 2], "float", ["3", "1", "2"]),
        ([True, False], "token", ["True", "False"]),
        ([["Hair Care", "Nails"], [], None], "token_seq", ["Hair_Care Nails", "", ""]),
        ([[["A", "B"], ["A", "C"]], "D"], "token_seq", ["A B C", "D"]),
        (["['Hair Care', 'Nails']", "[]", ""], "token_seq", ["Hair_Care Nails", "", ""]),
        (["['a' 'b']", "['c' 'd']"], "token_seq", ["a b", "c d"]),
        (["[1] a [2]"], "token", ["[1] a [2]"]),
        (["Action|Sci-Fi", "Drama"], "token_seq", ["Action Sci-Fi", "Drama"]),
        (["Beauty > Hair Care", "Beauty"], "token_seq", ["Beauty Hair_Care", "Beauty"]),
        (["Shampoo | 500 ml", "Soap"], "token", ["Shampoo | 500 ml", "Soap"]),
        (["Soap"] * 30 + ["A|B"], "token", ["Soap"] * 30 + ["A|B"]),
    ],
)
def test_types_of_item_columns(given, kind, expected):
    found, texts, notes = describe_items(pd.Series(given, dtype=object), None, "here")
    assert (found, texts.tolist()) == (kind, expected)


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (["Red pan", "Blue pan"], "token_seq", ["Red pan", "Blue pan"]),
        ([3, 1, 2], "token", ["3", "1", "2"]),
        ([["a b"], ["c"]], "token_seq", ["a_b", "c"]),
        (["01", "2"], "float", ["01", "2"]),
    ],
)
def test_chosen_types(given, kind, expected):
    assert describe_items(pd.Series(given, dtype=object), kind, "here")[1].tolist() == expected


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (["1", "$2"], "float", r"here cannot be float: row 2 holds '\$2'"),
        ([{"a": 1}], None, "here holds mappings"),
        (["[{'id': 16, 'name': 'Animation'}]"], None, "here holds mappings"),
        ([2.0**53, 1.0], "token", "here holds whole numbers from 2\\^53"),
        ([[0.1, 0.2], [0.3, 0.4]], None, "here holds vectors.*content_file"),
    ],
)
def test_columns_that_describe_no_item(given, kind, told):
    with pytest.raises(ValueError, match=told):
        describe_items(pd.Series(given, dtype=object), kind, "here")


def test_items_and_events_that_do_not_match():
    items = pd.DataFrame({
        "item_id": ["i1", "i0", "i1", "unseen"], "title": ["one", "zero", "again", "x"],
        "timestamp": ["a", "b", "c", "d"], "empty": [""] * 4, "extra": [{"a": 1}] * 4,
    })  # fmt: skip
    summary = prepare(small_events(), "shop", items)
    assert lines("dataset/shop/shop.item") == [
        "item_id:token\ttitle:token\titem_timestamp:token", "i1\tone\ta", "i0\tzero\tb", "i2\t\t", "i3\t\t",
    ]  # fmt: skip
    counts = ("items_without_row", "items_without_text", "items_left_out")
    assert [summary[key] for key in counts] == [2, 2, 1] and "content" not in summary["next"]
    said = "\n".join(summary["notes"])
    for word in ("1 rows repeat an item", "2 items with events have no row", "'empty': left out", "holds mappings"):
        assert word in said
    assert len(load(summary, "dataset").inter_feat) == 12, "no event is lost for want of a row"
    with pytest.raises(ValueError, match="holds mappings"):
        prepare(small_events(), "other", items, item_columns=["title", "extra"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"item_columns": "titel"}, r"'titel' is not usable; it must be one of the columns \['title', 'a:b'\]"),
        ({"item_columns": "title:text"}, "'title:text' is not usable"),
        ({"item_columns": "item_id"}, "'item_id' is not usable"),
        ({"items": pd.DataFrame({"item_id": ["j0"], "title": ["x"]})}, "none of the 4 items .* set item or items_id"),
        ({"items": pd.DataFrame({"item_id": ["i0"]})}, "describes no item"),
        ({"items": pd.DataFrame({"item_id": ["i0"], "a b": ["x"], "a_b": ["x"]})}, "two columns would be named 'a_b'"),
        ({"items": None, "item_columns": "title"}, "there is none"),
        ({"item_columns": 5}, "item_columns=5 is not usable"),
        ({"item_columns": [5]}, r"item_columns=\[5\] is not usable"),
    ],
)
def test_item_tables_that_are_refused(change, told):
    items = pd.DataFrame({"item_id": ["i0"], "title": ["x"], "a:b": ["y"]})
    with pytest.raises(ValueError, match=told):
        prepare(small_events(), "shop", **{"items": items, **change})
    assert not Path("dataset").exists()


def test_a_column_with_a_colon_can_be_chosen():
    items = pd.DataFrame({"item_id": ["i0", "i1"], "a:b": ["y", "z z"]})
    assert list(prepare(small_events(), "shop", items, item_columns=["a:b"])["item_columns"]) == ["a_b"]
    again = prepare(small_events(), "shop", items, item_columns="a:b:token_seq", overwrite=True)
    assert again["item_columns"]["a_b"]["type"] == "token_seq" and again["item_columns"]["a_b"]["distinct"] == 2


def test_columns_that_say_nothing_are_left_out_unless_named():
    items = pd.DataFrame({
        "item_id": [f"i{i}" for i in range(10)], "in_stock": [True, False] * 5,
        "added": [f"2019-10-{day + 1:02}" for day in range(10)], "picture": [f"https://a.org/{i}" for i in range(10)],
        "shop": "ours", "photo": [b"\x89PNG\xff"] * 10,
    })  # fmt: skip
    events = small_events(n_items=10)
    with pytest.raises(ValueError, match=r"describes no item: .*'in_stock' holds flags, 'added' holds dates"):
        prepare(events, "shop", items)
    items["title"] = list("abcdefghij")
    summary = prepare(events, "shop", items)
    assert list(summary["item_columns"]) == ["title"]
    said = "\n".join(summary["notes"])
    reasons = {"in_stock": "flags", "added": "dates", "picture": "links", "shop": "the same for all"}
    for column, reason in reasons.items():
        assert f"column {column!r}: left out, as it holds {reason}" in said
    assert "column 'photo' holds bytes that are no text" in said
    named = prepare(events, "named", items, item_columns="title,in_stock,added,picture,shop")
    assert list(named["item_columns"]) == ["title", "in_stock", "added", "picture", "shop"]


@pytest.mark.parametrize(
    "columns", ["kinds:token_seq(,),title", "title, kinds:token_seq(, )", ["title", "kinds:token_seq(,)"]]
)
def test_a_named_separator_of_names(columns):
    items = pd.DataFrame({"item_id": ["i0", "i1"], "title": ["x", "y"], "kinds": ["red, blue", "green"]})
    assert prepare(small_events(), "shop", items)["item_columns"]["kinds"]["type"] == "token"
    found = prepare(small_events(), "cut", items, item_columns=columns)["item_columns"]
    assert set(found) == {"title", "kinds"} and found["kinds"]["example"] == "red blue"
    for wrong in ("kinds:token(,)", "kinds:token_seq()", "kinds:float(;)"):
        with pytest.raises(ValueError, match="is not usable; it must be one of the columns"):
            prepare(small_events(), "other", items, item_columns=[wrong])


def test_columns_that_recbole_can_hardly_keep(monkeypatch):
    monkeypatch.setattr("recbole_vsid.data.prepare_items.LARGE_COLUMN", 1000)
    items = pd.DataFrame({"item_id": ["i0", "i1"], "words": ["a " * 40, "b"], "text": ["x" * 200, "y"]})
    notes = prepare(small_events(), "shop", items, item_columns="words:token_seq,text")["notes"]
    words, text = [note for note in notes if "GB in RecBole" in note]
    assert words.startswith("column 'words'") and "longest list, of 40 words" in words
    assert text.startswith("column 'text'") and "take text:token_seq" in text


# ---------------------------------------------------------------------- files


def test_an_existing_dataset_is_kept_unless_told():
    items = pd.DataFrame({"item_id": ["i0", "i1"], "title": ["x", "y"]})
    prepare(small_events(), "shop", items)
    before = lines("dataset/shop/shop.inter")
    with pytest.raises(FileExistsError, match=r"already has shop.inter, shop.item, shop.yaml; .*overwrite=true"):
        prepare(small_events(5), "shop")
    assert lines("dataset/shop/shop.inter") == before
    assert prepare(small_events(5), "shop", overwrite=True)["users"] == 5
    assert sorted(path.name for path in Path("dataset/shop").iterdir()) == ["shop.inter", "shop.yaml"]


def test_all_files_are_replaced_or_none(monkeypatch):
    items = pd.DataFrame({"item_id": ["i0", "i1"], "title": ["x", "y"]})
    prepare(small_events(), "shop", items)
    before = {path.name: path.read_bytes() for path in Path("dataset/shop").iterdir()}

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_vsid.data.prepare.yaml.safe_dump", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(small_events(5), "shop", items, overwrite=True)
    assert {path.name: path.read_bytes() for path in Path("dataset/shop").iterdir()} == before


def test_nothing_is_replaced_by_what_would_not_be_read_back(monkeypatch):
    items = pd.DataFrame({"item_id": ["i0", "i1"], "title": ["x", "y"]})
    prepare(small_events(), "shop", items)
    before = {path.name: path.read_bytes() for path in Path("dataset/shop").iterdir()}
    write = pd.DataFrame.to_csv

    def damaged(frame, path, **options):
        if "title:token" in frame:
            frame = frame.assign(**{"title:token": ["x", "NA", "", ""]})
        write(frame, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", damaged)
    with pytest.raises(ValueError, match="shop.item, column 'title': row 2 reads back as nothing, not 'y'"):
        prepare(small_events(5), "shop", items, overwrite=True)
    assert {path.name: path.read_bytes() for path in Path("dataset/shop").iterdir()} == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": "../x"}, "dataset='../x' is not a usable name"),
        ({"dataset": "ml-100k"}, "choose another"),
        ({"min_user_events": -1}, "min_user_events=-1 is not usable"),
        ({"min_item_events": 2.5}, "min_item_events=2.5 is not usable"),
        ({"overwrite": "yes"}, "overwrite='yes' is not usable"),
        ({"data_path": "file"}, "data_path='file/shop/shop.inter' cannot be written"),
        ({"interactions": "events.csv", "separator": '"'}, """separator='"' is not usable"""),
        ({"interactions": "events.csv", "encoding": "klingon"}, "encoding='klingon' is not usable"),
        ({"interactions": "events.csv", "columns": "user,item,item"}, "columns='user,item,item' is not usable"),
        ({"columns": "user,item,time"}, "columns names the columns of text tables"),
    ],
)
def test_settings_that_are_refused(change, told):
    Path("file").touch()
    small_events().to_csv("events.csv", index=False)
    with pytest.raises((ValueError, OSError), match=told):
        prepare(**{"interactions": small_events(), "dataset": "shop", **change})


# --------------------------------------------------------------- command line


def test_the_command_and_the_one_it_names(capsys):
    users, items, times = planted_events()
    pd.DataFrame({"user": users, "item": items, "time": times}).to_csv("events.csv", index=False)
    texts = item_texts()
    columns = {header.split(":")[0]: values for header, values in texts.items()}
    pd.DataFrame(columns).to_json("items.jsonl", orient="records", lines=True)
    command = ["prepare", "--interactions=events.csv", "--items=items.jsonl", "--dataset=1e3", "--data_path=my data"]
    assert main([*command, "--min_user_events=5", "--item_columns=title,category:token_seq"]) == 0
    printed = capsys.readouterr().out
    for word in ("Dataset 1e3", "users", "density", "numbers without a unit", "Item columns", "Written: my data/1e3"):
        assert word in printed
    arguments = shlex.split(printed.rsplit("Next: ", 1)[1])
    assert arguments[:2] == ["python", "run_recbole_vsid.py"]
    quick = ["--tokenizer=rkmeans", "--sid_vocab_size=8", "--sid_n_levels=2", "--content_dim=8", "--n_layers=1",
             "--hidden_size=64", "--head_size=64", "--epochs=1", "--enable_amp=false", "--beam_width=20",
             "--show_progress=false", "--use_gpu=false"]  # fmt: skip
    assert main([*arguments[2:], *quick]) == 0
    assert main(command) == 2
    assert "error: my data/1e3 already has 1e3.inter, 1e3.item, 1e3.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "prepare needs --interactions"),
        (["--interactions=events.csv"], "prepare needs --dataset"),
        (["--interactions=events.csv", "--dataset=shop", "--epochs=3"], "unknown setting 'epochs' for prepare"),
        (["--interactions=events.csv", "--dataset=shop", "--config_files=a.yaml"], "reads no --config_files"),
        (["--interactions=events.csv", "--dataset=shop"], "there is no such file"),
    ],
)
def test_commands_that_are_refused(capsys, arguments, told):
    assert main(["prepare", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_without_items_the_next_command_trains_on_the_events_alone(small_settings):
    arguments = shlex.split(prepare(events_frame(zip(*planted_events())), "shop")["next"])
    assert not [word for word in arguments if "content" in word]
    changes = {**small_settings(epochs=1), "data_path": "dataset"}
    assert main([*arguments[2:], *(f"--{key}={value}" for key, value in changes.items())]) == 0


@pytest.mark.parametrize(
    ("n_items", "options"),
    [
        (4, ["--topk=[4]", "--valid_metric=NDCG@4", "--beam_width=4"]),
        (7, ["--topk=[5]", "--valid_metric=NDCG@5", "--beam_width=7"]),
        (12, ["--topk=[5,10]", "--valid_metric=NDCG@10", "--beam_width=12"]),
        (20, []),
    ],
)
def test_the_next_command_fits_the_catalogue(n_items, options):
    words = shlex.split(prepare(small_events(n_items=n_items), "shop", data_path="my data")["next"])
    assert [word for word in words if word.split("=")[0] in ("--topk", "--valid_metric", "--beam_width")] == options
    assert "--config_files='my data/shop/shop.yaml'" in words


def test_users_with_too_few_events_are_told():
    assert "a run cannot select its model" in "\n".join(prepare(small_events(n_items=3), "shop")["notes"])


def test_brackets_are_no_markup(capsys):
    items = pd.DataFrame({"item_id": ["i0", "i1"], "title": ["[bold]x", "[/red]y"]})
    print_summary(prepare(small_events(), "shop", items), Console(width=150))
    assert "[bold]x" in capsys.readouterr().out
