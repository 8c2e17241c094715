"""Structured item fields: what columns become, what is left out, and the encoders ``fields`` and ``famae``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_vsid.config import Config
from recbole_vsid.data import dataset as dataset_module
from recbole_vsid.data.content import item_content
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.data.fields import (
    distinct,
    famae,
    famae_identity,
    fields,
    is_text,
    item_fields,
    merge_rare,
    path_levels,
    quantile_bins,
    row_labels,
    set_and_members,
)
from tests.conftest import make_dataset, planted_events

FAST = {"tokenizer": "rkmeans", "sid_vocab_size": 4, "sid_n_levels": 1, "content_dim": 8, "show_progress": False,
        "cache_dir": None, "famae_width": 8, "famae_epochs": 1}  # fmt: skip
IDS = {"item_id:token": [f"i{item}" for item in range(41)]}


@pytest.fixture
def built(monkeypatch, tmp_path):
    """``built(columns, events, name, **settings)``: a split dataset of 41 items whose table was not made."""

    def table(dataset):
        tokens = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
        return type("Table", (), {"item_tokens": tokens, "n_items": len(tokens)})(), {}

    def build(columns=None, events=None, name="columns", **settings):
        if columns is not None:
            make_dataset(tmp_path, name, *(events or planted_events()), item_columns={**IDS, **columns})
            settings["data_path"] = str(tmp_path)
        dataset = SemanticIDDataset(Config("VLSID", name, config_dict={**FAST, **settings}))
        with monkeypatch.context() as patch:
            patch.setattr(dataset_module, "fit_semantic_ids", table)
            dataset.build()
        return dataset

    return build


def by_item(dataset, field):
    """External item id → set of the field's values (empty if missing)."""
    tokens = dataset.field2id_token["item_id"]
    return {str(token): set(row[row > 0].tolist()) for token, row in zip(tokens[1:], field.values[1:])}


def names(dataset):
    return [field.name for field in item_fields(dataset)]


def check(found, n_items):
    """What every list of fields has in common."""
    assert np.array_equal(found[0].values, np.arange(n_items)[:, None]) and found[0].n_values == n_items - 1
    for field in found:
        assert field.values.shape[0] == n_items and field.values.dtype == np.int64 and not field.values[0].any()
        assert set(np.unique(field.values[field.values > 0])) == set(range(1, field.n_values + 1)), field.name
        for row in field.values:
            assert len(set(row[row > 0])) == (row > 0).sum() and not row[(row > 0).sum() :].any()


# ------------------------------------------------------------ array functions


def test_distinct():
    rows = np.array([[0, 0, 0], [2, 0, 2], [1, 3, 1], [0, 5, 0]])
    assert distinct(rows).tolist() == [[0, 0], [2, 0], [3, 1], [5, 0]]
    assert distinct(np.zeros((2, 3), dtype=np.int64)).tolist() == [[0], [0]]


def test_rare_values_become_one():
    rows = np.array([[9]] * 5 + [[2]] * 4 + [[7]] * 6 + [[1]] + [[0]] * 2)
    assert merge_rare(rows).ravel().tolist() == [2] * 5 + [3] * 4 + [1] * 6 + [3] + [0] * 2


def test_row_labels():
    assert row_labels(np.array([[0, 0], [1, 2], [0, 1], [1, 2]])).tolist() == [0, 2, 1, 2]
    assert row_labels(np.array([[1, 2], [3, 0], [1, 2]])).tolist() == [1, 2, 1]


def test_paths_by_their_prefix():
    """A constant root, equal names under different parents, short paths, no path."""
    rows = np.array([[0, 0, 0, 0], [1, 2, 9, 0], [1, 3, 9, 0], [1, 2, 0, 0], [1, 3, 9, 4], [1, 2, 9, 0]])
    (first, top), (second, middle), (third, low) = path_levels("c", rows)
    assert (first, second, third) == ("c_1", "c_2", "c_3")
    assert top.ravel().tolist() == [0, 1, 2, 1, 2, 1]
    assert middle.ravel().tolist() == [0, 2, 3, 1, 3, 2]
    assert low.ravel().tolist() == [0, 2, 3, 1, 4, 2]
    deep = np.c_[rows, [0, 5, 6, 0, 7, 8]]
    assert len(path_levels("c", deep)) == 3
    assert [name for name, _ in path_levels("c", rows[:, :2])] == ["c_1"]


def test_sets_and_their_members():
    rows = np.array([[0, 0]] + [[1, 2]] * 5 + [[2, 1]] * 5 + [[2, 3]] * 5 + [[1, 1]] * 5)
    (name, members), (set_name, sets) = set_and_members("tags", rows)
    assert (name, set_name) == ("tags", "tags_set")
    assert members[[1, 6, 11, 16]].tolist() == [[2, 1], [2, 1], [3, 2], [1, 0]]
    assert len(set(sets[1:11, 0])) == 1 and len(set(sets[1:, 0])) == 3
    single = set_and_members("kind", rows[:, :1])
    assert [name for name, _ in single] == ["kind"], "the set would say the same again"


def test_bins_of_equal_population():
    rng = np.random.default_rng(0)
    prices = np.r_[0.5, rng.lognormal(0, 2, 1000), 0.5, 0.5]
    bins = quantile_bins(prices, 10).ravel()
    assert (np.bincount(bins) == [3] + [100] * 10).all()
    order = np.argsort(prices[1:1001])
    assert (np.diff(bins[1:1001][order]) >= 0).all()
    assert np.array_equal(quantile_bins(np.log(prices), 10).ravel(), bins), "why there is no logarithm"
    few = np.array([9.0] + [0] * 2 + [1] * 38)
    assert quantile_bins(few, 10).ravel().tolist() == [0, 1, 1] + [2] * 38, "few values stay apart"
    assert not quantile_bins(np.full(4, 2.0), 5).any()


def test_what_counts_as_text():
    brand = np.repeat(np.arange(10), 10)
    assert not is_text(brand) and is_text(np.arange(100))
    half = np.r_[np.repeat([1, 2], 25), np.arange(3, 53)]
    assert not is_text(half) and is_text(np.r_[half, 53])
    genres = np.stack([np.repeat([1, 2, 3, 4], 25), np.tile([5, 0], 50)], axis=1)
    assert not is_text(genres)
    words = np.stack([np.repeat([1, 2], 50), np.arange(3, 103)], axis=1)
    assert is_text(words), "'the' and 'of' are shared, most words are not"


# ------------------------------------------------------------------- columns


def test_columns_of_every_kind(built):
    price = [f"{10.0 + item}" for item in range(41)]
    price[3] = price[30] = ""
    brand = ["acme"] * 20 + ["bolt"] * 10 + ["rare one"] * 2 + ["rare two"] * 3 + [""] * 6
    dataset = built(
        {
            "title:token": [f"thing {item}" for item in range(41)],
            "brand:token": brand,
            "path:token_seq": [f"All {'AB'[item % 2]} {'xyz'[item % 3]}" for item in range(41)],
            "tags:token_seq": ["new"] * 10 + ["new cheap"] * 20 + [""] * 11,
            "price:float": price,
            "shop:token": ["here"] * 41,
            "vector:float_seq": ["0.1 0.2"] * 41,
        },
        field_paths=["path"],
        field_bins=4,
    )
    found = item_fields(dataset)
    check(found, 42)
    assert [(field.name, field.n_values) for field in found] == [
        ("item_id", 41), ("brand", 3), ("path_1", 2), ("path_2", 6), ("tags", 2), ("tags_set", 2), ("price", 4)
    ]  # fmt: skip
    values = {field.name: by_item(dataset, field) for field in found}
    assert values["brand"]["i31"] == values["brand"]["i33"] != values["brand"]["i0"] and not values["brand"]["i40"]
    assert values["path_2"]["i0"] != values["path_2"]["i3"] and values["path_1"]["i0"] != values["path_1"]["i3"]
    assert (
        len(values["tags"]["i15"]) == 2 and values["tags"]["i0"] < values["tags"]["i15"] and not values["tags"]["i40"]
    )
    assert not values["price"]["i3"] and not values["price"]["i30"] and values["price"]["i4"]
    assert values["price"]["i0"] == values["price"]["i8"] != values["price"]["i40"]


def test_the_user_chooses_columns(built):
    columns = {
        "title:token": [f"thing {item}" for item in range(41)],
        "kind:token": ["ab"[item % 2] for item in range(41)],
        "tags:token_seq": ["a b"] * 20 + ["b a"] * 21,
    }
    assert names(built(columns, field_columns=["tags"], field_paths="tags")) == ["item_id", "tags_1"]
    assert names(built(columns)) == ["item_id", "kind", "tags"]
    assert names(built(columns, field_columns=["title"])) == ["item_id"], "all its values are rare: they become one"


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"field_columns": ["brand"]}, r"field_columns=.*'brand'.*among the loaded columns \['kind', 'tags'\]"),
        ({"field_paths": ["kind"]}, r"field_paths=.*'kind'.*among the loaded columns \['tags'\]"),
        ({"field_bins": 1}, "field_bins=1 is not usable"),
    ],
)
def test_settings_that_do_not_fit(built, settings, told):
    columns = {"kind:token": ["ab"[item % 2] for item in range(41)], "tags:token_seq": ["a b"] * 41}
    with pytest.raises(ValueError, match=told):
        item_fields(built(columns, **settings))


def test_the_fields_of_ml_100k(built):
    dataset = built(name="ml-100k")
    found = item_fields(dataset)
    check(found, 1683)
    assert [field.name for field in found] == ["item_id", "release_year", "class", "class_set"]
    year, genres, sets = found[1:]
    item = list(dataset.field2id_token["item_id"]).index("1")  # Toy Story: Animation Children's Comedy
    assert (genres.values[item] > 0).sum() == 3 and genres.n_values == 19 and genres.values.shape[1] == 6
    assert 40 < year.n_values < 60 and 40 < sets.n_values < 80
    assert (np.bincount(sets.values[1:, 0])[1:] >= 5).all()


# ------------------------------------------------------------------ encoders

SIDE = {
    "kind:token": [f"kind{item % 4}" for item in range(41)],
    "tags:token_seq": [f"tag{item % 4} tag{4 + item // 21}" for item in range(41)],
}


def test_items_with_equal_fields_have_equal_content(built):
    dataset = built(SIDE)
    content = fields(dataset)
    tokens = list(dataset.field2id_token["item_id"])
    first, same, other = (content.matrix[tokens.index(name)] for name in ("i0", "i4", "i1"))
    assert content.matrix.shape[0] == 42 and content.matrix.dtype == np.float32 and not content.matrix[0].any()
    np.testing.assert_allclose(first, same, atol=1e-5)
    assert first @ other < 0.7 * (first @ first)
    assert [field["name"] for field in content.details["fields"]] == ["kind", "tags", "tags_set"] and content.unit_rows


def test_without_side_fields(built, caplog):
    columns = {"title:token": [f"thing {item}" for item in range(41)]}
    dataset = built(columns)
    with pytest.raises(ValueError, match="no structured side field.*'title'.*load_col"):
        fields(dataset)
    with caplog.at_level("WARNING"):
        content = famae(dataset)
    assert "item ids alone" in caplog.text and content.matrix.shape == (42, 8)


def test_famae_joins_the_other_encoders(built):
    dataset = built(SIDE)
    content = famae(dataset)
    assert content.matrix.shape == (42, 4 * 8) and content.matrix.dtype == np.float32 and not content.unit_rows
    assert not content.matrix[0].any() and np.isfinite(content.matrix).all()
    described = content.details["fields"]
    assert [field["name"] for field in described] == ["item_id", "kind", "tags", "tags_set"]
    assert sum(field["variance_share"] for field in described) == pytest.approx(1, abs=1e-3)
    assert content.details["items_alone_in_side_fields"] == 0, "kind and tags repeat"
    assert np.array_equal(famae(dataset).matrix, content.matrix)
    matrix, (provenance,) = item_content(built(SIDE, content="famae"))
    lengths = np.linalg.norm(matrix[1:], axis=1)
    assert np.square(lengths).mean() == pytest.approx(1, abs=1e-4) and lengths.std() > 1e-3
    assert provenance["encoder"] == "famae" and provenance["metrics"] == content.details["metrics"]


def test_items_that_their_side_fields_identify_are_counted(built):
    kinds = [f"kind{item % 8}" for item in range(40)]
    dataset = built({"kind:token": [*kinds, "kind0"], "tag:token": ["a"] * 16 + ["b"] * 24 + ["c"]})
    # No rare value is merged but c, and only the last item has that.
    assert famae(dataset).details["items_alone_in_side_fields"] == 1


def test_famae_never_sees_evaluation_events(built):
    """Another last and last but one item of every user changes neither the vectors nor their identity."""
    frame = pd.DataFrame(dict(zip(("user", "item", "time"), planted_events()))).sort_values("time")
    held_out = frame.groupby("user").tail(2)
    frame = pd.concat([frame.drop(index=held_out.index), held_out])
    other = frame.copy()
    other.loc[held_out.index, "item"] = held_out["item"].to_numpy()[::-1]
    first, second = (
        built(SIDE, [each[name] for name in ("user", "item", "time")], name)
        for name, each in (("first", frame), ("second", other))
    )
    assert first.fingerprint() != second.fingerprint() and famae_identity(first) == famae_identity(second)
    assert np.array_equal(famae(first).matrix, famae(second).matrix)
    earlier = other.copy()
    train = frame.index.difference(held_out.index)
    earlier.loc[train, "item"] = frame.loc[train, "item"].to_numpy()[::-1]
    third = built(SIDE, [earlier[name] for name in ("user", "item", "time")], "third")
    assert famae_identity(third) != famae_identity(first)


@pytest.mark.parametrize(
    "change", [{"famae_epochs": 2}, {"seed": 5}, {"famae_bf16": False}, {"field_columns": ["kind"]}]
)
def test_everything_that_matters_is_part_of_the_identity(built, change):
    assert famae_identity(built(SIDE)) == famae_identity(built(SIDE))
    assert famae_identity(built(SIDE, **change)) != famae_identity(built(SIDE))
