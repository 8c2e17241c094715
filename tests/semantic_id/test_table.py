"""Every broken invariant of a table raises and names the item."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from safetensors.numpy import save_file

from recbole_vsid.semantic_id.table import SemanticIDs
from tests.property.strategies import make_table, semantic_id_tables


def arguments(**changes):
    """A valid table's arguments, with changes."""
    values = {
        "codes": np.array([[-1, -1, -1], [0, 1, -1], [2, -1, -1], [0, 0, 3]]),
        "lengths": np.array([0, 2, 1, 3]),
        "vocab_sizes": (4, 4, 4),
        "shared_vocabulary": True,
        "item_tokens": np.array(["[PAD]", "a", "b", "c"]),
        "provenance": {"tokenizer": "none", "seed": 1, "text": "Überraschung"},
    }
    return {**values, **changes}


def changed(row, *codes):
    table = arguments()["codes"]
    table[row] = codes
    return table


def test_sizes():
    table = SemanticIDs(**arguments())
    assert (table.n_items, table.max_length, table.n_tokens) == (4, 3, 4)
    assert table.codes.dtype == table.lengths.dtype == np.int32


def test_flat_codes():
    table = SemanticIDs(**arguments())
    assert table.flat_codes().dtype == np.int64 and (table.flat_codes() == table.codes).all()
    table = SemanticIDs(**arguments(vocab_sizes=(3, 2, 4), shared_vocabulary=False))
    assert table.n_tokens == 9
    assert table.flat_codes().tolist() == [[-1, -1, -1], [0, 4, -1], [2, -1, -1], [0, 3, 8]]


def test_vocabularies():
    assert SemanticIDs(**arguments()).vocabularies() == [(0, 4)] * 3
    table = SemanticIDs(**arguments(vocab_sizes=(3, 2, 4), shared_vocabulary=False))
    assert table.vocabularies() == [(0, 3), (3, 5), (5, 9)]
    assert make_table([(1,), (0,)], [2], shared_vocabulary=False).vocabularies() == [(0, 2)]


@settings(max_examples=30, deadline=None)
@given(semantic_id_tables())
def test_every_token_lies_in_the_vocabulary_of_its_position(table):
    vocabularies, flat = table.vocabularies(), table.flat_codes()
    assert len(vocabularies) == table.max_length and vocabularies[-1][1] == table.n_tokens
    for (first, end), size, tokens, codes in zip(vocabularies, table.vocab_sizes, flat.T, table.codes.T):
        real = codes >= 0
        assert end - first == size and ((tokens[real] >= first) & (tokens[real] < end)).all()
        assert (tokens[real] - first == codes[real]).all() and (tokens[~real] == -1).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"codes": np.zeros(4)}, "codes must be"),
        ({"codes": np.zeros((1, 3))}, "codes must be"),
        ({"lengths": np.array([0, 2, 1])}, "4 rows"),
        ({"item_tokens": np.array(["[PAD]", "a", "b"])}, "4 rows"),
        ({"vocab_sizes": (4, 4)}, "vocab_sizes"),
        ({"vocab_sizes": (4, 4, 0)}, "vocab_sizes"),
        ({"vocab_sizes": (4, 5, 4)}, "one size"),
        ({"lengths": np.array([1, 2, 1, 3])}, "row 0 is the padding item"),
        ({"codes": changed(0, 1, -1, -1)}, "row 0 is the padding item"),
        ({"lengths": np.array([0, 2, 0, 3])}, r"'b' \(row 2\): lengths"),
        ({"lengths": np.array([0, 2, 1, 4])}, r"'c' \(row 3\): lengths"),
        ({"lengths": np.array([0, 2, 2, 3])}, r"'b' \(row 2\): codes must be −1 exactly behind"),
        ({"codes": changed(1, -1, 1, -1)}, r"'a' \(row 1\): codes must be −1 exactly behind"),
        ({"codes": changed(2, 2, 0, -1)}, r"'b' \(row 2\): codes must be −1 exactly behind"),
        ({"codes": changed(3, 0, 0, 4)}, r"'c' \(row 3\): codes must lie below"),
        ({"codes": changed(3, 0, -2, 1)}, r"'c' \(row 3\): codes must lie below"),
        ({"item_tokens": np.array(["[PAD]", "a", "a", "c"])}, "'a' stands in 2 rows"),
        ({"codes": changed(3, 0, 1, 3)}, "'a' and 'c' have codes of which one begins the other"),
        ({"codes": changed(3, 0, 1, -1), "lengths": np.array([0, 2, 1, 2])}, "'a' and 'c' share"),
    ],
)
def test_broken_invariants_name_the_item(changes, message):
    with pytest.raises(ValueError, match=message):
        SemanticIDs(**arguments(**changes))


def test_codes_in_range_of_their_own_position():
    with pytest.raises(ValueError, match=r"'c' \(row 3\)"):
        SemanticIDs(**arguments(vocab_sizes=(3, 2, 3), shared_vocabulary=False))


def test_claims_can_be_waived():
    begins = make_table([(1, 2), (1,)], [3, 3], prefix_free=False)
    assert begins.unique and not begins.prefix_free
    make_table([(1, 2), (1, 2)], [3, 3], unique=False, prefix_free=False)
    with pytest.raises(ValueError, match="'item-1' and 'item-2' share"):
        make_table([(1, 2), (1, 2)], [3, 3], unique=False)
    with pytest.raises(ValueError, match="'item-1' and 'item-2' share"):
        make_table([(1, 2), (1, 2)], [3, 3], prefix_free=False)


def test_is_independent_of_the_callers_arrays():
    given = arguments()
    given = {**given, "codes": given["codes"].astype(np.int32), "lengths": given["lengths"].astype(np.int32)}
    table = SemanticIDs(**given)
    given["codes"][1, 0] = 3
    given["lengths"][1] = 1
    assert table == SemanticIDs(**arguments())
    with pytest.raises(ValueError, match="read-only"):
        table.codes[1, 0] = 3


@pytest.mark.parametrize("changes", [{}, {"vocab_sizes": (3, 2, 4), "shared_vocabulary": False}])
def test_save_and_load(tmp_path, changes):
    table = SemanticIDs(**arguments(**changes))
    table.save(tmp_path / "folder" / "table.safetensors")
    loaded = SemanticIDs.load(tmp_path / "folder" / "table.safetensors")
    assert loaded == table and loaded.provenance == table.provenance
    assert (loaded.unique, loaded.prefix_free) == (True, True)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["table.safetensors"]


def test_tables_differ():
    table = SemanticIDs(**arguments())
    for changes in (
        {"codes": changed(3, 0, 0, 2)},
        {"item_tokens": np.array(["[PAD]", "a", "b", "d"])},
        {"vocab_sizes": (5, 5, 5)},
        {"shared_vocabulary": False},
    ):
        assert table != SemanticIDs(**arguments(**changes))


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "table.safetensors"
    SemanticIDs(**arguments()).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"no table at all", whole[:-5], whole[: len(whole) // 2], b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="table.safetensors is not a semantic-ID table"):
            SemanticIDs.load(path)


@pytest.mark.parametrize("metadata", [None, {"other": "x"}, {"semantic_ids": "{"}, {"semantic_ids": "{}"}])
def test_other_safetensors_files_are_refused(tmp_path, metadata):
    path = tmp_path / "table.safetensors"
    save_file({"codes": arguments()["codes"], "lengths": arguments()["lengths"]}, path, metadata=metadata)
    with pytest.raises(ValueError, match="is not a semantic-ID table"):
        SemanticIDs.load(path)


def test_an_edited_table_is_checked_again(tmp_path):
    path = tmp_path / "table.safetensors"
    header = {key: arguments()[key] for key in ("vocab_sizes", "shared_vocabulary", "provenance")}
    header = {**header, "item_tokens": ["[PAD]", "a", "b", "c"]}
    save_file(
        {"codes": changed(3, 0, 1, 3), "lengths": arguments()["lengths"]},
        path,
        metadata={"semantic_ids": json.dumps(header)},
    )
    with pytest.raises(ValueError, match="'a' and 'c'"):
        SemanticIDs.load(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        SemanticIDs.load(tmp_path / "table.safetensors")


def test_a_flipped_bit_is_told_by_the_checksum(tmp_path):
    path = tmp_path / "table.safetensors"
    SemanticIDs(**arguments()).save(path)
    whole = path.read_bytes()
    for at in range(len(whole) - 1, 8, -3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert SemanticIDs.load(path) == SemanticIDs(**arguments()), "only what does not matter may be read"
        except ValueError as error:
            assert "table.safetensors is not a semantic-ID table" in str(error)


@pytest.mark.parametrize(
    "change", [{"codes": np.float32}, {"codes": np.int64}, {"lengths": np.int64}, {"vocab_sizes": ["5"] * 3}]
)
def test_numbers_of_other_kinds_are_never_cut(tmp_path, change):
    table, path = SemanticIDs(**arguments()), tmp_path / "table.safetensors"
    arrays = {"codes": table.codes, "lengths": table.lengths}
    header = table.plain()
    for name, kind in change.items():
        if name in arrays:
            array = arrays[name].astype(kind)
            arrays[name] = array + 0.25 * (array > 0) if kind is np.float32 else array + 2**32 * (array > 0)
        else:
            header[name] = kind
    save_file(arrays, path, metadata={"semantic_ids": json.dumps(header)})
    with pytest.raises(ValueError, match="table.safetensors is not a semantic-ID table: its .* of a wrong kind"):
        SemanticIDs.load(path)
