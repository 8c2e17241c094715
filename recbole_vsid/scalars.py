"""What a run writes to TensorBoard beside RecBole's own ``Loss/Train`` and ``Vaild_score``.

=========================  =============================================================================================
``Validation/…``           every metric of every validation, under both protocols (RecBole's models, too)
``LossTerms/…``            the terms of the training loss, weighted, mean of an epoch's updates
``LearningRate/…``         of every group of parameters, at the end of an epoch
``Speed/…``                trained targets per second, since the start of the training
``SemanticIDs/…``          the table that training starts from: mean lengths, used codes and perplexity by position
``Codes/…``                of a model that trains its semantic IDs: the watch over every new table
``Diagnostics/…``          what a model watches beside the loss, at every validation
=========================  =============================================================================================
"""

from __future__ import annotations


def write_values(writer, group, values, epoch):
    """Write those of ``values`` (name → anything) that are numbers as ``group/name``."""
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            writer.add_scalar(f"{group}/{name}", value, epoch)


def write_validation(writer, protocols, epoch):
    """Write the metrics of both protocols, ``{"consumed_kept": {metric: value}, …}``."""
    for protocol, metrics in protocols.items():
        write_values(writer, f"Validation/{protocol}", metrics, epoch)


def write_training(writer, terms, groups, targets_per_second, epoch):
    """Write an epoch of training.

    Args:
        terms: name → mean of a term of the loss.
        groups: the optimizer's parameter groups, each with a ``name``.
    """
    write_values(writer, "LossTerms", terms, epoch)
    write_values(writer, "LearningRate", {group["name"]: float(group["lr"]) for group in groups}, epoch)
    write_values(writer, "Speed", {"targets_per_second": targets_per_second}, epoch)


def write_table(writer, report, epoch=0):
    """Write what :func:`~recbole_vsid.semantic_id.diagnostics.diagnose` found in a table."""
    for kind, lengths in report["length"].items():
        if kind in ("content", "full"):
            write_values(writer, f"SemanticIDs/{kind}_length", lengths, epoch)
    for number, position in enumerate(report["positions"], 1):
        shown = {name: position[name] for name in ("used", "usage", "perplexity")}
        write_values(writer, f"SemanticIDs/position_{number}", shown, epoch)
