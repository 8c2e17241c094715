"""Values that are computed from weights, and kept until one of the weights changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn


class WhileUnchanged:
    """Remembers one value and the state of the weights it was computed from.

    Averaged weights are exchanged with a model's own by their storage, optimizers change them in place; both are seen.
    A model should :meth:`forget` when it goes into training, for not every optimizer lets its changes be seen.
    """

    def __init__(self) -> None:
        self._value = self._state = None

    def get(self, weights: Iterable[nn.Parameter], compute: Callable[[], Any], *besides: Any) -> Any:
        """The value of ``compute()``, anew if one of ``weights`` or of ``besides`` is another than last time."""
        state = [*besides, *((weight.data_ptr(), weight._version) for weight in weights)]
        if state != self._state:
            self._value, self._state = compute(), state
        return self._value

    def forget(self) -> None:
        """Compute anew next time."""
        self._value = self._state = None
