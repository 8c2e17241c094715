"""What RecBole's models need: looked up before anything is trained, and told in one line where only RecBole finds it.

What a model needs is read off its settings, its type and its code, not off its name.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import recbole
from recbole.utils import FeatureSource, FeatureType, InputType, ModelType

SUPPORTED = (ModelType.SEQUENTIAL, ModelType.GENERAL, ModelType.TRADITIONAL)

# Settings that name columns of the items, and those that must be smaller than the catalogue.
ITEM_COLUMNS = ("selected_features", "item_attribute")
SMALLER_THAN_CATALOGUE = ("reranker_CAN_NUM",)

PACKAGES = {name: str(Path(file).resolve().parent) for name, file in
            (("recbole", recbole.__file__), ("recbole_vsid", __file__))}  # fmt: skip


def check_needs(config: Any) -> None:
    """Refuse one of RecBole's models that cannot finish with the settings of ``config``, before any data is read.

    Raises:
        ValueError: naming the model, what it needs, and the setting.
    """
    model = config["model"]
    if config["MODEL_TYPE"] not in SUPPORTED:
        raise ValueError(
            f"model {model} is of type {config['MODEL_TYPE'].name}; this runner takes sequential, general and "
            "traditional models"
        )
    if "train_stage" in config:
        raise ValueError(
            f"model {model} is pretrained and then trained anew, with train_stage={config['train_stage']!r} first; "
            "this runner trains in one stage, so choose another model"
        )
    if "MODEL_INPUT_TYPE" not in config:
        raise ValueError(f"loss_type={config['loss_type']!r} is not usable: it must be CE or BPR with model {model}")
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["eval_args"]["order"] != "TO":
        raise ValueError(f"eval_args={config['eval_args']!r} is not usable: model {model} takes only order: TO")
    width = next((key for key in ("hidden_size", "embedding_size") if key in config), None)
    if width and "n_heads" in config and config[width] % config["n_heads"]:
        raise ValueError(f"n_heads={config['n_heads']} is not usable: it must divide {width}={config[width]}")
    negatives = config["train_neg_sample_args"]
    without = negatives["distribution"] == "none"
    if without and config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE and _reads(config.model_class, {"NEG_ITEM_ID"}):
        raise ValueError(
            f"model {model} learns from negative samples, and train_neg_sample_args is empty; leave it out, or set for "
            "instance {distribution: uniform, sample_num: 1}"
        )
    if negatives["dynamic"] and not negatives["candidate_num"]:
        raise ValueError(
            f"train_neg_sample_args={negatives!r} is not usable: dynamic needs candidate_num of at least 1"
        )


def check_columns(config: Any, dataset: Any) -> None:
    """Refuse settings of one of RecBole's models that name what the loaded data lack.

    Raises:
        ValueError: naming model, setting and the columns there are.
    """
    model = config["model"]
    loaded = list(dataset.fields(source=[FeatureSource.ITEM])) if dataset.item_feat is not None else []
    columns = [column for column in loaded if column != dataset.iid_field]
    there = f"its columns are {', '.join(columns)}" if columns else "it has no .item file with columns, or loads none"
    for key in ITEM_COLUMNS:
        named = config[key]
        if named is None:
            continue
        names = [named] if isinstance(named, str) else named
        for name in names:
            if name not in columns:
                raise ValueError(
                    f"{key}={named!r} of model {model}: {name!r} is no item column of {config['dataset']}; {there}"
                )
        embedded = config["numerical_features"] or []
        for name in names:
            if dataset.field2type[name] in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ) and name not in embedded:
                raise ValueError(
                    f"{key}={named!r} of model {model}: {name!r} holds numbers, which RecBole embeds only with "
                    f"numerical_features={[*embedded, name]}"
                )
        if not names:
            raise ValueError(f"{key}={named!r} of model {model} names no item column of {config['dataset']}; {there}")
    for key in SMALLER_THAN_CATALOGUE:
        if (config[key] or 0) >= dataset.item_num:
            raise ValueError(
                f"{key}={config[key]} of model {model} is not usable: {config['dataset']} has only "
                f"{dataset.item_num - 1} items"
            )
    pointwise = config["MODEL_INPUT_TYPE"] == InputType.POINTWISE
    unsampled = config["train_neg_sample_args"]["distribution"] == "none"
    labelled = config["LABEL_FIELD"] in dataset.inter_feat
    if pointwise and unsampled and not labelled and _reads(config.model_class, {"LABEL", "LABEL_FIELD"}):
        raise ValueError(
            f"model {model} learns from labels, and with train_neg_sample_args empty there are none; leave it out, or "
            f"load a column {config['LABEL_FIELD']!r}"
        )


def _reads(model_class, attributes):
    """Whether the code of a model of RecBole, base classes that all share left out, reads one of its ``attributes``."""
    return any(
        not attributes.isdisjoint(function.__code__.co_names)
        for ancestor in model_class.__mro__
        if ancestor.__module__.startswith("recbole.model.") and not ancestor.__module__.endswith("abstract_recommender")
        for function in vars(ancestor).values()
        if isinstance(function, FunctionType)
    )


@contextmanager
def told_in_one_line(what: str) -> Iterator[None]:
    """Turn what RecBole's code raises into one line; errors of other code, and of files, pass.

    Args:
        what: the beginning of the line, like "model SASRec could not be built with these settings".

    Raises:
        ValueError: ``what`` and RecBole's message.
        ImportError: a library is missing.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what}: it needs the library {error.name}, which is not installed") from error
    except OSError:
        raise
    except Exception as error:
        if not _is_recboles(error):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{' '.join(str(error).split()) or 'no message'}") from error


def _is_recboles(error):
    """Whether the last code of RecBole's and of this package that ran before the error is RecBole's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        folder = str(Path(frame.filename).resolve().parent)
        for name, place in PACKAGES.items():
            if folder == place or folder.startswith(place + "/") or folder.startswith(place + "\\"):
                return name == "recbole"
    return False
