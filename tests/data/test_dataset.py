"""Datasets: true time order, RecBole's own rows, known histories, and errors that say what is wrong."""

from __future__ import annotations

import collections

import numpy as np
import pandas as pd
import pytest
import recbole.data.dataset as stock
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.sampler import Sampler

from recbole_vsid.checkpoint import pack_table
from recbole_vsid.config import Config
from recbole_vsid.data import dataset as module
from recbole_vsid.data.dataset import SemanticIDDataset, dataset_class
from recbole_vsid.quick_start import build_data, run
from tests.conftest import make_dataset

FAST = {"tokenizer": "rkmeans", "sid_vocab_size": 4, "sid_n_levels": 1, "sid_max_iterations": 2, "content_dim": 8,
        "show_progress": False}  # fmt: skip


def make(model, name, folder=None, **settings):
    """(dataset, its built splits) of one of this package's dataset classes."""
    settings = {**(FAST if model == "VLSID" else {}), **settings}
    if folder is not None:
        settings["data_path"] = str(folder)
    config = Config(model, name, config_dict=settings)
    dataset = dataset_class(config)(config)
    return dataset, dataset.build()


def without_semantic_ids(monkeypatch):
    """For what has nothing to do with the tokenizer: a table is not made."""

    def nothing(dataset):
        tokens = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
        return type("Table", (), {"item_tokens": tokens, "n_items": len(tokens)})(), {}

    monkeypatch.setattr(module, "fit_semantic_ids", nothing)


def read_events(path):
    """Naive reference: user token → item tokens by time, ties in file order."""
    frame = pd.read_csv(path, sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    frame = frame.sort_values("timestamp:float", kind="stable")
    return {user: rows["item_id:token"].tolist() for user, rows in frame.groupby("user_id:token", sort=False)}


def tokens_of(dataset, field, ids):
    return [str(token) for token in dataset.field2id_token[field][np.asarray(ids)]]


def log_of(dataset, log):
    """User token → item tokens of an ``EventLog``, empty users left out."""
    users, items = dataset.field2id_token[dataset.uid_field], dataset.field2id_token[dataset.iid_field]
    return {
        str(users[user]): [str(items[item]) for item in log.items[log.offsets[user] : log.offsets[user + 1]]]
        for user in range(len(users))
        if log.counts()[user]
    }


def targets_of(dataset, part):
    """User token → target item token of a validation or test split."""
    feat = part.inter_feat
    users = tokens_of(dataset, dataset.uid_field, feat[dataset.uid_field].numpy())
    return dict(zip(users, tokens_of(dataset, dataset.iid_field, feat[dataset.iid_field].numpy())))


@pytest.fixture(scope="module")
def second_steps(tmp_path_factory):
    """Seconds since 1970, one second apart, rows in random order: float32 holds every 64th or 128th of them."""
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(30), 12)
    items = rng.integers(0, 25, len(users))
    times = 1_500_000_000 + rng.permutation(len(users))
    rows = rng.permutation(len(users))
    folder = tmp_path_factory.mktemp("seconds")
    make_dataset(folder, "seconds", [f"u{u}" for u in users[rows]], [f"i{i}" for i in items[rows]], times[rows])
    return folder


# ---------------------------------------------------------------- (a) time


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
def test_seconds_keep_their_order(second_steps, monkeypatch, model):
    without_semantic_ids(monkeypatch)
    dataset, (_, valid, test) = make(model, "seconds", second_steps)
    naive = read_events(second_steps / "seconds" / "seconds.inter")
    assert log_of(dataset, dataset.events) == naive
    assert targets_of(dataset, test) == {user: events[-1] for user, events in naive.items()}
    assert targets_of(dataset, valid) == {user: events[-2] for user, events in naive.items()}


def test_recboles_own_dataset_loses_the_order_of_seconds(second_steps):
    """The evidence for the override: if this fails, RecBole has mended it and the override can go."""
    config = Config("SASRec", "seconds", config_dict={"data_path": str(second_steps)})
    dataset = stock.SequentialDataset(config)
    test = dataset.build()[2]
    naive = read_events(second_steps / "seconds" / "seconds.inter")
    wrong = sum(item != naive[user][-1] for user, item in targets_of(dataset, test).items())
    assert wrong > 0.2 * len(naive)


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
def test_ties_keep_the_order_of_the_file(tmp_path, monkeypatch, model):
    without_semantic_ids(monkeypatch)
    rng = np.random.default_rng(0)
    users = [f"u{u}" for u in rng.integers(0, 10, 150)]
    items = [f"i{i}" for i in rng.integers(0, 12, 150)]
    make_dataset(tmp_path, "ties", users, items, 1_500_000_000 + rng.integers(0, 3, 150))
    dataset, (_, _, test) = make(model, "ties", tmp_path)
    naive = read_events(tmp_path / "ties" / "ties.inter")
    assert log_of(dataset, dataset.events) == naive
    assert targets_of(dataset, test) == {user: events[-1] for user, events in naive.items()}


# ---------------------------------------------------------------- (b) rows


@pytest.mark.parametrize(("name", "longest"), [("toy", 5), ("toy", 200), ("ml-100k", 20)])
def test_rows_are_recboles(data_path, monkeypatch, name, longest):
    without_semantic_ids(monkeypatch)
    dataset, ours = make("VLSID", name, data_path, MAX_ITEM_LIST_LENGTH=longest)
    config = Config("VLSID", name, config_dict={**FAST, "data_path": str(data_path), "MAX_ITEM_LIST_LENGTH": longest})
    # RecBole's float32 times are no matter here: small on toy, scaled to [0, 1] on ml-100k with few collisions.
    theirs_dataset = stock.SequentialDataset(config)
    if name == "ml-100k":
        theirs_dataset.inter_feat = theirs_dataset.inter_feat.sort_values("timestamp", kind="stable")
    theirs = theirs_dataset.build()
    for mine, their in zip(ours, theirs):
        assert len(mine) == len(their) > 0
        rows = mine[np.arange(len(mine))]
        for field in ("user_id", "item_id", "item_length", "item_id_list"):
            assert torch.equal(rows[field], their.inter_feat[field]), field
        assert rows["item_id_list"].shape[1] == longest
        some = torch.tensor([len(mine) - 1, 0, len(mine) // 2])
        assert torch.equal(mine[some]["item_id_list"], their[some]["item_id_list"])
        assert torch.equal(mine[3]["item_id_list"].reshape(-1), their[3]["item_id_list"].reshape(-1))


# ---------------------------------------------------------------- (c) histories


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
def test_consumed_and_training_events_against_a_naive_split(data_path, monkeypatch, model):
    without_semantic_ids(monkeypatch)
    dataset, (train, valid, test) = make(model, "toy", data_path)
    naive = read_events(data_path / "toy" / "toy.inter")
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    for part, held_out in ((valid, 2), (test, 1)):
        assert part.consumed.shape == (dataset.user_num, dataset.item_num) and part.consumed.dtype == bool
        dense = part.consumed.toarray()
        assert not dense[0].any() and not dense[:, 0].any()
        for user in range(1, dataset.user_num):
            seen = {str(token) for token in items[dense[user]]}
            assert seen == set(naive[str(users[user])][:-held_out])
    counts = np.array([0] + [len(naive[str(user)]) - 2 for user in users[1:]])
    for part in (train, valid, test):
        assert np.array_equal(part.train_counts, counts)
    if model == "VLSID":
        expected = {user: events[:-2] for user, events in naive.items()}
        for part in (dataset, train, valid, test):
            assert log_of(dataset, part.training) == expected
        popularity = collections.Counter(item for events in expected.values() for item in events)
        assert dataset.popularity().tolist() == [0] + [popularity[str(token)] for token in items[1:]]


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_consumed_is_recboles_history_mask_of_general_models(data_path, phase):
    dataset, built = make("BPR", "toy", data_path)
    part = dict(zip(("train", "valid", "test"), built))[phase]
    sampler = Sampler(["train", "valid", "test"], built).set_phase(phase)
    loader = FullSortEvalDataLoader(dataset.config, part, sampler)
    seen = np.zeros((dataset.user_num, dataset.item_num), dtype=bool)
    ours = np.zeros_like(seen)
    for interaction, (rows, columns), positive_u, positive_i in loader:
        users = interaction["user_id"]
        seen[users[rows], columns] = True
        ours[users] = part.consumed[users.numpy()].toarray()
        ours[users[positive_u], positive_i] = False  # the item to be found stays a candidate
    assert np.array_equal(seen, ours) and seen.any()


# ---------------------------------------------------------------- (d) what can be wrong with data


def test_nothing_left_after_filtering(data_path):
    with pytest.raises(ValueError, match=r"no interaction is left after filtering; loosen\s+user_inter_num_interval"):
        make("SASRec", "toy", data_path, user_inter_num_interval="[100,inf)")
    with pytest.raises(ValueError, match="no interaction is left after filtering"):
        make("VLSID", "toy", data_path, val_interval={"timestamp": "(-inf,-1)"})


def test_unknown_datasets(data_path, tmp_path):
    with pytest.raises(FileNotFoundError, match="unknown dataset 'tooy'.*holds: toy.*ml-100k always works"):
        make("SASRec", "tooy", data_path)
    with pytest.raises(FileNotFoundError, match="holds no dataset"):
        make("VLSID", "tooy", tmp_path / "nowhere")


def test_a_folder_without_interactions(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no empty.inter; set data_path"):
        make("SASRec", "empty", tmp_path)


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
def test_a_missing_time_column(tmp_path, model):
    make_dataset(tmp_path, "timeless", ["u1", "u2"] * 5, [f"i{i}" for i in range(10)])
    with pytest.raises(ValueError, match="has no column 'timestamp', which order: TO needs"):
        make(model, "timeless", tmp_path)


def test_other_missing_columns(data_path):
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
        with pytest.raises(ValueError, match=f"has no column 'who'.*set {key}"):
            make("SASRec", "toy", data_path, **{key: "who"}, load_col={"inter": "*"})
    with pytest.raises(ValueError, match="has no column 'timestamp'"):
        make("SASRec", "toy", data_path, load_col={"inter": ["user_id", "item_id"]})
    with pytest.raises(ValueError, match=r"load_col names \['nothing'\]"):
        make("SASRec", "toy", data_path, load_col={"inter": ["nothing"]})


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
@pytest.mark.parametrize("events", [1, 2])
def test_users_with_too_few_events_only(tmp_path, monkeypatch, model, events):
    without_semantic_ids(monkeypatch)
    users = [f"u{u}" for u in range(20)] * events
    make_dataset(tmp_path, "single", users, [f"i{i % 7}" for i in range(len(users))], range(len(users)))
    with pytest.raises(ValueError, match="leave-one-out needs users with at least"):
        make(model, "single", tmp_path)


def with_short_users(folder, name, data_path):
    """toy, and beside its users one each with 1, 2 and 3 events."""
    frame = pd.read_csv(data_path / "toy" / "toy.inter", sep="\t")
    columns = [frame[column].tolist() for column in frame]
    for user, items in (("one", ["i1"]), ("two", ["i2", "i3"]), ("three", ["i4", "i5", "i6"])):
        for time, item in enumerate(items):
            for column, value in zip(columns, (user, item, 10_000 + time)):
                column.append(value)
    make_dataset(folder, name, *columns)


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
def test_short_users_are_harmless(tmp_path, data_path, monkeypatch, model):
    without_semantic_ids(monkeypatch)
    with_short_users(tmp_path, "mixed", data_path)
    dataset, (_, valid, test) = make(model, "mixed", tmp_path)
    naive = read_events(tmp_path / "mixed" / "mixed.inter")
    assert log_of(dataset, dataset.events) == naive
    long = {user: events for user, events in naive.items() if len(events) > 3}
    targets = targets_of(dataset, test)
    assert {user: targets[user] for user in long} == {user: events[-1] for user, events in long.items()}
    assert "one" not in targets
    index = {str(token): user for user, token in enumerate(dataset.field2id_token["user_id"])}
    evaluated = {user: len(events) - dataset.train_counts[index[user]] for user, events in naive.items()}
    in_splits = collections.Counter(targets.keys()) + collections.Counter(targets_of(dataset, valid).keys())
    assert evaluated == {user: in_splits[user] for user in naive}, "an event is a training event or held out"
    assert test.consumed[index["one"]].sum() == 1


def test_short_users_train_too(tmp_path, data_path, small_settings):
    with_short_users(tmp_path, "mixed", data_path)
    result = run(
        "VLSID", "mixed", config_dict={**small_settings(epochs=1, content="cooccurrence"), "data_path": str(tmp_path)}
    )
    assert result["protocol"]["test_users"] == 61, "RecBole tests users with three events too"


def test_benchmark_files_are_refused(data_path):
    with pytest.raises(ValueError, match="benchmark_filename is not supported"):
        make("SASRec", "toy", data_path, benchmark_filename=["train", "valid", "test"])


def test_items_without_interactions_are_no_candidates(tmp_path, data_path):
    frame = pd.read_csv(data_path / "toy" / "toy.inter", sep="\t")
    texts = pd.read_csv(data_path / "toy" / "toy.item", sep="\t")
    columns = {name: [*texts[name], *([f"never{i}" for i in range(5)] if name == "item_id:token" else texts[name][:5])]
               for name in texts}  # fmt: skip
    make_dataset(tmp_path, "more", *[frame[column].tolist() for column in frame], item_columns=columns)
    dataset, _ = make("VLSID", "more", tmp_path)
    assert dataset.item_num == 42 and dataset.semantic_ids.n_items == 42
    assert not [token for token in dataset.semantic_ids.item_tokens if "never" in str(token)]
    assert make("VLSID", "toy", data_path)[0].fingerprint() == dataset.fingerprint()


def test_unicode_and_spaces_in_ids_survive(tmp_path, data_path):
    frame = pd.read_csv(data_path / "toy" / "toy.inter", sep="\t")
    rename = {
        f"i{i}": token for i, token in enumerate(["héllo wörld", "日本 語", "a  b", "1.0", "007", "🙂 x", "i=1/2"])
    }
    users = [f"Üser {user}" for user in frame["user_id:token"]]
    items = [rename.get(item, item) for item in frame["item_id:token"]]
    texts = pd.read_csv(data_path / "toy" / "toy.item", sep="\t")
    texts["item_id:token"] = [rename.get(item, item) for item in texts["item_id:token"]]
    make_dataset(tmp_path, "odd", users, items, frame["timestamp:float"], {name: texts[name] for name in texts})
    dataset, _ = make("VLSID", "odd", tmp_path)
    tokens = dataset.semantic_ids.item_tokens.tolist()
    assert tokens[0] == "[PAD]" and set(tokens[1:]) == set(items) and set(rename.values()) <= set(tokens)
    assert set(map(str, dataset.field2id_token["user_id"][1:])) == set(users)
    assert log_of(dataset, dataset.events) == read_events(tmp_path / "odd" / "odd.inter")


# ---------------------------------------------------------------- (e) fingerprint


def test_fingerprint(tmp_path, data_path, monkeypatch):
    without_semantic_ids(monkeypatch)
    frame = pd.read_csv(data_path / "toy" / "toy.inter", sep="\t")
    make_dataset(tmp_path, "same", *[frame[column] for column in frame])
    by_time = frame.sort_values("timestamp:float")
    first, second = by_time.index[by_time["user_id:token"] == "u0"][:2]
    assert frame.loc[first, "item_id:token"] != frame.loc[second, "item_id:token"]
    swapped = frame.copy()
    swapped.loc[[first, second], "timestamp:float"] = frame.loc[[second, first], "timestamp:float"].to_numpy()
    make_dataset(tmp_path, "swapped", *[swapped[column] for column in frame])
    make_dataset(tmp_path, "shorter", *[frame.drop(index=first)[column] for column in frame])
    later = frame.assign(**{"timestamp:float": 2 * frame["timestamp:float"] + 7})
    make_dataset(tmp_path, "later", *[later[column] for column in frame])

    renamed = frame.replace({"user_id:token": {"u0": "somebody"}})
    make_dataset(tmp_path, "renamed", *[renamed[column] for column in frame])
    others = ("swapped", "shorter", "renamed")

    def fingerprint(model, name, folder=tmp_path):
        return make(model, name, folder)[0].fingerprint()

    original = fingerprint("SASRec", "toy", data_path)
    for model in ("SASRec", "VLSID", "BPR"):
        assert fingerprint(model, "same") == fingerprint(model, "later") == original
    assert len({original, *(fingerprint("SASRec", name) for name in others)}) == 4


# ---------------------------------------------------------------- the table


def test_the_table_belongs_to_the_dataset(data_path):
    dataset, built = make("VLSID", "toy", data_path)
    assert isinstance(dataset, SemanticIDDataset)
    assert dataset.semantic_ids.provenance["data_fingerprint"] == dataset.fingerprint()
    assert all(part.semantic_ids is dataset.semantic_ids for part in built)
    again, _ = make("VLSID", "toy", data_path)
    assert np.array_equal(again.semantic_ids.codes, dataset.semantic_ids.codes)


def test_a_table_of_other_items_is_refused(tmp_path, data_path):
    dataset, _ = make("VLSID", "toy", data_path)
    frame = pd.read_csv(data_path / "toy" / "toy.inter", sep="\t")
    texts = pd.read_csv(data_path / "toy" / "toy.item", sep="\t")
    make_dataset(tmp_path, "turned", *[frame[::-1][column] for column in frame], {name: texts[name] for name in texts})
    table, report = dataset.semantic_ids, dataset.tokenizer_report
    checkpoint = {"semantic_ids": pack_table(table), "tokenizer_report": report, "state_dict": {}}
    config = Config("VLSID", "turned", config_dict={**FAST, "data_path": str(tmp_path)})
    with pytest.raises(ValueError, match="not the same in the same order: the data changed"):
        build_data(config, checkpoint)
    config = Config("VLSID", "toy", config_dict={**FAST, "data_path": str(data_path)})
    restored, _ = build_data(config, checkpoint)
    assert np.array_equal(restored.semantic_ids.codes, table.codes) and restored.tokenizer_report is report
