"""The command line: ``recbole-vsid [verb] --dataset=… [--key=value …]``; without a verb it trains."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import warnings
from collections import ChainMap
from contextlib import suppress
from pathlib import Path

from recbole_vsid import check_recbole
from recbole_vsid.cli_help import HELP, VERB_HELP
from recbole_vsid.console import join_command, program_name

# Arguments of verbs that are texts, names or paths; settings say themselves whether they are.
NAMES = ("model", "dataset", "compare", "table_file", "table_format", "output_dir", "settings_dir", "checkpoint",
         "users", "users_file", "recommendations_file", "explorer_file", "title_column", "params_file", "output_file",
         "config_files")  # fmt: skip


def parse(arguments: list[str], texts: frozenset[str] = frozenset()) -> dict:
    """``--key=value`` and ``--key value`` → dict; values are YAML, but texts, names and paths stay as they are.

    Args:
        arguments: of the command line.
        texts: keys that are texts, beside the settings and arguments that always are.

    Raises:
        ValueError: an argument that is neither, or a key given twice with different values.
    """
    from recbole_vsid.settings import may_be_empty, texts_of_models

    pairs = _pairs(arguments)
    models = [model for key, text in pairs if key == "model" for model in text.split(",")]
    texts = texts_of_models(models) | texts | set(NAMES)
    settings = {}
    for key, text in pairs:
        stays = key in texts and not (text in ("~", "null") and may_be_empty(key))
        value = text if key == "config_files" else _value(text, stays)  # several, each perhaps between marks
        if key in settings and settings[key] != value:
            raise ValueError(f"--{key} is given twice: {settings[key]!r} and {value!r}")
        settings[key] = value
    return settings


def _pairs(arguments):
    """Keys and texts of the command line."""
    pairs, position = [], 0
    while position < len(arguments):
        argument = arguments[position]
        if not argument.startswith("--") or len(argument) < 3:
            meant = SHORT.get(argument.partition("=")[0])
            hint = f"write {meant}" if meant else "settings look like --key=value, see --help"
            raise ValueError(f"cannot read the argument {argument!r}; {hint}")
        key, equals, text = argument[2:].partition("=")
        if not equals:
            position += 1
            if position == len(arguments) or arguments[position].startswith("--"):
                raise ValueError(f"--{key} has no value; write --{key}=value")
            text = arguments[position]
        pairs.append((key, text))
        position += 1
    return pairs


def _value(text, stays):
    from recbole_vsid.config import parse_value

    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if not stays:
        return parse_value(text)
    if not quoted:
        return text
    try:
        return parse_value(text)
    except ValueError:  # marks inside the marks
        return text[1:-1]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        the exit code: 0, 2 for bad input, 1 for a fault of this package or where a part failed, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _main(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, like `head`, has what it wanted
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(arguments):
    if "--help" in arguments or "-h" in arguments or arguments[:1] == ["help"]:
        verb = next((word for word in arguments if word in VERB_HELP), None)
        print(VERB_HELP.get(verb, HELP).replace("PROGRAM", program_name()), end="")
        return 0
    if "--version" in arguments:
        from recbole_vsid import __version__

        print(f"recbole_vsid {__version__}")
        return 0
    # RecBole 1.2.1 uses names that pandas and PyTorch will drop; its users cannot act on that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    debug = any(argument.lower() in ("--state=debug", "debug") for argument in arguments)
    try:
        return _run(arguments)
    except KeyboardInterrupt as error:
        print("; ".join(["interrupted", *map(str, error.args)]), file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__  # YAML's errors are drawings over several lines
        if isinstance(error, (ValueError, OSError, ImportError, NotImplementedError)):
            print(f"error: {message}\n(--state=debug shows where, --help shows how)", file=sys.stderr)
            return 2
        print(
            f"error: {type(error).__name__}: {message}\n(this is a fault of recbole_vsid: please report it with what "
            "--state=debug shows)",
            file=sys.stderr,
        )
        return 1


def _run(arguments):
    verb = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "train"
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.6)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown verb {verb!r}; known: {', '.join(VERBS)}, and settings look like --key=value{hint}")
    check_recbole()
    from recbole_vsid.config import split_files

    settings = parse(arguments, _texts_of_verb(verb))
    files = split_files(settings.pop("config_files", ""))
    if verb not in WITHOUT_DEFAULT_DATASET:
        _set_defaults(files, settings, dataset="ml-100k")
    return VERBS[verb](files, settings)


def _texts_of_verb(verb):
    """Arguments of ``prepare`` that are texts: all but switches and numbers."""
    if verb != "prepare":
        return frozenset()
    from recbole_vsid.data.prepare import prepare

    known = inspect.signature(prepare).parameters.values()
    return frozenset(each.name for each in known if not isinstance(each.default, (bool, int, float)))


def _train(files, settings):
    from recbole_vsid.quick_start import run

    _set_defaults(files, settings, model="VLSID")
    try:
        run(settings["model"], settings["dataset"], files, settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*_way_on(files, settings)) from None
    checkpoint = _folder(files, settings) / "best.pth"
    if _is_complete(checkpoint):
        print(f"Next: {_command('recommend', checkpoint=str(checkpoint))}")
    return 0


def _is_complete(checkpoint):
    """Whether a checkpoint holds a model: of some of RecBole's, what they learn is nothing that a safe file holds."""
    from recbole_vsid.config import Config
    from recbole_vsid.storage import load_checkpoint

    if not checkpoint.is_file():
        return False
    state = load_checkpoint(checkpoint)
    config = Config(state["model"], state["dataset"], config_dict=state["settings"])
    return config["MODEL_TYPE"].name != "TRADITIONAL" or bool(state["other_parameter"])


def _way_on(files, settings):
    """What to type after an interruption, if there is a state of the run to go on from."""
    from recbole_vsid.config import join_files

    if not (_folder(files, settings) / "last.pth").is_file():
        return []
    own = [f"--config_files={join_files(files)}"] if files else []
    return [f"go on with: {_command(*own, **{**settings, 'resume': True})}"]


def _folder(files, settings):
    from recbole_vsid.config import Config
    from recbole_vsid.trainer import run_folder

    return run_folder(Config(settings["model"], settings["dataset"], files, settings))


def _command(*arguments, **settings):
    """A command that can be typed here, for the user's shell: ``arguments`` as they are, then ``settings``."""
    from recbole_vsid.leaderboard.plan import as_argument

    given = [f"--{key}={as_argument(value)}" for key, value in settings.items()]
    return f"{program_name()} {join_command([*arguments, *given])}"


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

    _set_defaults(files, settings, model="VLSID,SASRec,Pop", seed=2020)
    models, datasets = (_names(settings.pop(key)) for key in ("model", "dataset"))
    seeds = [_seed(seed) for seed in _names(settings.pop("seed"))]
    own = _taken(settings, "settings_dir", "jobs", "report_only")
    output_dir = settings.pop("output_dir", DEFAULT_OUTPUT_DIR)
    failures, written = leaderboard(models, datasets, seeds, output_dir, files, settings, **own)
    for file in written:
        print(f"Written: {file}")
    for run, reason in failures.items():
        print(f"error: {run.name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def _recommend(files, settings):
    from recbole_vsid.recommendation import print_recommendations, read_users, recommend, write_recommendations
    from recbole_vsid.storage import check_writable

    checkpoint = settings.pop("checkpoint", None)
    if checkpoint is None:
        raise ValueError("recommend needs a trained model: --checkpoint=saved/<run>/best.pth")
    stored = [f"--{key}" for key in ("model", "dataset") if key in settings] + ["--config_files"] * bool(files)
    if stored:
        raise ValueError(f"leave out {', '.join(stored)}: the checkpoint holds the settings of its run")
    users = settings.pop("users", None)
    if "users_file" in settings:
        if users is not None:
            raise ValueError("--users and --users_file go without each other")
        users = read_users(settings.pop("users_file"))
    elif users is not None:
        users = _names(users)
    file = Path(settings.pop("recommendations_file", Path(checkpoint).with_name("recommendations.csv")))
    check_writable(file, "recommendations_file")
    own = _taken(settings, "k", "keep_consumed")
    table = recommend(checkpoint, users, **own, config_dict=settings)
    write_recommendations(table, file)
    print_recommendations(table)
    print(f"Recommendations: {file}")
    return 0


def _prepare(files, settings):
    from recbole_vsid.data.prepare import prepare
    from recbole_vsid.data.prepare_report import print_summary

    if files:
        raise ValueError("prepare reads no --config_files; it writes one")
    settings.pop("state", None)
    known = inspect.signature(prepare).parameters
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r} for prepare; it knows {', '.join(known)}")
    for key in ("interactions", "dataset"):
        if key not in settings:
            raise ValueError(f"prepare needs --{key}: prepare --interactions=events.csv --dataset=my-shop")
    print_summary(prepare(**settings))
    return 0


def _tune(files, settings):
    from recbole_vsid.tuning import tune

    own = _taken(settings, "params_file", "algo", "max_evals", "early_stop", "output_file")
    _set_defaults(files, settings, model="VLSID")
    model, dataset = settings.pop("model"), settings.pop("dataset")
    found = tune(model, dataset, **own, config_file_list=files, config_dict=settings)
    failed = int((found["trials"]["failed"] != "").sum())
    print(f"{len(found['trials'])} trials" + (f", {failed} of them failed" if failed else "") + f": {found['file']}")
    print(f"Best on validation, {found['best_valid_score']:.4f}: {found['best_params']}")
    print(f"Its test: {found['test_result']}")
    return 0


def _explore(files, settings):
    from recbole_vsid.explorer.build import explore

    own = _taken(settings, "checkpoint", "explorer_file", "title_column")
    if "model" in settings:
        raise ValueError(f"explore trains no model; leave out --model={settings['model']}, or give a --checkpoint")
    dataset = settings.pop("dataset", None)
    if "checkpoint" in own and (files or dataset):
        raise ValueError("leave out --dataset and --config_files: the checkpoint holds the settings of its run")
    print(f"Explorer: {explore(dataset or 'ml-100k', files, settings, **own)}")
    return 0


def _set_defaults(files, settings, **defaults):
    """Add what the command line leaves out: what the files say, or else the defaults."""
    from recbole_vsid.config import read_settings

    given = ChainMap(settings, *map(read_settings, reversed(files)), defaults)
    settings.update({key: given[key] for key in defaults})


def _taken(settings, *names):
    """Those of ``names`` that are in ``settings``, taken out of it: a verb's own arguments."""
    return {name: settings.pop(name) for name in names if name in settings}


def _seed(text):
    if not text.isdigit():
        raise ValueError(f"seed={text!r} is not usable: it must be whole numbers of at least 0, separated by commas")
    return int(text)


def _names(value):
    """The texts of a list, or of a text with commas."""
    names = value if isinstance(value, list) else str(value).split(",")
    return [str(name).strip() for name in names if str(name).strip()]


VERBS = {"train": _train, "tokenize": _tokenize, "leaderboard": _leaderboard, "recommend": _recommend,
         "prepare": _prepare, "explore": _explore, "tune": _tune}  # fmt: skip
SHORT = {"-m": "--model=NAME", "-d": "--dataset=NAME", "-c": "--config_files=A.yaml", "-o": "--result_file=PATH"}
WITHOUT_DEFAULT_DATASET = ("recommend", "prepare", "explore")
