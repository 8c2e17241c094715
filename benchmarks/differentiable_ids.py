"""What is the recommendation gradient worth? DIGER's arms with and without it, beside two-stage training.

    python benchmarks/differentiable_ids.py --study=ml-100k --seeds=1,2,3 --plot=ml-100k.svg
    python benchmarks/differentiable_ids.py --study=ml-100k-hot --seeds=1,2,3
    python benchmarks/differentiable_ids.py --study=beauty --data_path=<folder> --seeds=1,2 \\
        --arms="two-stage;FrqUD;FrqUD, no gradient"

Every run is a process of its own and leaves its record under ``--checkpoint_dir``; what is there already is not run
again, so an interrupted study goes on where it was, and several processes may share its arms (``--arms``). A run that
the watch over its codes stopped is shown with its last good state.

Then a Markdown table: means over the seeds with 95 % intervals (Student's t), under both protocols; distinct content
codes by nearest codeword at the end, as a share of the start; effective codes of the last level; items whose content
code moved since the start; the norm of the gradient that the recommendation loss has at the codebooks at the end. Below
it, what the gradient changes, paired by seed. ``--plot`` draws the codes' state over the training.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from html import escape
from pathlib import Path

import numpy as np
from scipy import stats

from recbole_vsid.config import Config
from recbole_vsid.evaluation.collector import KEPT, MASKED
from recbole_vsid.storage import load_checkpoint, read_json
from recbole_vsid.trainer import run_folder

RUNNER = Path(__file__).resolve().parents[1] / "run_recbole_vsid.py"

GENERATOR = {"hidden_size": 64, "n_layers": 2, "head_size": 16, "inner_size": 256, "MAX_ITEM_LIST_LENGTH": 10}
SMALL = {
    **GENERATOR, "train_rows": "sampled_prefix", "epochs": 80, "eval_step": 10, "stopping_step": 20, "valid_users": 0,
    "joint_refresh_epochs": 4, "joint_usage_momentum": 0.95, "joint_assignment": "nearest", "joint_collapse_below": 0,
    "joint_sdud_lambda": 1.3,
}  # fmt: skip

STRAIGHT_THROUGH = {"joint_noise": "none", "joint_soft_update": "hard"}
BEAUTY_TEXT = "amazon-beauty/item_text_minilm.float16.npy"

# name → dataset, settings of all arms; a hot study moves the codebooks eleven times as far as the default allows
STUDIES = {
    "ml-100k": ("ml-100k", SMALL),
    "ml-100k-hot": ("ml-100k", {**SMALL, "joint_codebook_learning_rate": 0.01}),
    "beauty": ("amazon-beauty", {**GENERATOR, "content": "file"}),
}

OFF = {"joint_gradient_paths": []}
BASE = {
    "two-stage": {"joint_codebook_learning_rate": 0},
    "straight-through": STRAIGHT_THROUGH,
    "no noise": {"joint_noise": "none"},
    "constant noise": {"joint_decay": "none"},
    "SDUD": {"joint_decay": "sdud"},
    "FrqUD": {"joint_decay": "frqud"},
}
ARMS = {**BASE, **{f"{name}, no gradient": {**arm, **OFF} for name, arm in BASE.items() if name != "two-stage"}}
COLOURS = ("#444", "#d62728", "#9467bd", "#1f77b4", "#2ca02c", "#ff7f0e")


def record_of(study, arm, seed, options):
    """The record of a run, which is made if there is none."""
    dataset, settings = STUDIES[study]
    changes = {**settings, **ARMS[arm], "seed": seed, "checkpoint_dir": options.checkpoint_dir}
    if options.data_path:
        changes["data_path"] = options.data_path
    if dataset == "amazon-beauty":
        changes["content_file"] = str(Path(options.data_path) / BEAUTY_TEXT)
    command_line = [f"--{key}={value}" for key, value in changes.items()]
    folder = run_folder(Config("DIGER", dataset, config_dict=changes))
    result, stopped = folder / "result.json", folder / "collapsed"
    if not result.is_file() and not stopped.is_file():
        print(f"{arm}, seed {seed}", file=sys.stderr)
        command = [sys.executable, str(RUNNER), "--model=DIGER", f"--dataset={dataset}", *command_line]
        subprocess.run([*command, "--num_threads=1", "--show_progress=false"], stdout=subprocess.DEVNULL)
        if not result.is_file():
            stopped.touch()
    if result.is_file():
        return read_json(result)
    # Its codes had collapsed: what is known is the state before.
    watch = load_checkpoint(folder / "last.pth")["progress"]["code_watch"]
    return {"collapsed": watch[-1]["epoch"] + 1, "code_watch": watch, "diagnostics": watch[-1]}


def interval(values, digits=4):
    """Mean and 95 % interval, without leading zeros."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
        mean += f" ± {half:.{digits}f}"
    return mean.replace("0.", ".")


def table_line(arm, records):
    """One line of the Markdown table."""
    ends = [record["diagnostics"] for record in records]
    last = [record["code_watch"][-1] if record["code_watch"] else {} for record in records]
    level = max(int(name.rsplit("_", 1)[1]) for name in ends[0] if name.startswith("effective_nearest_"))

    stopped = [f"{record['collapsed']}" for record in records if "collapsed" in record]

    def metric(protocol, name):
        return "–" if stopped else interval([record["test_result"][protocol][name] for record in records])

    def mean(rows, name, form):
        return format(np.mean([row.get(name, 0.0) for row in rows]), form)

    cells = [
        f"{arm} (collapsed after epoch {', '.join(stopped)})" if stopped else arm,
        metric(KEPT, "recall@10"), metric(KEPT, "ndcg@10"), metric(MASKED, "ndcg@10"),
        mean(ends, "distinct_nearest_share", ".1%"), mean(ends, f"effective_nearest_{level}", ".1f"),
        mean(ends, "content_drift_since_start", ".0%"), mean(last, "gradient_norm", ".2g"),
        "–" if stopped else mean([record["cost"] for record in records], "training_seconds", ".0f"),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def differences(by_arm):
    """Lines on NDCG@10, paired by seed, with intervals: gradient minus none, and every arm minus two-stage training."""
    done = {arm: records for arm, records in by_arm.items() if not any("collapsed" in record for record in records)}
    pairs = [(arm, f"{arm}, no gradient") for arm in BASE if {arm, f"{arm}, no gradient"} <= set(done)]
    for protocol, name in ((KEPT, "kept"), (MASKED, "masked")):
        values = {arm: np.array([record["test_result"][protocol]["ndcg@10"] for record in records])
                  for arm, records in done.items()}  # fmt: skip
        gains = {f"{arm}, gradient minus none": values[arm] - values[without] for arm, without in pairs}
        if len(gains) > 1:
            gains["mean of these"] = np.mean(list(gains.values()), axis=0)
        if "two-stage" in values:
            gains |= {f"{arm} minus two-stage": values[arm] - values["two-stage"] for arm in values}
            del gains["two-stage minus two-stage"]
        for label, gain in gains.items():
            yield f"- NDCG@10 {name}, {label}: {interval(gain)}"


# -------------------------------------------------------------------------- plot


PANELS = {
    "distinct_nearest_share": "distinct content codes, of the start",
    "effective_nearest_3": "effective codes of level 3, of the start",
    "content_drift_since_start": "content codes moved since the start",
}


def panel(left, title, curves):
    """SVG of one set of curves, label → (x, y, colour, dashed), with shares on the y axis."""
    width, height, base = 230, 200, 250
    last = max(x[-1] for x, *_ in curves.values())
    top = 1.25 if max(max(y) for _, y, *_ in curves.values()) > 1 else 1.0
    parts = [f'<text x="{left}" y="40" font-weight="bold">{escape(title)}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        y = base - height * share / top
        parts.append(f'<line x1="{left}" y1="{y}" x2="{left + width}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{share:.0%}</text>')
    parts.append(f'<text x="{left}" y="{base + 16}">0</text>')
    parts.append(f'<text x="{left + width}" y="{base + 16}" text-anchor="end">epoch {last:.0f}</text>')
    for x, y, colour, dashed in curves.values():
        points = " ".join(f"{left + width * a / last:.1f},{base - height * b / top:.1f}" for a, b in zip(x, y))
        style = ' stroke-dasharray="5 4"' if dashed else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{style}/>')
    return parts


def curve(records, name):
    """Epochs and means over the seeds of a figure of the codes; effective codes as shares of those at the start."""
    x = [0, *(row["epoch"] + 1 for row in records[0]["code_watch"])]
    rows = np.array([[row[name] for row in record["code_watch"]] for record in records])
    if name.startswith("effective_nearest_"):
        level = int(name.rsplit("_", 1)[1])
        rows /= [[record["semantic_ids"]["positions"][level - 1]["perplexity"]] for record in records]
    return x, [0.0 if "drift" in name else 1.0, *rows.mean(axis=0)]


def draw(file, title, by_arm):
    """How the codes of all arms fare over the training, as an SVG file."""
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 380" font-family="sans-serif" font-size="11">',
             '<rect width="900" height="380" fill="white"/>',
             f'<text x="50" y="16" font-size="13">{escape(title)}</text>']  # fmt: skip
    moving = {arm: records for arm, records in by_arm.items()
              if records[0]["code_watch"] and not any("collapsed" in record for record in records)}  # fmt: skip
    styles = {arm: (COLOURS[list(BASE).index(arm.split(", ")[0])], "," in arm) for arm in moving}
    for place, (name, heading) in enumerate(PANELS.items()):
        curves = {arm: (*curve(records, name), *styles[arm]) for arm, records in moving.items()}
        parts += panel(50 + 290 * place, heading, curves)
    for place, (arm, (colour, dashed)) in enumerate(styles.items()):
        x, y = 50 + 210 * (place % 4), 300 + 24 * (place // 4)
        style = ' stroke-dasharray="5 4"' if dashed else ""
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 26}" y2="{y}" stroke="{colour}" stroke-width="1.8"{style}/>')
        parts.append(f'<text x="{x + 32}" y="{y + 4}">{escape(arm)}</text>')
    Path(file).write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=STUDIES, default="ml-100k")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--arms", default=";".join(ARMS), help="separated by semicolons; of: " + "; ".join(ARMS))
    parser.add_argument("--data_path", default="")
    parser.add_argument("--checkpoint_dir", default="saved")
    parser.add_argument("--plot", default="", help="SVG file to draw")
    options = parser.parse_args()
    by_arm = {
        arm: [record_of(options.study, arm, int(seed), options) for seed in options.seeds.split(",")]
        for arm in options.arms.split(";")
    }
    print("| | R@10 kept | NDCG@10 kept | NDCG@10 masked | distinct codes | effective codes, last level | moved | "
          "gradient | training, s |\n" + "| --- " * 9 + "|")  # fmt: skip
    for arm, records in by_arm.items():
        print(table_line(arm, records))
    print("\n".join(["", *differences(by_arm)]))
    if options.plot:
        n_seeds = len(options.seeds.split(","))
        draw(options.plot, f"{options.study}, means over {n_seeds} seeds; dashed: no recommendation gradient", by_arm)


if __name__ == "__main__":
    main()
