"""Tables written for other programs come back with the same codes; files that cannot be meant are refused by name."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.decoding.trie import PrefixTrie
from recbole_vsid.semantic_id.collisions import append_suffix
from recbole_vsid.semantic_id.exchange import EXTENSIONS, NUMBERED, read_table, write_table
from recbole_vsid.semantic_id.numbering import read_ids
from tests.property.strategies import content_codes, make_table, semantic_id_tables

TOKENS = ["[PAD]", "a", "b", "c"]


@pytest.fixture
def table():
    """Codes of different lengths, vocabularies larger than the codes need."""
    return make_table([(1, 0), (2,), (1, 3, 0)], [9, 9, 9])


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def same_codes(table, other):
    return (
        np.array_equal(table.codes, other.codes)
        and np.array_equal(table.lengths, other.lengths)
        and np.array_equal(table.item_tokens, other.item_tokens)
    )


# ---------------------------------------------------------------- there and back


def round_trip(table, folder, format):
    path = folder / f"table{EXTENSIONS[format]}"
    ids = folder / f"{format}.ids" if format in NUMBERED else None
    write_table(table, path, format, ids)
    read = read_table(path, table.item_tokens, ids)
    assert read.provenance["format"] == format and read.provenance["file"] == path.name
    return read


@settings(max_examples=25, deadline=None)
@given(table=semantic_id_tables())
def test_every_format_keeps_codes_lengths_and_items(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("exchange")
    for format in EXTENSIONS:
        read = round_trip(table, folder, format)
        assert same_codes(read, table) and read.unique and read.prefix_free
        if format == "safetensors":
            assert read == table
        else:
            assert not read.shared_vocabulary and not read.suffix
            assert read.vocab_sizes == tuple(table.codes.max(0) + 1)


@settings(max_examples=25, deadline=None)
@given(arguments=content_codes())
def test_tables_with_suffixes_come_back(tmp_path_factory, arguments):
    table, folder = append_suffix(**arguments), tmp_path_factory.mktemp("exchange")
    own = round_trip(table, folder, "safetensors")
    assert own == table and own.suffix
    assert same_codes(round_trip(table, folder, "tokens"), table)


@settings(max_examples=25, deadline=None)
@given(table=semantic_id_tables(), data=st.data())
def test_rows_follow_the_dataset_whatever_the_order_of_the_file(tmp_path_factory, table, data):
    folder = tmp_path_factory.mktemp("exchange")
    rows = data.draw(st.lists(st.sampled_from(range(1, table.n_items)), min_size=1, unique=True))
    tokens = table.item_tokens[[0, *rows]]
    for format in EXTENSIONS:
        path, ids = folder / f"t{EXTENSIONS[format]}", folder / f"{format}.ids" if format in NUMBERED else None
        write_table(table, path, format, ids)
        read = read_table(path, tokens, ids)
        assert read.codes.tolist() == table.codes[[0, *rows]].tolist()
        assert read.provenance["ignored_items"] == table.n_items - 1 - len(rows)
        expected = table.vocab_sizes if format == "safetensors" else tuple(table.codes.max(0) + 1)
        assert read.vocab_sizes == expected, "ids of items that are left out stay valid"


def test_the_files_are_those_of_the_other_projects(table, tmp_path):
    write_table(table, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == {"item-1": [1, 0], "item-2": [2], "item-3": [1, 3, 0]}
    write_table(table, tmp_path / "t.json", "tokens")
    tokens = [["<a_1>", "<b_0>"], ["<a_2>"], ["<a_1>", "<b_3>", "<c_0>"]]
    assert list(json.loads((tmp_path / "t.json").read_text()).values()) == tokens
    write_table(table, tmp_path / "toy.index.json", ids=tmp_path / "ids.txt")
    assert json.loads((tmp_path / "toy.index.json").read_text()) == dict(zip("012", tokens))
    assert (tmp_path / "ids.txt").read_text() == "item-1\nitem-2\nitem-3\n"
    write_table(table, tmp_path / "t.npy", ids=tmp_path / "ids.txt")
    write_table(table, tmp_path / "t.pt", ids=tmp_path / "ids.txt")
    matrix = [[1, 0, -1], [2, -1, -1], [1, 3, 0]]
    assert np.load(tmp_path / "t.npy").tolist() == torch.load(tmp_path / "t.pt", weights_only=True).tolist() == matrix


@pytest.mark.parametrize("format", NUMBERED)
def test_an_ids_file_that_exists_is_followed(table, tmp_path, format):
    path, ids = tmp_path / f"t{EXTENSIONS[format]}", write(tmp_path / "ids", "item-2\n[PAD]\nitem-3\nitem-1\n")
    write_table(table, path, format, ids)
    assert ids.read_text() == "item-2\n[PAD]\nitem-3\nitem-1\n"
    assert same_codes(read_table(path, table.item_tokens, ids), table)
    if format == "index":
        assert json.loads(path.read_text())["3"] == ["<a_1>", "<b_0>"]
    else:
        numbered = write(tmp_path / "item2id", "item-3\t2\nitem-1\t3\nitem-2\t0\n[PAD]\t1\n")
        assert same_codes(read_table(path, table.item_tokens, numbered), table)


def test_provenance_names_the_file_and_its_content_but_no_folder(table, tmp_path):
    path = tmp_path / "t.json"
    write_table(table, path)
    first = read_table(path, table.item_tokens).provenance
    assert first["tokenizer"] == "file" and first["file"] == "t.json" and len(first["file_hash"]) == 16
    assert str(tmp_path) not in json.dumps(first)
    path.write_text(path.read_text() + " ")
    assert read_table(path, table.item_tokens).provenance["file_hash"] != first["file_hash"]
    made = replace(table, provenance={"tokenizer": "vlsid", "seed": 3})
    write_table(made, tmp_path / "t.safetensors")
    read = read_table(tmp_path / "t.safetensors", table.item_tokens)
    assert read.provenance["origin"] == made.provenance and read.provenance["tokenizer"] == "file"


@pytest.mark.parametrize(
    "name, format, ids, message",
    [
        ("t.json", "letters", None, "formats and extensions are safetensors"),
        ("t.txt", None, None, "formats and extensions are safetensors"),
        ("t", None, None, "formats and extensions are safetensors"),
        ("t.npy", "pt", None, "formats and extensions are safetensors"),
        ("t.json", "codes", "ids", "needs no ids file"),
        ("t.safetensors", None, "ids", "needs no ids file"),
        ("t.index.json", None, None, "needs an ids file"),
        ("t.npy", None, None, "needs an ids file"),
    ],
)
def test_writing_refuses_what_could_not_be_read(table, tmp_path, name, format, ids, message):
    with pytest.raises(ValueError, match=message):
        write_table(table, tmp_path / name, format, ids)
    assert os.listdir(tmp_path) == []


def test_writing_refuses_ids_of_other_items(table, tmp_path):
    for text in ("item-1\nitem-2\n", "item-1\nitem-2\nitem-3\nitem-4\n"):
        with pytest.raises(ValueError, match="exactly the items of the table, and 1 items .*item-[34]"):
            write_table(table, tmp_path / "t.npy", ids=write(tmp_path / "ids", text))
    gap = write(tmp_path / "ids", "item-1\t0\nitem-2\t1\nitem-3\t3\n")
    with pytest.raises(ValueError, match="0 to 2, and 2 is missing"):
        write_table(table, tmp_path / "t.npy", ids=gap)
    write_table(table, tmp_path / "index.json", ids=gap)  # keys may have gaps
    assert same_codes(read_table(tmp_path / "index.json", table.item_tokens, gap), table)
    odd = replace(table, item_tokens=np.array(["[PAD]", "a\tb", "c", "d"]))
    with pytest.raises(ValueError, match="cannot stand in a line"):
        write_table(odd, tmp_path / "t.npy", ids=tmp_path / "new")
    assert not (tmp_path / "new").exists() and not (tmp_path / "t.npy").exists()


def test_tokens_have_26_letters(tmp_path):
    with pytest.raises(ValueError, match="26 letters for positions, and the table has 27"):
        write_table(make_table([(0,) * 27], [1] * 27), tmp_path / "t.json", "tokens")
    round_trip(make_table([(0,) * 26], [1] * 26), tmp_path, "tokens")


def test_a_failed_write_leaves_the_old_file(table, tmp_path, monkeypatch):
    path = write(tmp_path / "t.npy", "old")
    monkeypatch.setattr(np, "save", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_table(table, path, ids=tmp_path / "ids")
    assert path.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["ids", "t.npy"]


# ------------------------------------------------------------------ which item is it


def test_keys_are_item_ids_or_running_numbers(tmp_path):
    codes = {"0": ["<a_0>"], "1": ["<a_1>"], "2": ["<a_2>"]}
    path = write(tmp_path / "index.json", codes)
    ids = write(tmp_path / "ids", "2\n0\n1\n")
    with pytest.raises(ValueError, match="running numbers, 0 to 2, and not all of them are items.*sid_file_ids"):
        read_table(path, TOKENS)
    read = read_table(path, TOKENS, write(tmp_path / "letters", "c\nb\na"))
    assert read.codes[1:, 0].tolist() == [2, 1, 0] and read.provenance["format"] == "index"
    numbers = ["[PAD]", "0", "1", "2"]
    assert read_table(path, numbers).codes[1:, 0].tolist() == [0, 1, 2], "keys that are all items are items"
    assert read_table(path, numbers, ids).codes[1:, 0].tolist() == [1, 2, 0], "an ids file wins"
    # Numbers that do not run from 0 on are item ids, also if the dataset lacks some.
    path = write(tmp_path / "t.json", {"7": [0], "9": [1], "12": [2]})
    assert read_table(path, ["[PAD]", "12", "7"]).codes[1:, 0].tolist() == [2, 0]


def test_ids_that_do_not_match_the_keys_are_refused(tmp_path):
    ids = write(tmp_path / "ids", "a\nb\nc\n")
    with pytest.raises(ValueError, match="3 of 3 keys, 'a' first, are no numbers of .*leave out"):
        read_table(write(tmp_path / "t.json", {"a": [0], "b": [1], "c": [2]}), TOKENS, ids)
    with pytest.raises(ValueError, match="1 of 4 keys, '3' first"):
        read_table(write(tmp_path / "t.json", {str(i): [i] for i in range(4)}), TOKENS, ids)


def test_items_missing_in_the_file_are_counted_and_named(tmp_path):
    path = write(tmp_path / "t.json", {"i3": [0], "other": [1]})
    with pytest.raises(ValueError, match=r"for 7 of 8 items of the dataset, first \['i0', 'i1', 'i2', 'i4', 'i5'\]"):
        read_table(path, ["[PAD]", *(f"i{i}" for i in range(8))])


def test_items_the_dataset_does_not_have_are_left_out_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "t.json", {"x": [7, 7], "a": [0, 1], "b": [0, 2], "c": [1, 0], "y": [0, 1, 5], "[PAD]": []})
    with caplog.at_level(logging.WARNING):
        table = read_table(path, TOKENS)
    assert "has 2 items that the dataset does not have" in caplog.text
    assert table.provenance["ignored_items"] == 2 and table.vocab_sizes == (8, 8, 6)
    assert table.codes[1:].tolist() == [[0, 1, -1], [0, 2, -1], [1, 0, -1]]


def test_rows_of_a_tensor_need_the_ids(tmp_path):
    matrix = np.array([[0, 1], [0, 2], [1, -1]])
    np.save(tmp_path / "t.npy", matrix)
    with pytest.raises(ValueError, match="does not say which of its 3 rows is which item.*sid_file_ids"):
        read_table(tmp_path / "t.npy", TOKENS)
    np.save(tmp_path / "padded.npy", np.r_[[[0, 0]], matrix])
    with pytest.raises(ValueError, match=r"its 4 rows.*as many rows as .* the padding item.*from '\[PAD\]' on"):
        read_table(tmp_path / "padded.npy", TOKENS)
    # That advice followed.
    read = read_table(tmp_path / "padded.npy", TOKENS, write(tmp_path / "ids", "\n".join(TOKENS)))
    assert read.codes[1:].tolist() == matrix.tolist() and read.provenance["ignored_items"] == 0
    for ids in ("a\nb\n", "a\nb\nc\nd\n"):
        with pytest.raises(ValueError, match=r"has 3 rows \(its shape is \[3, 2\]\)"):
            read_table(tmp_path / "t.npy", TOKENS, write(tmp_path / "ids", ids))
    with pytest.raises(ValueError, match="0 to 2, and 0 is missing"):
        read_table(tmp_path / "t.npy", TOKENS, write(tmp_path / "ids", "a\t1\nb\t2\nc\t3\n"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\n\nc\n", "line 2: expected one item id, not ''"),
        ("a\nb\t2\n", "line 2: expected one item id, not"),
        ("a\t0\nb\n", "line 2: expected item id<TAB>number, not 'b'"),
        ("a\t0\nb\tx\n", "line 2: expected item id<TAB>number"),
        ("a\t0\nb\t01\n", "line 2: expected item id<TAB>number"),
        ("a\t0\nb\t1\t2\n", "line 2: expected item id<TAB>number"),
        ("\t0\n", "line 1: expected item id<TAB>number"),
        ("a\t0\nb\t0\n", "line 2: number 0 occurs more than once"),
        ("a\nb\na\n", "item id 'a' occurs more than once"),
    ],
)
def test_broken_ids_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ids(write(tmp_path / "ids", text))


def test_ids_files_of_other_systems(tmp_path):
    (tmp_path / "ids").write_bytes("\ufeffé x\r\nb\r\n".encode())
    assert read_ids(tmp_path / "ids") == {"0": "é x", "1": "b"}
    (tmp_path / "ids").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_ids(tmp_path / "ids")


# -------------------------------------------------------------------- codes


@pytest.mark.parametrize(
    "codes, message",
    [
        ([], r"item 'b' must have a list of codes that is not empty, not \[\]"),
        (3, "item 'b' must have a list of codes that is not empty, not 3"),
        ("<a_1>", "item 'b' must have a list of codes"),
        (None, "item 'b' must have a list of codes"),
        ([0, -1], "item 'b' has the code -1 at position 2; codes must be whole numbers from 0"),
        ([0, 1.5], "item 'b' has the code 1.5 at position 2; codes must be whole numbers from 0"),
        ([float("nan")], "item 'b' has the code nan at position 1"),
        ([2**31], "item 'b' has the code 2147483648 at position 1; codes must be whole numbers from 0 to 2147483647"),
        ([10**400], "item 'b' has the code 10+ at position 1"),
        ([True, 1], "item 'b' has the code True at position 1; .* the same kind in the whole file"),
        ([[1], 1], r"item 'b' has the code \[1\] at position 1"),
        ([1, "<b_1>"], "item 'b' has the code '<b_1>' at position 2; .* the same kind in the whole file"),
    ],
)
def test_broken_codes_name_the_item_and_the_file(tmp_path, codes, message):
    path = write(tmp_path / "t.json", {"a": [5, 5], "b": codes, "c": [6]})
    with pytest.raises(ValueError, match=rf"t\.json: {message}"):
        read_table(path, TOKENS)


@pytest.mark.parametrize(
    "codes, message",
    [
        (["<a_1>", "<c_2>"], "item 'b' has the code '<c_2>' at position 2; the letter must be a at the first"),
        (["<b_1>", "<a_2>"], "item 'b' has the code '<b_1>' at position 1; the letter must be a at the first"),
        (["<a_x>"], "item 'b' has the code '<a_x>' at position 1; tokens must look like '<a_12>'"),
        (["<a_-1>"], "item 'b' has the code '<a_-1>' at position 1; tokens must look like"),
        (["<a_1>", "<b_1"], "item 'b' has the code '<b_1' at position 2; tokens must look like"),
        (["<A_1>"], "item 'b' has the code '<A_1>' at position 1; tokens must look like"),
        (["<a_2147483648>"], "item 'b' has the code '<a_2147483648>' at position 1; codes must be whole"),
        ([1], "item 'b' has the code 1 at position 1; .* the same kind in the whole file"),
    ],
)
def test_broken_tokens_name_the_item_and_the_file(tmp_path, codes, message):
    path = write(tmp_path / "t.json", {"a": ["<a_5>", "<b_5>"], "b": codes, "c": ["<a_6>"]})
    with pytest.raises(ValueError, match=rf"t\.json: {message}"):
        read_table(path, TOKENS)


@pytest.mark.parametrize(
    "row, message",
    [
        ([-1, -1], r"item 'b' has the codes \[-1.*, -1.*\]; an item must have at least one code"),
        ([-1, 3], "item 'b' has the codes .*; −1 may only stand behind the codes"),
        ([-2, 3], "item 'b' has the codes .*; codes must be whole numbers from 0"),
        ([0, 1.5], "item 'b' has the codes .*; codes must be whole numbers from 0"),
        ([0, np.nan], "item 'b' has the codes .*; codes must be whole numbers from 0"),
        ([0, np.inf], "item 'b' has the codes .*; codes must be whole numbers from 0"),
        ([0, 2.0**31], "item 'b' has the codes .*; codes must be whole numbers from 0"),
    ],
)
def test_broken_rows_name_the_item_and_the_file(tmp_path, row, message):
    np.save(tmp_path / "t.npy", np.array([[5, 5], row, [6, 6]]))
    with pytest.raises(ValueError, match=rf"t\.npy: {message}"):
        read_table(tmp_path / "t.npy", TOKENS, write(tmp_path / "ids", "a\nb\nc\n"))


def test_whole_floats_and_any_integers_are_codes(tmp_path):
    path = write(tmp_path / "t.json", '{"a": [1.0, 2], "b": [0], "c": [300, 7e1]}')
    expected = [[1, 2], [0, -1], [300, 70]]
    assert read_table(path, TOKENS).codes[1:].tolist() == expected
    ids = write(tmp_path / "ids", "a\nb\nc\n")
    for dtype in (np.float32, np.int16, np.int64):
        np.save(tmp_path / "t.npy", np.array(expected, dtype=dtype))
        assert read_table(tmp_path / "t.npy", TOKENS, ids).codes[1:].tolist() == expected
    np.save(tmp_path / "t.npy", np.array([[1], [2], [200]], dtype=np.uint8))
    assert read_table(tmp_path / "t.npy", TOKENS, ids).codes[1:].tolist() == [[1], [2], [200]]
    torch.save({"sids": torch.tensor(expected)}, tmp_path / "t.pt")
    assert read_table(tmp_path / "t.pt", TOKENS, ids).codes[1:].tolist() == expected


def test_levels_that_count_on_keep_their_numbers(tmp_path):
    path = write(tmp_path / "t.json", {"a": [3, 256], "b": [3, 260], "c": [0, 256]})
    table = read_table(path, TOKENS)
    assert table.codes[1:].tolist() == [[3, 256], [3, 260], [0, 256]] and table.vocab_sizes == (4, 261)


def test_items_may_share_a_code(tmp_path, caplog):
    path = write(tmp_path / "t.json", {"a": [1, 2], "b": [0], "c": [1, 2]})
    with caplog.at_level(logging.WARNING):
        table = read_table(path, TOKENS)
    assert "t.json: 2 of 3 items share their semantic ID, up to 2 one" in caplog.text
    assert not table.unique and not table.prefix_free
    assert table.provenance["collisions"]["policy"] == "none" and table.provenance["collisions"]["items"] == 2
    trie = PrefixTrie.from_table(table)
    assert trie.n_leaves == 2 and trie.members.tolist() == [2, 1, 3], "leaf by leaf, each by id"


def test_no_code_may_begin_another_also_if_it_is_shared(tmp_path):
    for codes in ([[1, 2], [1], [0]], [[1, 2], [1], [1, 2]], [[1, 2], [1], [1]]):
        path = write(tmp_path / "t.json", dict(zip("abc", codes)))
        with pytest.raises(ValueError, match=r"t\.json: items 'b' and 'a' have codes of which one begins the other"):
            read_table(path, TOKENS)
    # An item that is left out may.
    table = read_table(write(tmp_path / "t.json", {"a": [1, 2], "b": [0], "x": [1]}), TOKENS[:3])
    assert table.unique


# -------------------------------------------------------------- damaged files


def test_files_that_are_something_else(table, tmp_path):
    ids = write(tmp_path / "ids", "a\nb\nc\n")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_table(tmp_path / "none.json", TOKENS)
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.json, \.npy or \.pt"):
        read_table(write(tmp_path / "t.csv", "a,1"), TOKENS)
    for text in ("", "{", "[]", "{}", '"a"', '{"a": [1], "a": [2]}', '{"a": [1]} x'):
        with pytest.raises(ValueError, match=r"t\.json (is not readable JSON|must be one JSON object)"):
            read_table(write(tmp_path / "t.json", text), TOKENS)
    for name in ("t.npy", "t.pt", "t.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is not a"):
            read_table(write(tmp_path / name, "{}"), TOKENS, None if name == "t.safetensors" else ids)
    table.save(tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match="names its items itself; leave out the ids file"):
        read_table(tmp_path / "t.safetensors", TOKENS, ids)
    for matrix in (np.zeros(3), np.zeros((3, 2), dtype=bool), np.zeros((3, 2, 1)), np.array([["x"]] * 3)):
        np.save(tmp_path / "t.npy", matrix)
        with pytest.raises(ValueError, match=r"t\.npy must hold numbers \[n, L\]"):
            read_table(tmp_path / "t.npy", TOKENS, ids)
    for loaded in ([1, 2], {"a": torch.zeros(3, 1), "b": torch.zeros(3, 1)}, torch.zeros(3, 1).bfloat16(), {}):
        torch.save(loaded, tmp_path / "t.pt")
        with pytest.raises(ValueError, match=r"t\.pt must hold one tensor of whole numbers, or a dict of one"):
            read_table(tmp_path / "t.pt", TOKENS, ids)


class Boom:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_no_code_of_a_file_is_run(tmp_path):
    ids = write(tmp_path / "ids", "a\nb\nc\n")
    torch.save(Boom(), tmp_path / "t.pt")
    np.save(tmp_path / "t.npy", np.array([[Boom()]] * 3), allow_pickle=True)
    for name in ("t.pt", "t.npy"):
        with pytest.raises(ValueError, match=f"{name} is not a"):
            read_table(tmp_path / name, TOKENS, ids)
    assert not os.path.exists("ran")


# --------------------------------------------------------------------- fuzz


def damaged(rng, whole):
    """``whole`` with flipped bits, cut off, with bytes put in, or with a byte of its head changed."""
    content = bytearray(whole)
    kind = rng.integers(4)
    if kind == 0:
        for at in rng.integers(len(content), size=rng.integers(1, 9)):
            content[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del content[rng.integers(len(content)) :]
    elif kind == 2:
        at = int(rng.integers(len(content)))
        content[at:at] = rng.bytes(int(rng.integers(1, 64)))
    else:
        content[rng.integers(min(len(content), 200))] = int(rng.integers(256))
    return bytes(content)


@pytest.mark.parametrize("format", EXTENSIONS)
def test_damaged_files_are_one_line_with_their_name(table, tmp_path, format):
    """150 damaged files of each format. What other programs wrote may have become another table; ours never is."""
    path = tmp_path / f"table{EXTENSIONS[format]}"
    ids = tmp_path / "ids" if format in NUMBERED else None
    write_table(table, path, format, ids)
    whole, rng = path.read_bytes(), np.random.default_rng(len(format))
    refused = 0
    for _ in range(150):
        path.write_bytes(damaged(rng, whole))
        try:
            read = read_table(path, table.item_tokens, ids)
        except ValueError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 600
        else:
            assert format not in ("safetensors", "pt") or same_codes(read, table)
    assert refused > 75


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"a": [' + "9" * 5000 + "]}",
        '{"a": ' + "[" * 9999 + "]" * 9999 + "}",
        "\0" * 9,
    ],
)
def test_odd_json_is_one_line(tmp_path, text):
    with pytest.raises(ValueError, match=r"t\.json") as error:
        read_table(write(tmp_path / "t.json", text), TOKENS)
    assert len(str(error.value)) < 800 and "\n" not in str(error.value)


@pytest.mark.parametrize("shape", ["(10000000000000, 3)", "(99999999999999999999, 3)", "(-1, 3)", "((((", "12"])
def test_odd_headers_of_npy_are_one_line(tmp_path, shape):
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 72)
    with pytest.raises(ValueError, match=r"t\.npy is not a \.npy file of numbers, or damaged"):
        read_table(tmp_path / "t.npy", TOKENS, write(tmp_path / "ids", "a\nb\nc\n"))


def test_codes_for_which_no_machine_has_the_embeddings(tmp_path):
    path = write(tmp_path / "t.json", {"a": [0], "b": [2**31 - 1], "c": [1]})
    with pytest.raises(ValueError, match=r"t\.json: .* 2147483648 codes, and 10,000,000 .* 2147483647, of item 'b'"):
        read_table(path, TOKENS)
    assert read_table(write(path, {"a": [0], "b": [9_999_999], "c": [1]}), TOKENS).vocab_sizes == (10_000_000,)


def test_settings_are_named_where_a_file_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sid_file='none\.npy' cannot be read"):
        read_table("none.npy", TOKENS)
    np.save(tmp_path / "t.npy", np.zeros((3, 1)))
    with pytest.raises(FileNotFoundError, match="sid_file_ids='none' cannot be read"):
        read_table(tmp_path / "t.npy", TOKENS, "none")
    with pytest.raises(ValueError, match=r"content_ids: .*t\.npy is not a text file in UTF-8.*0x93"):
        read_ids(tmp_path / "t.npy", "content_ids")
