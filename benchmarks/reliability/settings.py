"""Senseless values of settings, random arguments and property files."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.reliability.files import mutated
from benchmarks.reliability.shared import NUMBERS, TEXTS, Cases, called, judge
from recbole_vsid.config import Config, properties_folder
from recbole_vsid.registry import MODELS


def settings(cases: Cases, n_cases: int, draw: random.Random) -> None:
    models = [*MODELS, "SASRec", "GRU4Rec", "BPR", "Pop"]
    wanted = []
    for model in models:
        tokenizers = sorted(path.stem for path in (properties_folder() / "tokenizer").glob("*.yaml"))
        for tokenizer in tokenizers if model == "VLSID" else [None]:
            given = {} if tokenizer is None else {"tokenizer": tokenizer}
            for key in Config(model, "ml-100k", config_dict=given).final_config_dict:
                wanted += [(model, given, key, value) for value in (*NUMBERS, *TEXTS)]
    for model, given, key, value in draw.sample(wanted, min(n_cases, len(wanted))):
        if key in ("model", "dataset", "data_path"):
            continue
        # There is no such dataset: what the settings let pass ends when the data are looked for, before any work.
        names = [f"--{name}={each}" for name, each in given.items() if name != key]
        code, out = called([f"--model={model}", "--dataset=absent", *names, f"--{key}={value}"])
        errors = [line for line in out.splitlines() if line.startswith("error:")]
        if code != 2 or len(errors) != 1:
            cases.fault(f"{model} {given} {key}={value!r}: exit {code}, {out.strip()[-200:]}")
        elif "unknown dataset 'absent'" in errors[0]:
            cases.add("let pass")
        else:
            cases.add("refused naming the setting" if key in errors[0] else "refused")


def random_arguments(draw: random.Random, keys: list[str]) -> list[str]:
    verbs = [
        "train",
        "tokenize",
        "leaderboard",
        "recommend",
        "prepare",
        "explore",
        "tune",
        "help",
        "recomend",
        "-v",
        "",
    ]
    found = [draw.choice(verbs)] if draw.random() < 0.7 else []
    for _ in range(draw.randrange(4)):
        key, value = draw.choice(keys), draw.choice([*NUMBERS, *TEXTS, "VLSID", "a,b", "a b", '"', "'"])
        found.append(
            draw.choice([f"--{key}={value}", f"--{key}", f"-{key}={value}", f"--{key}=", value, "--", "=", "-m"])
        )
    return found


def random_file(draw: random.Random, keys: list[str]) -> str:
    lines = [f"{draw.choice(keys)}: {draw.choice([*NUMBERS, *TEXTS, 'VLSID'])}" for _ in range(draw.randrange(1, 4))]
    text = "\n".join(lines) + "\n"
    return mutated(text, draw) if draw.random() < 0.5 else text


def commands(cases: Cases, n_cases: int, draw: random.Random) -> None:
    keys = list(Config("VLSID", "ml-100k").final_config_dict)
    keys += [
        "checkpoint",
        "users",
        "k",
        "interactions",
        "items",
        "params_file",
        "jobs",
        "compare",
        "table_file",
        "seeed",
    ]
    for number in range(n_cases):
        arguments = random_arguments(draw, keys)
        if number % 2:
            Path("mine.yaml").write_text(random_file(draw, keys), encoding="utf-8", errors="replace")
            arguments.append("--config_files=mine.yaml")
        arguments.append("--dataset=absent")  # what is let pass ends when the data are looked for
        if arguments[0] == "leaderboard":  # which would look for them in a process per model
            arguments.append("--report_only=true")
        judge(cases, arguments, allowed=(0, 2))
