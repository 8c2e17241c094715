"""``tune``: RecBole's ``HyperTuning`` over this package's runner.

:func:`objective_function` is what RecBole's own class wants, so that notebooks may use that directly::

    from recbole.trainer import HyperTuning
    from recbole_vsid.tuning import objective_function

    search = HyperTuning(objective_function, params_file="my.test", fixed_config_file_list=["my-shop.yaml"])
    search.run()
    search.best_params

:func:`tune` mends what would go wrong there unnoticed: an exhaustive search stopped after ten trials without progress,
or left combinations out, values in the file were evaluated as Python, one failed trial ended the search, and no seed
was set.
"""

from __future__ import annotations

import ast
import io
import itertools
import math
import os
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from logging import getLogger
from pathlib import Path

import pandas as pd
from recbole.trainer import HyperTuning

from recbole_vsid.config import Config, as_meant, properties_folder
from recbole_vsid.evaluation.collector import KEPT, MASKED
from recbole_vsid.locks import sole_writer
from recbole_vsid.quick_start import run
from recbole_vsid.storage import atomic_path, check_writable

ALGORITHMS = ("exhaustive", "random", "bayes")
BOUNDS = {"uniform": 2, "loguniform": 2, "quniform": 3}  # numbers after the kind; those of loguniform are logarithms


def objective_function(config_dict=None, config_file_list=None, saved=True):
    """Train and test one configuration, for RecBole's ``HyperTuning``.

    Args:
        config_dict: settings, ``model`` and ``dataset`` among them unless a file names them.
        config_file_list: YAML files.
        saved: whether to keep checkpoints and the JSON record.

    Returns:
        dict: ``model``; ``best_valid_score``, the ``valid_metric`` on validation under ``mask_history``'s protocol;
        ``valid_score_bigger``; ``best_valid_result`` and ``test_result`` under that protocol.

    Raises:
        ValueError: bad settings, or none that validates (``eval_step: 0``).
    """
    config = Config(config_file_list=config_file_list, config_dict=config_dict)
    if config["eval_step"] == 0:
        raise ValueError("eval_step=0 is not usable: a search chooses by the validation score")
    record = run(config_file_list=config_file_list, config_dict=config_dict, saved=saved)
    protocol = MASKED if config["mask_history"] else KEPT
    return {
        "model": config["model"],
        "best_valid_score": record["valid_result"][protocol][config["valid_metric"].lower()],
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": record["valid_result"][protocol],
        "test_result": record["test_result"][protocol],
    }


class Search(HyperTuning):
    """RecBole's search; a trial that fails is noted and the others go on.

    Args:
        objective: settings of a trial → what :func:`objective_function` returns.
        output_file: CSV with one line per trial, written anew after each.
        settings: of ``HyperTuning``.
    """

    def __init__(self, objective, output_file, **settings):
        super().__init__(lambda params, _: objective(params), **settings)
        self.output_file, self.rows = output_file, []

    def trial(self, params):
        try:
            answer = super().trial(params)
            result = self.params2result[self.params2str(params)]
            row = {"valid_score": result["best_valid_score"], "failed": ""}
            row |= {f"test {name}": value for name, value in result["test_result"].items()}
        except Exception as error:  # of whatever kind, a trial that fails is one of many
            self.params_list.pop()
            kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
            message = kind + " ".join(str(error).split())
            getLogger().error(f"{self.params2str(params)} failed: {message}")
            row = {"valid_score": None, "failed": message}
            answer = {"loss": sys.float_info.max, "status": "fail"}  # from infinity hyperopt counts no progress
        self.rows.append({**params, **row})
        with atomic_path(self.output_file) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False)
        return answer


def tune(
    model,
    dataset,
    params_file=None,
    algo="exhaustive",
    max_evals=20,
    early_stop=10,
    output_file=None,
    config_file_list=None,
    config_dict=None,
):
    """Search the settings of a model that are best on validation.

    Args:
        model, dataset: names.
        params_file: the space, in RecBole's format; by default ``properties/hyper/<model>.test``.
        algo: ``exhaustive`` (every combination of choices), ``random`` or ``bayes`` (TPE).
        max_evals: trials of ``random`` and ``bayes``.
        early_stop: they end after so many trials without progress.
        output_file: CSV of all trials; by default ``saved/tune/<model>-<dataset>.csv``.
        config_file_list, config_dict: settings of all trials; ``seed`` is that of the search, too.

    Returns:
        dict: ``best_params``, ``best_valid_score``, ``test_result``, ``trials`` (a DataFrame), ``file``.

    Raises:
        ValueError, FileNotFoundError: bad input, before any trial, or every trial failed.
        BlockingIOError: another search is writing ``output_file``.
        ImportError: hyperopt is not installed.
    """
    try:
        from hyperopt.exceptions import AllTrialsFailed
    except ImportError as error:
        raise ImportError(f'{error}; RecBole searches with it: pip install -e ".[hyper]"') from error
    for name, value in (("max_evals", max_evals), ("early_stop", early_stop)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} is not usable: it must be a whole number of at least 1")
    if algo not in ALGORITHMS:
        raise ValueError(f"algo={algo!r} is not usable: it must be one of {', '.join(ALGORITHMS)}")
    file = Path(params_file or properties_folder() / "hyper" / f"{model}.test")
    space = read_space(file)
    if algo == "exhaustive" and set(space) != {"choice"}:
        raise ValueError(f"{file}: algo=exhaustive takes `choice` only; set algo=random or algo=bayes")
    fixed = {**(config_dict or {}), "model": model, "dataset": dataset}
    config = _check_space(space, config_file_list, fixed)
    output = Path(output_file or Path(config["checkpoint_dir"]) / "tune" / f"{model}-{dataset}.csv")
    check_writable(output, "output_file")

    def objective(params):
        with redirect_stdout(io.StringIO()):
            return objective_function({"show_progress": False, **fixed, **_typed(config, params)}, config_file_list)

    drawn = "random" if algo == "exhaustive" else algo
    search = Search(objective, output, params_dict=space, algo=drawn, max_evals=max_evals, early_stop=early_stop)
    with sole_writer(output, "output_file"):
        if algo == "exhaustive":  # RecBole's draws combinations until it meets no new ones, and cannot draw lists
            for values in itertools.product(*space["choice"].values()):
                search.trial(dict(zip(space["choice"], values)))
        else:
            with _seeded(config["seed"]), suppress(AllTrialsFailed):
                search.run()
    if not search.params2result:
        raise ValueError(f"every trial failed, the first with: {search.rows[0]['failed']}")
    best = search.best_params
    return {
        "best_params": _typed(config, best),
        "best_valid_score": search.best_score,
        "test_result": search.params2result[search.params2str(best)]["test_result"],
        "trials": pd.DataFrame(search.rows),
        "file": output,
    }


def read_space(file):
    """A search space from a file in RecBole's format: lines like ``learning_rate choice [0.001, 0.004]``.

    Returns:
        dict: kind → setting → values, as ``HyperTuning(params_dict=…)`` takes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is of another form; values are literals and are not evaluated.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"params_file: there is no file {str(file)!r}; it has lines like 'seed choice [1, 2]'")
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"params_file={str(file)!r} is not UTF-8 text: {error}") from error
    space = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, kind, values = (*line.split(None, 2), "", "")[:3]
        try:
            found = ast.literal_eval(values)
        except (ValueError, SyntaxError):
            found = None
        found = list(found) if isinstance(found, (list, tuple)) else []
        numbers = all(isinstance(value, (int, float)) for value in found)
        if not found or (kind != "choice" and not (numbers and len(found) == BOUNDS.get(kind))):
            raise ValueError(
                f"{file}, line {number}: {line.strip()!r} is not usable; it must be like 'seed choice [1, 2]', "
                "'dropout_prob uniform 0.0,0.5', 'learning_rate loguniform -8,-3' or 'n_layers quniform 1,4,1'"
            )
        if any(name in names for names in space.values()):
            raise ValueError(f"{file}, line {number}: {name} is there twice")
        space.setdefault(kind, {})[name] = found
    if not space:
        raise ValueError(f"{file} holds no parameter; it has lines like 'seed choice [1, 2]'")
    return space


def _check_space(space, files, fixed):
    """Refuse values that the configuration would refuse; return the configuration without any of them.

    A choice must do alone or beside the first values of the other settings, and so must the middle of a range.
    """
    config = Config(config_file_list=files, config_dict=fixed)
    tried = {}
    for kind, names in space.items():
        for name, values in names.items():
            if kind == "choice":
                tried[name] = values
            elif kind == "quniform":
                tried[name] = [_typed(config, {name: float(values[0])})[name]]
            else:
                middle = (values[0] + values[1]) / 2
                tried[name] = [math.exp(middle) if kind == "loguniform" else middle]
    first = {name: values[0] for name, values in tried.items()}
    for name, values in tried.items():
        for value in values:
            try:
                Config(config_file_list=files, config_dict={**fixed, name: value})
            except ValueError:
                Config(config_file_list=files, config_dict={**fixed, **first, name: value})
    return config


def _typed(config, params):
    """``params`` with whole numbers and lists where the settings are: hyperopt draws floats and tuples, and RecBole's
    files write lists as texts.
    """
    typed = {key: as_meant(key, value, config.internal_config_dict.get(key)) for key, value in params.items()}
    for key, value in params.items():
        if isinstance(value, tuple):
            typed[key] = list(value)
        elif isinstance(value, float) and value.is_integer() and (type(config[key]) is int or config[key] == "auto"):
            typed[key] = int(value)
    return typed


@contextmanager
def _seeded(seed):
    """hyperopt reads its seed from the environment where RecBole hands it none."""
    before = os.environ.get("HYPEROPT_FMIN_SEED")
    os.environ["HYPEROPT_FMIN_SEED"] = str(seed)
    try:
        yield
    finally:
        os.environ.pop("HYPEROPT_FMIN_SEED")
        if before is not None:
            os.environ["HYPEROPT_FMIN_SEED"] = before
