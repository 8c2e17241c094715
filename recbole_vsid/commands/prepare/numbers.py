"""Texts as numbers."""

from __future__ import annotations

import re

import pandas as pd

# pandas reads beyond its memory at an exponent from 2^31, and hashes like 12e4567890123456 look as if they had one.
LONG_EXPONENT = re.compile(r"[eE][+-]?\d{5}")


def to_numbers(values: pd.Series) -> pd.Series:
    """Numbers, and NaN for what is none or has an exponent of more than four digits.

    Args:
        values: a Series of anything.

    Returns:
        int64, uint64 or float64, like ``pandas.to_numeric``.
    """
    if values.dtype == object:
        values = values.mask(values.map(lambda value: isinstance(value, str) and bool(LONG_EXPONENT.search(value))))
    return pd.to_numeric(values, errors="coerce")
