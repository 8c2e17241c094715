"""The command line: ``run_recbole_vsid.py [verb] --dataset=… [--key=value …]``; without a verb it trains."""

from __future__ import annotations

import sys
import warnings

HELP = """\
usage: run_recbole_vsid.py [train] [--model=NAME] [--dataset=NAME] [--config_files="A.yaml B.yaml"] [--key=value ...]
       run_recbole_vsid.py tokenize [--tokenizer=NAME | --compare=A,B,...] [--dataset=NAME] [--key=value ...]

train (the default) trains a recommender, selects it on validation, tests it under one protocol, prints metrics,
protocol and cost, and writes them as JSON. Without arguments: --model=VLSID --dataset=ml-100k, which needs no download.
tokenize makes semantic IDs without training a recommender, prints what they look like and writes the table.

  --model=NAME          VLSID, TIGER, ReSID, DIGER, IntRR, IntRRFlat, or one of RecBole (SASRec, GRU4Rec, ...)
  --dataset=NAME        a folder below --data_path with NAME.inter (and NAME.item) in RecBole's atomic format
  --data_path=FOLDER    where dataset folders are; default dataset/
  --config_files="..."  YAML files, later ones win, the command line wins over all
  --key=value           any setting, the value in YAML: --topk=[5,10] --epochs=30 --enable_amp=false

Often used:
  --tokenizer=NAME      vlsid (variable length), dvae (the same with a fixed length), rkmeans, rvq, rqvae, opq, gaoq
  --content=[A,B]       what the tokenizer sees of an item: tfidf, cooccurrence, text, fields, famae, file
  --sid_collisions=X    items with the same code: suffix (one more token), nearest, sinkhorn, none
  --sid_file=PATH       a table made elsewhere instead of a tokenizer: .safetensors, .json, .npy, .pt
  --cache_dir=FOLDER    where fitted tokenizers and slow item content are kept; --cache_dir=~ keeps none
  --beam_width=N        beams of the search; at least the largest topk
  --mask_history=true   let the protocol without consumed items select the model (both are always reported)
  --seed=N  --epochs=N  --num_threads=N  --show_progress=false  --result_file=PATH
  --resume=true         continue an interrupted run of the same configuration

Of tokenize only:
  --table_file=PATH     where the table goes; .safetensors (default), .json, .npy or .pt
  --table_format=NAME   codes or tokens (<a_12>) in a .json, or index (LETTER, MiniOneRec); codes by default
  --compare=A,B,...     several tokenizers, each in its own process, side by side

All settings with their defaults: properties/overall.yaml, properties/semantic_id.yaml, properties/model/,
properties/tokenizer/, properties/dataset/. RecBole's own: recbole.io/docs/user_guide/config_settings.html

Examples:
  python run_recbole_vsid.py --model=VLSID
  python run_recbole_vsid.py --model=SASRec --dataset=ml-100k
  python run_recbole_vsid.py --model=VLSID --data_path=dataset --dataset=amazon-beauty --tokenizer=rkmeans
  python run_recbole_vsid.py tokenize --compare=rkmeans,rqvae,vlsid,gaoq
"""

NAMES = ("model", "dataset", "config_files", "data_path", "checkpoint_dir", "result_file", "content_file",
         "content_ids", "sid_file", "sid_file_ids", "table_file", "text_model", "text_template", "compare",
         "user_inter_num_interval", "item_inter_num_interval", "output_dir", "settings_dir")  # fmt: skip


def parse(arguments):
    """``--key=value`` and ``--key value`` → dict; values are YAML, names and paths stay text.

    Raises:
        ValueError: an argument that is neither, or a key given twice with different values.
    """
    from recbole_vsid.config import parse_value

    settings, position = {}, 0
    while position < len(arguments):
        argument = arguments[position]
        if not argument.startswith("--") or len(argument) < 3:
            raise ValueError(f"cannot read the argument {argument!r}; settings look like --key=value, see --help")
        key, equals, text = argument[2:].partition("=")
        if not equals:
            position += 1
            if position == len(arguments) or arguments[position].startswith("--"):
                raise ValueError(f"--{key} has no value; write --{key}=value")
            text = arguments[position]
        value = text.strip("'\"") if key in NAMES else parse_value(text)
        if key in settings and settings[key] != value:
            raise ValueError(f"--{key} is given twice: {settings[key]!r} and {value!r}")
        settings[key] = value
        position += 1
    return settings


def main(arguments=None):
    """Run the command line; returns the exit code (2 for bad input)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    if "--version" in arguments:
        from recbole_vsid import __version__

        print(f"recbole_vsid {__version__}")
        return 0
    # RecBole 1.2.1 uses names that pandas and PyTorch will drop; its users cannot act on that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    debug = False
    try:
        verb = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "train"
        if verb not in VERBS:
            raise ValueError(f"unknown verb {verb!r}; known: {', '.join(VERBS)}, and settings look like --key=value")
        settings = parse(arguments)
        debug = str(settings.get("state", "")).lower() == "debug"
        files = settings.pop("config_files", "").split()
        settings.setdefault("dataset", "ml-100k")
        return VERBS[verb](files, settings)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        if debug:
            raise
        message = " ".join(str(error).split())  # YAML's errors are drawings over several lines
        print(f"error: {message}\n(--state=debug shows where, --help shows how)", file=sys.stderr)
        return 2


def _train(files, settings):
    from recbole_vsid.quick_start import run

    settings.setdefault("model", "VLSID")
    run(settings["model"], settings["dataset"], files, settings)
    return 0


def _tokenize(files, settings):
    from recbole_vsid.semantic_id.report import print_comparison_of_tables, print_diagnostics
    from recbole_vsid.tokenization import compare, tokenize

    table_file, table_format = settings.pop("table_file", None), settings.pop("table_format", None)
    names = settings.pop("compare", None)
    if "model" in settings:
        raise ValueError(f"tokenize trains no model; leave out --model={settings['model']}")
    if names is None:
        result = tokenize(settings["dataset"], files, settings, table_file, table_format)
        print_diagnostics(result)
        print(f"Semantic IDs: {result['file']}")
        return 0
    if table_file or table_format or "tokenizer" in settings:
        raise ValueError("--compare goes without --tokenizer and --table_file: it writes one table per tokenizer")
    reports = compare(_names(names), settings["dataset"], files, settings)
    failed = {name: report for name, report in reports.items() if isinstance(report, str)}
    if len(failed) < len(reports):
        print_comparison_of_tables({name: reports[name] for name in reports if name not in failed})
    for name, message in failed.items():
        print(f"error: tokenizer {name}: {' '.join(message.split())}", file=sys.stderr)
    return 1 if failed else 0


def _leaderboard(files, settings):
    from recbole_vsid.leaderboard.board import DEFAULT_OUTPUT_DIR, leaderboard

    settings.setdefault("model", "VLSID,SASRec,Pop")
    models, datasets = (_names(settings.pop(key)) for key in ("model", "dataset"))
    seeds = settings.pop("seed", 2020)
    if isinstance(seeds, str):
        seeds = [parse_seed(seed) for seed in _names(seeds)]
    seeds = seeds if isinstance(seeds, list) else [seeds]
    own = {key: settings.pop(key) for key in ("settings_dir", "jobs", "report_only") if key in settings}
    output_dir = settings.pop("output_dir", DEFAULT_OUTPUT_DIR)
    failures, written = leaderboard(models, datasets, seeds, output_dir, files, settings, **own)
    for file in written:
        print(f"Written: {file}")
    for run, reason in failures.items():
        print(f"error: {run.name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def parse_seed(text):
    """One seed of a list.

    Raises:
        ValueError: it is no whole number.
    """
    if not text.isdigit():
        raise ValueError(f"seed={text!r} is not usable: it must be whole numbers of at least 0, separated by commas")
    return int(text)


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


VERBS = {"train": _train, "tokenize": _tokenize, "leaderboard": _leaderboard}
