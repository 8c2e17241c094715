"""SASTrie and MARIUS: how their heads rank, what training costs, and what grows with the catalogue.

    python benchmarks/timeline.py rankings saved/SASTrie-…/best.pth saved/MARIUS-…/best.pth [--data_path=<folder>]
    python benchmarks/timeline.py training [--data_path=<folder> --dataset=amazon-beauty] [--history=20]
    python benchmarks/timeline.py catalogue [--items=12101,100000,1000000] [--targets=2048]
    python benchmarks/timeline.py latency [--items=12101,100000,1000000] [--beam_width=100]

What stands in one table takes turns in one process, and times are medians of several rounds after one that is not
counted; only memory is that of fresh processes.

rankings: Markdown rows of trained models under both protocols. p is the generative head alone (beam search), q the
dense head alone over all items, "q on p's beam" the re-ranking. A ranking that is good by q alone is that of a dense
model. Checkpoints that differ in nothing but the seed share a row: mean ± 95 % interval over the seeds (Student's t).

training: trained targets per second: forward, backward, clipping and the step of the trainer's optimizer, without the
averaging of weights. Each model has its own defaults (width, batch size, optimizer) but for the length of histories;
codes are random, three levels of 256 codewords and a suffix. SASTrie, MARIUS and VLSID get windows of whole sequences
in batches taken at even distances from an epoch sorted by length, VLSID's first events are targets, too; SASRec, that
of results/amazon-beauty/settings, gets one padded row per target, as RecBole does.

catalogue: one loss of ``--targets`` random targets and states, over catalogues whose items have random codes: three
levels of ``--codewords`` (256: of a million items six per cent share a code), uniform, then a suffix. "siblings" is
the generative head, "all items" the exact dense loss, "sample" the sampled one. "Loss" is forward and backward down to
the states and to the vectors of the nodes that the loss needs, which are computed beforehand. "Update" begins with
drawing the sample and ends with the gradients of the embeddings. These are dense in PyTorch, so every update writes
zeros for the whole catalogue whichever loss it has; an optimizer's step, not measured here, reads them all. Which nodes
have vectors is the model's own choice: of a small tree it computes all of them, of a large one those that are needed.
Memory is how far this raises a fresh process above what it holds before (on Linux; elsewhere above its peak so far, and
then that of building the catalogue hides some of it). Libraries loaded on first use are in it.

latency: the ten best items of users with histories of ``--history`` random items, by a model of random weights over the
same catalogues. Vectors of nodes, and for "q, all items" of items, are computed beforehand, as in serving.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from differentiable_ids import interval
from encoder_decoder import (
    TrainingSplit,
    across_epoch,
    autocast,
    generated_training_split,
    median_seconds,
    real_training_split,
)
from one_token_per_item import SASREC, one_round, optimizer_of, prefix_batches, trainer_of
from recbole.data.interaction import Interaction
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from recbole_vsid import load
from recbole_vsid.config import Config
from recbole_vsid.data.hook import peak_memory
from recbole_vsid.data.sequences import EventLog
from recbole_vsid.evaluation.collector import KEPT, MASKED
from recbole_vsid.model.timeline.base import TimelineRecommender
from recbole_vsid.model.timeline.dense import Candidates, full_loss
from recbole_vsid.model.timeline.generative import sibling_loss
from recbole_vsid.model.timeline.vectors import NodeTable
from recbole_vsid.semantic_id.collisions import append_suffix
from recbole_vsid.semantic_id.report import wide_console

RANKINGS = {"generative": "p", "dense": "q, all items", "rerank": "q on p's beam"}  # rank_by → what it is
TRAINED = ("SASTrie", "MARIUS", "VLSID", "SASRec")
SIBLINGS, ALL_ITEMS, SAMPLE = LOSSES = ("siblings", "all items", "sample")
N_LEVELS = 3
TOP = 10


@dataclass
class Split(TrainingSplit):
    """A training split that also counts events per item."""

    def popularity(self) -> np.ndarray:
        """Training events per item, int64 ``[n_items]``."""
        return np.bincount(self.training.items, minlength=self.semantic_ids.n_items)


# ---------------------------------------------------------------------------------- rankings


def rankings_of(model: TimelineRecommender) -> list[str]:
    """The values of ``rank_by`` that the heads of a model allow."""
    heads = {"generative": model.generative_weight, "dense": model.dense_weight}
    able = {**heads, "rerank": all(heads.values())}
    return [rank_by for rank_by in RANKINGS if able[rank_by]]


def evaluate_rankings(config: Config, loaders: list, model: TimelineRecommender) -> dict[str, list[dict]]:
    """``rank_by`` → results of validation and test, each of both protocols."""
    trainer, found, own = trainer_of(model, config), {}, model.rank_by
    try:
        for rank_by in rankings_of(model):
            model.rank_by = rank_by
            found[rank_by] = [trainer.evaluate_protocols(loader, load_best_model=False) for loader in loaders[1:]]
    finally:
        model.rank_by = own
    return found


def settings_of(config: Config) -> tuple[tuple[str, str], ...]:
    """What seeds of one method have in common."""
    return tuple(sorted((key, str(value)) for key, value in config.plain().items() if key != "seed"))


def measure_rankings(options: argparse.Namespace) -> None:
    """Print the Markdown table of all checkpoints."""
    changes = {"show_progress": False, **({"data_path": options.data_path} if options.data_path else {})}
    runs = defaultdict(list)
    for checkpoint in options.checkpoints:
        config, _, loaders, model = load(checkpoint, changes)
        if not isinstance(model, TimelineRecommender):
            raise SystemExit(
                f"{checkpoint}: {config['model']} has no such heads; name checkpoints of SASTrie or MARIUS"
            )
        runs[config["model"], settings_of(config)].append(evaluate_rankings(config, loaders, model))
    metrics = [f"{name}@{cutoff}" for cutoff in ([5, 10] if options.at_5 else [10]) for name in ("recall", "ndcg")]
    splits = ("validation", "test")
    columns = [(split, protocol, metric) for split in splits for protocol in (KEPT, MASKED) for metric in metrics]
    heads = [f"{split} {metric} {protocol.split('_')[1]}" for split, protocol, metric in columns]
    print("| " + " | ".join(["model", "order", "seeds", *heads]) + " |")
    print("|" + " --- |" * (3 + len(heads)))
    labels = labels_of(list(runs))
    for key, seeds in runs.items():
        for rank_by in seeds[0]:
            cells = [labels[key], RANKINGS[rank_by], str(len(seeds))]
            for split, protocol, metric in columns:
                values = [seed[rank_by][splits.index(split)][protocol][metric] for seed in seeds]
                cells.append(interval(values))
            print("| " + " | ".join(cells) + " |")


def labels_of(keys: list[tuple]) -> dict[tuple, str]:
    """The name of each model, with the settings that differ where there are several of one name."""
    labels = {}
    for name, settings in keys:
        rivals = [set(others) for other, others in keys if other == name]
        shared = set.intersection(*rivals)
        labels[name, settings] = ", ".join([name, *(f"{k}={v}" for k, v in settings if (k, v) not in shared)])
    return labels


# ---------------------------------------------------------------------------------- training


def configuration(name: str, options: argparse.Namespace, **changes: Any) -> Config:
    """The Config of a model with its defaults and histories of ``--history`` items."""
    settings = {
        "use_gpu": False,
        "seed": options.seed,
        "enable_amp": options.bf16,
        "MAX_ITEM_LIST_LENGTH": options.history,
        **({"context_unit": "events", "context_budget": options.history} if name == "VLSID" else {}),
        **({"data_path": options.data_path} if getattr(options, "data_path", None) else {}),
        **changes,
    }
    files = [SASREC] if name == "SASRec" else None
    return Config(name, getattr(options, "dataset", None) or "ml-100k", files, settings)


def build(config: Config, split: Split) -> nn.Module:
    """A model with all its matrices random."""
    torch.manual_seed(config["seed"])
    model = config.model_class(config, split)
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, std=weight.size(1) ** -0.5)
    return model


class Training:
    """A model, its optimizer and the batches of a round.

    Attributes:
        n_targets: events predicted in a round.
    """

    def __init__(self, name: str, split: Split, options: argparse.Namespace) -> None:
        self.config = configuration(name, options)
        self.model = build(self.config, split)
        self.optimizer, self.bf16 = optimizer_of(self.model, self.config), options.bf16
        if name == "SASRec":
            self.batches = prefix_batches(self.model, self.config, split.training, options)
            self.n_targets = sum(len(batch) for batch in self.batches)
        else:
            self.batches = across_epoch(self.model.train_loader(self.config, split), options.batches)
            # Only VLSID has something to predict a first event from.
            first = 0 if name == "VLSID" else 1
            self.n_targets = sum(int((batch[self.model.ITEM_SEQ_LEN] - first).sum()) for batch in self.batches)

    def run(self) -> None:
        """One update per batch."""
        one_round(self)


def measure_training(options: argparse.Namespace, console: Console) -> None:
    """Print trained targets per second, side by side."""
    rng = np.random.default_rng(options.seed)
    if options.dataset:
        made = real_training_split(configuration("VLSID", options), rng)
    else:
        made = generated_training_split(rng)
    split = Split(made.training, made.semantic_ids)
    trainings = {name: Training(name, split, options) for name in TRAINED}
    seconds = median_seconds({name: each.run for name, each in trainings.items()}, options.repeats)
    rates = {name: trainings[name].n_targets / needed for name, needed in seconds.items()}
    console.print(
        f"\ntraining, {split.semantic_ids.n_items - 1:,} items, histories of at most {options.history}, "
        f"{options.batches} batches a round"
    )
    table = table_of("", "parameters", "targets/batch", "ms/batch", "targets/s", "× SASRec")
    for name, training in trainings.items():
        n_batches = len(training.batches)
        table.add_row(
            name,
            f"{sum(weight.numel() for weight in training.model.parameters()):,}",
            f"{training.n_targets / n_batches:,.0f}",
            f"{1000 * seconds[name] / n_batches:,.1f}",
            f"{rates[name]:,.0f}",
            f"{rates[name] / rates['SASRec']:.2f}",
        )
    console.print(table)


# --------------------------------------------------------------------------------- catalogue


def catalogue_split(n_items: int, options: argparse.Namespace) -> Split:
    """Items with random codes, each bought once."""
    rng = np.random.default_rng(options.seed)
    content = rng.integers(0, options.codewords, (n_items + 1, N_LEVELS))
    content[0] = -1
    lengths = np.r_[0, np.full(n_items, N_LEVELS)]
    popularity = np.r_[0, np.ones(n_items, dtype=np.int64)]
    names = np.arange(n_items + 1).astype(str)
    table = append_suffix(content, lengths, [options.codewords] * N_LEVELS, False, popularity, names, {})
    return Split(EventLog(np.arange(1, n_items + 1), np.array([0, 0, n_items])), table)


def catalogue_model(n_items: int, options: argparse.Namespace) -> TimelineRecommender:
    """A SASTrie of random weights with both heads; its dense loss is the sampled one until ``sampler`` is None."""
    beam = {"beam_width": options.beam_width} if options.measure == "latency" else {}
    config = configuration("SASTrie", options, full_softmax_items=0, **beam)
    return build(config, catalogue_split(n_items, options))


def variant(model: TimelineRecommender, **attributes: Any) -> TimelineRecommender:
    """The same weights behind other plain attributes."""
    twin = copy.copy(model)
    for name, value in attributes.items():
        setattr(twin, name, value)
    return twin


class Loss:
    """One of :data:`LOSSES` over random states and uniformly drawn targets.

    Attributes:
        table: the vectors that the loss needs, as a leaf for gradients.
    """

    def __init__(self, name: str, model: TimelineRecommender, options: argparse.Namespace) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        self.model = variant(
            model,
            generative_weight=float(name == SIBLINGS),
            dense_weight=float(name != SIBLINGS),
            sampler=model.sampler if name == SAMPLE else None,
        )
        self.bf16 = options.bf16
        self.targets = torch.randint(1, model.n_items, (options.targets,), generator=generator)
        width = model.node_vectors.own.weight.size(1)
        self.states = torch.randn(options.targets, width, generator=generator).requires_grad_()
        self.drawn = self._draw()
        with torch.no_grad():
            table = self._vectors(self.drawn)
        self.table = NodeTable(table.vectors.requires_grad_(), table.place)

    def _draw(self) -> Candidates | None:
        return self.model.sampler.draw(self.targets) if self.model.sampler else None

    def _vectors(self, drawn: Candidates | None) -> NodeTable:
        nothing_read = self.targets[:0]
        return self.model.node_vectors(self.model._needed(nothing_read, self.targets, drawn))

    def _value(self, drawn: Candidates | None, table: NodeTable) -> Tensor:
        """As in the model's ``losses``."""
        model, states = self.model, self.states
        with autocast(self.bf16):
            if self.bf16:
                states, table = states.bfloat16(), table.to(torch.bfloat16)
            if model.generative_weight:
                paths = model.tree.paths[self.targets]
                return sibling_loss(model.depth(states, paths, table), paths, table, model.tree)
            if drawn:
                return model.sampler.loss(states, self.targets, drawn, table, model.tree)
            return full_loss(states, self.targets, table, model.tree)

    def _backward(self, loss: Tensor, *leaves: Tensor) -> None:
        torch.autograd.grad(loss, [self.states, *leaves, *self.model.depth.parameters()], allow_unused=True)

    def alone(self) -> None:
        """Forward and backward down to the states and the vectors of nodes."""
        self._backward(self._value(self.drawn, self.table), self.table.vectors)

    def update(self) -> None:
        """From the draw to the gradients of the embeddings."""
        drawn = self._draw()
        self._backward(self._value(drawn, self._vectors(drawn)), *self.model.node_vectors.parameters())


def gigabytes(n_items: int, options: argparse.Namespace, whole: bool) -> float:
    """What the weights and their gradients need, and where ``whole`` also the vectors of all nodes and items.

    Args:
        whole: for the exact dense loss; nodes and items then have vectors, a copy in bf16, and gradients.
    """
    n_nodes = n_items + min(n_items, options.codewords + options.codewords**2)
    width = configuration("SASTrie", options)["hidden_size"]
    return 4 * width * (2 * n_nodes + whole * (3 * n_nodes + 4 * n_items)) / 1e9


def growth(run: Callable[[], None]) -> float:
    """By how many MB ``run`` raises the resident memory of this process."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # else what building the catalogue has freed would be used again
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far becomes what is resident now
    before = peak_memory()
    run()
    return peak_memory() - before


def memory_of(n_items: int, name: str, options: argparse.Namespace) -> tuple[float, float]:
    """In MB, of the loss alone and of an update."""
    torch.set_num_threads(options.threads)
    loss = Loss(name, catalogue_model(n_items, options), options)
    return growth(loss.alone), growth(loss.update)


def measure_catalogue(options: argparse.Namespace, console: Console) -> None:
    """Print time and memory of every loss over every catalogue."""
    table = table_of("items", "softmax over", "vectors", "loss, ms", "update, ms", "loss, MB", "update, MB")
    for n_items in options.items:
        names = [name for name in LOSSES if gigabytes(n_items, options, name == ALL_ITEMS) <= options.memory_gb]
        memory = {}
        for name in names:  # before this process grows
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh_process:
                memory[name] = fresh_process.submit(memory_of, n_items, name, options).result()
        if names:
            model = catalogue_model(n_items, options)
            losses = {name: Loss(name, model, options) for name in names}
            runs = {(name, how): getattr(losses[name], how) for name in names for how in ("alone", "update")}
            seconds = median_seconds(runs, options.repeats)
            print_tree(model, losses[names[0]].targets, console)
        for name in LOSSES:
            if name not in names:
                table.add_row(f"{n_items:,}", name, *["–"] * 5)
                continue
            times = [f"{1000 * seconds[name, how]:,.1f}" for how in ("alone", "update")]
            cells = [f"{len(losses[name].table.vectors):,}", *times, *(f"{each:,.0f}" for each in memory[name])]
            table.add_row(f"{n_items:,}", name, *cells)
        model = losses = runs = None  # before the next catalogue
    console.print(f"\n{options.targets:,} targets; –: left out, needs more than {options.memory_gb:g} GB")
    console.print(table)


def print_tree(model: TimelineRecommender, targets: Tensor, console: Console) -> None:
    """One line on the tree of a catalogue."""
    content = model.codes[1:, :N_LEVELS]
    sharing = 1 - float((content.unique(dim=0, return_counts=True)[1] == 1).sum()) / len(content)
    steps = model.tree.paths[targets]
    siblings = model.tree.siblings(nn.functional.pad(steps, (1, 0))[:, :-1])[1] * (steps > 0)
    console.print(
        f"{len(content):,} items: {model.tree.trie.n_nodes:,} nodes, {sharing:.1%} of the items share their content "
        f"code, {siblings.sum(1).float().mean():,.0f} siblings on the path of a target"
    )


# ----------------------------------------------------------------------------------- latency


def searches(model: TimelineRecommender, rows: Interaction, options: argparse.Namespace) -> dict[str, Callable]:
    """The ways to find the ten best items that fit into the memory, by name."""
    ways = {
        f"p, beam {options.beam_width}": partial(variant(model, rank_by="generative").topk, rows, TOP),
        f"q on p's beam of {options.beam_width}": partial(variant(model, rank_by="rerank").topk, rows, TOP),
    }
    # Of all items there are logits, their logarithmic shares and ranks beside the vectors.
    n_users, width = len(rows[model.ITEM_SEQ]), model.node_vectors.own.weight.size(1)
    if 4 * model.n_items * (4 * n_users + 6 * width) / 1e9 > options.memory_gb:
        return ways
    ways["q, all items"] = partial(variant(model, rank_by="dense").topk, rows, TOP)
    return ways


def measure_latency(options: argparse.Namespace, console: Console) -> None:
    """Print the milliseconds of a request, a column per catalogue."""
    milliseconds = defaultdict(dict)
    for n_items in options.items:
        if gigabytes(n_items, options, whole=False) > options.memory_gb:
            continue
        model = catalogue_model(n_items, options).eval()
        rng = np.random.default_rng(options.seed)
        runs = {}
        for n_users in (options.users, options.many_users):
            items = torch.from_numpy(rng.integers(1, n_items + 1, (n_users, options.history)))
            lengths = torch.full((n_users,), options.history)
            rows = Interaction({model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths})
            runs.update({(n_users, way): run for way, run in searches(model, rows, options).items()})
        for key, seconds in median_seconds(runs, options.repeats).items():
            milliseconds[key][n_items] = 1000 * seconds
        model = runs = None  # before the next catalogue
    console.print(f"\nms per request, histories of {options.history}; –: left out, needs more than --memory_gb")
    table = table_of("users", "order", *(f"{n_items:,} items" for n_items in options.items))
    for (n_users, way), by_items in sorted(milliseconds.items(), key=lambda each: each[0][0]):
        cells = [f"{by_items[n]:,.2f}" if n in by_items else "–" for n in options.items]
        table.add_row(f"{n_users:,}", way, *cells)
    console.print(table)


# -------------------------------------------------------------------------------------- main


def table_of(*columns: str) -> Table:
    """An empty table; only its columns of words stand left."""
    table = Table()
    for column in columns:
        words = column in ("", "softmax over", "order")
        table.add_column(column, justify="left" if words else "right", no_wrap=words)
    return table


def numbers(text: str) -> list[int]:
    """Integers between commas."""
    return [int(number) for number in text.split(",")]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="measure", required=True)
    rankings = commands.add_parser("rankings", help="of trained models, by p, by q and by both")
    rankings.add_argument("checkpoints", nargs="+", help="best.pth of SASTrie or MARIUS")
    rankings.add_argument("--at_5", action="store_true", help="the first five items, too")
    training = commands.add_parser("training", help="targets per second beside VLSID and SASRec")
    training.add_argument("--dataset", help="whose training split to train on; without it sequences are generated")
    training.add_argument("--batches", type=int, default=6, help="of a round")
    catalogue = commands.add_parser("catalogue", help="cost of a loss as the catalogue grows")
    catalogue.add_argument("--targets", type=int, default=2048)
    latency = commands.add_parser("latency", help="milliseconds of a request as the catalogue grows")
    latency.add_argument("--beam_width", type=int, default=100)
    latency.add_argument("--users", type=int, default=1, help="of a request")
    latency.add_argument("--many_users", type=int, default=256, help="of another request")
    for command in (rankings, training):
        command.add_argument("--data_path", help="folder of the dataset")
    for command in (training, catalogue, latency):
        command.add_argument("--history", type=int, default=20, help="most items of a history")
        command.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
        command.add_argument("--repeats", type=int, default=5)
        command.add_argument("--seed", type=int, default=1)
    for command in (catalogue, latency):
        command.add_argument("--items", type=numbers, default=[12_101, 100_000, 1_000_000], help="like 12101,100000")
        command.add_argument("--codewords", type=int, default=256, help="of each of three levels")
        command.add_argument("--memory_gb", type=float, default=20, help="what would need more is left out")
    for command in (rankings, training, catalogue, latency):
        command.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.measure == "rankings":
        measure_rankings(options)
        return
    console = wide_console()
    console.print(
        f"{'bf16' if options.bf16 else 'fp32'}, PyTorch {torch.__version__}, {options.threads} threads, CPU; "
        f"medians of {options.repeats} rounds"
    )
    measures = {"training": measure_training, "catalogue": measure_catalogue, "latency": measure_latency}
    measures[options.measure](options, console)


if __name__ == "__main__":
    main()
