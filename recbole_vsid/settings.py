"""What values the settings may have, RecBole's among them: looked up before any work.

RecBole states no ranges, and finds most senseless values out in the middle of a run, or never. A rule says of a value
whether it is usable, and in words what is. Settings without a rule of their own keep the kind of their default; of
RecBole's models, whose settings are some two hundred, the name tells the rest (:data:`RECBOLE_NAMES`). The settings of
tokenizers, of FAMAE and of DIGER have classes of their own.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import recbole
import yaml

from recbole_vsid.registry import CONTENT_ENCODERS, unknown
from recbole_vsid.rules import LARGEST, Anything, Choice, Either, Encoding, Mapping, Number, Several, Text

# The value of ``content`` that leaves the choice of encoders to the data.
AUTO = "auto"


def at_least(least: int, most: float = math.inf) -> Number:
    return Number(least, most, whole=True)


# One or several like "[5,inf)", joined by ";"; RecBole leaves out those it cannot read.
_END = r"\s*[-+]?(inf|\d+(\.\d*)?(e[-+]?\d+)?)\s*"
INTERVALS = rf"\s*[\[(]{_END},{_END}[\])]\s*(;\s*[\[(]{_END},{_END}[\])]\s*)*"

SWITCH = Choice((True, False))
SIZE = at_least(1, 2**16)
LAYERS = at_least(0, 1000)
SHARE = Number(0, 1)
BELOW_ONE = Number(0, 1, open_high=True)
NOT_NEGATIVE = Number(0)
POSITIVE = Number(0, open_low=True)
RATE = Number(0, 10, open_low=True, open_high=True)
NAME = Text("a name", r"[^\0\n]+")
NAMES = Several(NAME, single=True, empty=True, words="a list of names")
PATH = Text("a path", empty=True)
SHARES = Several(POSITIVE, least=3, most=3)
FULL = Choice(("full",))
INTERVAL = Text("an interval like '[5,inf)'", INTERVALS, empty=True)
COLUMNS = Mapping(
    "a mapping like {inter: [user_id, item_id, timestamp], item: [item_id]}",
    each=Several(NAME, single=True, least=1),
)
SEPARATOR = Text("one or several characters", r"[^\0\n]+")

RULES = {
    # RecBole: environment
    "gpu_id": Either(
        Number(0, 1023, whole=True),
        Text("numbers of GPUs like '0,1'; use_gpu=false trains on the CPU", r"\s*(\d{1,4}(\s*,\s*\d{1,4})*)?\s*"),
    ),
    "worker": at_least(0, 256),
    "seed": at_least(0, 2**32 - 1),
    "state": Choice(("debug", "info", "warning", "error", "critical"), fold=True),
    "normalize_all": Choice((True, False), empty=True),
    "dataset_save_path": PATH,
    "dataloaders_save_path": PATH,
    # RecBole: training
    "epochs": at_least(1),
    "train_batch_size": at_least(1),
    "eval_batch_size": at_least(1),
    "eval_step": at_least(0),
    "stopping_step": at_least(0),
    "learning_rate": RATE,
    "weight_decay": Number(0, 10, open_high=True),
    "loss_decimal_place": at_least(0, 17),
    "metric_decimal_place": at_least(1, 17),
    "clip_grad_norm": Mapping(
        "a mapping like {max_norm: 1.0}, of max_norm above 0, norm_type above 0 (2 by default), error_if_nonfinite "
        "and foreach, or empty",
        keys={
            "max_norm": POSITIVE,
            "norm_type": Number(0, open_low=True, infinite=True),
            "error_if_nonfinite": SWITCH,
            "foreach": Choice((True, False), empty=True),
        },
        required=("max_norm",),
    ),
    "train_neg_sample_args": Either(
        Mapping(
            "a mapping of distribution (uniform or popularity), sample_num of at least 1, alpha, dynamic and "
            "candidate_num",
            keys={
                "distribution": Choice(("uniform", "popularity", "None"), empty=True),
                "sample_num": at_least(1, 10**6),
                "alpha": Number(0, 100),
                "dynamic": SWITCH,
                "candidate_num": at_least(0, 10**6),
            },
        ),
        Choice(("None",), empty=True),
    ),
    "transform": Choice(
        ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined"), empty=True
    ),
    # RecBole: evaluation
    "topk": Several(at_least(1), single=True, least=1, words="whole numbers of at least 1"),
    "metrics": Several(NAME, single=True, least=1, words="one or several names of metrics"),
    "tail_ratio": Number(0, LARGEST, open_low=True),
    "eval_args": Mapping(
        "a mapping of some of split ({LS: valid_and_test}, or RS or TS like {RS: [8, 1, 1]}: something must be left to "
        "validate and to test), order (TO or RO), group_by (user or none) and mode (full, without sampled items)",
        keys={
            "split": Mapping("", keys={"LS": Choice(("valid_and_test",)), **dict.fromkeys(("RS", "TS"), SHARES)},
                             number=1, empty=False),
            "order": Choice(("TO", "RO")),
            "group_by": Choice(("user", "none"), empty=True),
            "mode": Either(FULL, Mapping("", keys={"valid": FULL, "test": FULL}, empty=False)),
        },
        empty=False,
    ),
    # RecBole: data
    "encoding": Encoding("an encoding like utf-8 or latin-1", empty=True),
    "field_separator": SEPARATOR,
    "seq_separator": SEPARATOR,
    **dict.fromkeys(
        ("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD", "NEG_PREFIX", "LIST_SUFFIX",
         "ITEM_LIST_LENGTH_FIELD", "POSITION_FIELD", "HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD",
         "RELATION_ID_FIELD", "ENTITY_ID_FIELD"), NAME),
    "seq_len": Mapping("a mapping of columns to lengths, like {title: 20}", each=at_least(1, 2**16)),
    "threshold": Mapping("a mapping of one column to a number, like {rating: 3}", each=Number()),
    "numerical_features": NAMES,
    **dict.fromkeys(("load_col", "unload_col", "unused_col"), COLUMNS),
    **dict.fromkeys(
        ("additional_feat_suffix", "alias_of_user_id", "alias_of_item_id", "alias_of_entity_id",
         "alias_of_relation_id", "normalize_field", "benchmark_filename"), NAMES),
    "rm_dup_inter": Choice((False, "first", "last"), empty=True),
    "val_interval": Mapping("a mapping of columns to intervals, like {rating: '[3,inf)'}",
                            each=Text("an interval", INTERVALS)),
    **dict.fromkeys(
        ("user_inter_num_interval", "item_inter_num_interval", "entity_kg_num_interval", "relation_kg_num_interval"),
        INTERVAL),
    "preload_weight": Mapping("a mapping of id columns to columns of vectors", each=NAME),
    "discretization": Mapping(
        "a mapping of columns to methods, like {price: {method: ED, bucket: 10}}",
        each=Mapping("", keys={"method": Choice(("ED", "LD")), "bucket": at_least(1, 10**6)}, empty=False)),
    "MAX_ITEM_LIST_LENGTH": SIZE,
    # RecBole's models
    "hidden_size": SIZE,
    "n_layers": LAYERS,
    "fields": NAMES,
    **dict.fromkeys(("pretrain_path", "mf_pretrain_path", "mlp_pretrain_path"), PATH),
    "hidden_act": Choice(("gelu", "relu", "swish", "tanh", "sigmoid")),
    "pooling_mode": Choice(("mean", "max", "sum")),
    # This package, every model
    "num_threads": at_least(0, 1024),
    **dict.fromkeys(("result_file", "cache_dir", "content_file", "content_ids", "sid_file", "sid_file_ids"), PATH),
    # Item content
    "content": Several(NAME, single=True, least=1, words="auto, a name or a list of names"),
    "content_weights": Several(POSITIVE, empty=True, least=1, words="one positive number for each of `content`"),
    "content_dim": SIZE,
    "missing_content": Choice(("error", "zero"), empty=True),
    "cooccurrence_window": at_least(1),
    "text_model": NAME,
    "text_columns": NAMES,
    "text_template": Text("a text like '{title} by {brand}'", empty=True),
    "text_max_length": SIZE,
    "text_batch_size": SIZE,
    "field_columns": NAMES,
    "field_paths": NAMES,
    "field_bins": at_least(2, 2**16),
    # This package's models
    **dict.fromkeys(("n_heads", "head_size", "inner_size", "uid_size", "ran_hidden_size"), SIZE),
    "own_vectors": Choice(("all", "leaf", "none")),
    "depth_network": Choice(("none", "linear", "transformer")),
    "depth_layers": at_least(1, 1000),
    **dict.fromkeys(("generative_weight", "dense_weight"), NOT_NEGATIVE),
    "full_softmax_items": at_least(0),
    "uniform_negatives": at_least(1),
    "rank_by": Choice(("rerank", "generative", "dense")),
    "user_tokens": at_least(0),
    "context_budget": at_least(1),
    "context_unit": Choice(("tokens", "events")),
    "train_rows": Choice(("all_prefixes", "sampled_prefix")),
    "decoding": Choice(("beam", "exact")),
    "beam_width": at_least(1),
    "valid_users": at_least(0),
    "valid_beam_width": at_least(0),
    **dict.fromkeys(("dropout_prob", "depth_dropout"), BELOW_ONE),
    "codebook_std": Number(0, 1000, open_low=True, empty=True),
    "alignment_weight": NOT_NEGATIVE,
    "muon_learning_rate": RATE,
    "warmup_fraction": BELOW_ONE,
    "min_learning_rate_ratio": SHARE,
    "ema_decay": BELOW_ONE,
}  # fmt: skip

# What the names of numbers of RecBole's models say, also of the members of lists; the first that is found counts.
RECBOLE_NAMES = (
    (r"dropout|_prob$|^drop_", BELOW_ONE),
    (r"weight_size", SIZE),
    (r"weight|^reg_|_reg$", NOT_NEGATIVE),
    (r"ratio$", SHARE),
    (r"tau$|temperature|_temp$|_eps$|^std$|initializer_range", POSITIVE),
    (r"layers?$|layers_num$|layer_num$|hops?$|depth$|n_iter|block_num", LAYERS),
    (r"size|dim(s|ension)?(_|$)|hidden|channels|kernel|strides|dilations|heads$|factors|latent|^t_cin$", SIZE),
    (r"^n_|^num_|_num$|steps?$|epochs$|_len(gth)?$|^k$|^rank$", at_least(0)),
)


# What other programs call a setting, and what is none here.
ALIASES = {
    "lr": "learning_rate", "batch_size": "train_batch_size", "bs": "train_batch_size", "k": "topk", "gpu": "gpu_id",
    "dropout": "dropout_prob", "max_len": "MAX_ITEM_LIST_LENGTH", "max_length": "MAX_ITEM_LIST_LENGTH",
    "max_seq_length": "MAX_ITEM_LIST_LENGTH", "num_epochs": "epochs", "n_epochs": "epochs", "patience": "stopping_step",
    "output": "result_file", "threads": "num_threads", "beam_size": "beam_width", "num_beams": "beam_width",
    "optimizer": "learner", "data_dir": "data_path", "save_dir": "checkpoint_dir", "log_level": "state",
}  # fmt: skip
ELSEWHERE = {
    "device": "use_gpu=false computes on the CPU, and gpu_id=N chooses a GPU",
    "nproc": "a run is one process; num_threads=N gives it threads, and a leaderboard has --jobs=N",
    **dict.fromkeys(("config", "config_file"), "files of settings are named by --config_files=A.yaml"),
}


def find_rule(key: str, default: Any, own: bool) -> Any:
    """The rule of a setting, or None if only its class can tell.

    Args:
        key: the setting.
        default: its value in the property files; None if they do not have it.
        own: whether the setting is of a model of this package, where a whole number stays one.
    """
    if key in RULES:
        return RULES[key]
    if default == "auto":
        return None
    if isinstance(default, bool):
        return SWITCH
    if isinstance(default, (int, float)):
        return _rule_of_number(key, default, own)
    if isinstance(default, str):
        return Text()
    if isinstance(default, (list, tuple)):
        each = find_rule(key, default[0], own) if default else Anything()
        return Several(SIZE if each is LAYERS else each)  # "layers" of a list are their sizes
    return Mapping("a mapping", each=Anything()) if isinstance(default, dict) else None


def _rule_of_number(key: str, default: float, own: bool) -> Number:
    if not own and default >= 0:
        for pattern, rule in RECBOLE_NAMES:
            if re.search(pattern, key):
                return rule
        return NOT_NEGATIVE
    return Number(whole=own and isinstance(default, int))


def check_setting(key: str, value: Any, default: Any, own: bool) -> None:
    """Refuse a value of the user.

    Args:
        key, default, own: see :func:`find_rule`.
        value: what the user gave.

    Raises:
        ValueError: naming setting and value, and what is allowed.
    """
    rule = find_rule(key, default, own)
    allowed = "without NaN, infinity and numbers that no machine holds"
    if not _finite(value) and not (key == "clip_grad_norm" and rule.allows(value)):
        raise ValueError(f"{key}={value!r} is not usable: it must be {rule or allowed}")
    if rule is not None and not rule.allows(value):
        raise ValueError(f"{key}={value!r} is not usable: it must be {rule}")


def content_names(config: Any) -> list[str]:
    """What ``content`` names, a list also where it is one name; :data:`AUTO` alone leaves the choice to the data."""
    names = config["content"]
    return list(names) if isinstance(names, (list, tuple)) else [names]


def check_content(config: Any) -> None:
    """Refuse encoders of ``content`` that are not there, and ``content_weights`` that are not as many.

    How many ``auto`` will choose only the data can tell.

    Raises:
        ValueError: naming the setting.
    """
    names, weights = content_names(config), config["content_weights"]
    if names == [AUTO]:
        return
    if AUTO in names:
        raise ValueError(f"content={names!r} is not usable: {AUTO} chooses the encoders itself and must stand alone")
    for name in names:
        if name not in CONTENT_ENCODERS:
            raise unknown("content encoder", name, [AUTO, *CONTENT_ENCODERS], " Set content.")
    if weights is not None and len(weights) != len(names):
        raise ValueError(f"content_weights={weights!r} must be one positive number for each of content={names!r}")


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_finite(key) and _finite(entry) for key, entry in value.items())
    if isinstance(value, (list, tuple, set)):
        return all(map(_finite, value))
    return not isinstance(value, (int, float)) or abs(value) < 2**63  # False for NaN


def takes_text(key: str, default: Any) -> bool:
    """Whether a value of the command line is this setting's text as it stands, and no YAML."""
    rule = RULES.get(key)
    if rule is None:
        return isinstance(default, str) and default != "auto"
    return isinstance(rule, Text) or (isinstance(rule, Choice) and all(isinstance(each, str) for each in rule.values))


def may_be_empty(key: str) -> bool:
    """Whether a setting that is a text may be None."""
    return getattr(RULES.get(key), "empty", False)


def texts_of_models(models: Iterable[str]) -> frozenset[str]:
    """The settings that are texts, with those of ``models`` that only RecBole's property files tell."""
    texts = {key for key in RULES if takes_text(key, None)} | {"data_path", "checkpoint_dir", "wandb_project"}
    folder = Path(recbole.__file__).parent / "properties" / "model"
    for model in models:
        file = folder / f"{model}.yaml"
        if re.fullmatch(r"\w+", model) and file.is_file():
            defaults = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            # "1e-12" is a text for YAML and a number for RecBole.
            texts |= {key for key, value in defaults.items() if isinstance(value, str) and not _is_number(value)}
    return frozenset(texts)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return not text.isdigit()  # '01' of DMF is a name


def takes_list(key: str, default: Any) -> bool:
    """Whether a list is what this setting has."""
    return isinstance(default, (list, tuple)) or isinstance(RULES.get(key), Several)


def advice(key: Any, known: Iterable[str]) -> str:
    """What to write instead of a setting that is not there, for the end of a message."""
    if key in ELSEWHERE:
        return ELSEWHERE[key]
    if key in RULES:
        return "only other models have it"
    known = sorted(known)
    meant = [ALIASES[key]] if ALIASES.get(key) in known else difflib.get_close_matches(str(key), known, 1, 0.6)
    return f"the nearest one is {meant[0]!r}" if meant else "the folder properties/ has all that there are"
