"""Can a trained model rank items that nobody has bought? SASTrie or MARIUS, and similarity of texts beside it.

    python benchmarks/cold_items.py [--data_path=<folder>] --dataset=amazon-beauty --model=SASTrie --share=0.05 --seed=1
        [--text=<folder>/amazon-beauty/item_text_minilm.float16.npy] [--folder=<kept>] [--epochs=16] [key=value ...]

A share of the items is drawn at random. A data set without their events (and without their rows of the item file) is
written to a temporary folder, or to ``--folder``, which keeps it and the trained model for another evaluation.
Tokenizer, co-occurrence, training and model selection see that data set only, split leave-one-out like any other. The
one thing they share with the cold items is the basis of the text: a shop knows the texts of what it has not sold yet,
so tf-idf and its SVD are fitted on the texts of all items, once.

Afterwards the cold items get codes by the fitted tokenizer, are added to the table, and the same trained model ranks
them. The rows of the result differ in what stands in the co-occurrence part of a cold item's vector:

    ridge   what ridge regression predicts from its text, learnt from the items with training events
    zero    nothing
    mean    the mean of the items with training events, which is short
    text    the codes are those nearest in the text part alone (codebooks cut to it; residual k-means only)

Asked are users whose last event of the full data is a cold item; their history is what they bought before, without
cold items. Items of the history stay in the ranking (consumed items kept). ``dense``, ``generative`` and ``rerank`` are
the orders of ``rank_by``, the last two by a beam of ``--beam``. "Among cold" restricts the ranking to the cold items.
"Warm" is Recall@10 of users whose last event is no cold item, by the same model over all items: what they lose to the
new ones is the difference from "not added", the model before cold items joined it. Text: cosine with the mean text
vector of the last 1, 3 and 20 items, of ``--text`` (a .npy in the order of the .item file) or else of the tf-idf part.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_vsid import load, run
from recbole_vsid.cli import parse
from recbole_vsid.config import Config
from recbole_vsid.data.atomic_files import AtomicFile
from recbole_vsid.data.cold_content import predicted_block
from recbole_vsid.data.content import tfidf
from recbole_vsid.data.content_file import from_file
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.data.hook import Fitted, fit_tokenizer, item_tokens
from recbole_vsid.data.sequences import EventLog
from recbole_vsid.decoding.ranking import best_items
from recbole_vsid.model.timeline.base import TimelineRecommender
from recbole_vsid.run_files import data_files, data_hash, is_finished, noted_data
from recbole_vsid.semantic_id.table import SemanticIDs
from recbole_vsid.tokenizer.base import Tokenizer, unit_rows
from recbole_vsid.tokenizer.rkmeans import RKMeansTokenizer
from recbole_vsid.trainer import run_folder

CUTOFFS = (10, 50)
HISTORIES = (1, 3, 20)
USERS_AT_ONCE = 256
ROOM = 256  # disambiguation tokens for the items of the training, beside those for the cold ones
MADE_HERE = ("content", "content_file", "content_ids", "content_weights", "missing_content", "sid_file", "cache_dir",
             "checkpoint_dir", "data_path")  # fmt: skip

Figures = dict[str, float]


# ---------------------------------------------------------------------------- training without the cold items


class FullData(SemanticIDDataset):
    """All events in their order, and the item columns as numbers; neither split nor tokenized."""

    def build(self) -> FullData:
        self._change_feat_format()
        return self


def full_data(options: argparse.Namespace, settings: dict[str, Any]) -> FullData:
    """The data set with all events, whose content_file is ``--text``."""
    given = {**settings, "data_path": options.data_path} if options.data_path else dict(settings)
    config = Config(options.model, options.dataset, config_dict={**given, "seed": options.seed})
    if not issubclass(config.model_class, TimelineRecommender):
        raise SystemExit(f"{options.model} cannot rank items that are added later: take SASTrie or MARIUS")
    config.set_up_process()
    config["content_file"] = options.text
    return FullData(config).build()


def drawn_items(n_items: int, share: float, seed: int) -> np.ndarray:
    """Ids of the cold items, ascending, out of 1..n_items - 1."""
    n_cold = round(share * (n_items - 1))
    if not 3 <= n_cold < n_items - 1:
        raise SystemExit(
            f"--share={share} draws {n_cold} of {n_items - 1} items; it must leave some, and draw 3 or more"
        )
    return np.sort(1 + np.random.default_rng(seed).permutation(n_items - 1)[:n_cold])


def write_without(full: FullData, cold: np.ndarray, folder: Path) -> None:
    """The atomic files of ``full`` below ``folder`` without the rows of the items ``cold``, line by line."""
    name, config = full.dataset_name, full.config
    source, target = Path(full.dataset_path), folder / name
    target.mkdir(parents=True, exist_ok=True)
    dropped_items = set(item_tokens(full)[cold].tolist())
    for ending in (".inter", ".item"):
        path = source / f"{name}{ending}"
        if not path.is_file():
            continue
        file = AtomicFile(path, config["field_separator"], config["encoding"])
        column = list(file.types).index(full.iid_field)
        dropped = {
            line for first, last, row in file.rows() if row[column] in dropped_items for line in range(first, last + 1)
        }
        with open(path, encoding=file.encoding, newline="") as lines:
            kept = [text for number, text in enumerate(lines, 1) if number not in dropped]
        with open(target / path.name, "w", encoding=file.encoding, newline="") as lines:
            lines.writelines(kept)
    if (source / f"{name}.user").is_file():
        shutil.copy(source / f"{name}.user", target)


def training_settings(
    full: FullData, text: np.ndarray, n_cold: int, folder: Path, given: dict[str, Any]
) -> dict[str, Any]:
    """The settings of the training; writes the text part of all items for it."""
    np.save(folder / "text.npy", text[1:])
    (folder / "text_ids.txt").write_text("\n".join(item_tokens(full)[1:]) + "\n", encoding="utf-8")
    settings = {
        **given,
        "seed": full.config["seed"],
        "data_path": str(folder),
        "content": ["file", "cooccurrence"],
        "content_file": str(folder / "text.npy"),
        "content_ids": str(folder / "text_ids.txt"),
        "missing_content": "zero",
        "cache_dir": str(folder / "cache"),
        "checkpoint_dir": str(folder / "saved"),
    }
    if full.config["sid_collisions"] == "suffix" and full.config["sid_suffix_size"] == "auto":
        settings["sid_suffix_size"] = n_cold + ROOM
    return settings


def trained(options: argparse.Namespace, settings: dict[str, Any]) -> tuple[Any, TimelineRecommender]:
    """The built data set without cold items, and the best model of a training on it, new or from ``--folder``."""
    config = Config(options.model, options.dataset, config_dict=settings)
    folder = run_folder(config)
    if not is_finished(folder) or noted_data(folder) != data_hash(data_files(config)):
        run(options.model, options.dataset, config_dict=settings)
    _, dataset, _, model = load(folder / "best.pth")
    return dataset, model


# ------------------------------------------------------------------------------------- codes of cold items


class TextPart(RKMeansTokenizer):
    """Residual k-means whose codebooks are cut to the first dimensions of vectors that have two parts of one length."""

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        """The unit text vector as it stands in a unit vector of both parts."""
        return x * 0.5**0.5


def cold_vectors(
    fitted: Fitted, text: np.ndarray, popularity: np.ndarray
) -> Iterator[tuple[str, np.ndarray, Tokenizer]]:
    """The vectors of the cold items, by each of the ways to fill them, and what gives codes to them.

    Args:
        fitted: what the training used; the first columns of its vectors are the text part.
        text: float32 ``[m, p]``, the text part of the cold items, unit rows.
        popularity: int64 ``[n_items]``, training events of the others.
    """
    n_text, whole = text.shape[1], fitted.tokenizer
    known = fitted.embedding[1:][popularity[1:] > 0]
    ridge, r2 = predicted_block(known[:, :n_text], known[:, n_text:], text)
    getLogger().info(f"Text explains {r2:.1%} of the co-occurrence (R² by generalized cross-validation)")
    mean = np.tile(known[:, n_text:].mean(0), (len(text), 1))
    for name, part in (("ridge", ridge), ("zero", np.zeros_like(ridge)), ("mean", mean)):
        yield name, np.concatenate([text, part], axis=1, dtype=np.float32), whole
    if isinstance(whole, RKMeansTokenizer) and whole.residual_norms is None:
        cut = TextPart(whole.settings, whole.seed, whole.device)
        cut.load_state_dict({"centroids": whole.centroids[:, :, :n_text].contiguous()})
        yield "text", text, cut


def about_codes(table: SemanticIDs, n_warm: int) -> Figures:
    """How the codes of the items behind the first ``n_warm`` compare with theirs."""
    old, new = table.codes[1 : n_warm + 1], table.codes[n_warm + 1 :]
    seen = np.stack([np.isin(after, before) | (after < 0) for before, after in zip(old.T, new.T)])
    ends = table.lengths[1:] - bool(table.suffix)
    content = [tuple(code[:end]) for code, end in zip(table.codes[1:].tolist(), ends)]
    known, codes = set(content[:n_warm]), content[n_warm:]
    return {
        "distinct_content_codes": len(set(codes)),
        "items_with_a_content_code_of_others": sum(code in known for code in codes),
        "items_with_an_untrained_code": int((~seen).any(0).sum()),
    }


# ----------------------------------------------------------------------------------------------- evaluation


class Requests(NamedTuple):
    """Users who are asked for, with ids of the extended table.

    Attributes:
        items: int64 ``[n, longest]``, histories, oldest first, padded with 0 on the right.
        lengths: int64 ``[n]``.
        targets: int64 ``[n]``.
    """

    items: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray

    def of(self, chosen: np.ndarray) -> Requests:
        """Some of them."""
        return Requests(*(column[chosen] for column in self))

    def batches(self) -> Iterator[Requests]:
        for start in range(0, len(self.targets), USERS_AT_ONCE):
            yield self.of(np.arange(start, min(start + USERS_AT_ONCE, len(self.targets))))


def all_requests(events: EventLog, number: np.ndarray, n_warm: int, longest: int) -> Requests:
    """A request for the last event of every user with a history of other than cold items.

    Args:
        events: of the full data.
        number: int64, full data's item id → id in the extended table, in which cold items are those above ``n_warm``.
        n_warm: items of the training.
        longest: most events of a history.
    """
    items = number[events.items]
    last = events.offsets[1:][events.counts() > 1] - 1
    is_last = np.zeros(len(items), dtype=bool)
    is_last[events.offsets[1:][events.counts() > 0] - 1] = True
    kept = (items <= n_warm) & ~is_last
    users = events.users()[kept]
    log = EventLog(items[kept], np.r_[0, np.cumsum(np.bincount(users, minlength=len(events.counts())))])
    user = events.users_at(last)
    lengths = np.minimum(log.counts()[user], longest)
    histories = log.gather(log.offsets[user + 1] - lengths, lengths, longest)
    return Requests(histories, lengths, items[last]).of(lengths > 0)


def figures(found: np.ndarray, targets: np.ndarray) -> Figures:
    """Recall and NDCG of rankings ``[n, most]``."""
    hit = found == targets[:, None]
    rank = np.where(hit.any(1), hit.argmax(1) + 1, np.inf)
    values = {f"recall@{k}": float((rank <= k).mean()) for k in CUTOFFS}
    return {**values, "ndcg@10": float(np.where(rank <= 10, 1 / np.log2(rank + 1), 0).mean())}


def by_chance(n_items: int) -> Figures:
    """The expected figures of a random order."""
    values = {f"recall@{k}": min(1.0, k / n_items) for k in CUTOFFS}
    return {**values, "ndcg@10": float((1 / np.log2(np.arange(min(10, n_items)) + 2)).sum() / n_items)}


def of_model(model: TimelineRecommender, requests: Requests, order: str) -> Figures:
    """What the model's ranking by ``order`` is worth, among the items of its tree as it stands."""
    model.rank_by = order
    found = []
    for batch in requests.batches():
        columns = {model.ITEM_SEQ: batch.items, model.ITEM_SEQ_LEN: batch.lengths}
        rows = Interaction({name: torch.from_numpy(column) for name, column in columns.items()})
        found.append(model.topk(rows.to(model.codes.device), max(CUTOFFS))[0].cpu().numpy())
    return figures(np.concatenate(found), requests.targets)


def of_text(vectors: torch.Tensor, requests: Requests, n_last: int, candidates: np.ndarray) -> Figures:
    """The same for the cosine with the mean vector of the last ``n_last`` items; ``vectors`` are unit rows."""
    found = []
    for items, lengths, _ in requests.batches():
        column = np.arange(items.shape[1])
        read = torch.from_numpy(np.where(column >= (lengths - n_last)[:, None], items, 0))  # row 0 is zero
        scores = torch.full((len(items), len(vectors)), -torch.inf)
        scores[:, candidates] = vectors[read].sum(1) @ vectors[candidates].T
        found.append(best_items(scores, max(CUTOFFS))[0].numpy())
    return figures(np.concatenate(found), requests.targets)


class Evaluation:
    """Rows of the table.

    Args:
        cold, warm: requests for cold items and for others.
        n_items: rows of the extended table.
        n_warm: items of the training.
    """

    def __init__(self, cold: Requests, warm: Requests, n_items: int, n_warm: int) -> None:
        self.cold, self.warm = cold, warm
        self.everything, self.cold_items = np.arange(1, n_items), np.arange(n_warm + 1, n_items)
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, among_all: Figures | None, among_cold: Figures | None, warm: float) -> None:
        self.rows.append({"row": name, "all": among_all, "cold": among_cold, "warm_recall@10": warm})

    def baselines(self, vectors: np.ndarray, what: str) -> None:
        """Chance, and similarity of ``vectors`` ``[n_items, d]`` in the order of the extended table."""
        chance = by_chance(len(self.everything))
        self.add("chance", chance, by_chance(len(self.cold_items)), chance["recall@10"])
        unit = torch.from_numpy(unit_rows(vectors))
        unit[0] = 0
        for n in HISTORIES:
            values = [of_text(unit, self.cold, n, items) for items in (self.everything, self.cold_items)]
            warm = of_text(unit, self.warm, n, self.everything)["recall@10"]
            self.add(f"{what}, last {n}", *values, warm)

    def model(self, name: str, model: TimelineRecommender, orders: list[str], added: bool = True) -> None:
        """A row per order of ``model``, whose tree has the cold items if they are ``added``."""
        whole = model.trie
        for order in orders:
            among_all = among_cold = None
            if added:
                among_all = of_model(model, self.cold, order)
                model.trie = model.restricted_trie(self.cold_items)
                among_cold = of_model(model, self.cold, order)
                model.trie = whole
            self.add(f"{name}, {order}", among_all, among_cold, of_model(model, self.warm, order)["recall@10"])

    def markdown(self) -> str:
        columns = ["R@10", "R@50", "N@10"]
        n_cold, n_warm = len(self.cold.targets), len(self.warm.targets)
        head = [f"{len(self.everything):,} items, {n_cold:,} users asking for a cold one"]
        head += [
            f"{column} among {where}" for where in ("all", f"the {len(self.cold_items):,} cold") for column in columns
        ]
        head.append(f"R@10 of {n_warm:,} warm users")
        lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
        for row in self.rows:
            cells = [
                [f"{value:.4f}" for value in row[place].values()] if row[place] else ["–"] * 3
                for place in ("all", "cold")
            ]
            lines.append([row["row"], *cells[0], *cells[1], f"{row['warm_recall@10']:.4f}"])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ----------------------------------------------------------------------------------------------------- main


def measure(options: argparse.Namespace, settings: dict[str, Any], folder: Path) -> tuple[Evaluation, dict[str, Any]]:
    """Train without the cold items, add them, ask for them; the rows, and plain values about the run."""
    full = full_data(options, settings)
    cold = drawn_items(full.item_num, options.share, options.seed)
    text = tfidf(full).matrix
    write_without(full, cold, folder)
    dataset, model = trained(options, training_settings(full, text, len(cold), folder, settings))
    tokens, cold_tokens = item_tokens(dataset), item_tokens(full)[cold]
    assert not np.isin(cold_tokens, tokens).any(), "cold items were trained on"
    fitted = fit_tokenizer(dataset)  # from the cache
    if not np.array_equal(fitted.table.codes, model.semantic_ids.codes):
        raise SystemExit("the tokenizer was fitted anew and gives other codes than the model was trained with")

    n_warm, numbers = len(tokens) - 1, full.field2token_id[full.iid_field]
    in_full = np.array([0, *(numbers[token] for token in (*tokens[1:], *cold_tokens))])  # by id of the extended table
    number = np.zeros(full.item_num, dtype=np.int64)
    number[in_full] = np.arange(len(in_full))
    requests = all_requests(full.events, number, n_warm, dataset.config["MAX_ITEM_LIST_LENGTH"])
    asks_cold = requests.targets > n_warm
    warm = np.flatnonzero((requests.targets > 0) & ~asks_cold)
    if options.warm_users:
        warm = np.sort(np.random.default_rng(options.seed).permutation(warm)[: options.warm_users])
    evaluation = Evaluation(requests.of(np.flatnonzero(asks_cold)), requests.of(warm), len(in_full), n_warm)

    vectors, what = (from_file(full).matrix, "given text") if options.text else (text, "tf-idf")
    evaluation.baselines(vectors[in_full], what)
    heads = {"dense": model.dense_weight, "generative": model.generative_weight}
    orders = [order for order, weight in heads.items() if weight] + ["rerank"] * all(heads.values())
    model.decoding, model.beam_width = "beam", options.beam
    evaluation.model("not added", model, orders, added=False)
    codes = {}
    for name, vectors, tokenizer in cold_vectors(fitted, unit_rows(text[cold]), dataset.popularity()):
        try:
            table = tokenizer.extend(fitted.table, vectors, cold_tokens)
        except ValueError as error:  # no room for so many alike
            print(f"{name}: {error}")
            continue
        extended = copy.deepcopy(model)  # a model follows a table to more items, never back
        extended.use_table(table, model.codes.device)
        codes[name] = about_codes(table, n_warm)
        evaluation.model(name, extended, orders)
    return evaluation, {"cold_items": len(cold), "codes": codes, "settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data_path", help="folder of the data set's folder; ml-100k needs none")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--model", default="SASTrie")
    parser.add_argument("--share", type=float, default=0.05, help="of the items, drawn to be cold")
    parser.add_argument("--seed", type=int, default=1, help="of the draw and of the training")
    parser.add_argument("--text", help=".npy with a text vector per row of the .item file, for the similarity of texts")
    parser.add_argument("--folder", help="where data, codes and model are kept; a temporary one by default")
    parser.add_argument("--beam", type=int, default=100, help="of generative and rerank")
    parser.add_argument("--warm_users", type=int, default=5000, help="at most so many, drawn at random; 0: all")
    options, others = parser.parse_known_args()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    settings = parse([text if text.startswith("--") else f"--{text}" for text in others])
    for key in MADE_HERE:
        if key in settings:
            parser.error(f"{key} is chosen here")
    if options.beam < max(CUTOFFS):
        parser.error(f"--beam must be at least {max(CUTOFFS)}")
    for key in ("data_path", "text"):
        if getattr(options, key):
            setattr(options, key, str(Path(getattr(options, key)).resolve()))
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)  # RecBole leaves logs where it is called
        try:
            evaluation, about = measure(options, settings, folder)
        finally:
            os.chdir(here)
    print(evaluation.markdown())
    named = {name: getattr(options, name) for name in ("dataset", "model", "share", "seed", "beam")}
    users = {"cold_users": len(evaluation.cold.targets), "warm_users": len(evaluation.warm.targets)}
    print(json.dumps({**named, **users, **about, "rows": evaluation.rows}))


if __name__ == "__main__":
    main()
