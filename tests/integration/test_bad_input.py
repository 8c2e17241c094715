"""Bad input by the command line: one line that names value and setting, exit code 2, nothing written before is lost."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_vsid.cli import main
from recbole_vsid.trainer import GenerativeTrainer
from tests.conftest import item_texts, make_dataset, planted_events

FAST = {"tokenizer": "rkmeans", "epochs": 1, "hidden_size": 64, "n_layers": 1, "sid_vocab_size": 8, "content_dim": 8,
        "num_threads": 1, "show_progress": "false", "enable_amp": "false", "use_gpu": "false"}  # fmt: skip


def command(folder, name="shop", **changes):
    settings = {"dataset": name, "data_path": folder, **FAST, **changes}
    return [f"--{key}={value}" for key, value in settings.items()]


def shop(folder, name="shop", rename=None, item_ids=None, **changes):
    """Planted events and texts with some of their columns changed; ``rename`` maps item ids in both files."""
    users, items, times = planted_events(30, 25)
    texts = item_texts(25)
    if rename:
        items = [rename.get(item, item) for item in items]
        texts["item_id:token"] = [rename.get(item, item) for item in texts["item_id:token"]]
    if item_ids:
        texts["item_id:token"] = item_ids(texts["item_id:token"])
    columns = {"users": users, "items": items, "timestamps": times, "item_columns": texts, **changes}
    return make_dataset(folder, name, **columns)


def edit(name, change):
    """Change the text of ``name`` in a folder."""

    def apply(folder):
        shop(folder)
        path = folder / "shop" / name
        path.write_bytes(change(path.read_text(encoding="utf-8")))
        return {}

    return apply


def times(change):
    def apply(folder):
        values = list(planted_events(30, 25)[2])
        change(values)
        shop(folder, timestamps=values)
        return {}

    return apply


def content(matrix):
    def apply(folder):
        shop(folder)
        np.save(folder / "x.npy", matrix)
        return {"content": "file", "content_file": folder / "x.npy"}

    return apply


def with_settings(**settings):
    def apply(folder):
        shop(folder)
        return settings

    return apply


def ids(**rename):
    def apply(folder):
        shop(folder, rename=rename)
        return {}

    return apply


def gap(column=3):
    matrix = np.random.default_rng(0).normal(size=(25, 6))
    matrix[column, 2] = np.nan
    return matrix


def without_text(folder):
    texts = item_texts(25)
    texts["title:token"][4] = texts["category:token_seq"][4] = ""
    shop(folder, item_columns=texts)
    return {"content": "tfidf"}


def no_item_file(folder):
    make_dataset(folder, "shop", *planted_events(30, 25))
    return {"content": "tfidf"}


def one_event_each(folder):
    numbers = range(25)
    make_dataset(folder, "shop", [f"u{i}" for i in numbers], [f"i{i}" for i in numbers], numbers, item_texts(25))
    return {}


def file_in_the_way(setting, below=""):
    def apply(folder):
        shop(folder)
        (folder / "file").write_text("mine")
        return {setting: f"{folder}/file{below}"}

    return apply


def folder_in_the_way(folder):
    shop(folder)
    return {"result_file": folder}


CASES = {
    # name: (prepare, what the line must hold)
    "content file missing": (with_settings(content="file", content_file="no.npy"), ["content_file='no.npy'"]),
    "content file misaligned": (content(np.ones((7, 4))), ["content_file", "x.npy", "(7, 4)", "25 item ids"]),
    "content with NaN": (content(gap()), ["item 'i3'", "NaN", "content"]),
    "content constant": (content(np.ones((25, 4))), ["all 25 items", "`content`"]),
    "content constant direction": (content(np.arange(1.0, 26)[:, None]), ["all 25 items", "`content`"]),
    "content unknown": (with_settings(content="[tfidf,tfdf]"), ["'tfdf'", "Did you mean 'tfidf'"]),
    "item without text": (without_text, ["item 'i4'", "missing_content=zero"]),
    "no item file": (no_item_file, ["content=tfidf", "'shop'", "load_col"]),
    "one event per user": (one_event_each, ["'shop'", "validation split is empty", "at least 4 events"]),
    "nothing after filtering": (
        with_settings(user_inter_num_interval="'[100,inf)'"),
        ["no interaction is left", "user_inter_num_interval='[100,inf)'"],
    ),
    "an interval that is none": (with_settings(user_inter_num_interval="abc"), ["user_inter_num_interval='abc'"]),
    "vocabulary above the catalogue": (with_settings(sid_vocab_size=26), ["sid_vocab_size=26", "at most 25"]),
    "k above the catalogue": (with_settings(topk="[5,26]", valid_metric="NDCG@5"), ["topk=26", "25 items"]),
    "beam below k": (with_settings(beam_width=19), ["beam_width=19", "at least 20"]),
    "no epoch": (with_settings(epochs=-1), ["epochs=-1", "at least 1"]),
    "validation step": (with_settings(eval_step=-1), ["eval_step=-1", "at least 0"]),
    "optimizer": (with_settings(learner="adammw"), ["learner='adammw'", "adamw"]),
    "sampled evaluation": (with_settings(eval_args="{order: TO, mode: uni5}"), ["eval_args=", "uni5", "full"]),
    "another process": (with_settings(local_rank=0), ["unknown setting 'local_rank'"]),
    "config_file": (with_settings(config_file="a.yaml"), ["unknown setting 'config_file'"]),
    "no such dataset": (lambda folder: shop(folder) and {"dataset": "shap"}, ["'shap'", "holds: shop", "data_path"]),
    "no header type": (
        edit("shop.inter", lambda text: text.replace("item_id:token", "item_id", 1).encode()),
        ["shop.inter"],
    ),
    "no UTF-8": (
        edit("shop.inter", lambda text: text.encode().replace(b"u1\t", b"\xe9\t")),
        ["shop.inter, line", "set encoding", "cp1252"],
    ),
    "empty file": (edit("shop.inter", lambda text: b""), ["shop.inter"]),
    "header only": (edit("shop.inter", lambda text: text[: text.index("\n") + 1].encode()), ["shop.inter", "no rows"]),
    "ids that pandas takes for missing": (
        ids(i0="NA", i1="null"),
        ["have no 'item_id'", "NA, null", "rename them"],
    ),
    "a row without a user": (
        edit("shop.inter", lambda text: (text + "\ti1\t5\n").encode()),
        ["'shop'", "1 of", "have no 'user_id'"],
    ),
    "an id with an open quotation mark": (ids(i0='"a'), ["shop.inter, line", "'item_id'", "quotation mark"]),
    "rows between quotation marks": (
        edit("shop.inter", lambda text: (text + 'u1\t"i1\t9000\nu2\ti2\t9001\nu3\ti3"\t9002\n').encode()),
        ["shop.inter, line", "'item_id'", "'i1\\t9000'", "remove the quotation marks"],
    ),
    "missing times": (
        times(lambda values: values.__setitem__(slice(0, 9, 3), [""] * 3)),
        ["3 of", "no finite 'timestamp'", "TIME_FIELD"],
    ),
    "infinite time": (times(lambda values: values.__setitem__(5, "inf")), ["interaction 6 first", "TIME_FIELD"]),
    "time in words": (
        times(lambda values: values.__setitem__(5, "today")),
        ["shop.inter, line 7", "'timestamp:float'", "'today' is no number"],
    ),
    "time as a token": (
        edit("shop.inter", lambda text: text.replace("timestamp:float", "timestamp:token", 1).encode()),
        ["'timestamp' is of type token", "timestamp:float"],
    ),
    "checkpoint_dir is a file": (file_in_the_way("checkpoint_dir"), ["checkpoint_dir=", "file is not a folder"]),
    "result_file below a file": (file_in_the_way("result_file", "/r.json"), ["result_file=", "file is not a folder"]),
    "result_file is a folder": (folder_in_the_way, ["result_file=", "is a folder"]),
}


def refused(capsys, arguments, told):
    """Exit code 2 and one line that holds all of ``told``, before anything is trained or printed."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    # RecBole's log handler writes to the standard error that was there when it was made.
    lines = [line for line in captured.err.splitlines() if line.startswith(("error: ", "Traceback"))]
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    for part in told:
        assert str(part) in lines[0], lines[0]
    assert "Semantic IDs" not in captured.out, "refused only after the tokenizer was fitted"


def contents(folder):
    return {
        path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and "log" not in path.parts[0]
    }


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_line_and_nothing_is_touched(case, tmp_path, capsys):
    prepare, told = CASES[case]
    data = tmp_path / "data"
    changes = prepare(data)
    Path("saved/an earlier run").mkdir(parents=True)
    Path("saved/an earlier run/result.json").write_text("[]")
    saved, given = contents("saved"), contents(data)
    refused(capsys, command(data, **changes), told)
    assert contents("saved") == saved and contents(data) == given


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("setting", ["checkpoint_dir", "result_file"])
def test_a_folder_that_cannot_be_written(setting, tmp_path, capsys):
    shop(tmp_path / "data")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(capsys, command(tmp_path / "data", **{setting: locked / "r.json"}), [f"{setting}=", "cannot be written"])


# ---------------------------------------------------------------- an earlier run


@pytest.fixture
def earlier(tmp_path):
    """A finished run in ``saved/`` on ``data/shop``; gives the data folder and the run's folder."""
    shop(tmp_path / "data")
    assert main(command(tmp_path / "data")) == 0
    (folder,) = Path("saved").glob("VLSID-shop-*")
    assert {path.name for path in folder.iterdir()} == {"best.pth", "last.pth", "result.json"}
    return tmp_path / "data", folder


def test_an_earlier_run_survives_bad_input_of_its_own_configuration(earlier, capsys):
    data, _ = earlier
    before = contents("saved")
    (data / "shop" / "shop.inter").rename(data / "shop" / "gone.inter")
    refused(capsys, command(data), ["has no shop.inter", "data_path"])
    assert contents("saved") == before


def test_resume_from_damaged_files(earlier, capsys):
    data, folder = earlier
    whole = (folder / "last.pth").read_bytes()
    (folder / "last.pth").write_bytes(whole[: len(whole) // 2])
    before = contents("saved")
    refused(capsys, command(data, resume="true"), ["resume=True", "last.pth", "damaged"])
    assert contents("saved") == before
    for foreign in ({"weight": torch.ones(2)}, torch.ones(2)):
        torch.save(foreign, folder / "last.pth")
        refused(capsys, command(data, resume="true"), ["resume=True", "last.pth", "no checksum"])


def test_resume_without_what_belongs_together(earlier, capsys, monkeypatch):
    data, folder = earlier
    (folder / "best.pth").rename(folder / "elsewhere.pth")
    refused(capsys, command(data, resume="true"), ["resume=True", "no best.pth beside"])
    (folder / "elsewhere.pth").rename(folder / "best.pth")

    def die(trainer, epoch):
        raise OSError("no space left")

    # A new run that ends between its first best.pth and its first last.pth.
    monkeypatch.setattr(GenerativeTrainer, "save_last", die)
    assert main(command(data)) == 2
    refused(capsys, command(data, resume="true"), ["resume=True", "last.pth", "has not been run here"])


def test_resume_after_the_data_changed(earlier, capsys):
    data, _ = earlier
    before = contents("saved")
    file = data / "shop" / "shop.inter"
    original = file.read_text()
    # The same items in the same order, one event more: the last event of u1 would now be another.
    file.write_text(original + "u1\ti1\t100000\n")
    refused(capsys, command(data, resume="true"), ["resume=True", "interactions of shop changed"])
    head, *rows = original.splitlines()
    file.write_text("\n".join([head, *rows[::-1]]) + "\n")
    refused(capsys, command(data, resume="true"), ["shop", "data changed"])
    assert contents("saved") == before
    file.write_text(original)
    assert main(command(data, resume="true")) == 0


# ---------------------------------------------------------------- what looks odd and must work


def test_odd_input_that_works(tmp_path, capsys):
    """Spaces and letters of any script in ids, items nobody interacted with, items twice, events twice."""
    users, items, stamps = planted_events(30, 25)
    texts = {name: [*values, values[0], values[1]] for name, values in item_texts(25).items()}
    texts["item_id:token"][-1] = "never"
    users, items, stamps = ([*column, *column[:9]] for column in (users, items, stamps))

    def odd(tokens):
        return [f"日 本 {token} ñ" for token in tokens]

    texts["item_id:token"] = odd(texts["item_id:token"])
    make_dataset(tmp_path / "data", "shop", odd(users), odd(items), stamps, texts)
    assert main(command(tmp_path / "data", result_file=tmp_path / "new" / "folder" / "r.json")) == 0
    assert '"candidates": 25' in (tmp_path / "new" / "folder" / "r.json").read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_interactions_of_items_that_the_item_file_lacks_are_counted(tmp_path, capsys, caplog):
    lost = planted_events(30, 25)[1].count("i24")
    shop(tmp_path / "data", item_ids=lambda tokens: [*tokens[:-1], "other"])
    assert main(command(tmp_path / "data")) == 0
    assert lost and f"{lost} of " in caplog.text and "filter_inter_by_user_or_item=false" in caplog.text


def test_foreign_files_among_the_results_do_no_harm(tmp_path):
    for name, text in (("a", "[]"), ("b", "{}"), ("c", '{"protocol": []}'), ("d", "[broken"), ("e", "3")):
        Path(f"saved/{name}").mkdir(parents=True)
        Path(f"saved/{name}/result.json").write_text(text)
    shop(tmp_path / "data")
    assert main(command(tmp_path / "data")) == 0
