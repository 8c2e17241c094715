"""What the tables and pictures read of a result record, and whether a record has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recbole_vsid.evaluation.breakdown import GROUPS
from recbole_vsid.evaluation.collector import PROTOCOL_NAMES

LARGEST = 1e15  # sums and pictures of it are finite


@dataclass(frozen=True)
class Kind:
    """Values that a place may have, and what they are called."""

    name: str
    holds: Callable[[Any], bool]

    def or_null(self) -> Kind:
        return Kind(f"{self.name} or null", lambda value: value is None or self.holds(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST  # NaN is not


TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", _is_number)
WHOLE = Kind("a whole number", lambda value: isinstance(value, int) and _is_number(value))

# A dictionary has at least these keys, or with EACH any; a list has any number of such entries.
EACH = "*"
METRICS = {EACH: NUMBER}
SOME_METRICS = {EACH: NUMBER.or_null()}
GROUPED = {
    "cutoff": WHOLE,
    "groups": {group: {"items": WHOLE, "targets": WHOLE} for group in GROUPS},
    **{
        protocol: {"standard_error": SOME_METRICS, **dict.fromkeys(GROUPS, SOME_METRICS)} for protocol in PROTOCOL_NAMES
    },
}
RECORD = {
    **dict.fromkeys(("entry", "dataset", "identity", "model", "package_version"), TEXT),
    "seed": WHOLE,
    "tokenizer": TEXT.or_null(),
    "arguments": [TEXT],
    "seconds": NUMBER,
    "resumed": FLAG,
    "protocol": {"selected_by": TEXT, "decoding": TEXT},
    "test_result": dict.fromkeys(PROTOCOL_NAMES, METRICS),
    "cost": {
        EACH: NUMBER,
        **dict.fromkeys(("parameters", "tokens_per_item", "tokenizer_seconds", "training_seconds", "request_ms",
                         "evaluation_ms_per_user"), NUMBER),
    },
    "machine": {"device": TEXT, "processors": TEXT, "torch": TEXT, "threads": WHOLE},
    "learning_curve": [{"epoch": NUMBER, "seconds": NUMBER, "valid_score": NUMBER}],
}  # fmt: skip


def check_record(record: Any) -> None:
    """Refuse a record that the tables could not show.

    Raises:
        ValueError: naming the first part that is missing or of another kind.
    """
    _check(record, RECORD, "")
    if record.get("test_breakdown") != {}:
        _check(record.get("test_breakdown"), GROUPED, "test_breakdown")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair, which no file can") from error


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, Kind):
        if not shape.holds(value):
            raise ValueError(f"{where}={_short(value)} must be {shape.name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where}={_short(value)} must be a list")
        for position, each in enumerate(value):
            _check(each, shape[0], f"{where}[{position}]")
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'it'}={_short(value)} must be a mapping")
        missing = [key for key in shape if key != EACH and key not in value]
        if missing:
            raise ValueError(f"{where or 'it'} has no {missing[0]!r}")
        for key, each in value.items():
            if key in shape or EACH in shape:
                _check(each, shape.get(key, shape.get(EACH)), f"{where}.{key}".lstrip("."))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
