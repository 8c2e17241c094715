"""``content: auto``: what it chooses, what it tells, and what becomes of items that nothing is known of."""

from __future__ import annotations

import numpy as np
import pytest

import recbole_vsid
from recbole_vsid.config import Config
from recbole_vsid.data import content as module
from recbole_vsid.data.content import item_content
from recbole_vsid.data.dataset import SemanticIDDataset
from tests.conftest import N_ITEMS, item_texts, make_dataset, planted_events

BOTH, ALONE = ["tfidf", "cooccurrence"], ["cooccurrence"]


def built(folder, name="shop", **settings):
    fast = {"tokenizer": "rkmeans", "sid_vocab_size": 4, "sid_n_levels": 1, "content_dim": 8, "show_progress": False}
    dataset = SemanticIDDataset(Config("VLSID", name, config_dict={**fast, "data_path": str(folder), **settings}))
    dataset.build()
    return dataset


def blocks_of(dataset):
    return dataset.semantic_ids.provenance["content"]


def chosen(dataset):
    names = [block["encoder"] for block in blocks_of(dataset)]
    assert dataset.tokenizer_report["content"] == names
    return names


def with_late_items(folder, names, titles=None, title=""):
    """``shop``: planted events, and items ``names`` that occur only as the last event of a user.

    Args:
        titles: of the other items; without them there is no item file.
        title: of each late item.
    """
    users, items, times = planted_events()
    late = [(f"u{i}", name, 10**6) for i, name in enumerate(names)]
    users, items, times = (list(old) + list(new) for old, new in zip((users, items, times), zip(*late)))
    columns = None
    if titles is not None:
        ids = [f"i{i}" for i in range(N_ITEMS)]
        columns = {"item_id:token": [*ids, *names], "title:token": [*titles, *[title] * len(names)]}
    make_dataset(folder, "shop", users, items, times, columns)


# ---------------------------------------------------------------- what is chosen


def test_auto_is_the_default_and_the_same_as_both_by_name(data_path, caplog):
    caplog.set_level("INFO")
    automatic = built(data_path, "toy")
    assert automatic.config["content"] == "auto" and chosen(automatic) == BOTH
    assert "Content auto: tfidf over title, category, and cooccurrence" in caplog.messages
    for same in (BOTH, ["auto"]):
        named = built(data_path, "toy", content=same, cache_dir=None)
        assert named.semantic_ids == automatic.semantic_ids
        assert named.semantic_ids.provenance == automatic.semantic_ids.provenance
        assert np.array_equal(item_content(named)[0], item_content(automatic)[0])
    assert sum(message.startswith("Content auto") for message in caplog.messages) > 1
    caplog.clear()
    built(data_path, "toy", content=BOTH)
    assert "Content auto" not in caplog.text


def test_tfidf_is_computed_once(data_path, monkeypatch):
    calls, svd = [], module.reduced_by_svd
    monkeypatch.setattr(module, "reduced_by_svd", lambda *given: calls.append(given[2]) or svd(*given))
    built(data_path, "toy")
    assert [what.split()[0] for what in calls] == BOTH


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (None, "dataset 'shop' has none loaded"),
        ({}, "dataset 'shop' has none loaded"),
        ({"price:float": range(N_ITEMS)}, "dataset 'shop' has none loaded"),
        ({"title:token": [""] * N_ITEMS, "tags:token_seq": [""] * N_ITEMS}, "are empty for all items"),
        ({"title:token": [f"word{i}" for i in range(N_ITEMS)]}, "no two items share a word in the columns ['title']"),
        ({"one:token_seq": ["same"] * N_ITEMS}, "all items have the same words and values"),
        ({"one:token_seq": ["all the same"] * N_ITEMS}, "all items have the same words and values"),
    ],
    ids=["no file", "no columns", "numbers", "empty", "nothing shared", "constant", "constant words"],
)
def test_items_that_text_does_not_tell_apart(tmp_path, caplog, columns, reason):
    caplog.set_level("INFO")
    ids = {"item_id:token": [f"i{i}" for i in range(N_ITEMS)]}
    make_dataset(tmp_path, "shop", *planted_events(), item_columns=None if columns is None else {**ids, **columns})
    automatic, named = built(tmp_path), built(tmp_path, content="cooccurrence")
    assert chosen(automatic) == ALONE and automatic.semantic_ids == named.semantic_ids
    (line,) = [message for message in caplog.messages if message.startswith("Content auto")]
    assert "cooccurrence alone; " in line and reason in line


def test_other_errors_of_tfidf_are_not_swallowed(data_path):
    config = Config("VLSID", "toy", config_dict={"tokenizer": "rkmeans", "data_path": str(data_path)})
    config["content_dim"] = 0
    with pytest.raises(ValueError, match="content_dim=0 is not usable"):
        SemanticIDDataset(config).build()


# ---------------------------------------------------------------- settings


def test_auto_stands_alone():
    with pytest.raises(ValueError, match=r"content=\['auto', 'file'\] is not usable: auto chooses .* stand alone"):
        Config("VLSID", "toy", config_dict={"content": ["auto", "file"]})
    with pytest.raises(ValueError, match="unknown content encoder 'Auto'. Did you mean 'auto'"):
        Config("VLSID", "toy", config_dict={"content": "Auto"})


def test_weights_must_match_what_was_chosen(data_path, tmp_path):
    weighted = built(data_path, "toy", content_weights=[1, 0.5])
    assert [block["weight"] for block in blocks_of(weighted)] == [1, 0.5]
    told = r"content_weights=\[2\] must be one positive number for each of content=auto, which chose \['tfidf', 'cooc"
    with pytest.raises(ValueError, match=told):
        built(data_path, "toy", content_weights=[2])
    make_dataset(tmp_path, "shop", *planted_events())
    assert blocks_of(built(tmp_path, content_weights=[2]))[0]["weight"] == 2
    with pytest.raises(ValueError, match=r"content_weights=\[1, 2\] .* which chose \['cooccurrence'\] here"):
        built(tmp_path, content_weights=[1, 2])


@pytest.mark.parametrize(("model", "content"), [("TIGER", "tfidf"), ("ReSID", "famae"), ("DIGER", "tfidf")])
def test_models_with_content_of_their_own_keep_it(model, content):
    assert Config(model, "toy")["content"] == [content]


# ---------------------------------------------------------------- items of which nothing is known


def test_items_that_nothing_is_known_of_do_not_stop_auto(tmp_path, caplog):
    with_late_items(tmp_path, ["new0", "new1"], item_texts()["title:token"])
    dataset = built(tmp_path)
    row = [str(token) for token in dataset.semantic_ids.item_tokens].index("new0")
    matrix, _ = item_content(dataset)
    assert chosen(dataset) == BOTH and not matrix[row : row + 2].any() and matrix[1:row].any(1).all()
    assert "2 of 43 items have no content, item 'new0' first; they all get the same empty vector" in caplog.text
    with pytest.raises(ValueError, match=r"2 of 43 items .* add an encoder to content=auto, which chose \['tfidf'"):
        built(tmp_path, missing_content="error")


def test_content_named_by_the_user_must_know_all_items(tmp_path, caplog):
    with_late_items(tmp_path, ["new0", "new1"], item_texts()["title:token"])
    told = r"2 of 43 items have no content, item 'new0' first.*content=\['tfidf', 'cooccurrence'\].*set missing_content"
    for policy in (None, "error"):
        with pytest.raises(ValueError, match=told):
            built(tmp_path, content=BOTH, missing_content=policy)
    built(tmp_path, content=BOTH, missing_content="zero")
    assert "2 of 43 items have no content" in caplog.text


def test_without_an_item_file_vlsid_trains_to_the_end(tmp_path, small_settings, caplog):
    with_late_items(tmp_path, ["new0"])
    result = recbole_vsid.run("VLSID", "shop", config_dict=small_settings(data_path=str(tmp_path)))
    assert result["semantic_ids"]["content"] == ALONE and result["semantic_ids"]["n_items"] == 42
    assert result["semantic_ids"]["provenance"]["content"][0]["items_without"] == 1
    assert "1 of 42 items have no content, item 'new0' first" in caplog.text
    assert result["test_result"]["consumed_kept"]["recall@10"] >= 0


# ---------------------------------------------------------------- co-occurrence of items without training events


def groups(folder, n_late):
    """``shop``: users stay in one of four groups, which titles name; the late items are of group 2."""
    rng, events = np.random.default_rng(0), []
    for user in range(60):
        for item in rng.permutation(10)[:8]:
            events.append((f"u{user}", f"i{user % 4}-{item}", len(events)))
    events += [(f"u{user}", f"late{user}", 10**6) for user in range(n_late)]
    ids = [f"i{group}-{item}" for group in range(4) for item in range(10)] + [f"late{user}" for user in range(n_late)]
    titles = [f"kind{group} size{item % 3}" for group in range(4) for item in range(10)] + ["kind2 size1"] * n_late
    make_dataset(folder, "shop", *zip(*events), {"item_id:token": ids, "title:token": titles})


def test_late_items_get_the_cooccurrence_of_their_like(tmp_path, caplog):
    caplog.set_level("INFO")
    groups(tmp_path, 5)
    dataset = built(tmp_path, content_weights=[1, 0.5])
    matrix, provenance = item_content(dataset)
    assert (provenance[1]["items_without"], provenance[1]["regressed"]) == (5, 5) and "regressed" not in provenance[0]
    assert "Co-occurrence of 5 items without any is predicted" in caplog.text
    tokens = [str(token) for token in dataset.semantic_ids.item_tokens]
    block = matrix[:, provenance[0]["dimensions"] :]
    np.testing.assert_allclose(np.linalg.norm(block[1:], axis=1), 0.5, rtol=1e-4)
    late = block[tokens.index("late0")] / 0.5
    near = {group: np.mean([late @ row for row, token in zip(block / 0.5, tokens) if token.startswith(f"i{group}-")])
            for group in range(4)}  # fmt: skip
    assert near[2] > 0.5 > max(near[0], near[1], near[3]) + 0.2
    assert np.array_equal(matrix, item_content(built(tmp_path, content_weights=[1, 0.5], cache_dir=None))[0])


def test_two_late_items_or_cooccurrence_alone_are_left(tmp_path, caplog):
    caplog.set_level("INFO")
    groups(tmp_path, 2)
    matrix, provenance = item_content(built(tmp_path))
    assert provenance[1]["items_without"] == 2 and "regressed" not in provenance[1]
    assert (matrix[1:] != 0).any(1).all(), "their titles are known"
    groups(tmp_path, 5)
    assert "regressed" not in blocks_of(built(tmp_path, content="cooccurrence", missing_content="zero"))[0]
    assert "is predicted" not in caplog.text
