"""Arrays of other programs, ``.npy`` and ``.pt``: nothing in them is run, and what is damaged ends in one line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch


def load_npy(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file.

    Raises:
        ValueError: it is damaged, or holds other things than plain values.
    """
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # its header is Python: TokenError, SyntaxError, OverflowError, MemoryError, ...
        raise ValueError(f"{path} is not a .npy file of numbers, or damaged: {shortened(error)}") from error


def load_pt(path: Path) -> np.ndarray:
    """The array of a ``.pt`` file of one tensor, or of a dict of one.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                damaged = parts.testzip()  # torch.load does not look at the checksums
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... here, and long advice
        raise ValueError(f"{path} is not a .pt file of plain tensors, or damaged ({type(error).__name__})") from error
    if isinstance(loaded, dict) and len(loaded) == 1:
        loaded = next(iter(loaded.values()))
    try:
        return loaded.detach().numpy()
    except Exception as error:  # no tensor, or one that NumPy does not have: bfloat16, sparse, nested
        raise ValueError(f"{path} must hold one tensor of whole numbers, or a dict of one") from error


def shortened(message: object, longest: int = 200) -> str:
    """``message`` as one line of at most ``longest`` characters."""
    line = " ".join(str(message).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
