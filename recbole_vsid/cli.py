"""The command line: ``run_recbole_vsid.py --model=… --dataset=… [--key=value …]``."""

from __future__ import annotations

import sys
import warnings

HELP = """\
usage: run_recbole_vsid.py [--model=NAME] [--dataset=NAME] [--config_files="A.yaml B.yaml"] [--key=value ...]

Trains a recommender, selects it on validation, tests it under one protocol, prints metrics, protocol and cost, and
writes them as JSON. Without arguments: --model=VLSID --dataset=ml-100k, which needs no download.

  --model=NAME          VLSID, or any sequential or general model of RecBole (SASRec, GRU4Rec, BERT4Rec, BPR, Pop ...)
  --dataset=NAME        a folder below --data_path with NAME.inter (and NAME.item) in RecBole's atomic format
  --data_path=FOLDER    where dataset folders are; default dataset/
  --config_files="..."  YAML files, later ones win, the command line wins over all
  --key=value           any setting, the value in YAML: --topk=[5,10] --epochs=30 --enable_amp=false

Often used:
  --tokenizer=NAME      vlsid (variable length), dvae (the same with a fixed length), rkmeans
  --content=[A,B]       what the tokenizer sees of an item: tfidf, cooccurrence, file (with --content_file=X.npy)
  --sid_length_cost=X   price of a token: higher gives shorter semantic IDs
  --beam_width=N        beams of the search; at least the largest topk
  --mask_history=true   let the protocol without consumed items select the model (both are always reported)
  --seed=N  --epochs=N  --num_threads=N  --show_progress=false  --result_file=PATH
  --resume=true         continue an interrupted run of the same configuration

All settings with their defaults: properties/overall.yaml, properties/model/, properties/tokenizer/,
properties/dataset/. RecBole's own: recbole.io/docs/user_guide/config_settings.html

Examples:
  python run_recbole_vsid.py --model=VLSID
  python run_recbole_vsid.py --model=SASRec --dataset=ml-100k
  python run_recbole_vsid.py --model=VLSID --data_path=dataset --dataset=amazon-beauty --tokenizer=rkmeans
"""

NAMES = ("model", "dataset", "config_files", "data_path", "checkpoint_dir", "result_file", "content_file",
         "content_ids", "user_inter_num_interval", "item_inter_num_interval")  # fmt: skip


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
        settings = parse(arguments)
        debug = str(settings.get("state", "")).lower() == "debug"
        files = settings.pop("config_files", "").split()
        settings.setdefault("model", "VLSID")
        settings.setdefault("dataset", "ml-100k")
        from recbole_vsid.quick_start import run

        run(settings["model"], settings["dataset"], files, settings)
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        if debug:
            raise
        message = " ".join(str(error).split())  # YAML's errors are drawings over several lines
        print(f"error: {message}\n(--state=debug shows where, --help shows how)", file=sys.stderr)
        return 2
    return 0
