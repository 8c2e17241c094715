"""Which of the user's settings do nothing in the combination given, and what they would need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from recbole_vsid.settings import AUTO, content_names
from recbole_vsid.tokenizer.famae import FAMAESettings


def _content(config: Any) -> set[str]:
    if config["sid_file"] or config["content"] is None:  # models of RecBole have no content
        return set()
    names = set(content_names(config))
    return {"tfidf", "cooccurrence"} if names == {AUTO} else names


def _has_content(*encoders: str) -> tuple[Callable, str]:
    words = " or ".join(f"content={name}" for name in encoders)
    return lambda config: bool(_content(config) & set(encoders)), f"it needs {words} and no sid_file"


def _set_to(key: str, *values: Any) -> tuple[Callable, str]:
    return lambda config: config[key] in values, f"it needs {key}={' or '.join(map(str, values))}"


KEEPS_NOTHING = (lambda config: False, "runs keep no data sets here: they are read and split anew")
BEAM = (
    lambda config: config["decoding"] == "beam" and config["rank_by"] != "dense",
    "it needs decoding=beam and no rank_by=dense",
)
GENERATIVE_HEAD = (lambda config: config["generative_weight"] > 0, "it needs generative_weight above 0")
DENSE_HEAD = (lambda config: config["dense_weight"] > 0, "it needs dense_weight above 0")
VALIDATION = (lambda config: config["eval_step"] > 0, "it needs eval_step of at least 1")
MUON = _set_to("learner", "muon")
SDUD, FRQUD = _set_to("joint_decay", "sdud", "both"), _set_to("joint_decay", "frqud", "both")
TABLE_IS_MADE = (lambda config: not config["sid_file"], "the table comes from sid_file")

# Setting → (whether it does something, why it does not).
CONDITIONS = {
    "content_file": _has_content("file"),
    "content_ids": _has_content("file"),
    **dict.fromkeys(
        ("text_model", "text_columns", "text_template", "text_max_length", "text_bf16", "text_batch_size"),
        _has_content("text"),
    ),
    **dict.fromkeys(FAMAESettings.keys(), _has_content("famae")),
    **dict.fromkeys(("field_columns", "field_paths", "field_bins"), _has_content("fields", "famae")),
    "content_dim": _has_content("tfidf", "cooccurrence", "fields"),
    "cooccurrence_window": _has_content("cooccurrence"),
    **dict.fromkeys(("tokenizer", "content", "content_weights", "missing_content"), TABLE_IS_MADE),
    "sid_file_ids": (lambda config: bool(config["sid_file"]), "it needs sid_file"),
    "sid_ema_decay": _set_to("sid_codebook", "ema"),
    "sid_tau_fraction": _set_to("sid_schedule", "two_phase"),
    "muon_learning_rate": MUON,
    "beam_width": BEAM,
    "valid_beam_width": BEAM,
    "valid_users": VALIDATION,
    "stopping_step": VALIDATION,
    **dict.fromkeys(("head_size", "inner_size"), _set_to("backbone", "transformer", None)),
    **dict.fromkeys(("assign", "alignment_weight"), _set_to("item_token", "redistributed")),
    **dict.fromkeys(("depth_layers", "depth_dropout"), _set_to("depth_network", "transformer")),
    "depth_network": GENERATIVE_HEAD,
    "full_softmax_items": DENSE_HEAD,
    "uniform_negatives": DENSE_HEAD,
    **dict.fromkeys(("joint_sdud", "joint_sdud_lambda", "joint_sigma_learning_rate"), SDUD),
    **dict.fromkeys(("joint_hot_ratio", "joint_usage_momentum"), FRQUD),
    "tail_ratio": (
        lambda config: "tailpercentage" in map(str.lower, config["metrics"]),
        "it needs TailPercentage among the metrics",
    ),
    "wandb_project": _set_to("log_wandb", True),
    "enable_scaler": _set_to("enable_amp", True),
    **dict.fromkeys(("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path"), KEEPS_NOTHING),
    "valid_metric_bigger": (lambda config: False, "the metric itself says which way is better"),
}


def idle_settings(config: Any, given: Iterable[str]) -> list[str]:
    """One line for each of the settings ``given`` that does nothing with the others of ``config``."""
    lines = []
    for key in given:
        does_something, reason = CONDITIONS.get(key, (None, ""))
        if does_something is None and key.startswith("sid_") and key != "sid_file":
            does_something, reason = TABLE_IS_MADE
        if does_something is not None and not does_something(config):
            lines.append(f"{key}={config[key]!r} does nothing in this run: {reason}")
    return lines
