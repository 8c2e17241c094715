"""The learning rate along a training."""

from __future__ import annotations

import math


def share_of_peak(progress, warmup, floor):
    """Linear warm-up, then a cosine down to ``floor``.

    Args:
        progress: share of the planned training, 0 to 1.
        warmup: share of it in which the rate rises.
        floor: the rate at the end, as a share of the peak.

    Returns:
        float: share of the peak learning rate.
    """
    if progress < warmup:
        return progress / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    return floor + (1 - floor) * cosine


class Scheduled:
    """A training loader that sets the learning rate before each batch and averages the weights after it.

    The rate follows from the epoch and the batch alone, so a resumed run needs no scheduler state.
    """

    def __init__(self, trainer, loader, epoch):
        self.trainer, self.loader, self.epoch = trainer, loader, epoch
        self.shuffle = False
        self._dataset, self.n_targets = loader._dataset, loader.n_targets

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for index, batch in enumerate(self.loader):
            rate = self.trainer.rate((self.epoch + (index + 1) / len(self)) / self.trainer.epochs)
            for group in self.trainer.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate
            yield batch
            self.trainer.average.update()
