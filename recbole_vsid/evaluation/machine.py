"""What a run was measured on, and how long one user waits for a ranking there."""

from __future__ import annotations

import os
import platform
import time
from itertools import islice

import numpy as np
import torch

REQUESTS, WARM_UP = 50, 3


def machine(config):
    """Device, processors, threads and versions of this process, as plain values without any name or path."""
    device = torch.device(config["device"])
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processors": f"{os.cpu_count()} logical, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@torch.no_grad()
def request_milliseconds(trainer, eval_data):
    """Median time of ranking the catalogue for one user at a time, over the first :data:`REQUESTS` users.

    Args:
        trainer: whose model is in eval mode.
        eval_data: RecBole's full-ranking loader.

    Returns:
        float: milliseconds from the interaction of one user to the scores on the CPU.
    """
    none = torch.zeros(0, dtype=torch.long)
    times = []
    # RecBole's batches for models without sequences may hold a single user.
    users = (batch[0][row : row + 1] for batch in eval_data for row in range(len(batch[0])))
    for user in islice(users, REQUESTS + WARM_UP):
        started = time.perf_counter()
        _, scores, *_ = trainer._full_sort_batch_eval((user, None, none, none))
        scores.cpu()
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times[WARM_UP:] or times)), 3)
