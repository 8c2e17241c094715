"""What the parts share: small data, calls of the command line, counts."""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections import Counter
from pathlib import Path

from recbole_vsid.cli import main as command_line

SMALL = ["--model=IntRR", "--tokenizer=rkmeans", "--sid_vocab_size=8", "--sid_n_levels=2", "--content_dim=8",
         "--n_layers=1", "--hidden_size=16", "--n_heads=2", "--head_size=8", "--inner_size=16", "--uid_size=8",
         "--ran_hidden_size=8", "--enable_amp=false", "--eval_step=1", "--train_batch_size=256"]  # fmt: skip
COMMON = ["--dataset=shop", "--data_path=data", "--num_threads=1", "--use_gpu=false", "--show_progress=false"]
# Values that no setting means, each as the command line would give it.
NUMBERS = ["nan", "inf", "-inf", "-1", "1e308", "0", "-0.0", "99999999999999999999", "1.5"]
TEXTS = [
    "''",
    "[]",
    "{}",
    "~",
    "true",
    "abc",
    "[nan]",
    "{a: [inf]}",
    "[[]]",
    "0x",
    "\x00",
    "é",
    "[1,",
    "../x",
    "*",
    "!!python/x",
]


class Cases:
    """Counts of outcomes and the cases that went wrong."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def add(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def fault(self, description: str) -> None:
        self.outcomes["WRONG"] += 1
        self.wrong.append(description)


def make_data(folder: Path, n_users: int = 60, n_items: int = 30, n_events: int = 7) -> None:
    """``shop``: users who walk over the items, and items with a title and categories."""
    draw, rows = random.Random(1), ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(n_users):
        item = draw.randrange(n_items)
        for time in range(n_events):
            rows.append(f"u{user}\ti{item}\t{1000 * user + time}")
            item = (item + draw.choice((1, 2, 3, 5))) % n_items
    words = ["red", "blue", "green", "small", "large", "steel", "paper", "glass", "round", "flat"]
    items = ["item_id:token\ttitle:token_seq\tcategories:token_seq"]
    items += [f"i{i}\t{' '.join(draw.sample(words, 3))}\tc{i % 5} d{i % 3}" for i in range(n_items)]
    (folder / "shop").mkdir(parents=True, exist_ok=True)
    (folder / "shop" / "shop.inter").write_text("\n".join(rows) + "\n")
    (folder / "shop" / "shop.item").write_text("\n".join(items) + "\n")


def called(arguments: list[str]) -> tuple[int | None, str]:
    """Exit code of the command line (None: an exception came out) and what it printed."""
    out = io.StringIO()
    handlers = list(logging.getLogger().handlers)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code: int | None = command_line(arguments)
    except BaseException as error:  # also SystemExit: whatever comes out is the finding
        code = None
        print(f"{type(error).__name__}: {error}", file=out)
    for handler in set(logging.getLogger().handlers) - set(handlers):  # RecBole opens a log file per run
        logging.getLogger().removeHandler(handler)
        handler.close()
    return code, out.getvalue()


def judge(cases: Cases, arguments: list[str], allowed: tuple[int, ...] = (0, 2)) -> str:
    """Run a command line that must end with one of ``allowed`` and, if refused, one line ``error: …``."""
    code, out = called(arguments)
    errors = [line for line in out.splitlines() if line.startswith("error:")]
    if code not in allowed or "Traceback" in out or (code == 2 and len(errors) != 1):
        cases.fault(f"{arguments}: exit {code}, {(errors or out.strip().splitlines() or [''])[-1][:200]}")
    else:
        cases.add("refused" if code == 2 else "accepted")
    return out
