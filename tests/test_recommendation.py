"""The verb ``recommend``: the next items after all events of a user, equal to a user-by-user computation."""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_vsid import recommend, run
from recbole_vsid.cli import main
from recbole_vsid.model.vlsid import VLSID
from recbole_vsid.quick_start import load
from tests.conftest import N_ITEMS, N_USERS

MODELS = {
    "VLSID": {},
    "IntRR": {},
    "TIGER": {"user_tokens": 8, "MAX_ITEM_LIST_LENGTH": 5},
    "SASRec": {"hidden_size": 32, "inner_size": 32},
    "BPR": {"embedding_size": 16},
    "NeuMF": {},  # scores pairs of users and items only
    "Pop": {},  # many items have the same score
}
CHECKPOINTS = {}


@pytest.fixture
def trained(small_settings, tmp_path_factory):
    """``trained(model)``: the checkpoint of a model trained on toy, once for all tests."""

    def checkpoint(model):
        if model not in CHECKPOINTS:
            folder = tmp_path_factory.mktemp(model)
            run(model, "toy", config_dict=small_settings(model, checkpoint_dir=str(folder), epochs=1, **MODELS[model]))
            (CHECKPOINTS[model],) = folder.glob("*/best.pth")
        return CHECKPOINTS[model]

    return checkpoint


@pytest.fixture
def events(data_path):
    """User → items by time, straight from the file."""
    table = pd.read_csv(data_path / "toy" / "toy.inter", sep="\t", dtype=str)
    found = defaultdict(list)
    for user, item, _ in sorted(table.itertuples(index=False), key=lambda row: int(row[2])):
        found[user].append(item)
    return found


def naive(checkpoint, events):
    """Every item for every user, best first: one user at a time, every item scored, Python's own sort."""
    config, data, _, model = load(checkpoint)
    if config.is_generative:
        model.decoding = "exact"
    number, name = data.field2token_id["item_id"], data.field2id_token["item_id"]
    rows = []
    for user, items in events.items():
        ids = [number[item] for item in items]
        read = ids[-(config["MAX_ITEM_LIST_LENGTH"] or 1) :]
        columns = {"user_id": data.field2token_id["user_id"][user], "item_id_list": read, "item_length": len(read)}
        row = Interaction({name: torch.tensor([column]) for name, column in columns.items()})
        with torch.no_grad():
            if config["model"] == "NeuMF":
                row = Interaction({"user_id": row["user_id"].repeat(N_ITEMS + 1), "item_id": torch.arange(N_ITEMS + 1)})
                scores = model.predict(row).tolist()
            else:
                scores = model.full_sort_predict(row).flatten().tolist()
        best = sorted(range(1, N_ITEMS + 1), key=lambda item: (-scores[item], item))
        rows += [(user, name[item], scores[item], item in ids) for item in best]
    return pd.DataFrame(rows, columns=["user", "item", "score", "consumed"])


def assert_same(table, expected):
    """The same items in the same order for every user, whichever user comes first; scores up to rounding."""
    table, expected = (each.sort_values(["user", "rank"], ignore_index=True) for each in (table, expected))
    assert table[["user", "rank", "item"]].equals(expected[["user", "rank", "item"]])
    assert np.allclose(table["score"], expected["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", list(MODELS))
def test_it_equals_a_computation_user_by_user(trained, events, model):
    settings = {"beam_width": N_ITEMS} if model in ("VLSID", "IntRR", "TIGER") else {}
    everything = naive(trained(model), events)
    for keep in (False, True):
        table = recommend(trained(model), k=6, keep_consumed=keep, config_dict=settings)
        assert len(table) == 6 * N_USERS and table.columns[:4].tolist() == ["user", "rank", "item", "score"]
        expected = everything[keep | ~everything["consumed"]].groupby("user").head(6)
        assert_same(table, expected.assign(rank=expected.groupby("user").cumcount() + 1))


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "BPR"])
def test_nothing_consumed_is_recommended_not_even_the_test_event(trained, events, model):
    table = recommend(trained(model), k=N_ITEMS)
    for user, items in table.groupby("user")["item"]:
        assert sorted({*items, *events[user]}) == sorted(f"i{item}" for item in range(N_ITEMS))
        assert len(items) + len(set(events[user])) == N_ITEMS
    assert set(recommend(trained(model), k=3, keep_consumed=True)["rank"]) == {1, 2, 3}


@pytest.mark.parametrize("decoding", ["beam", "exact"])
def test_semantic_ids_are_those_of_the_table(trained, decoding):
    table = recommend(trained("VLSID"), ["u3", "u1"], k=4, config_dict={"decoding": decoding})
    _, data, _, model = load(trained("VLSID"))
    assert table["user"].tolist() == ["u3"] * 4 + ["u1"] * 4 and table["rank"].tolist() == [1, 2, 3, 4] * 2
    for item, text in zip(table["item"], table["semantic_id"]):
        row = data.field2token_id["item_id"][item]
        assert [int(code) for code in text.split("-")] == model.semantic_ids.codes[row].tolist()


@pytest.mark.parametrize("model", ["VLSID", "TIGER"])
def test_a_beam_that_finds_too_few_is_widened(trained, events, model, caplog):
    """A beam of 20 finds about 20 items, of which a user has consumed some."""
    narrow = recommend(trained(model), k=19)
    assert len(narrow) == 19 * N_USERS
    with caplog.at_level(logging.WARNING):
        everything = recommend(trained(model), k=35)
    left = {user: N_ITEMS - len(set(items)) for user, items in events.items()}
    assert everything["user"].value_counts().to_dict() == {user: min(35, n) for user, n in left.items()}
    n_short = sum(n < 35 for n in left.values())
    assert n_short and f"{n_short} of 60 users get fewer than k=35 items: the catalogue has 41" in caplog.text
    assert np.isfinite(everything["score"]).all() and not everything.duplicated(["user", "item"]).any()


@pytest.mark.parametrize("model", ["VLSID", "SASRec", "NeuMF"])
def test_the_batch_does_not_matter_and_calls_repeat(trained, model):
    first, again = (recommend(trained(model), k=19) for _ in range(2))
    assert first.equals(again)
    assert_same(recommend(trained(model), k=19, config_dict={"eval_batch_size": 7}), first)
    assert_same(recommend(trained(model), ["u5", "u7", "u5"], k=19), first[first["user"].isin(["u5", "u7"])])


@pytest.mark.parametrize("model", ["VLSID", "IntRR", "SASRec"])
def test_a_history_counts_as_the_user_who_has_it(trained, events, model):
    histories = {name: items for name, items in events.items() if name in ("u2", "u9")}
    table = recommend(trained(model), histories=histories, k=5)
    assert_same(table, recommend(trained(model), ["u2", "u9"], k=5))
    both = recommend(trained(model), ["u4"], histories={"new": ["i1"]}, k=5)
    assert both["user"].unique().tolist() == ["u4", "new"] and "i1" not in both[both["user"] == "new"]["item"].tolist()


def test_a_beam_widened_for_users_is_not_widened_for_histories(trained, monkeypatch):
    widths, search = [], VLSID.full_sort_predict

    def watched(model, interaction):
        widths.append(model.beam_width)
        return search(model, interaction)

    monkeypatch.setattr(VLSID, "full_sort_predict", watched)
    users = [f"u{user}" for user in range(N_USERS)]
    recommend(trained("VLSID"), users, histories={"new": ["i1"]}, k=19)
    assert widths == [20, 40, 20]


def test_only_the_last_events_of_a_long_history_are_read_but_all_are_removed(trained):
    config, *_ = load(trained("SASRec"))
    longest = config["MAX_ITEM_LIST_LENGTH"]
    recent = ["i1", "i2"] * (longest // 2)
    short, long = (
        recommend(trained("SASRec"), histories={"new": items}, k=N_ITEMS) for items in (recent, ["i3", *recent])
    )
    assert_same(long, short[short["item"] != "i3"].assign(rank=range(1, len(short))))


@pytest.mark.parametrize(
    ("model", "arguments", "told"),
    [
        ("VLSID", {"k": 0}, "k=0 is not usable"),
        ("VLSID", {"k": 2.5}, "k=2.5 is not usable"),
        ("VLSID", {"keep_consumed": "maybe"}, "keep_consumed='maybe' is not usable"),
        ("VLSID", {"users": "u1"}, "users='u1' is not usable: it must be a list"),
        ("VLSID", {"users": []}, "users names nobody"),
        ("VLSID", {"users": ["u1", "x", "[PAD]"]}, r"2 of 3 users have no events in toy: 'x', '\[PAD\]'"),
        ("VLSID", {"users": list("abcdefg")}, "'a', 'b', 'c', 'd', 'e' and 2 more"),
        ("VLSID", {"histories": {}}, "histories is empty"),
        ("VLSID", {"histories": {"new": []}}, r"the history of 'new' is \[\]"),
        ("VLSID", {"histories": {"new": "i1"}}, "the history of 'new' is 'i1'"),
        ("VLSID", {"histories": {"new": ["i1", "i41"]}}, "1 of 2 items in the history of 'new' are not in toy: 'i41'"),
        ("VLSID", {"users": ["u1"], "histories": {"u1": ["i1"]}}, "'u1' stand in users and in histories"),
        ("VLSID", {"config_dict": {"beam": 3}}, "unknown setting 'beam'"),
        ("TIGER", {"histories": {"new": ["i1"]}}, "TIGER reads the field 'user_id', and histories give no"),
        ("BPR", {"histories": {"new": ["i1"]}}, "histories are for sequential models; BPR knows"),
        ("BPR", {"config_dict": {"embedding_size": 8}}, "does not fit the data or the settings"),
    ],
)
def test_what_cannot_be_done_is_refused(trained, model, arguments, told):
    with pytest.raises(ValueError, match=told):
        recommend(trained(model), **arguments)


def test_new_events_are_used_where_the_model_knows_its_items_by_name(trained, data_path, tmp_path):
    """An event of the latest time, after the training: read by VLSID; RecBole's models may mix up their numbers."""
    shutil.copytree(data_path / "toy", tmp_path / "toy")
    changes = {"data_path": str(tmp_path)}
    before = recommend(trained("VLSID"), ["u0"], k=3, config_dict=changes)
    with open(tmp_path / "toy" / "toy.inter", "a", encoding="utf-8") as file:
        file.write(f"u0\t{before['item'][0]}\t99999\n")
    after = recommend(trained("VLSID"), ["u0"], k=3, config_dict=changes)
    assert before["item"][0] not in after["item"].tolist()
    assert before["score"].tolist() != after["score"].tolist()
    for model in ("SASRec", "BPR"):
        with pytest.raises(ValueError, match=f"was trained on other interactions than .* train {model} again"):
            recommend(trained(model), ["u0"], config_dict=changes)


# ---------------------------------------------------------------- command line


def test_the_command_writes_and_prints(trained, tmp_path, capsys):
    assert main(["recommend", f"--checkpoint={trained('VLSID')}", "--users=u1,u2", "--k=3"]) == 0
    file = trained("VLSID").with_name("recommendations.csv")
    assert f"Recommendations: {file}" in capsys.readouterr().out
    written = pd.read_csv(file)
    expected = recommend(trained("VLSID"), ["u1", "u2"], k=3)
    assert written.drop(columns="score").equals(expected.drop(columns="score"))
    assert np.array_equal(written["score"].to_numpy(np.float32), expected["score"].to_numpy())
    (tmp_path / "users.txt").write_text("u2\n\nu1\n", encoding="utf-8")
    arguments = ["--users_file=users.txt", "--recommendations_file=out/x.csv", "--keep_consumed=true"]
    assert main(["recommend", f"--checkpoint={trained('BPR')}", *arguments]) == 0
    assert pd.read_csv("out/x.csv")["user"].unique().tolist() == ["u2", "u1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "recommend needs a trained model: --checkpoint="),
        (["--checkpoint=absent.pth"], "no checkpoint at absent.pth"),
        (["--checkpoint=x.pth", "--model=VLSID", "--dataset=toy"], "leave out --model, --dataset"),
        (["--checkpoint=x.pth", "--config_files=a.yaml"], "leave out --config_files"),
        (["--checkpoint=x.pth", "--users=a", "--users_file=b"], "--users and --users_file go without each other"),
        (["--checkpoint=x.pth", "--users_file=absent.txt"], "users_file: there is no file 'absent.txt'"),
        (["--checkpoint=x.pth", "--k=many"], "k='many' is not usable"),
    ],
)
def test_bad_input_is_one_line(arguments, told, capsys):
    assert main(["recommend", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 2
