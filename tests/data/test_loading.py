"""What RecBole reads of a dataset's folder: the right rows for any model, and refusals that name file and setting."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from recbole.data.dataset import Dataset

from recbole_vsid.cli import main
from recbole_vsid.config import Config
from recbole_vsid.data.dataset import dataset_class
from tests.conftest import make_dataset

USERS = [f"u{i % 5}" for i in range(40)]
ITEMS = [f"i{(3 * i + i // 7) % 8}" for i in range(40)]
TIMES = list(range(40))
TEXTS = {
    "item_id:token": [f"i{i}" for i in range(8)],
    "title:token": [f"Thing {i}" for i in range(8)],
    "genre:token_seq": [f"Action g{i % 3}" for i in range(8)],
    "price:float": [f"{i}.5" for i in range(8)],
}
PEOPLE = "user_id:token\tage:float\tjob:token\n" + "".join(f"u{i}\t{20 + i}\tjob{i}\n" for i in range(5))
LOADED = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}


def shop(folder, users=USERS, items=ITEMS, times=TIMES, **texts):
    """``shop`` with columns of its .item file changed, like ``title={2: "Other"}``."""
    columns = {name: list(values) for name, values in TEXTS.items()}
    for name, changes in texts.items():
        column = next(column for column in columns if column.startswith(name + ":"))
        for row, value in changes.items():
            columns[column][row] = value
    target = make_dataset(folder, "shop", users, items, times, columns)
    (target / "shop.user").write_text(PEOPLE)
    return target


def load(folder, model="BPR", **settings):
    config = Config(model, "shop", config_dict={"data_path": str(folder), "load_col": None, **settings})
    return dataset_class(config)(config)


def add(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
@pytest.mark.parametrize("name", ["shop.inter", "shop.item", "shop.user"])
def test_swallowed_rows_are_refused_in_every_file_and_for_every_model(tmp_path, model, name):
    path = shop(tmp_path) / name
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("\t", '\t"', 1)
    lines[4] = "\t".join([*lines[4].split("\t")[:1], lines[4].split("\t")[1] + '"', *lines[4].split("\t")[2:]])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"{name}, line 3, column .* goes on to line 5 .* remove the quotation marks"):
        load(tmp_path, model)


def test_files_that_are_not_read_are_not_looked_at(tmp_path):
    add(shop(tmp_path) / "shop.item", 'i9\t"open')
    assert load(tmp_path, load_col={"inter": LOADED["inter"]}).item_feat is None
    with pytest.raises(ValueError, match="shop.item, line 10"):
        load(tmp_path)


def test_what_is_fine_is_read_as_recbole_reads_it(tmp_path):
    shop(tmp_path, title={3: '"over\ntwo lines"', 5: '12" disc'}, price={2: "", 4: "NA"})
    ours = load(tmp_path)
    config = Config("BPR", "shop", config_dict={"data_path": str(tmp_path), "load_col": None})
    theirs = Dataset(config)
    for name in ("inter_feat", "item_feat", "user_feat"):
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(theirs, name))
    assert "over\ntwo lines" in ours.field2token_id["title"]


@pytest.mark.parametrize("name", ["shop.inter", "shop.item", "shop.user"])
def test_byte_order_marks_are_no_part_of_the_first_column(tmp_path, name):
    path = shop(tmp_path) / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    dataset = load(tmp_path)
    assert len(dataset.inter_feat) == 40 and dataset.item_num == 9
    assert dataset.config["encoding"] is None, "settings are as they were"


def test_texts_above_the_limit_of_csv_are_read(tmp_path):
    shop(tmp_path, title={2: "long " * 30_000}, genre={3: "word " * 30_000})
    assert max(map(len, load(tmp_path).field2id_token["title"])) == 150_000


@pytest.mark.parametrize("value", ["12e4567890123456", "$6.5", "—", "1,299.00"])
def test_prices_in_words_by_the_command_line(tmp_path, capsys, value):
    shop(tmp_path, price={3: value})
    assert main(["tokenize", "--dataset=shop", f"--data_path={tmp_path}", "--use_gpu=false"]) == 2
    error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert f"shop.item, line 5 (item_id 'i3'), column 'price:float': {value!r} is no number" in error


def test_infinite_prices_and_dates(tmp_path):
    shop(tmp_path, price={3: "inf"})
    with pytest.raises(ValueError, match="line 5 .*'price:float': 'inf' is no finite number"):
        load(tmp_path)
    shop(tmp_path, times=["2021-01-01", *TIMES[1:]])
    with pytest.raises(ValueError, match="shop.inter, line 2 .*'timestamp:float': '2021-01-01' .*seconds since 1970"):
        load(tmp_path)
    shop(tmp_path, times=[*TIMES[:7], "", *TIMES[8:]])
    with pytest.raises(ValueError, match="interaction 8 first .line 9 of .*shop.inter"):
        load(tmp_path)


# ---------------------------------------------------------------- repeated events


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
@pytest.mark.parametrize("kept, events", [(None, 40), (False, 40), ("first", 39), ("last", 39)])
def test_repeated_events(tmp_path, model, kept, events):
    pairs = [(f"u{i % 3}", f"i{i // 3}") for i in range(39)]
    users, items = zip(*pairs, pairs[5])
    make_dataset(tmp_path, "shop", users, items, TIMES)
    dataset = load(tmp_path, model, rm_dup_inter=kept)
    assert len(dataset.inter_feat) == events
    own = dataset.inter_feat["user_id"] == dataset.field2token_id["user_id"][users[5]]
    found = [str(dataset.field2id_token["item_id"][item]) for item in dataset.inter_feat["item_id"][own]]
    assert found.count(items[5]) == (2 if kept in (None, False) else 1), "not all copies are gone"
    assert (found[-1] == items[5]) == (kept != "first")


def test_events_of_one_time_stay_in_the_order_of_the_file(tmp_path):
    users, items = zip(*[(f"u{i % 2}", f"i{i // 2}") for i in range(100)])
    make_dataset(tmp_path, "shop", users, items, [7] * 100)
    dataset = load(tmp_path, rm_dup_inter="first")
    dataset.build()
    order = [str(dataset.field2id_token["item_id"][item]) for item in dataset.events.items[:50]]
    assert order == [f"i{i}" for i in range(50)]


# ---------------------------------------------------------------- ids


def warnings_of(caplog, *arguments, **settings):
    with caplog.at_level(logging.WARNING):
        dataset = load(*arguments, **settings)
    return dataset, caplog.text


def test_repeated_ids_are_counted(tmp_path, caplog):
    add(shop(tmp_path) / "shop.item", "i2\tOther\tDrama\t1\n\tNo id\tDrama\t1\n")
    dataset, told = warnings_of(caplog, tmp_path)
    assert "shop.item: 1 of 10 rows repeat the 'item_id' of an earlier row, 'i2' in line 10 first" in told
    assert "1 rows that describe a 'item_id' without it" in told
    assert "Thing 2" in dataset.field2token_id["title"] and dataset.item_num == 9


def test_ids_that_differ_by_blanks_or_case(tmp_path, caplog):
    shop(tmp_path, item_id={3: "I3", 4: "i4 "})
    dataset, told = warnings_of(caplog, tmp_path)
    assert dataset.item_num == 7
    assert "2 'item_id', 'i3' first; 'i3' is there as 'I3': blanks and case count" in told
    shop(tmp_path, users=["u0 ", *USERS[1:]])
    assert (
        "1 of 6 'user_id' differ from another by blanks around them only, 'u0 ' first"
        in warnings_of(caplog, tmp_path, filter_inter_by_user_or_item=False)[1]
    )
    shop(tmp_path, item_id={i: f"I{i}" for i in range(8)})
    with pytest.raises(ValueError, match="40 of 40 interactions are left out.*filter_inter_by_user_or_item=false"):
        load(tmp_path)


@pytest.mark.parametrize("word", ["NA", "null", "[PAD]", ""])
def test_ids_that_count_as_missing(tmp_path, word):
    shop(tmp_path, items=[*ITEMS[:5], word, *ITEMS[6:]])
    with pytest.raises(ValueError, match="1 of 40 interactions have no 'item_id', interaction 6 first .line 7"):
        load(tmp_path)


@pytest.mark.parametrize("name, old", [("inter", "user_id"), ("item", "item_id"), ("user", "user_id")])
@pytest.mark.parametrize("kind", ["float", "token_seq"])
def test_ids_are_tokens(tmp_path, name, old, kind):
    path = shop(tmp_path) / f"shop.{name}"
    path.write_text(path.read_text().replace(f"{old}:token", f"{old}:{kind}", 1))
    with pytest.raises(ValueError, match=f"shop.{name}: the column '{old}' holds ids, so it must be {old}:token"):
        load(tmp_path)


def test_an_item_file_without_ids(tmp_path):
    path = shop(tmp_path) / "shop.item"
    path.write_text(path.read_text().replace("item_id", "asin", 1))
    with pytest.raises(ValueError, match="shop.item: the column 'item_id' is needed.*'asin'.*set ITEM_ID_FIELD"):
        load(tmp_path)


# ---------------------------------------------------------------- chosen columns and additional files


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"load_col": {"inter": "user_id"}}, "load_col=.* must map files"),
        ({"load_col": {**LOADED, "items": ["item_id"]}}, "load_col=.*'items'.* must map files"),
        ({"load_col": {**LOADED, "item": [3]}}, "load_col=.* must be"),
        ({"load_col": {**LOADED, "item": ["item_id", "name"]}}, "load_col names .'name'.*columns are .*'title'"),
        ({"load_col": {**LOADED, "item": ["*"]}}, "load_col names"),
        ({"load_col": {**LOADED, "inter": [*LOADED["inter"], "title"]}}, "load_col names .'title'.*the .inter file"),
        ({"load_col": {**LOADED, "item": ["title"]}}, "the column 'item_id' is needed"),
        ({"load_col": LOADED, "unload_col": {"item": ["price"]}}, "load_col and unload_col go without each other"),
        ({"unload_col": {"item": ["prize"]}}, "unload_col names .'prize'"),
        ({"unload_col": {"item": "price"}}, "unload_col=.* must map files"),
        ({"unload_col": ["price"]}, "unload_col=.* must be"),
        ({"seq_separator": ""}, "seq_separator='' is not usable"),
        ({"additional_feat_suffix": ["emb"]}, "additional_feat_suffix names 'emb', and there is no file"),
        ({"additional_feat_suffix": ["item"]}, "additional_feat_suffix=.* must be a list"),
        ({"additional_feat_suffix": [3]}, "additional_feat_suffix=.* must be a list"),
    ],
)
def test_columns_and_files_that_are_chosen_wrongly(tmp_path, settings, told):
    shop(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        load(tmp_path, **settings)


def test_columns_that_are_not_read_may_hold_anything(tmp_path):
    shop(tmp_path, price={3: "—"})
    assert "price" not in load(tmp_path, unload_col={"item": ["price"]}).item_feat
    assert "price" not in load(tmp_path, load_col=LOADED).item_feat


def test_additional_files(tmp_path):
    path = shop(tmp_path) / "shop.emb"
    path.write_text("iid:token\temb:float_seq\n" + "".join(f"i{i}\t1 {i}\n" for i in range(8)))
    own = {"additional_feat_suffix": ["emb"]}
    feat = load(tmp_path, **own, alias_of_item_id=["iid"]).emb_feat
    assert feat["emb"].map(list).tolist() == [[1, i] for i in range(8)] and feat["iid"].nunique() == 8
    with pytest.raises(ValueError, match="additional_feat_suffix=emb: .* column 'iid' .* set alias_of_user_id or"):
        load(tmp_path, **own)
    path.write_text(path.read_text().replace("1 5", "1 x"))
    with pytest.raises(ValueError, match="shop.emb, line 7 .*'emb:float_seq': 'x' is no number"):
        load(tmp_path, **own, alias_of_item_id=["iid"])


# ---------------------------------------------------------------- fuzz

ODD = [
    '"',
    "\t",
    "\n",
    "\r",
    "\0",
    '""',
    '"\t',
    '\n"',
    "\ufeff",
    "é",
    "\u2028",
    ":",
    " ",
    "NA",
    "inf",
    "1e999",
    "[PAD]",
]


@pytest.mark.parametrize("name", ["shop.inter", "shop.item", "shop.user"])
def test_damaged_files_are_one_line_or_keep_their_rows(tmp_path, name):
    """20 damaged files of each kind: refused in a line that names the file, or every row is there."""
    path, rng = shop(tmp_path) / name, np.random.default_rng(0)
    whole, refused = path.read_text(), 0
    for _ in range(20):
        at, kind = int(rng.integers(len(whole))), rng.random()
        if kind < 0.7:
            damaged = (whole[:at] + str(rng.choice(ODD)) + whole[at:]).encode()
        elif kind < 0.85:
            damaged = whole[:at].encode() + rng.bytes(1) + whole[at + 1 :].encode()
        else:
            damaged = whole[:at].encode()
        path.write_bytes(damaged)
        try:
            dataset = load(tmp_path, filter_inter_by_user_or_item=False)
        except ValueError as error:
            refused += 1
            assert name in str(error) or name == "shop.inter" and "dataset 'shop'" in str(error)
            assert "\n" not in str(error) and "not readable" not in str(error)
        else:
            rows = [line for line in damaged.splitlines()[1:] if line.strip()]
            feat = {"shop.inter": dataset.inter_feat, "shop.item": dataset.item_feat, "shop.user": dataset.user_feat}
            found = feat[name].iloc[:, 0].nunique() - 1 if name != "shop.inter" else len(dataset.inter_feat)
            assert found >= len(rows) - 1 if name != "shop.inter" else found == len(rows)
    assert refused > 7
