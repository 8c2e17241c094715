"""Damaged checkpoints and malformed tables."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import torch

from benchmarks.reliability.shared import COMMON, SMALL, Cases, called, judge, make_data
from recbole_vsid.data.prepare import prepare
from recbole_vsid.storage import load_checkpoint


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A kind of damage and the damaged bytes."""
    kind = draw.choice(["bit", "byte", "cut", "zeros", "doubled", "swapped", "foreign"])
    at, raw = draw.randrange(len(content)), bytearray(content)
    if kind == "bit":
        raw[at] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        raw[at] = (raw[at] + draw.randrange(1, 256)) % 256
    elif kind == "cut":
        raw = raw[:at]
    elif kind == "zeros":
        raw[at : at + 64] = bytes(len(raw[at : at + 64]))
    elif kind == "doubled":
        raw[at:at] = raw[at : at + 100]
    elif kind == "swapped":
        other = draw.randrange(len(content))
        raw[at], raw[other] = raw[other], raw[at]
    else:
        raw = bytearray(draw.choice([b"", b"{}", b"PK\x03\x04", b"\x80\x04K\x01.", b"[1, 2]", b"GIF89a"]))
    return kind, bytes(raw)


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


def checkpoints(cases: Cases, n_cases: int, draw: random.Random) -> None:
    make_data(Path("data"))
    if called([*COMMON, *SMALL, "--epochs=3", "--checkpoint_dir=saved", "--cache_dir=cache"])[0]:
        raise SystemExit("the training failed")
    for number in range(n_cases):
        (path,) = Path("saved").glob(f"IntRR-*/{draw.choice(['best', 'last'])}.pth")
        state = load_checkpoint(path)
        kind, content = damaged(path.read_bytes(), draw)
        copy = Path("damaged.pth")
        copy.write_bytes(content)
        try:
            found = load_checkpoint(copy)
        except ValueError as error:
            cases.add(f"{kind}: refused") if "damaged.pth" in str(error) else cases.fault(f"{kind}: {error}")
            continue
        except Exception as error:
            cases.fault(f"case {number}, {kind} in {path.name}: {type(error).__name__}: {error}")
            continue
        # Some bytes of a zip file mean nothing (padding, dates): then every value must be what it was.
        cases.add(f"{kind}: no value changed") if equal(found, state) else cases.fault(f"case {number}, {kind}: taken")


ODD = ["", " ", "NA", "null", "nan", '"', "'", '""', "\t", "\n", "\r", "\x00", ",", ";", "1e400", "-inf", "12.0",
       "\ufeff", "é", "{}", "[]", "['a']", "2019-13-45", "x" * 140_000, "&amp;", "<b>", "0", "-1", "1.5",
       "99999999999999999999", "a\tb", 'a"b']  # fmt: skip


def good_events(draw: random.Random) -> pd.DataFrame:
    rows = [(f"u{draw.randrange(20)}", f"i{draw.randrange(15)}", 1_600_000_000 + 60 * row) for row in range(150)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def text_of(frame: pd.DataFrame, ending: str) -> str:
    if ending == "jsonl":
        return frame.to_json(orient="records", lines=True)
    return frame.to_csv(index=False, sep="\t" if ending in ("tsv", "inter") else ",")


def mutated(text: str, draw: random.Random) -> str:
    """``text`` with one to three of its lines or characters changed."""
    for _ in range(draw.randint(1, 3)):
        lines = text.split("\n")
        row, kind = draw.randrange(len(lines)), draw.randrange(6)
        if kind == 0:
            at = draw.randrange(len(text) + 1)
            text = text[:at] + draw.choice(ODD) + text[at:]
            continue
        if kind == 1:
            lines[row] = draw.choice(ODD)
        elif kind == 2:
            cells = lines[row].replace("\t", ",").split(",")
            cells[draw.randrange(len(cells))] = draw.choice(ODD)
            lines[row] = ("\t" if "\t" in lines[row] else ",").join(cells)
        elif kind == 3:
            lines.insert(row, lines[row])
        elif kind == 4:
            del lines[row]
        else:
            lines[row] = lines[row][: draw.randrange(len(lines[row]) + 1)]
        text = "\n".join(lines) or " "
    return text


def tables(cases: Cases, n_cases: int, draw: random.Random) -> None:
    make_data(Path("data"))
    whole = {name: Path(f"data/shop/shop.{name}").read_text() for name in ("inter", "item")}
    for number in range(n_cases):
        ending = draw.choice(["csv", "tsv", "jsonl", "inter", "item"])
        if ending in whole:  # an atomic file of RecBole
            Path(f"data/shop/shop.{ending}").write_text(mutated(whole[ending], draw), newline="")
            judge(cases, ["tokenize", *COMMON, "--tokenizer=rkmeans", "--sid_vocab_size=4", "--sid_n_levels=2",
                          "--content_dim=4", "--cache_dir=~", "--missing_content=zero"])  # fmt: skip
            Path(f"data/shop/shop.{ending}").write_text(whole[ending])
            continue
        file = Path(f"events.{ending}")
        file.write_text(mutated(text_of(good_events(draw), ending), draw), newline="")
        try:
            summary = prepare(str(file), f"made{number}", data_path="made")
        except (ValueError, OSError) as error:
            cases.add(f"{ending}: refused")
            if "\n" in str(error):
                cases.fault(f"case {number}, {ending}: an error of several lines: {error}")
            continue
        except Exception as error:
            cases.fault(f"case {number}, {ending}: {type(error).__name__}: {error}")
            continue
        kept = len(Path(f"made/made{number}/made{number}.inter").read_text().splitlines()) - 1
        if kept != summary["events"] or kept != summary["rows_read"] - sum(summary["rows_dropped"].values()):
            cases.fault(f"case {number}, {ending}: {kept} events written, the summary says {summary}")
        else:
            cases.add(f"{ending}: read, every row accounted for")
