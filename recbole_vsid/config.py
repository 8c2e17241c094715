"""``Config``: RecBole's configuration plus this package's property files, checked before any work.

Later wins: RecBole's defaults, ``properties/overall.yaml``, ``properties/semantic_id.yaml`` (this
package's models), ``properties/model/<model>.yaml``,
``properties/tokenizer/<tokenizer>.yaml``, ``properties/dataset/<dataset>.yaml``, the user's files in
the order given, the user's dictionary (the command line).

What it mends in RecBole 1.2.1: unknown keys were accepted silently, values were ``eval``ed, every
``Config`` read ``sys.argv``, numpy 2 has no ``np.float_``, ``data_path`` was ignored for ml-100k, and
the list of dataset arguments grew with every instance.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import shlex
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.evaluator.register import metric_information
from recbole.utils import ModelType, init_logger, init_seed

from recbole_vsid.idle_settings import idle_settings
from recbole_vsid.needs import check_needs
from recbole_vsid.registry import OUTSIDE_PROPERTIES, get_model, get_tokenizer
from recbole_vsid.settings import COLUMNS, advice, check_content, check_setting, takes_list
from recbole_vsid.storage import check_name, content_hash
from recbole_vsid.tokenizer.famae import FAMAESettings

# Keys RecBole reads that stand in none of its property files.
RECBOLE_EXTRA_KEYS = ["model", "dataset", "encoding", "tail_ratio"]

# RecBole trains with Adam if it does not know the name.
LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")

# Settings that change where or how a run happens, not what it computes.
VOLATILE_KEYS = ["device", "gpu_id", "use_gpu", "state", "show_progress", "checkpoint_dir", "cache_dir", "data_path",
                 "result_file", "resume", "log_wandb", "wandb_project", "local_rank", "single_spec",
                 "num_threads"]  # fmt: skip


class _YamlLoader(yaml.SafeLoader):
    """Safe YAML that also reads ``1e-3`` as a number, as RecBole's property files expect."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*)([eE][-+]?\d+)$|^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)$"),
    list("-+0123456789."),
)


def parse_value(text):
    """One command-line value as YAML (``5``, ``1e-3``, ``[5, 10]``, ``{a: 1}``, ``true``, words)."""
    try:
        return yaml.load(text, Loader=_YamlLoader)  # a SafeLoader subclass
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not a YAML value: {error}") from error


def split_files(text: str) -> list[str]:
    """The paths in a text of the command line: one, or several with commas or blanks between them.

    Quotation marks hold a path with blanks together. A backslash is a part of a path and nothing else.

    Raises:
        ValueError: a quotation mark is left open.
    """
    if Path(text).is_file():
        return [text]
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace, lexer.whitespace_split = ", \t\r\n", True
    lexer.escape, lexer.commenters = "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise ValueError(f"config_files={text!r} is not usable: a quotation mark is left open") from error


def join_files(files: list[str]) -> str:
    """The text that :func:`split_files` reads as ``files``."""
    return " ".join(_quoted(str(file)) for file in files)


def _quoted(path):
    # Adjoining pieces are one path, so that either mark may stand between the other.
    plain = path and not re.search(r"""[\s,'"]""", path)
    return path if plain else '"\'"'.join(f"'{piece}'" for piece in path.split("'"))


def as_meant(key: str, value: Any, default: Any) -> Any:
    """A list or a tab where the user, or a file of RecBole, wrote it as a text."""
    if not isinstance(value, str):
        return value
    if key in ("field_separator", "seq_separator") and value in ("tab", "\\t"):
        return "\t"
    if takes_list(key, default) and value.strip()[:1] in ("[", "("):
        with suppress(ValueError):  # a text that is no list is told by the setting's rule
            parsed = parse_value(re.sub(r"^\((.*)\)$", r"[\1]", value.strip()))
            return parsed if isinstance(parsed, list) else value
    return value


@functools.lru_cache(maxsize=256)
def _read_properties(file, modified, size):
    """A property file, read once as long as it stays the same: a search builds hundreds of configurations."""
    return yaml.load(Path(file).read_text(encoding="utf-8"), Loader=_YamlLoader)  # a SafeLoader subclass


def read_settings(file):
    """The settings of a YAML file of the user.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not a mapping in YAML.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"config_files: there is no file {str(file)!r}")
    try:
        values = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=_YamlLoader)  # a SafeLoader subclass
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config_files: {file} is not valid YAML: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"config_files: {file} must hold `key: value` lines, not a {type(values).__name__}")
    return values or {}


def properties_folder():
    """Folder of the property files: inside an installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no properties/overall.yaml in {package} or {package.parent}; reinstall the package")


class Config(RecBoleConfig):
    """RecBole's ``Config`` for this package.

    Args:
        model: model name or class.
        dataset: dataset name, a folder of ``data_path``.
        config_file_list: YAML files of the user.
        config_dict: settings that win over the files; values are taken as they are.

    Raises:
        ValueError: unknown model, key or value out of range, each naming what is allowed.
        FileNotFoundError: a configuration file is missing.
    """

    def __init__(self, model=None, dataset=None, config_file_list=None, config_dict=None):
        super().__init__(model, dataset, config_file_list, config_dict)
        self._settings = frozenset(self.final_config_dict)
        self._check_values()

    # ------------------------------------------------------- sources of values

    def compatibility_settings(self):
        # RecBole uses names numpy dropped; only the missing ones are given back.
        names = {"bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128,
                 "object": np.object_, "str": np.str_, "long": np.int_, "unicode": np.str_}  # fmt: skip
        for old, new in names.items():
            if old not in np.__dict__:
                setattr(np, old, new)

    def _init_parameters_category(self):
        super()._init_parameters_category()
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return _YamlLoader

    def _load_cmd_line(self):
        return {}  # only the command line reads sys.argv; it passes its values as config_dict

    def _load_variable_config_dict(self, config_dict):
        return copy.deepcopy(dict(config_dict or {}))  # RecBole fills mappings up in place

    def _load_config_files(self, file_list):
        merged = {}
        for file in file_list or []:
            merged.update(read_settings(file))
        return merged

    def _get_model_and_dataset(self, model, dataset):
        model = model or self.external_config_dict.get("model")
        dataset = dataset or self.external_config_dict.get("dataset")
        if not model or not dataset:
            raise ValueError("name a model and a dataset, for instance --model=VLSID --dataset=ml-100k")
        check_name(dataset, "dataset")
        return super()._get_model_and_dataset(model if isinstance(model, type) else get_model(model), dataset)

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        folder = properties_folder()
        self._update_from(folder / "overall.yaml")
        if hasattr(model_class, "dataset_class"):
            self._update_from(folder / "semantic_id.yaml")
        for ancestor in reversed(model_class.__mro__):  # ReSID's file holds what differs from TIGER's
            name = ancestor.__name__
            self._update_from(OUTSIDE_PROPERTIES.get(name, folder / "model" / f"{name}.yaml"))
        if "tokenizer" in self.internal_config_dict:
            tokenizer = self.external_config_dict.get("tokenizer", self.internal_config_dict["tokenizer"])
            get_tokenizer(tokenizer)
            self._update_from(folder / "tokenizer" / f"{check_name(tokenizer, 'tokenizer')}.yaml")
        self._update_from(folder / "dataset" / f"{dataset}.yaml")
        self._check_keys()

    def _update_internal_config_dict(self, file):
        state = os.stat(file)
        values = copy.deepcopy(_read_properties(file, state.st_mtime_ns, state.st_size))
        self.internal_config_dict.update(values or {})
        return values

    def _update_from(self, file):
        if file.is_file():
            self._update_internal_config_dict(str(file))

    def _get_final_config_dict(self):
        final = super()._get_final_config_dict()
        given = self.external_config_dict.get("eval_args")
        if given is not None:  # RecBole's own defaults for what is left out are another split
            final["eval_args"] = {**self.internal_config_dict["eval_args"], **given}
        # RecBole refuses its own sequential CE models unless the user switches negatives off.
        if (
            final["MODEL_TYPE"] == ModelType.SEQUENTIAL
            and final.get("loss_type") == "CE"
            and not hasattr(self.model_class, "input_type")
            and "train_neg_sample_args" not in self.external_config_dict
        ):
            final["train_neg_sample_args"] = None
        return final

    def _init_device(self):
        super()._init_device()
        if not self.final_config_dict["use_gpu"]:  # RecBole 1.2.1 reads it too late
            self.final_config_dict["device"] = torch.device("cpu")

    def _set_default_parameters(self):
        given = self.external_config_dict.get("data_path")
        for key in ("topk", "metrics"):
            value = self.final_config_dict[key]
            self.final_config_dict[key] = list(value) if isinstance(value, (list, tuple)) else [value]
        try:
            super()._set_default_parameters()
        except RuntimeError as error:  # also NotImplementedError: metrics unknown or of different kinds
            raise ValueError(f"metrics={self.final_config_dict['metrics']!r} are not usable: {error}") from error
        # RecBole ignores data_path for ml-100k, which its wheel carries.
        if self.dataset == "ml-100k" and given and (Path(given) / "ml-100k").is_dir():
            self.final_config_dict["data_path"] = str(Path(given) / "ml-100k")

    # ------------------------------------------------------------------ checks

    def _check_keys(self):
        known = set(self.internal_config_dict) | set(RECBOLE_EXTRA_KEYS)
        known |= {key for keys in self.parameters.values() for key in keys}
        known -= {"config_file", "MODEL_TYPE"}  # the first is read nowhere, the second is the class's own
        own = hasattr(self.model_class, "dataset_class")
        for key, value in list(self.external_config_dict.items()):
            if key not in known:
                raise ValueError(f"unknown setting {key!r} for {self._scope()}; {advice(key, known)}")
            default = self.internal_config_dict.get(key)
            value = self.external_config_dict[key] = as_meant(key, value, default)
            if key not in ("model", "dataset", "tokenizer"):  # told by the registry, which knows the names
                check_setting(key, value, default, own)

    def _scope(self):
        scope = f"model {self.model}"
        if "tokenizer" in self.internal_config_dict:
            tokenizer = self.external_config_dict.get("tokenizer", self.internal_config_dict["tokenizer"])
            scope += f" with tokenizer {tokenizer}"
        return scope

    def _check_values(self):
        def require(key, condition, allowed):
            if not condition:
                raise ValueError(f"{key}={self[key]!r} is not usable: it must be {allowed}")

        learners = (*LEARNERS, "muon") if self.is_generative else LEARNERS
        require("learner", self["learner"] is None or self["learner"].lower() in learners, f"one of {learners}")
        columns = self["load_col"]
        require("load_col", columns is None or columns.get("inter"), f"empty for all columns, or {COLUMNS}")
        name, at, cutoff = self["valid_metric"].partition("@")
        ranked = {"rec.topk", "rec.items"} & set(metric_information.get(name.lower(), ()))  # reported at every topk
        require(
            "valid_metric",
            name.lower() in [metric.lower() for metric in self["metrics"]]
            and (cutoff in map(str, self["topk"]) if ranked else not at),
            f"one of metrics {self['metrics']} at one of topk {self['topk']}, like NDCG@{max(self['topk'])}",
        )
        if self["tokenizer"]:
            for settings in (get_tokenizer(self["tokenizer"]).Settings, FAMAESettings):
                settings.from_config(self)  # its constructor checks the values
            if not self["sid_file"]:
                check_content(self)
        if hasattr(self.model_class, "check_settings"):
            self.model_class.check_settings(self)
        else:
            check_needs(self)

    # ------------------------------------------------------------------- views

    @property
    def is_generative(self):
        """Whether the model is one of this package's (it has semantic IDs)."""
        return hasattr(self.model_class, "dataset_class")

    def plain(self):
        """All settings that decide a result, as plain values."""
        # RecBole's transforms leave names of fields here while a data set is built (BERT4Rec's MASK_INDEX).
        keys = self._settings.difference(VOLATILE_KEYS)
        return {key: _plain(self.final_config_dict[key]) for key in sorted(keys)}

    def external_plain(self):
        """The user's own settings (files, then command line), as plain values."""
        return {key: _plain(value) for key, value in self.external_config_dict.items() if key != "resume"}

    def set_up_process(self):
        """Threads, seeds and log of this process as configured."""
        if self["num_threads"]:
            torch.set_num_threads(self["num_threads"])
        init_seed(self["seed"], self["reproducibility"])
        init_logger(self)
        for line in idle_settings(self, self.external_config_dict):
            getLogger().warning(line)

    def run_hash(self):
        """Identity of a run: its settings and where its data are; two data sets of one name are not the same."""
        places = [os.path.abspath(self[key]) for key in ("data_path", "content_file", "sid_file") if self[key]]
        return content_hash(self.hash(), places)[:10]

    def hash(self):
        """Identity of :meth:`plain`, the same on every machine."""
        return content_hash(self.plain())[:10]


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
