"""Too little memory: how it is recognised, whatever allocates, and what a user is told to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# How PyTorch's allocators of ordinary memory put it; they have no exception of their own.
ALLOCATORS_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU or not."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in ALLOCATORS_WORDS)


@contextmanager
def told_what_to_lower(what: str, settings: str) -> Iterator[None]:
    """Turn an out-of-memory error of the block into one line that names the ``settings`` to lower.

    Raises:
        ValueError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{what} ran out of memory: lower {settings}") from error
