"""What joint training costs: an update of DIGER beside two-stage training on the same batches, and a new table.

    python benchmarks/joint_step.py --dataset=ml-100k
    python benchmarks/joint_step.py --dataset=amazon-beauty --data_path=<folder> [--threads=2] [--n_layers=4]

Forward, backward, clipping and the step of the trainer's optimizer, batches at even distances from an epoch sorted by
length; the contestants take turns in one process, seconds are medians over rounds of all batches. Codes are those of
residual k-means on ``tfidf``, with as many codewords as the catalogue gets by default.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch
from encoder_decoder import across_epoch, median_seconds

from recbole_vsid.config import Config
from recbole_vsid.quick_start import build_data, build_model
from recbole_vsid.trainer import trainer_class

CONTESTANTS = {
    "two-stage": {"joint_codebook_learning_rate": 0},
    "no gradient": {"joint_gradient_paths": []},
    "FrqUD": {},
    "SDUD": {"joint_decay": "sdud"},
}


def updates(trainer, batches):
    """A function that trains on all ``batches`` once."""

    def run():
        for batch in batches:
            trainer.optimizer.zero_grad()
            trainer._loss(batch).backward()
            trainer.optimizer.step()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n_layers", type=int, default=4)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {"n_layers": options.n_layers, "tokenizer": "rkmeans", "cache_dir": None, "show_progress": False}
    if options.data_path:
        settings["data_path"] = options.data_path
    runs, model = {}, None
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in CONTESTANTS.items():
            config = Config(
                "DIGER", options.dataset, config_dict={**settings, **changes, "checkpoint_dir": folder, "seed": 1}
            )
            _, loaders = build_data(config)
            model, train_data = build_model(config, loaders)
            trainer = trainer_class(config)(config, model.train())
            trainer.start_epoch_watch(makes_table=False)
            train_data.set_epoch(0)
            runs[name] = updates(trainer, across_epoch(train_data, options.batches))
        seconds = median_seconds(runs, options.repeats)
    for name, value in seconds.items():
        print(f"{name:12} {1000 * value / options.batches:8.1f} ms per update, {value / seconds['two-stage']:.3f} x")
    for name, make in (("new table", model.refresh_table), ("its diagnostics", model.diagnostics)):
        started = time.perf_counter()
        make()
        print(f"{name}: {time.perf_counter() - started:.2f} s for {model.n_items - 1:,} items")


if __name__ == "__main__":
    main()
