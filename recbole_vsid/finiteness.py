"""Training that has stopped to be finite: found before anything is validated or saved, and told by name.

The loss is looked at in every step, which waits for it anyway; everything that a checkpoint would hold, once per epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from recbole_vsid.memory import told_what_to_lower

Named = Iterable[tuple[str, torch.Tensor]]


class NotFinite(ValueError):
    """A loss, a weight or the state of the optimizer is NaN or infinite."""


def first_not_finite(tensors: Named) -> str | None:
    """The first of ``tensors`` that holds NaN or infinity, as ``name is NaN``; None if all are finite."""
    for name, tensor in tensors:
        if not is_finite(tensor):
            return f"{name} is {_kind(tensor)}"
    return None


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers of ``tensor`` are finite; other things than numbers always are."""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_sparse_coo().coalesce().values()
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _kind(tensor):
    values = tensor if tensor.layout is torch.strided else tensor.to_sparse_coo().coalesce().values()
    return "NaN" if bool(values.isnan().any()) else "infinite"


def infinite_by_design(model: torch.nn.Module) -> frozenset[str]:
    """Names of the tensors of a new model that are not finite: masks, for instance."""
    return frozenset(name for name, tensor in model.state_dict().items() if not is_finite(tensor))


def tensors_of(state: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in nested mappings and lists, each as ``name['key'][0]``."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors_of(value, f"{name}[{key!r}]")
    elif isinstance(state, (list, tuple)):
        for position, value in enumerate(state):
            yield from tensors_of(value, f"{name}[{position}]")


class FiniteTrainingMixin:
    """Over any RecBole trainer: a training that is not finite any more ends before its state is used.

    Attributes:
        saved_files: checkpoints of this run that are whole, the last written last.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.saved_files = []
        self._infinite_by_design = infinite_by_design(model)
        self._epoch = self._step = 0

    def _train_epoch(self, train_data, epoch_idx, *args, **kwargs):
        self._epoch, self._step = epoch_idx, 0
        try:
            with told_what_to_lower("training", f"train_batch_size={self.config['train_batch_size']}"):
                losses = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)
        except RuntimeError as error:
            # What detect_anomaly and the error_if_nonfinite of clip_grad_norm raise.
            if "returned nan values" in str(error) or "non-finite" in str(error):
                raise self._not_finite("a gradient is not finite", self._step) from error
            raise
        finding = first_not_finite(self._watched())
        if finding:
            raise self._not_finite(finding, self._step)
        return losses

    def _check_nan(self, loss):
        """RecBole's hook for the loss of every step, before its gradients are made."""
        self._step += 1
        if not is_finite(loss):
            weight = first_not_finite(self._weights())  # then it was the update before that went wrong
            finding = first_not_finite((f"the loss term {name!r}", value) for name, value in self._terms(loss).items())
            raise self._not_finite(weight or finding, self._step - bool(weight))

    def _terms(self, loss):
        """What the loss of the step is the sum of, by name."""
        return {"loss": loss}

    def _watched(self):
        """All that a checkpoint would hold and that has to be finite."""
        yield from self._weights()
        yield from tensors_of(self.optimizer.state_dict()["state"], "the optimizer's state ")

    def _weights(self):
        for name, tensor in self.model.state_dict().items():
            if name not in self._infinite_by_design:
                yield f"the weight {name!r}", tensor

    def _not_finite(self, finding, step):
        kept = [file for file in self.saved_files if file.is_file()]
        if self.folder / "last.pth" in kept:
            way_on = f"The last good state is {self.folder / 'last.pth'}, from which --resume=true goes on"
        elif kept:
            way_on = f"The last good weights are in {kept[-1]}"
        else:
            way_on = "Nothing was saved before"
        advice = "If it comes again, lower learning_rate or set clip_grad_norm: '{max_norm: 1}'"
        return NotFinite(f"{finding} in epoch {self._epoch}, step {step}. {way_on}. {advice}")
