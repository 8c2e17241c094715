"""Every tokenizer with its defaults on data of different shapes: does it fit, and what are its codes like?

    python benchmarks/data_shapes.py --data_path=dataset [--shapes=tags,words] [--tokenizers=vlsid,rkmeans]

``ml-100k`` needs no files; other data sets are taken if they are in ``--data_path``; ``tags`` and ``words`` are made up
here. Prints a Markdown table, one row as soon as it is known. Every tokenizer is fitted anew.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from recbole_vsid.registry import TOKENIZERS
from recbole_vsid.tokenization import compare

ON_DISK = ("ml-latest-small", "amazon-beauty", "amazon-games")


def walks(n_users: int, n_items: int, n_groups: int, mean_events: int, rng) -> tuple[list[str], np.ndarray]:
    """Lines of an ``.inter`` file of users who stay in few groups of items, and the group of every item."""
    group = rng.integers(n_groups, size=n_items)
    appeal = rng.lognormal(sigma=0.8, size=n_items)
    members = [np.flatnonzero(group == each) for each in range(n_groups)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(n_users):
        tastes = rng.choice(n_groups, size=3, replace=False)
        pool = np.concatenate([members[taste] for taste in tastes])
        n_events = int(rng.poisson(mean_events)) + 5
        items = rng.choice(pool, size=n_events, p=appeal[pool] / appeal[pool].sum())
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(items)]
    return lines, group


def write_dataset(folder: Path, name: str, events: list[str], items: list[str]) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.inter").write_text("\n".join(events) + "\n")
    (folder / name / f"{name}.item").write_text("\n".join(items) + "\n")


def make_tags(folder: Path) -> None:
    """1,090 users, some 3,646 items, each with some of 388 tags, no text."""
    rng = np.random.default_rng(0)
    events, group = walks(1090, 3646, 40, 60, rng)
    popular = 1 / np.arange(1, 389) ** 0.8
    lines = ["item_id:token\ttags:token_seq"]
    for item, its_group in enumerate(group):
        weights = popular * np.where(np.arange(388) % 40 == its_group, 60, 1)
        tags = rng.choice(388, size=rng.integers(1, 9), replace=False, p=weights / weights.sum())
        lines.append(f"i{item}\t{' '.join(f'tag{tag}' for tag in tags)}")
    write_dataset(folder, "tags", events, lines)


def make_words(folder: Path) -> None:
    """800 users, some 2,000 items, described by one or two of 120 words."""
    rng = np.random.default_rng(1)
    events, group = walks(800, 2000, 30, 40, rng)
    lines = ["item_id:token\ttitle:token_seq"]
    for item, its_group in enumerate(group):
        words = [f"kind{its_group}", *(f"word{word}" for word in rng.integers(90, size=rng.integers(0, 2)))]
        lines.append(f"i{item}\t{' '.join(words)}")
    write_dataset(folder, "words", events, lines)


def shapes(data_path: Path, made: Path) -> dict[str, tuple[str, dict]]:
    """Name → (dataset, settings)."""
    found = {
        "ml-100k": ("ml-100k", {}),
        "ml-100k by co-occurrence": ("ml-100k", {"content": "cooccurrence", "missing_content": "zero"}),
    }
    found |= {name: (name, {"data_path": str(data_path)}) for name in ON_DISK if (data_path / name).is_dir()}
    return found | {name: (name, {"data_path": str(made)}) for name in ("tags", "words")}


def row(shape: str, tokenizer: str, report: dict | str, seconds: float) -> str:
    if isinstance(report, str):
        return f"| {shape} | `{tokenizer}` | {seconds:.0f} | | | | refused: {report} |"
    before, lengths = report["collisions"]["before"], report["length"]["content"]
    share = before["distinct_codes"] / report["n_items"]
    found = ", ".join(f"`{name}` {value:.3g}" for name, value in report["found"].items())
    took = report["fit_seconds"] + report["content_seconds"]
    cells = (f"{took:.0f}", f"{share:.2f}", f"{before['largest_group']}",
             f"{lengths['events']:.2f} / {lengths['items']:.2f}", found or "fits")  # fmt: skip
    return f"| {shape} | `{tokenizer}` | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset", type=Path)
    parser.add_argument("--shapes", default="", help="names, separated by commas; all by default")
    parser.add_argument("--tokenizers", default=",".join(TOKENIZERS))
    parser.add_argument("--num_threads", default=1, type=int)
    options = parser.parse_args()
    data_path = options.data_path.resolve()
    print("| data | tokenizer | seconds | distinct codes | largest group | tokens (events / items) | outcome |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # RecBole writes its logs into the working directory
        make_tags(Path("made"))
        make_words(Path("made"))
        known = shapes(data_path, Path("made").resolve())
        wanted = [name.strip() for name in options.shapes.split(",") if name.strip()] or list(known)
        for shape in wanted:
            dataset, settings = known[shape]
            common = {"num_threads": options.num_threads, "show_progress": False, "use_gpu": False, **settings}
            for tokenizer in options.tokenizers.split(","):
                started = time.perf_counter()
                report = compare([tokenizer], dataset, None, common)[tokenizer]
                print(row(shape, tokenizer, report, time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
