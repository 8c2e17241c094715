"""Rules for the values of settings: what is usable, and how to say so.

A rule has ``allows(value)`` and, as its text, what a value "must be".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

LARGEST = 2**31 - 1
LARGEST_NUMBER = 1e9


@dataclass(frozen=True)
class Number:
    """A finite number between two ends, which belong to it unless they are open.

    Args:
        whole: only whole numbers.
        empty: whether None is allowed, too.
        infinite: whether infinity is.
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    open_low: bool = False
    open_high: bool = False
    empty: bool = False
    infinite: bool = False

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.empty
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return self.infinite and value > 0
        limit = self._limit(self.high)
        above = value > self.low if self.open_low else value >= max(self.low, -limit)
        return above and (value < limit if self.open_high else value <= limit)

    def _limit(self, high: float) -> float:
        """``high``, or where there is none the largest number that is taken."""
        return high if high < math.inf else LARGEST if self.whole else LARGEST_NUMBER

    def __str__(self) -> str:
        if self.whole:
            name = (
                f"a whole number of at least {max(self.low, -LARGEST):.10g} and at most {self._limit(self.high):.10g}"
            )
        elif self.low == -math.inf:
            name = "a number"
        elif self.high < math.inf:
            name = f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"
        else:
            name = f"{'above' if self.open_low else 'at least'} {self.low:g} and at most {LARGEST_NUMBER:g}"
        return name + (", or empty" if self.empty else "")


@dataclass(frozen=True)
class Text:
    """A text; ``pattern`` is what it must be as a whole."""

    words: str = "a text"
    pattern: str = r"[^\0]*"
    empty: bool = False

    def allows(self, value: Any) -> bool:
        return self.empty if value is None else isinstance(value, str) and bool(re.fullmatch(self.pattern, value))

    def __str__(self) -> str:
        return self.words + (", or empty" if self.empty else "")


@dataclass(frozen=True)
class Choice:
    """One of some values; texts in any case with ``fold``."""

    values: tuple
    empty: bool = False
    fold: bool = False

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.empty
        value = value.lower() if self.fold and isinstance(value, str) else value
        return any(type(value) is type(allowed) and value == allowed for allowed in self.values)

    def __str__(self) -> str:
        if set(self.values) == {True, False}:
            return "true or false"
        names = [str(value) for value in self.values]
        name = " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}"
        return name + (", or empty" if self.empty else "")


@dataclass(frozen=True)
class Several:
    """A list whose members keep to ``each``; with ``single`` one member may stand for a list of it."""

    each: Any
    single: bool = False
    empty: bool = False
    least: int = 0
    most: float = math.inf
    words: str = ""

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.empty
        if isinstance(value, (list, tuple)):
            return self.least <= len(value) <= self.most and all(self.each.allows(member) for member in value)
        return self.single and self.each.allows(value)

    def __str__(self) -> str:
        name = self.words or f"a list, each member {self.each}"
        return name + (", or empty" if self.empty else "")


@dataclass(frozen=True)
class Mapping:
    """A mapping; either ``keys`` says all that may be in it and their rules, or ``each`` holds for all values.

    With ``number`` so many of them are there.
    """

    words: str
    keys: dict = field(default_factory=dict)
    each: Any = None
    required: tuple = ()
    number: float = math.inf
    empty: bool = True

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.empty
        if not isinstance(value, dict) or not set(self.required) <= set(value):
            return False
        if self.number < math.inf and len(value) != self.number:
            return False
        if self.keys:
            return all(key in self.keys and self.keys[key].allows(entry) for key, entry in value.items())
        return all(isinstance(key, str) and key and self.each.allows(entry) for key, entry in value.items())

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Either:
    """What one of two rules allows."""

    first: Any
    second: Any

    def allows(self, value: Any) -> bool:
        return self.first.allows(value) or self.second.allows(value)

    def __str__(self) -> str:
        return f"{self.first}, or {self.second}"


class Encoding(Text):
    """The name of a text encoding that Python knows, or None."""

    def allows(self, value: Any) -> bool:
        if not isinstance(value, str):
            return value is None
        try:
            "".encode(value)
            return True
        except (LookupError, ValueError):  # "hex" and the like are no text encodings
            return False


class Anything:
    """Any finite value."""

    def allows(self, value: Any) -> bool:
        return True

    def __str__(self) -> str:
        return "any"
