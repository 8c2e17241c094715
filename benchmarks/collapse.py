"""Do codes survive joint training? DIGER's arms on a planted problem in which content and behaviour are at odds.

    python benchmarks/collapse.py [--seeds=0,1,2] [--arms="straight-through;noise 3"]

1,200 items in 24 x 6 nested clusters of content and 40 clusters of behaviour, of which half follow the content; 700
users with 8 training targets each. Residual k-means with 3 x 32 codewords, whose learning rate is hot on purpose: the
codewords of the last level may move by 3.3 times their spread. Tables by nearest codes, 8 epochs, a generator of width
32. Shown are the distinct content codes of the 1,200 items at the end, and the effective codes of each level, exp of
the entropy of their use.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from rich.table import Table

import recbole_vsid
from recbole_vsid.semantic_id.report import wide_console

N_ITEMS, N_USERS, N_EVENTS, DIMENSIONS = 1200, 700, 11, 32

SETTINGS = {
    "content": "file",
    "tokenizer": "rkmeans",
    "sid_vocab_size": 32,
    "sid_n_levels": 3,
    "joint_assignment": "nearest",
    "joint_decay": "none",
    "joint_collapse_below": 0,
    "joint_codebook_learning_rate": 0.002,
    "sid_suffix_size": 1200,
    "MAX_ITEM_LIST_LENGTH": 4,
    "hidden_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "head_size": 16,
    "inner_size": 64,
    "dropout_prob": 0.0,
    "enable_amp": False,
    "learner": "adamw",
    "learning_rate": 0.002,
    "warmup_fraction": 0.0,
    "min_learning_rate_ratio": 1.0,
    "ema_decay": 0.0,
    "train_batch_size": 128,
    "epochs": 8,
    "eval_step": 8,
    "valid_users": 50,
    "beam_width": 20,
    "cache_dir": None,
    "num_threads": 1,
    "show_progress": False,
}

ARMS = {
    "two-stage": {"joint_codebook_learning_rate": 0},
    "straight-through": {"joint_noise": "none", "joint_soft_update": "hard", "joint_forward": "sampled"},
    "no noise": {"joint_noise": "none"},
    "no noise, no quantiser losses": {
        "joint_noise": "none", "joint_quantisation_weight": 0, "joint_reconstruction_weight": 0
    },
    "noise 1": {},
    "noise 3": {"joint_noise_scale": 3},
    "frqud, noise 3": {"joint_noise_scale": 3, "joint_decay": "frqud", "joint_usage_momentum": 0.95},
    "sdud, noise 3": {"joint_noise_scale": 3, "joint_decay": "sdud", "joint_sdud_lambda": 1.25},
    "no noise, history only": {"joint_noise": "none", "joint_gradient_paths": ["history"]},
    "no noise, teacher only": {"joint_noise": "none", "joint_gradient_paths": ["teacher"]},
    "no noise, label only": {"joint_noise": "none", "joint_gradient_paths": ["label"]},
    "noise 1, no gradient": {"joint_gradient_paths": []},
}  # fmt: skip


def write_planted(folder, seed=0):
    """Write the data set ``planted`` and its content file below ``folder``; return the settings that name them."""
    rng = np.random.default_rng(seed)
    coarse, fine = rng.integers(24, size=N_ITEMS), rng.integers(6, size=N_ITEMS)
    content = rng.normal(size=(24, DIMENSIONS))[coarse]
    content += 0.5 * rng.normal(size=(24, 6, DIMENSIONS))[coarse, fine]
    content += 0.35 * rng.normal(size=(N_ITEMS, DIMENSIONS))
    behaviour = np.where(rng.random(N_ITEMS) < 0.5, rng.integers(40, size=24)[coarse], rng.integers(40, size=N_ITEMS))
    members = [np.flatnonzero(behaviour == cluster) for cluster in range(40)]
    members = [items for items in members if len(items)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"filler{item}\ti{item}\t0" for item in range(N_ITEMS)]  # every item is in the catalogue
    for user in range(N_USERS):
        cluster = members[rng.integers(len(members))]
        for time in range(N_EVENTS):
            if rng.random() < 0.15:
                cluster = members[rng.integers(len(members))]
            lines.append(f"u{user}\ti{rng.choice(cluster)}\t{time + 1}")
    target = Path(folder) / "planted"
    target.mkdir(parents=True, exist_ok=True)
    (target / "planted.inter").write_text("\n".join(lines) + "\n")
    np.save(target / "content.npy", content.astype(np.float32))
    (target / "ids.txt").write_text("\n".join(f"i{item}" for item in range(N_ITEMS)) + "\n")
    files = {"content_file": str(target / "content.npy"), "content_ids": str(target / "ids.txt")}
    return {"data_path": str(folder), **files}


def train(arm, seed, data):
    """The record of one run, see :func:`recbole_vsid.run`."""
    changes = {**SETTINGS, **data, **ARMS[arm], "seed": seed}
    with redirect_stdout(io.StringIO()):
        return recbole_vsid.run("DIGER", "planted", config_dict=changes, saved=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default=";".join(ARMS), help="separated by semicolons; all by default")
    options = parser.parse_args()
    table = Table("arm", "distinct at the end, per seed", "share of the start", "effective codes (first seed)")
    with tempfile.TemporaryDirectory() as folder:
        data = write_planted(folder)
        for arm in options.arms.split(";"):
            ends = [train(arm, int(seed), data)["diagnostics"] for seed in options.seeds.split(",")]
            share = np.mean([end["distinct_nearest_share"] for end in ends])
            effective = " / ".join(f"{ends[0][f'effective_nearest_{level}']:.1f}" for level in (1, 2, 3))
            table.add_row(arm, ", ".join(str(end["distinct_nearest"]) for end in ends), f"{share:.0%}", effective)
    wide_console().print(table)


if __name__ == "__main__":
    main()
