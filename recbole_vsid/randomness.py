"""The state of all random generators as plain values, for runs that are continued."""

from __future__ import annotations

import random

import numpy as np
import torch


def random_state() -> dict:
    """State of Python's, NumPy's and PyTorch's generators, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def check_random_state(state: dict) -> None:
    """Try what :func:`random_state` gave on generators of its own.

    Raises:
        ValueError: a generator does not take its part.
    """
    try:
        python, legacy, own = random.Random(), np.random.RandomState(), torch.Generator()
        python.setstate(_python_state(state))
        position = state["numpy"][2]
        if not 0 <= position <= len(state["numpy"][1]):  # NumPy would read beyond its keys
            raise ValueError(f"position {position} of NumPy's generator")
        legacy.set_state(_numpy_state(state))
        own.set_state(state["torch"].cpu())
        if torch.cuda.is_available():
            for device, each in enumerate(state["cuda"]):
                torch.Generator(f"cuda:{device}").set_state(each.cpu())
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def restore_random_state(state: dict) -> None:
    """Set what :func:`random_state` gave."""
    random.setstate(_python_state(state))
    np.random.set_state(_numpy_state(state))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


def _python_state(state):
    version, internal, gauss = state["python"]
    return version, tuple(internal), gauss


def _numpy_state(state):
    name, keys, position, has_gauss, cached = state["numpy"]
    return name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached
