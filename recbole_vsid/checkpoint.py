"""What a checkpoint holds, part by part, and whether a file that is one can be used here.

Everything is looked at before anything of a run is changed, so a file that lacks a part, has an odd one, or fits
another model is refused in one line that names the file and the part. What a continuation takes over are the fields of
:data:`PROGRESS` and no others: no key of a file ever names an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from recbole_vsid.finiteness import first_not_finite, infinite_by_design, tensors_of
from recbole_vsid.randomness import check_random_state
from recbole_vsid.semantic_id import SemanticIDs
from recbole_vsid.storage import load_checkpoint

NONE = type(None)
NUMBER = (int, float)

# A kind is a type, a tuple of kinds any of which will do, [kind] a list of it or {kind: kind} a mapping; a mapping with
# names has at least those.
REPORT = {
    "tokenizer": str,
    "content_seconds": NUMBER,
    "fit_seconds": NUMBER,
    "vocab_sizes": [int],
    "length": {"content": {str: NUMBER}, "full": {"items": NUMBER, "events": NUMBER}, "histogram": [int]},
    "positions": [{"items": int, "used": int, "usage": NUMBER, "perplexity": NUMBER}],
    "collisions": {"group_sizes": [{"size": int, "groups": int}]},
}
TABLE = {
    "codes": torch.Tensor,
    "lengths": torch.Tensor,
    "vocab_sizes": [int],
    "shared_vocabulary": bool,
    "unique": bool,
    "prefix_free": bool,
    "suffix": bool,
    "item_tokens": [str],
    "provenance": {str: object},
}
WEIGHTS = {
    "model": str,
    "dataset": str,
    "settings": {str: object},
    "data_fingerprint": (str, NONE),
    "epoch": int,
    "state_dict": {str: torch.Tensor},
    "other_parameter": {str: object},
    "semantic_ids": (dict, NONE),
    "tokenizer_report": (dict, NONE),
}
METRICS = {str: NUMBER}
PROGRESS = {
    "cur_step": int,
    "best_valid_score": NUMBER,
    "best_valid_result": METRICS,
    "best_protocols": ({str: METRICS}, NONE),
    "learning_curve": [{"epoch": int, "seconds": NUMBER, "train_loss": NUMBER, "valid_score": NUMBER}],
    "train_loss": {int: NUMBER},
    "train_seconds": NUMBER,
    "trained_examples": int,
}
CONTINUATION = {
    **WEIGHTS,
    "raw_state_dict": {str: torch.Tensor},
    "average_steps": int,
    "optimizer": {"state": {int: {str: object}}, "param_groups": [{"params": [int]}]},
    "random": {"python": [object], "numpy": [object], "torch": torch.Tensor, "cuda": [torch.Tensor]},
}


def read_weights(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Open a ``best.pth`` or ``last.pth`` for its weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or lacks a part; the message names the file and the part.
    """
    return _read(path, WEIGHTS, device)


def read_continuation(path: str | Path, progress: Mapping = PROGRESS, device: torch.device | str = "cpu") -> dict:
    """Open a ``last.pth`` to continue its run, with ``progress``, name → kind; raises as :func:`read_weights`."""
    state = _read(path, {**CONTINUATION, "progress": progress}, device)
    try:
        check_random_state(state["random"])
    except ValueError as error:
        raise ValueError(f"{path}: its part random is not usable: {error}") from error
    return state


def _read(path, parts, device):
    state = load_checkpoint(path, device)
    finding = _mismatch(state, parts, "")
    if finding is None and state["semantic_ids"] is not None:
        finding = _mismatch(state["semantic_ids"], TABLE, "semantic_ids")
        finding = finding or _mismatch(state["tokenizer_report"], REPORT, "tokenizer_report")
    if finding is None and state["epoch"] < 0:
        finding = f"its part epoch is {state['epoch']}"
    if finding is None and state["semantic_ids"] is not None:
        try:
            unpack_table(state["semantic_ids"])
        except ValueError as error:
            finding = f"its part semantic_ids is odd: {error}"
    if finding:
        raise ValueError(f"{path} is no checkpoint that can be used: {finding}; name the best.pth or last.pth of a run")
    return state


def _mismatch(value, kind, where):
    """What of ``value`` is not of ``kind``, in words; None if all is."""
    if isinstance(kind, list):
        if not isinstance(value, (list, tuple)):
            return f"its part {where} is of the kind {type(value).__name__}, not a list"
        found = (_mismatch(entry, kind[0], f"{where}[{position}]") for position, entry in enumerate(value))
        return next(filter(None, found), None)
    if isinstance(kind, tuple):
        findings = [_mismatch(value, each, where) for each in kind]
        return findings[0] if all(findings) else None
    if not isinstance(kind, dict):
        odd = not isinstance(value, kind) or (isinstance(value, bool) and kind in NUMBER)
        return f"its part {where} is of the kind {type(value).__name__}" if odd else None
    if not isinstance(value, dict):
        return f"its part {where} is of the kind {type(value).__name__}, not a mapping"
    if all(isinstance(name, str) for name in kind):
        for name, entry in kind.items():
            part = f"{where}.{name}" if where else name
            if name not in value:
                return f"its part {part} is missing"
            found = _mismatch(value[name], entry, part)
            if found:
                return found
        return None
    ((key_kind, entry),) = kind.items()
    for key, each in value.items():
        found = _mismatch(key, key_kind, f"{where}, a name of which") or _mismatch(each, entry, f"{where}[{key!r}]")
        if found:
            return found
    return None


def check_weights(path: str | Path, state: Mapping, model: torch.nn.Module, part: str = "state_dict") -> None:
    """Refuse weights that ``model`` cannot take, or that are not finite where those of a new model are.

    Raises:
        ValueError: naming the file and the tensor.
    """
    given, expected = state[part], model.state_dict()
    for names, words in ((expected.keys() - given, "lacks"), (given.keys() - expected, "has an unknown")):
        if names:
            raise ValueError(f"{path} does not fit the data or the settings: {part} {words} {min(names)!r}")
    for name, tensor in expected.items():
        if tensor.shape != given[name].shape:
            raise ValueError(
                f"{path} does not fit the data or the settings: {name!r} in its {part} is {tuple(given[name].shape)}, "
                f"the model's is {tuple(tensor.shape)}; train the model again"
            )
    allowed = infinite_by_design(model)
    numbers = ((f"{name!r} in its {part}", tensor) for name, tensor in given.items() if name not in allowed)
    _refuse_not_finite(path, numbers)
    _refuse_not_finite(path, tensors_of(state["other_parameter"], "other_parameter"))


def _refuse_not_finite(path, tensors):
    finding = first_not_finite(tensors)
    if finding:
        raise ValueError(f"{path} is not usable: {finding}")


def check_optimizer(path: str | Path, given: Mapping, optimizer: torch.optim.Optimizer) -> None:
    """Refuse the state of an optimizer that ``optimizer`` could not go on with.

    Its settings, like learning rates, are not looked at: those of the configuration hold.

    Raises:
        ValueError: naming the file and what of the optimizer is odd.
    """
    own = optimizer.state_dict()
    odd = f"{path}: its part optimizer does not fit this run"
    if len(given["param_groups"]) != len(own["param_groups"]):
        raise ValueError(f"{odd}: {len(given['param_groups'])} groups, not {len(own['param_groups'])}")
    parameters = {}
    for number, (theirs, ours) in enumerate(zip(given["param_groups"], own["param_groups"])):
        if theirs["params"] != ours["params"]:
            raise ValueError(f"{odd}: group {number} is of other parameters")
        group = optimizer.param_groups[number]
        kept = _kept_per_parameter(optimizer, group)
        parameters.update({place: (each, kept) for place, each in zip(ours["params"], group["params"])})
    for place, entries in given["state"].items():
        if place not in parameters:
            raise ValueError(f"{odd}: it has a state of parameter {place}, and there are {len(parameters)}")
        parameter, kept = parameters[place]
        if entries.keys() != kept.keys():
            raise ValueError(f"{odd}: the state of parameter {place} holds {sorted(entries)}, not {sorted(kept)}")
        for name, value in entries.items():
            shape = parameter.shape if kept[name] else torch.Size()
            if not isinstance(value, torch.Tensor) or value.shape != shape:
                raise ValueError(f"{odd}: {name} of parameter {place} is not a tensor of shape {tuple(shape)}")
    missing = own["state"].keys() - given["state"].keys()
    if missing:
        raise ValueError(f"{odd}: it has no state of parameter {min(missing)}")
    _refuse_not_finite(path, tensors_of(given["state"], "optimizer"))


def _kept_per_parameter(optimizer, group):
    """What ``optimizer`` keeps of a parameter of ``group``: name → whether it has the parameter's shape.

    Found by a step with a parameter of its own, for every optimizer keeps other things.
    """
    trial = torch.nn.Parameter(torch.zeros(2, 2))
    trial.grad = torch.zeros(2, 2)
    settings = {name: value for name, value in group.items() if name != "params"}
    twin = type(optimizer)([{**settings, "params": [trial]}], lr=group["lr"])
    twin.step()
    return {name: value.shape == trial.shape for name, value in twin.state[trial].items()}


def pack_table(table: SemanticIDs | None) -> dict | None:
    """A :class:`SemanticIDs` as tensors and plain values for a checkpoint, or None."""
    if table is None:
        return None
    tensors = {name: torch.from_numpy(getattr(table, name).copy()) for name in ("codes", "lengths")}
    return {**tensors, **table.plain()}


def unpack_table(packed: Mapping) -> SemanticIDs:
    """The :class:`SemanticIDs` that :func:`pack_table` packed; its invariants are checked again.

    Raises:
        ValueError: it is no such table.
    """
    arrays = {name: packed[name].cpu().numpy() for name in ("codes", "lengths")}
    try:
        return SemanticIDs(**{**packed, **arrays})
    except TypeError as error:  # a part is missing, or of an odd kind
        raise ValueError(f"the semantic-ID table of a checkpoint is not usable: {error}") from error
