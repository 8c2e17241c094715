"""What a leaderboard has to run: one configuration per entry, dataset and seed, checked before any of them starts.

An entry is a model, or a variant of one: ``settings_dir/<entry>.yaml`` holds the settings that are its own, and names
its ``model`` if the entry is called otherwise (``IntRR-HSTU.yaml`` with ``model: IntRR`` and ``backbone: hstu``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from recbole_vsid.config import Config, join_files, parse_value, read_settings
from recbole_vsid.registry import get_model
from recbole_vsid.run_files import data_files, data_hash
from recbole_vsid.storage import check_name, content_hash
from recbole_vsid.trainer import run_folder


@dataclass(frozen=True)
class PlannedRun:
    """One run: what it is called, the arguments that start it, and what its result must agree with.

    Attributes:
        entry: the name in the table.
        arguments: of ``run_recbole_vsid.py``.
        config_hash: identity of all settings that decide the result, the seed among them.
        files: that it reads.
        data_hash: identity of what is in them.
        identity: of those settings but the seed, and of the files; runs that differ in it are never averaged.
        folder: where it keeps checkpoints and ``result.json``.
        resumable: whether an interrupted run can go on.
        topk: cut-offs of its metrics.
        n_threads: CPU threads that its settings ask for; 0 if none.
    """

    entry: str
    dataset: str
    seed: int
    arguments: tuple[str, ...]
    config_hash: str
    files: tuple[Path, ...]
    data_hash: str
    identity: str
    folder: Path
    resumable: bool
    topk: tuple[int, ...]
    n_threads: int

    @property
    def key(self):
        """What makes two runs the same."""
        return self.entry, self.dataset, self.seed, self.identity

    @property
    def name(self):
        return f"{self.entry} on {self.dataset}, seed {self.seed}"


def plan(entries, datasets, seeds, settings_dir=None, config_file_list=None, config_dict=None):
    """All runs of a leaderboard, in order of datasets, seeds and entries.

    Args:
        entries: names of models or of files in ``settings_dir``.
        datasets: names of datasets.
        seeds: whole numbers.
        settings_dir: folder of YAML files, one per entry that needs settings of its own.
        config_file_list: YAML files for all runs.
        config_dict: settings for all runs; they win over files.

    Returns:
        list of :class:`PlannedRun`.

    Raises:
        ValueError: a name, seed or setting that is not usable, or two of the same.
        FileNotFoundError: no ``settings_dir``.
    """
    for what, values in (("model", entries), ("dataset", datasets), ("seed", seeds)):
        if not values:
            raise ValueError(f"{what} names nothing; give one or several, separated by commas")
        if len(set(values)) < len(values):
            raise ValueError(f"{what}={','.join(map(str, values))} names something twice")
    if settings_dir is not None and not Path(settings_dir).is_dir():
        raise FileNotFoundError(f"settings_dir={str(settings_dir)!r} is not a folder")
    shared = {key: value for key, value in (config_dict or {}).items() if key != "show_progress"}
    runs = [
        _planned(entry, dataset, seed, settings_dir, list(config_file_list or []), shared)
        for dataset in datasets
        for seed in seeds
        for entry in entries
    ]
    folders = {}
    for run in runs:
        twin = folders.setdefault(run.folder, run)
        if twin is not run:
            raise ValueError(f"{twin.entry} and {run.entry} have the same settings; leave one of them out")
    if not set.intersection(*(set(run.topk) for run in runs)):
        cutoffs = ", ".join(f"{entry} {topk}" for entry, topk in sorted({(run.entry, run.topk) for run in runs}))
        raise ValueError(f"topk: the models share no cut-off ({cutoffs}), so no table could show them all")
    return runs


def _planned(entry, dataset, seed, settings_dir, files, settings):
    model = check_name(entry, "model")
    try:
        own = Path(settings_dir or "", f"{entry}.yaml")
        if settings_dir is not None and own.is_file():
            files = [*files, str(own)]
            model = read_settings(own).get("model", model)
        # RecBole's models have nothing to keep in the cache, and do not know the setting.
        foreign = () if hasattr(get_model(model), "dataset_class") else ("cache_dir",)
        own_settings = {key: value for key, value in settings.items() if key not in foreign}
        settings = {**own_settings, "seed": seed, "model": model, "dataset": dataset}
        config = Config(model, dataset, files, settings)
    except ValueError as error:
        raise ValueError(f"{entry}: {error}") from error
    if not {"ndcg", "recall"} <= {metric.lower() for metric in config["metrics"]}:
        raise ValueError(f"{entry}: metrics={config['metrics']} is not usable: a leaderboard needs NDCG and Recall")
    for key in ("result_file", "resume"):
        if config[key]:
            raise ValueError(
                f"{entry}: {key} is not for a leaderboard, which keeps results and resumes runs by itself; leave it out"
            )
        settings.pop(key, None)
    arguments = [f"--model={model}", f"--dataset={dataset}", f"--seed={seed}"]
    if files:
        arguments.append(f"--config_files={join_files(files)}")
    given = {key: value for key, value in settings.items() if key not in ("seed", "model", "dataset")}
    arguments += [f"--{key}={as_argument(value)}" for key, value in given.items()]
    files_read = data_files(config)
    data = data_hash(files_read)
    identity = content_hash({**config.plain(), "seed": None}, data)
    return PlannedRun(
        entry, dataset, seed, tuple(arguments), config.hash(), files_read, data, identity, run_folder(config),
        config.is_generative, tuple(config["topk"]), config["num_threads"],
    )  # fmt: skip


def as_argument(value):
    """``value`` such that the command line reads it back."""
    if isinstance(value, str):
        try:
            if parse_value(value) == value:
                return value
        except ValueError:
            pass  # no YAML, so it needs the quotation marks, too
    return json.dumps(value, ensure_ascii=False)
