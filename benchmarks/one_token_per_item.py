"""IntRR beside its flattened twin and RecBole's SASRec: trained targets per second, peak memory, latency.

    python benchmarks/one_token_per_item.py [--size=paper] [--backbone=hstu] [--no-bf16] [--threads=2]
    python benchmarks/one_token_per_item.py --data_path=<folder> --dataset=amazon-beauty

The catalogue has Beauty's size and random codes, three levels of 128 codewords and a suffix. Matrices that start at
zero are drawn at random, so that no two items score alike. What stands in one table takes turns in one process, and
seconds are medians of several rounds. SASRec is that of results/amazon-beauty/settings whatever the ``--size``.

Training: forward, backward, clipping and the step of the trainer's optimizer (Muon and AdamW; SASRec: Adam), histories
of at most 20 items. IntRR and the twin get the same windows of whole sequences, every event but the first a target, in
batches taken at even distances from an epoch sorted by length; SASRec gets one padded row per target, as RecBole does.

Memory: how far the same updates raise the peak of resident memory of a fresh process above its peak before the first
one. So it holds activations, gradients and the optimizer's state, but not the weights. What the allocator keeps and
what libraries load on first use are in it, too: differences of some ten MB mean nothing.

Latency: the ten best items of users whose histories are all ``--history`` random items. IntRR's item tokens are
computed beforehand, as in serving. "No cache" is how the official code decodes the twin: every step runs the stack over
the history and the prefix of every beam again, here all beams in one batch. Exact scoring and SASRec have no beams.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from encoder_decoder import across_epoch, autocast, generated_training_split, median_seconds, real_training_split
from recbole.data.interaction import Interaction
from rich.table import Table
from torch import nn

from recbole_vsid.config import Config
from recbole_vsid.data.hook import peak_memory
from recbole_vsid.model.causal import BACKBONES
from recbole_vsid.model.intrr_flat import IntRRFlat
from recbole_vsid.semantic_id.report import wide_console
from recbole_vsid.trainer import trainer_class

SASREC = Path(__file__).parents[1] / "results" / "amazon-beauty" / "settings" / "SASRec.yaml"
PAPER = {"hidden_size": 256, "n_layers": 4, "n_heads": 6, "head_size": 64, "inner_size": 1024}
PAPER_INTRR = {"uid_size": 512, "ran_hidden_size": 512}
PAPER_HSTU = {"n_heads": 4}  # its heads share the width, which 6 does not divide
N_CODEWORDS = 128
MAX_ITEMS = 20
TOP = 10
REFERENCE = "IntRR, beam"
NAMES = {"IntRR": "IntRR", "IntRRFlat": "twin", "SASRec": "SASRec"}


# ------------------------------------------------------------------------------------ models


class WithoutCache(IntRRFlat):
    """The twin decoded as in the official code: nothing is kept from one step to the next."""

    def start_decoding(self, interaction):
        """As in the base class, for histories of one length whose items all have as many tokens."""
        history = self.codes[interaction[self.ITEM_SEQ]].flatten(1)
        prefixes = history.new_empty(len(history), 1, 0)
        every_row = torch.arange(len(history)).unsqueeze(1)

        def step(tokens, parents):
            nonlocal prefixes
            if tokens is not None:
                prefixes = torch.cat([prefixes[every_row, parents], tokens.unsqueeze(2)], dim=2)
            n_users, n_beams, level = prefixes.shape
            whole = torch.cat([history.unsqueeze(1).expand(-1, n_beams, -1), prefixes], dim=2).flatten(0, 1)
            last = self.backbone(self.token_embedding(whole))[:, -1]
            first, end = self.vocabularies[level]
            return F.linear(last, self.head.weight[first:end]).unflatten(0, (n_users, n_beams))

        return step


def configuration(name, backbone, options, max_items):
    """The Config of a model of the size asked for; SASRec has no ``backbone`` to choose."""
    settings = {"use_gpu": False, "seed": options.seed, "enable_amp": options.bf16, "MAX_ITEM_LIST_LENGTH": max_items}
    if options.data_path:
        settings["data_path"] = options.data_path
    dataset = options.dataset or "ml-100k"
    if name == "SASRec":
        return Config(name, dataset, [SASREC], settings)
    settings.update(backbone=backbone, train_batch_size=options.batch_size)
    if options.size == "paper":
        settings.update(PAPER, **(PAPER_INTRR if name == "IntRR" else {}))
        settings.update(PAPER_HSTU if backbone == "hstu" else {})
    return Config(name, dataset, config_dict=settings)


def build(name, backbone, split, options, max_items=MAX_ITEMS, model_class=None):
    """A model and its Config, all its matrices random."""
    config = configuration(name, backbone, options, max_items)
    torch.manual_seed(options.seed)
    model = (model_class or config.model_class)(config, split)
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, std=weight.size(1) ** -0.5)
    return model, config


def trainer_of(model, config):
    """The trainer; the folders that RecBole's trainers leave where they are made go to a temporary one."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            trainer = trainer_class(config)(config, model)
            trainer.tensorboard.close()
        finally:
            os.chdir(here)
    return trainer


def optimizer_of(model, config):
    """The trainer's optimizer."""
    return trainer_of(model, config).optimizer


# ---------------------------------------------------------------------------------- training


def one_round(training):
    """One update per batch of anything with ``model``, ``config``, ``optimizer``, ``batches`` and ``bf16``."""
    clip = training.config["clip_grad_norm"]
    training.model.train()
    for batch in training.batches:
        training.optimizer.zero_grad()
        with autocast(training.bf16):
            loss = training.model.calculate_loss(batch)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(training.model.parameters(), **clip)
        training.optimizer.step()


class Training:
    """A model, its optimizer and the batches of a round.

    Attributes:
        n_targets: events predicted in a round.
    """

    def __init__(self, name, backbone, split, options):
        self.model, self.config = build(name, backbone, split, options)
        self.optimizer, self.bf16 = optimizer_of(self.model, self.config), options.bf16
        if name == "SASRec":
            self.batches = prefix_batches(self.model, self.config, split.training, options)
            self.n_targets = sum(len(batch) for batch in self.batches)
        else:
            self.batches = across_epoch(self.model.train_loader(self.config, split), options.batches)
            self.n_targets = sum(int((batch[self.model.ITEM_SEQ_LEN] - 1).sum()) for batch in self.batches)

    def run(self):
        """One update per batch."""
        one_round(self)


def prefix_batches(model, config, log, options):
    """Random prefixes, all padded to the longest history allowed, and the event after each."""
    size = config["train_batch_size"]
    targets = np.random.default_rng(options.seed).permutation(log.target_positions())[: options.batches * size]
    items, lengths = log.histories(targets, config["MAX_ITEM_LIST_LENGTH"])
    columns = {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths, model.ITEM_ID: log.items[targets]}
    rows = Interaction({name: torch.from_numpy(column) for name, column in columns.items()})
    return [rows[first : first + size] for first in range(0, len(targets), size)]


def memory_growth(name, backbone, split, options):
    """By how many MB a round of training raises the peak of this process."""
    torch.set_num_threads(options.threads)
    training = Training(name, backbone, split, options)
    before = peak_memory()
    training.run()
    return peak_memory() - before


def contestants(options):
    """(name, backbone) of all models to train."""
    return [(name, backbone) for backbone in backbones(options) for name in ("IntRR", "IntRRFlat")] + [("SASRec", None)]


def backbones(options):
    return BACKBONES if options.backbone == "both" else [options.backbone]


def measure_training(split, options, console):
    memory = {}
    for each in contestants(options):  # before this process grows
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh_process:
            memory[each] = fresh_process.submit(memory_growth, *each, split, options).result()
    trainings = {each: Training(*each, split, options) for each in contestants(options)}
    seconds = median_seconds({each: training.run for each, training in trainings.items()}, options.repeats)
    rates = {each: trainings[each].n_targets / needed for each, needed in seconds.items()}

    console.print(f"\ntraining, {options.batches} batches a round")
    table = Table()
    table.add_column("", no_wrap=True)
    for column in ("parameters", "targets/batch", "ms/batch", "targets/s", "× twin", "peak memory, MB", "× twin"):
        table.add_column(column, justify="right")
    for (name, backbone), training in trainings.items():
        each, twin = (name, backbone), ("IntRRFlat", backbone)
        n_batches = len(training.batches)
        table.add_row(
            NAMES[name] + (f", {backbone}" if backbone else ""),
            f"{sum(weight.numel() for weight in training.model.parameters()):,}",
            f"{training.n_targets / n_batches:,.0f}",
            f"{1000 * seconds[each] / n_batches:,.1f}",
            f"{rates[each]:,.0f}",
            f"{rates[each] / rates[twin]:.2f}" if backbone else "–",
            f"{memory[each]:,.0f}",
            f"{memory[each] / memory[twin]:.2f}" if backbone else "–",
        )
    console.print(table)


# ----------------------------------------------------------------------------------- latency


def search(model, rows, width=None):
    """The ten best items of each user, by beam search, or without a width by exact scoring."""
    model.decoding = "beam" if width else "exact"
    model.beam_width = width
    return model.topk(rows, TOP)[0]


@torch.no_grad()
def best_of_all(sasrec, rows, bf16):
    """The ten best items of each user, by SASRec."""
    with autocast(bf16):
        return sasrec.full_sort_predict(rows).topk(TOP).indices


def measure_latency(split, backbone, options, console):
    make = partial(build, split=split, options=options, max_items=options.history)
    intrr, twin, sasrec = (make(name, backbone)[0].eval() for name in NAMES)
    uncached = make("IntRRFlat", backbone, model_class=WithoutCache)[0].eval()
    started = time.perf_counter()
    with autocast(options.bf16):
        intrr.token_table()
    table_ms = 1000 * (time.perf_counter() - started)
    rng = np.random.default_rng(options.seed)

    def histories(n_users):
        items = torch.from_numpy(rng.integers(1, intrr.n_items, (n_users, options.history)))
        return {intrr.ITEM_SEQ: items, intrr.ITEM_SEQ_LEN: torch.full((n_users,), options.history)}

    for n_users, what, divisor in (
        (options.users, f"ms per request of {options.users} users", 1),
        (options.many_users, f"ms per user, {options.many_users} at once", options.many_users),
    ):
        if not n_users:
            continue
        rows, searches = histories(n_users), {}
        for width in options.beam_widths:
            searches[REFERENCE, width] = partial(search, intrr, rows, width)
            searches["twin, shared cache", width] = partial(search, twin, rows, width)
            if divisor == 1:  # many users × beams × whole prefixes would fill the memory
                searches["twin, no cache", width] = partial(search, uncached, rows, width)
        searches["IntRR, exact", None] = partial(search, intrr, rows)
        searches["SASRec", None] = partial(best_of_all, sasrec, rows, options.bf16)
        console.print(f"\nlatency, {backbone}, histories of {options.history} items: {what} (× IntRR's beam)")
        print_latency(median_seconds(searches, options.repeats), 1000 / divisor, options.beam_widths, console)
    console.print(f"IntRR's item tokens, after a change of weights: {table_ms:,.0f} ms (measured once)")
    if options.users:
        print_agreement(intrr, twin, uncached, histories(options.users), options.beam_widths, console)


def print_latency(seconds, scale, widths, console):
    """A row per way to search and a column per beam width; ``seconds``: (name, width or None) → median."""
    table = Table()
    table.add_column("")
    for width in widths:
        table.add_column(f"beam {width}", justify="right")
    for name in dict.fromkeys(name for name, _ in seconds):
        needed = {width: seconds.get((name, width), seconds.get((name, None))) for width in widths}
        cells = [f"{scale * each:,.2f} ({each / seconds[REFERENCE, width]:.2f})" for width, each in needed.items()]
        table.add_row(name, *cells)
    console.print(table)


def print_agreement(intrr, twin, uncached, rows, widths, console):
    """How many of the ten best items the ways to search share; the models compute in fp32 from here on."""
    for model in (intrr, twin, uncached):
        model.bf16 = False
    cached = shared(search(uncached, rows, widths[0]), search(twin, rows, widths[0]))
    exact = search(intrr, rows)
    found = [f"{width:,}: {shared(search(intrr, rows, width), exact):.1%}" for width in (*widths, intrr.n_items - 1)]
    console.print(f"same ten items (fp32): twin with and without cache {cached:.1%};", end=" ")
    console.print(f"IntRR's exact scoring and its beam of {', '.join(found)}")


def shared(one, other):
    """Share of the items of ``one`` that ``other`` holds too, both ``[B, TOP]``."""
    return (one.unsqueeze(2) == other.unsqueeze(1)).any(2).float().mean()


def beam_widths(text):
    return [int(width) for width in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["default", "paper"], default="default", help="default: of the YAML files")
    parser.add_argument("--backbone", choices=[*BACKBONES, "both"], default="both")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--batches", type=int, default=6, help="to train on; 0: neither training nor memory")
    parser.add_argument(
        "--batch_size", type=int, default=1024, help="events per update, padding included; SASRec has its own"
    )
    parser.add_argument("--users", type=int, default=8, help="of a request; 0: none")
    parser.add_argument("--many_users", type=int, default=256, help="at once, without the uncached twin; 0: none")
    parser.add_argument("--history", type=int, default=32, help="items of the users of the latencies")
    parser.add_argument("--beam_widths", type=beam_widths, default=[10, 20, 50], help="like 10,20,50")
    parser.add_argument("--data_path", help="folder of the dataset")
    parser.add_argument("--dataset", help="whose training split to train on; without it sequences are generated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    if options.dataset:
        split = real_training_split(configuration("IntRR", BACKBONES[0], options, MAX_ITEMS), rng, N_CODEWORDS)
    else:
        split = generated_training_split(rng, N_CODEWORDS)
    console = wide_console()
    console.print(
        f"{options.size} size, {split.semantic_ids.n_items - 1:,} items, {'bf16' if options.bf16 else 'fp32'}, PyTorch "
        f"{torch.__version__}, {options.threads} threads, CPU; medians of {options.repeats} rounds"
    )
    if options.batches:
        measure_training(split, options, console)
    if options.users or options.many_users:
        for backbone in backbones(options):
            measure_latency(split, backbone, options, console)


if __name__ == "__main__":
    main()
