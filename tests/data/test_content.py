"""Content encoders: what they make of items, what they may look at, and what they refuse."""

from __future__ import annotations

import collections
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from recbole_vsid.config import Config
from recbole_vsid.data import content as module
from recbole_vsid.data import dataset as dataset_module
from recbole_vsid.data.content import item_content
from recbole_vsid.data.content_file import from_file
from recbole_vsid.data.dataset import SemanticIDDataset
from tests.conftest import item_texts, make_dataset, planted_events


def tfidf(dataset):
    return module.tfidf(dataset).matrix


def cooccurrence(dataset):
    return module.cooccurrence(dataset).matrix


FAST = {"tokenizer": "rkmeans", "sid_vocab_size": 4, "sid_n_levels": 1, "content_dim": 8, "show_progress": False}


@pytest.fixture
def built(data_path, monkeypatch):
    """``built(name="toy", folder=data_path, **settings)``: a split dataset whose table was not made."""

    def table(dataset):
        tokens = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
        return type("Table", (), {"item_tokens": tokens, "n_items": len(tokens)})(), {}

    def build(name="toy", folder=data_path, **settings):
        config = Config("VLSID", name, config_dict={**FAST, "data_path": str(folder), **settings})
        dataset = SemanticIDDataset(config)
        with monkeypatch.context() as patch:
            patch.setattr(dataset_module, "fit_semantic_ids", table)
            dataset.build()
        return dataset

    return build


def toy_with(folder, name, **columns):
    """toy's events with other item columns."""
    make_dataset(
        folder, name, *planted_events(), item_columns={"item_id:token": item_texts()["item_id:token"], **columns}
    )


def tokens_of(dataset):
    return [str(token) for token in dataset.field2id_token["item_id"]]


def cosine(rows, *pair):
    first, second = rows[list(pair)]
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


# ---------------------------------------------------------------- tfidf


def test_items_that_share_words_are_closer(built, tmp_path):
    titles = ["red wool scarf", "red wool hat", "blue glass vase", "blue glass bowl"] + [
        "plain stone",
        "plain wood",
    ] * 18
    toy_with(tmp_path, "words", **{"title:token": titles + ["plain stone"], "tags:token_seq": ["tag shared"] * 41})
    dataset = built("words", tmp_path)
    values, index = tfidf(dataset), {token: row for row, token in enumerate(tokens_of(dataset))}
    red, hat, vase, bowl = (index[f"i{i}"] for i in range(4))
    assert values.shape[0] == dataset.item_num and values.dtype == np.float32 and not values[0].any()
    for near, far in (
        ((red, hat), (red, vase)),
        ((vase, bowl), (vase, hat)),
        ((index["i4"], index["i6"]), (index["i4"], index["i5"])),
    ):
        assert cosine(values, *near) > cosine(values, *far) + 0.1


def test_columns_of_both_kinds_count_whole_values_and_words(built, tmp_path, monkeypatch):
    seen = []
    original = module.TfidfVectorizer.fit_transform
    monkeypatch.setattr(
        module.TfidfVectorizer,
        "fit_transform",
        lambda self, documents: seen.append(documents) or original(self, documents),
    )
    toy_with(
        tmp_path, "both", **{"title:token": ["Big_Red Box"] * 41, "tags:token_seq": ["Cheap new"] * 20 + ["old"] * 21}
    )
    dataset = built("both", tmp_path)
    tfidf(dataset)
    first = sorted(seen[0][tokens_of(dataset).index("i0") - 1])
    assert first == sorted(["title=big_red box", "big", "red", "box", "tags=cheap", "cheap", "tags=new", "new"])


def test_items_without_text(built, tmp_path):
    titles = item_texts()["title:token"]
    titles[7] = titles[9] = ""
    toy_with(tmp_path, "gaps", **{"title:token": titles})
    with pytest.raises(ValueError, match=r"2 of 41 items have no content, item '(i7|i9)' first.*missing_content=zero"):
        item_content(built("gaps", tmp_path, content="tfidf"))
    dataset = built("gaps", tmp_path, content="tfidf", missing_content="zero")
    matrix, _ = item_content(dataset)
    empty = {token for token, row in zip(tokens_of(dataset)[1:], matrix[1:]) if not row.any()}
    assert empty == {"i7", "i9"} and np.isfinite(matrix).all()
    matrix, _ = item_content(built("gaps", tmp_path, content=["tfidf", "cooccurrence"]))
    assert (matrix[1:] != 0).any(1).all(), "another encoder fills the gap"


def test_a_policy_that_is_none_is_refused_even_without_gaps(built):
    with pytest.raises(ValueError, match="missing_content='skip' is not usable"):
        item_content(built(missing_content="skip"))


def test_a_dataset_without_item_columns_gets_advice(built, tmp_path):
    make_dataset(tmp_path, "bare", *planted_events())
    with pytest.raises(ValueError, match="'bare' has none loaded; name them in load_col.*content=cooccurrence"):
        tfidf(built("bare", tmp_path))
    toy_with(tmp_path, "prices", **{"price:float": range(41)})
    with pytest.raises(ValueError, match="'prices' has none loaded"):
        tfidf(built("prices", tmp_path))


def test_texts_that_tell_nothing(built, tmp_path):
    for name, titles, told in (
        ("empty", [""] * 41, "are empty for all items"),
        ("alone", [f"word{i}" for i in range(41)], "no two items share a word"),
    ):
        toy_with(tmp_path, name, **{"title:token": titles, "note:token": [""] * 41})
        with pytest.raises(ValueError, match=told):
            tfidf(built(name, tmp_path))


# ---------------------------------------------------------------- cooccurrence


def naive_ppmi(sequences, n_items, reach):
    """Weighted pair counts and their PPMI, one pair at a time."""
    counts = collections.Counter()
    for items in sequences:
        for place, first in enumerate(items):
            for distance in range(1, reach + 1):
                if place + distance < len(items):
                    counts[first, items[place + distance]] += 1 / distance
                    counts[items[place + distance], first] += 1 / distance
    margin, total = collections.Counter(), sum(counts.values())
    for (first, _), count in counts.items():
        margin[first] += count
    matrix = np.zeros((n_items, n_items))
    for (first, second), count in counts.items():
        matrix[first, second] = max(0.0, math.log(count * total / (margin[first] * margin[second])))
    return matrix


def training_of(dataset):
    log = dataset.training
    return [log.items[begin:end].tolist() for begin, end in zip(log.offsets, log.offsets[1:])]


@pytest.mark.parametrize("reach", [1, 3])
def test_cooccurrence_against_a_naive_computation(built, monkeypatch, reach):
    handed = []
    monkeypatch.setattr(
        module, "reduced_by_svd", lambda matrix, dataset, what: handed.append(matrix) or matrix.toarray()
    )
    dataset = built(cooccurrence_window=reach)
    cooccurrence(dataset)
    naive = naive_ppmi(training_of(dataset), dataset.item_num, reach)
    assert naive.max() > 0.5
    np.testing.assert_allclose(handed[0].toarray(), naive, rtol=1e-9, atol=1e-12)


def test_the_reduced_matrix_keeps_the_naive_similarities(built):
    """With nearly full rank, U·sqrt(S) has the inner products of the symmetric root of PPMI·PPMI."""
    dataset = built(content_dim=1000, cooccurrence_window=2)
    values = cooccurrence(dataset)
    naive = naive_ppmi(training_of(dataset), dataset.item_num, 2)
    left, singular, _ = np.linalg.svd(naive)
    expected = left @ np.diag(singular) @ left.T
    assert values.shape == (dataset.item_num, dataset.item_num - 1)
    np.testing.assert_allclose(values @ values.T, expected, atol=0.05 * np.abs(expected).max())


def test_only_training_events_count(built, tmp_path):
    """Another last and last but one item of every user changes nothing."""
    frame = pd.DataFrame(dict(zip(("user", "item", "time"), planted_events()))).sort_values("time")
    held_out = frame.groupby("user").tail(2)
    # Held-out events last in the file, so that internal ids, given in file order, stay the same.
    frame = pd.concat([frame.drop(index=held_out.index), held_out])
    other = frame.copy()
    other.loc[held_out.index, "item"] = held_out["item"].to_numpy()[::-1]
    for name, each in (("original", frame), ("other", other)):
        make_dataset(tmp_path, name, each["user"], each["item"], each["time"], item_texts())
    first, second = built("original", tmp_path), built("other", tmp_path)
    assert first.fingerprint() != second.fingerprint() and tokens_of(first) == tokens_of(second)
    assert np.array_equal(item_content(first)[0], item_content(second)[0])
    assert np.array_equal(first.popularity(), second.popularity())
    # The same exchange among training events does change the content.
    earlier = other.copy()
    train = frame.index.difference(held_out.index)
    earlier.loc[train, "item"] = frame.loc[train, "item"].to_numpy()[::-1]
    make_dataset(tmp_path, "earlier", earlier["user"], earlier["item"], earlier["time"], item_texts())
    assert not np.allclose(cooccurrence(built("earlier", tmp_path)), cooccurrence(first))


def test_items_without_training_events_have_no_cooccurrence(built, tmp_path):
    users, items, times = planted_events()
    late = [("u0", "new", 10**6), ("u1", "new", 10**6 + 1)]
    users, items, times = (list(old) + list(new) for old, new in zip((users, items, times), zip(*late)))
    texts = {name: list(values) + [values[0]] for name, values in item_texts().items()}
    texts["item_id:token"][-1] = "new"
    make_dataset(tmp_path, "cold", users, items, times, texts)
    with pytest.raises(ValueError, match="1 of 42 items have no content, item 'new' first"):
        item_content(built("cold", tmp_path, content="cooccurrence"))
    dataset = built("cold", tmp_path)
    cold = tokens_of(dataset).index("new")
    assert not cooccurrence(dataset)[cold].any() and item_content(dataset)[0][cold].any()


@pytest.mark.parametrize(("key", "value"), [("cooccurrence_window", 0), ("content_dim", 0), ("content_dim", -3)])
def test_sizes_out_of_range(built, key, value):
    with pytest.raises(ValueError, match=f"{key}={value} is not usable"):
        item_content(built(**{key: value}))


# ---------------------------------------------------------------- file


@pytest.fixture
def own(built, tmp_path):
    """``own(**settings)``: content=file on a copy of toy, so that files can lie beside it."""
    make_dataset(tmp_path, "mine", *planted_events(), item_columns=item_texts())
    return lambda **settings: built("mine", tmp_path, content="file", **settings)


def vectors(seed=0, rows=41, d=6):
    return np.random.default_rng(seed).normal(size=(rows, d)).astype(np.float32)


def check(dataset, by_token):
    values = from_file(dataset).matrix
    assert values.dtype == np.float32 and not values[0].any()
    for token, row in zip(tokens_of(dataset)[1:], values[1:]):
        assert np.array_equal(row, by_token[token].astype(np.float32))


def test_npy_in_the_order_of_the_item_file(own, tmp_path):
    matrix = vectors()
    np.save(tmp_path / "x.npy", matrix)
    dataset = own(content_file=str(tmp_path / "x.npy"))
    assert tokens_of(dataset)[1:] != item_texts()["item_id:token"], "or this would show nothing"
    check(dataset, {f"i{i}": row for i, row in enumerate(matrix)})


def test_npy_with_ids_and_rows_of_other_items(own, tmp_path):
    ids = [f"i{i}" for i in np.random.default_rng(3).permutation(41)] + ["stranger", "another one"]
    matrix = vectors(rows=43).astype(np.float64)
    np.save(tmp_path / "x.npy", matrix)
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    check(own(content_file=str(tmp_path / "x.npy"), content_ids=str(tmp_path / "ids.txt")), dict(zip(ids, matrix)))


def test_safetensors_in_both_forms(own, tmp_path):
    matrix, ids = vectors(), [f"i{i}" for i in np.random.default_rng(3).permutation(41)]
    save_file({"embedding": matrix}, tmp_path / "one.safetensors", {"item_tokens": json.dumps(ids)})
    save_file(dict(zip(ids, matrix)), tmp_path / "each.safetensors")
    for name in ("one", "each"):
        check(own(content_file=str(tmp_path / f"{name}.safetensors")), dict(zip(ids, matrix)))
    half = {token: torch.from_numpy(row).bfloat16() for token, row in zip(ids, matrix)}
    save_torch_file(half, tmp_path / "half.safetensors")
    check(
        own(content_file=str(tmp_path / "half.safetensors")),
        {token: row.float().numpy() for token, row in half.items()},
    )


def test_a_path_relative_to_the_dataset_folder(own, tmp_path, monkeypatch):
    matrix = vectors()
    np.save(tmp_path / "mine" / "x.npy", matrix)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    check(own(content_file="x.npy"), {f"i{i}": row for i, row in enumerate(matrix)})


def test_a_missing_file(own, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"content_file='x\.npy': no such file here or in .*mine"):
        from_file(own(content_file="x.npy"))
    with pytest.raises(ValueError, match="content=file needs content_file=<path>"):
        from_file(own())
    np.save(tmp_path / "x.npy", vectors())
    with pytest.raises(FileNotFoundError, match="content_ids='ids.txt': no such file"):
        from_file(own(content_file="x.npy", content_ids="ids.txt"))
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"must end in \.npy or \.safetensors"):
        from_file(own(content_file="x.csv"))


@pytest.mark.parametrize("rows", [40, 42, 1, 0])
def test_a_wrong_number_of_rows(own, tmp_path, rows):
    np.save(tmp_path / "x.npy", vectors(rows=rows))
    with pytest.raises(ValueError, match=rf"shape \({rows}, 6\), which does not match 41 item ids"):
        from_file(own(content_file="x.npy"))


def test_a_matrix_that_is_none(own, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(41))
    with pytest.raises(ValueError, match=r"shape \(41,\)"):
        from_file(own(content_file="x.npy"))
    np.save(tmp_path / "x.npy", np.array([{"a": 1}] * 41, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="x.npy is not a .npy file of numbers"):
        from_file(own(content_file="x.npy"))
    np.save(tmp_path / "x.npy", np.full((41, 2), "word"))
    with pytest.raises(ValueError, match="x.npy is not a .npy file of numbers"):
        from_file(own(content_file="x.npy"))
    with open(tmp_path / "x.npy", "wb") as file:
        np.savez(file, vectors())
    with pytest.raises(ValueError, match="x.npy is not a .npy file of numbers"):
        from_file(own(content_file="x.npy"))
    for name in ("x.npy", "x.safetensors"):
        (tmp_path / name).write_bytes(b"no such format")
        with pytest.raises(ValueError, match=f"content_file .*{name} is not"):
            from_file(own(content_file=name))
    save_file({"embedding": vectors()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no JSON list item_tokens"):
        from_file(own(content_file="x.safetensors"))
    save_file({"embedding": vectors()}, tmp_path / "x.safetensors", {"item_tokens": "[broken"})
    with pytest.raises(ValueError, match="content_file .*item_tokens"):
        from_file(own(content_file="x.safetensors"))
    save_file({"i0": np.zeros(3, np.float32), "i1": np.zeros(4, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="content_file .*same (size|shape|length)"):
        from_file(own(content_file="x.safetensors"))


def test_missing_items_are_named(own, tmp_path):
    ids = [f"i{i}" for i in range(41)]
    ids[5], ids[8] = "x5", "x8"
    (tmp_path / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    np.save(tmp_path / "x.npy", vectors())
    with pytest.raises(ValueError, match=r"no row for 2 of 41 items, among them \['i[58]', 'i[58]'\]"):
        from_file(own(content_file="x.npy", content_ids="ids.txt"))


def test_ids_that_repeat(own, tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(["i3"] + [f"i{i}" for i in range(41)]), encoding="utf-8")
    np.save(tmp_path / "x.npy", vectors(rows=42))
    with pytest.raises(ValueError, match="item id 'i3' occurs more than once"):
        from_file(own(content_file="x.npy", content_ids="ids.txt"))


def test_ids_files_of_other_systems(own, tmp_path):
    matrix, ids = vectors(), [f"i{i}" for i in range(41)]
    np.save(tmp_path / "x.npy", matrix)
    for text in ("\ufeff" + "\n".join(ids), "\r\n".join(ids) + "\r\n", "".join(f"i{i}\t{i}\n" for i in range(41))):
        (tmp_path / "ids.txt").write_bytes(text.encode())
        check(own(content_file="x.npy", content_ids="ids.txt"), dict(zip(ids, matrix)))
    (tmp_path / "ids.txt").write_bytes("é\n".encode("cp1252") * 41)
    for other in ("ids.txt", "x.npy"):
        with pytest.raises(ValueError, match=f"content_ids: {other} is not a text file in UTF-8"):
            from_file(own(content_file="x.npy", content_ids=other))


def test_an_item_file_with_swallowed_rows_orders_no_matrix(own, tmp_path):
    np.save(tmp_path / "x.npy", vectors(rows=38))
    dataset = own(content_file="x.npy")
    path = tmp_path / "mine" / "mine.item"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(ValueError, match="does not match 41 item ids"):
        from_file(dataset)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4], lines[7] = lines[4].replace("\t", '\t"', 1), lines[7].replace("\tgroup", '"\tgroup')
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="mine.item, line 5, column 'title'"):
        from_file(dataset)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_damaged_content_is_one_line_with_the_setting(own, tmp_path, kind):
    path, rng = tmp_path / f"x.{kind}", np.random.default_rng(0)
    if kind == "npy":
        np.save(path, vectors())
    else:
        save_file({f"i{i}": row for i, row in enumerate(vectors())}, path)
    whole, dataset = path.read_bytes(), own(content_file=path.name)
    for _ in range(100):
        content = bytearray(whole)
        if rng.random() < 0.5:
            content[rng.integers(min(300, len(content)))] ^= 1 << int(rng.integers(8))
        else:
            del content[rng.integers(len(content)) :]
        path.write_bytes(content)
        try:
            from_file(dataset)
        except ValueError as error:
            assert "content_file" in str(error) and path.name in str(error) and "\n" not in str(error)


def build_whole(folder, **settings):
    config = Config("VLSID", "mine", config_dict={**FAST, "data_path": str(folder), "content": "file", **settings})
    dataset = SemanticIDDataset(config)
    dataset.build()
    return dataset


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_name_the_item(own, tmp_path, value):
    own()
    matrix = vectors()
    matrix[17, 2] = value
    np.save(tmp_path / "x.npy", matrix)
    with pytest.raises(ValueError, match="the content of item 'i17' holds NaN or infinite values"):
        build_whole(tmp_path, content_file="x.npy")
    with pytest.raises(ValueError, match="the content of item 'i17' holds NaN or infinite values"):
        build_whole(tmp_path, content_file="x.npy", content=["tfidf", "file"])


def test_constant_content_is_refused(own, tmp_path):
    own()
    np.save(tmp_path / "x.npy", np.ones((41, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="all 41 items have the same content vector"):
        build_whole(tmp_path, content_file="x.npy")
    np.save(tmp_path / "x.npy", np.zeros((41, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="41 of 41 items have no content"):
        build_whole(tmp_path, content_file="x.npy")


# ---------------------------------------------------------------- several encoders


@pytest.mark.parametrize(
    "weights", [[1], [1, 2, 3], [1, 0], [1, -1], [1, "two"], 1, "11", [1, float("nan")], [1, True]]
)
def test_weights_that_do_not_fit(built, weights):
    with pytest.raises(ValueError, match="content_weights=.* must be one positive number for each"):
        item_content(built(content_weights=weights))


def test_encoders_that_do_not_exist(built):
    for content, told in (("bert", "unknown content encoder 'bert'"), (["tfidf", 3], "content="),
                          ([], "content")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            item_content(built(content=content))


def test_blocks_are_unit_rows_times_their_weight(built, tmp_path):
    np.save(tmp_path / "x.npy", 100 * vectors())
    settings = {"content_file": str(tmp_path / "x.npy"), "content": ["tfidf", "cooccurrence", "file"]}
    dataset = built(content_weights=[1, 0.5, 3], **settings)
    matrix, provenance = item_content(dataset)
    blocks = [tfidf(dataset), cooccurrence(dataset), from_file(dataset).matrix]
    expected = [
        weight * block[1:] / np.linalg.norm(block[1:], axis=1, keepdims=True)
        for weight, block in zip([1, 0.5, 3], blocks)
    ]
    np.testing.assert_allclose(matrix[1:], np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)
    assert matrix.dtype == np.float32 and not matrix[0].any()
    facts = [(each["encoder"], each["weight"], each["dimensions"], each["items_without"]) for each in provenance]
    assert facts == [("tfidf", 1, 8, 0), ("cooccurrence", 0.5, 8, 0), ("file", 3, 6, 0)]
    assert provenance[0]["columns"] == ["title", "category"] and provenance[2]["file"] == "x.npy"
    assert len({each["matrix_hash"] for each in provenance}) == 3
    plain, _ = item_content(built(**settings))
    np.testing.assert_allclose(np.linalg.norm(plain[1:], axis=1), np.sqrt(3), rtol=1e-5)


def test_one_name_is_a_list_of_one(built):
    assert np.array_equal(item_content(built(content="tfidf"))[0], item_content(built(content=["tfidf"]))[0])


def test_the_seed_decides(built):
    first, again = item_content(built(seed=7))[0], item_content(built(seed=7))[0]
    assert np.array_equal(first, again)
    other = item_content(built(seed=8))[0]
    # Another seed of the randomised SVD: nearly the same directions, not the same bits.
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(np.abs(first @ first.T), np.abs(other @ other.T), atol=0.1)
