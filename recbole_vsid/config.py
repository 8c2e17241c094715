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

import difflib
import os
import re
from pathlib import Path

import numpy as np
import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.evaluator.register import metric_information
from recbole.utils import ModelType, init_logger, init_seed

from recbole_vsid.registry import MODELS, OUTSIDE_PROPERTIES, get_model, get_tokenizer
from recbole_vsid.storage import check_name, content_hash
from recbole_vsid.tokenizer.famae import FAMAESettings

# Keys RecBole reads that stand in none of its property files.
RECBOLE_EXTRA_KEYS = ["model", "dataset", "encoding", "tail_ratio"]

# RecBole trains with Adam if it does not know the name.
LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")

# One or several like "[5,inf)", joined by ";"; RecBole leaves out those it cannot read.
NUMBER = r"\s*[-+]?(inf|\d+(\.\d*)?(e[-+]?\d+)?)\s*"
INTERVALS = re.compile(rf"\s*[\[(]{NUMBER},{NUMBER}[\])]\s*(;\s*[\[(]{NUMBER},{NUMBER}[\])]\s*)*")

# Settings that change where or how a run happens, not what it computes.
VOLATILE_KEYS = ["device", "gpu_id", "use_gpu", "state", "show_progress", "checkpoint_dir", "cache_dir", "data_path",
                 "result_file", "resume", "log_wandb", "wandb_project", "local_rank", "single_spec",
                 "num_threads"]  # fmt: skip

# A value must be of its default's kind: (kind of the default, kinds allowed, their name).
KINDS = (
    (bool, bool, "true or false"),
    ((int, float), (int, float), "a number"),
    (str, str, "text"),
    (dict, (dict, type(None)), "a mapping"),
    (list, (list, tuple, str, int, type(None)), "a list"),
)


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
        return dict(config_dict or {})

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

    def _update_from(self, file):
        if file.is_file():
            self._update_internal_config_dict(str(file))

    def _get_final_config_dict(self):
        final = super()._get_final_config_dict()
        given = self.external_config_dict.get("eval_args")
        if given is not None:
            default = self.internal_config_dict["eval_args"]
            if not isinstance(given, dict) or not set(given) <= set(default):
                raise ValueError(f"eval_args={given!r} is not usable: it must be a mapping of some of {list(default)}")
            final["eval_args"] = {**default, **given}  # RecBole's own defaults for what is left out are another split
        # RecBole refuses its own sequential CE models unless the user switches negatives off.
        if (
            final["MODEL_TYPE"] == ModelType.SEQUENTIAL
            and final.get("loss_type") == "CE"
            and not hasattr(self.model_class, "input_type")
            and "train_neg_sample_args" not in self.external_config_dict
        ):
            final["train_neg_sample_args"] = None
        return final

    def _set_default_parameters(self):
        given = self.external_config_dict.get("data_path")
        for key, kind, allowed in (("topk", int, "whole numbers"), ("metrics", str, "names of metrics")):
            value = self.final_config_dict[key]
            values = list(value) if isinstance(value, (list, tuple)) else [value]
            if not values or any(type(each) is not kind for each in values):
                raise ValueError(f"{key}={value!r} is not usable: it must be one or several {allowed}")
            self.final_config_dict[key] = values
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
        known.discard("config_file")  # RecBole knows the name and reads it nowhere
        for key in self.external_config_dict:
            if key not in known:
                close = difflib.get_close_matches(str(key), sorted(known), n=1, cutoff=0.0)
                scope = f"model {self.model}"
                if "tokenizer" in self.internal_config_dict:
                    tokenizer = self.external_config_dict.get("tokenizer", self.internal_config_dict["tokenizer"])
                    scope += f" with tokenizer {tokenizer}"
                raise ValueError(f"unknown setting {key!r} for {scope}; the nearest one is {close[0]!r}")
            self._check_kind(key, self.external_config_dict[key])

    def _check_kind(self, key, value):
        default = self.internal_config_dict.get(key)
        if key == "gpu_id" or default == "auto" or (key == "cache_dir" and value is None):
            return
        allowed, name = next((rest for kind, *rest in KINDS if isinstance(default, kind)), (object, ""))
        if isinstance(default, int) and not isinstance(default, bool) and self.model in MODELS:
            allowed, name = int, "a whole number"  # defaults of RecBole's models are less strict
        if not isinstance(value, allowed) or (isinstance(value, bool) and allowed in (int, (int, float))):
            raise ValueError(f"{key}={value!r} is not usable: it must be {name}")

    def _check_values(self):
        def require(key, condition, allowed):
            if not condition:
                raise ValueError(f"{key}={self[key]!r} is not usable: it must be {allowed}")

        def whole(value, least):
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        for key, least in {"epochs": 1, "train_batch_size": 1, "eval_batch_size": 1, "stopping_step": 0,
                           "seed": 0, "num_threads": 0, "MAX_ITEM_LIST_LENGTH": 1, "hidden_size": 1, "n_layers": 0,
                           "head_size": 1, "metric_decimal_place": 0, "worker": 0, "eval_step": 0}.items():  # fmt: skip
            require(key, self[key] is None or whole(self[key], least), f"a whole number of at least {least}")
        for key in ("learning_rate", "muon_learning_rate"):
            rate = self[key]
            require(key, rate is None or (isinstance(rate, (int, float)) and 0 < rate < 10), "in (0, 10)")
        require("topk", all(whole(k, 1) for k in self["topk"]), "whole numbers of at least 1")
        warmup, floor = self["warmup_fraction"], self["min_learning_rate_ratio"]
        require("warmup_fraction", warmup is None or 0 <= warmup < 1, "in [0, 1)")
        require("min_learning_rate_ratio", floor is None or 0 <= floor <= 1, "in [0, 1]")
        decay = self["ema_decay"]
        require("ema_decay", decay is None or 0 <= decay < 1, "in [0, 1)")
        for key in ("mask_history", "resume", "detect_anomaly", "enable_amp", "show_progress"):
            require(key, isinstance(self[key], bool), "true or false")
        for key in ("result_file", "content_file", "content_ids", "sid_file", "sid_file_ids", "cache_dir"):
            require(key, isinstance(self[key], (str, type(None))), "a path")
        learners = (*LEARNERS, "muon") if self.is_generative else LEARNERS
        require("learner", self["learner"] is None or self["learner"].lower() in learners, f"one of {learners}")
        for key in ("user_inter_num_interval", "item_inter_num_interval"):
            require(key, self[key] is None or INTERVALS.fullmatch(str(self[key])), "an interval like '[5,inf)'")
        clip = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
        require("clip_grad_norm", set(self["clip_grad_norm"] or ()) <= clip, f"a mapping with keys of {sorted(clip)}")
        require("eval_args", set(self["eval_args"]["mode"].values()) == {"full"}, "of mode full, without sampled items")
        columns = self["load_col"]
        require(
            "load_col",
            columns is None or (isinstance(columns, dict) and columns.get("inter")),
            "empty for all columns, or a mapping like {inter: [user_id, item_id, timestamp], item: [item_id]}",
        )
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
        if hasattr(self.model_class, "check_settings"):
            self.model_class.check_settings(self)

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
