"""What all tests share: a scratch working directory, tiny datasets in RecBole's format, fast settings."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

N_USERS, N_ITEMS = 60, 41


@pytest.fixture(autouse=True)
def scratch_folder(tmp_path, monkeypatch):
    """RecBole writes log/, saved/ and log_tensorboard/ into the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def untouched_process():
    """Take back what RecBole changes for the whole process: log handlers and anomaly detection."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    torch.autograd.set_detect_anomaly(False)


def make_dataset(folder, name, users, items, timestamps=None, item_columns=None):
    """Write ``folder/name/name.inter`` and, with ``item_columns``, ``name.item``; return the dataset's folder.

    Args:
        users, items, timestamps: one event each, in file order; without timestamps that column is left out.
        item_columns: header (``item_id:token`` first) → one text per item.
    """
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    columns = {"user_id:token": users, "item_id:token": items}
    if timestamps is not None:
        columns["timestamp:float"] = timestamps
    _write_columns(target / f"{name}.inter", columns)
    if item_columns is not None:
        _write_columns(target / f"{name}.item", item_columns)
    return target


def _write_columns(path, columns):
    lines = ["\t".join(columns)] + ["\t".join(map(str, row)) for row in zip(*columns.values())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def planted_events(n_users=N_USERS, n_items=N_ITEMS, seed=0, follow=0.85):
    """Users, items, times of a log in which item *i* is usually followed by item ``(7 i + 3) mod n_items``.

    Times are distinct small numbers that rise along each user's events; the rows are in random order.
    """
    rng = np.random.default_rng(seed)
    users, items = [], []
    for user in range(n_users):
        item = int(rng.integers(n_items))
        for _ in range(rng.integers(8, 16)):
            users.append(f"u{user}")
            items.append(f"i{item}")
            item = (7 * item + 3) % n_items if rng.random() < follow else int(rng.integers(n_items))
    # Every user's events in turn, mixed with those of all others: a random but increasing time per user.
    drawn = rng.permutation(len(users))
    times = np.empty(len(users), dtype=np.int64)
    names = np.array(users)
    for user in dict.fromkeys(users):
        rows = np.flatnonzero(names == user)
        times[rows] = np.sort(drawn[rows])
    order = rng.permutation(len(users))
    return names[order].tolist(), np.array(items)[order].tolist(), times[order].tolist()


def item_texts(n_items=N_ITEMS):
    """Titles and categories in which every word belongs to several items, as ``.item`` columns."""
    return {
        "item_id:token": [f"i{item}" for item in range(n_items)],
        "title:token": [f"shade {item % 6} of colour{item % 7}" for item in range(n_items)],
        "category:token_seq": [f"group{item % 5} kind{item // 9}" for item in range(n_items)],
    }


@pytest.fixture(scope="session")
def data_path(tmp_path_factory):
    """A folder with the dataset ``toy``: see :func:`planted_events`."""
    folder = tmp_path_factory.mktemp("datasets")
    make_dataset(folder, "toy", *planted_events(), item_columns=item_texts())
    return folder


@pytest.fixture
def small_settings(data_path):
    """``small_settings(model="VLSID", **changes)``: a config_dict with which ``model`` trains on toy in a second."""
    common = {
        "data_path": str(data_path),
        "epochs": 2,
        "eval_step": 1,
        "learning_rate": 0.01,
        "train_batch_size": 128,
        "seed": 1,
        "num_threads": 1,
        "show_progress": False,
        "use_gpu": False,
    }
    generative = {"content_dim": 8, "n_layers": 1, "beam_width": 20, "enable_amp": False}
    rkmeans = {"tokenizer": "rkmeans", "sid_vocab_size": 8, "sid_n_levels": 2}
    tiger = {"hidden_size": 32, "n_heads": 2, "head_size": 16, "inner_size": 64, "dropout_prob": 0.1}
    timeline = {"hidden_size": 32, "head_size": 16, "dropout_prob": 0.1}
    own = {
        "VLSID": {**generative, **rkmeans, "hidden_size": 64, "head_size": 64, "context_budget": 40},
        "TIGER": {**generative, **rkmeans, **tiger},
        "ReSID": {**generative, **tiger, "content": "tfidf"},
        "DIGER": {**generative, **rkmeans, **tiger, "joint_usage_momentum": 0.9},
        "IntRR": {**generative, **rkmeans, **tiger, "uid_size": 16, "ran_hidden_size": 32},
        "IntRRFlat": {**generative, **rkmeans, **tiger},
        "SASTrie": {**generative, **rkmeans, **timeline},
        "MARIUS": {**generative, **rkmeans, **timeline, "depth_layers": 1},
    }

    def small(model="VLSID", **changes):
        return {**common, **own.get(model, {}), **changes}

    return small
