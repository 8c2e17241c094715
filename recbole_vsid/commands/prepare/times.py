"""Columns of times as seconds: numbers since 1970, ISO dates, the usual forms of other programs, a named format.

A form is only taken where it can mean one thing. 01/02/2019 may be January or February, so some other row must tell,
or the user with ``time_format``; two-digit years are never guessed.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.numbers import to_numbers
from recbole_vsid.commands.prepare.texts import is_missing

# Times since 1970 of the years 1973 to 2128; other numbers have no unit.
EARLIEST, LATEST = 1e8, 5e9
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}

READABLE = (
    "times are numbers, or ISO dates like 2024-05-31T12:00:00Z, or in another usual form; "
    "time_format names one, like --time_format='%d/%m/%Y %H:%M'"
)
CLOCKS = [
    clock + zone
    for clock in ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", " %H:%M:%S.%f", " %I:%M:%S%p", " %I:%M%p")
    for zone in (("", " %z", "%z") if clock else ("",))
]
WORDED = [
    date + clock
    for date in ("%b %d %Y", "%d %b %Y", "%d-%b-%Y", "%B %d %Y", "%d %B %Y", "%d-%B-%Y", "%Y-%m-%d", "%Y/%m/%d")
    for clock in CLOCKS
] + ["%b %d %H:%M:%S %z %Y", "%b %d %H:%M:%S %Y"]
NUMERIC_DATE = r"(\d{1,2})([/.\-])(\d{1,2})\2(\d{4})(?:,?[ T](.+))?"
AMAZONS_DATE = r"(\d{1,2}) (\d{1,2}), (\d{4})"
CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp][Mm])?"


def read_times(
    values: pd.Series, where: str, time_format: str | None = None
) -> tuple[np.ndarray, np.ndarray, str | None, list[str]]:
    """Times as seconds.

    Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, guessed by the size of their median;
    numbers of other sizes, like positions in a sequence, stay as they are. Dates without a time zone are in UTC.

    Args:
        values: a Series of numbers, dates as text, or datetimes; its index numbers the rows from 0.
        where: the table and the column, for messages.
        time_format: how all of them are written, as ``datetime.strptime`` reads it.

    Returns:
        ``(seconds, exact, unit, notes)``: int64 or float64 ``[n]``, down to microseconds; the same times as precisely
        as they were given, to sort by; their unit, or how the dates are written, or None for numbers that stay as they
        are; and sentences for the summary.

    Raises:
        ValueError: missing or unreadable times, some in another unit, or dates that may mean two days.
    """
    if pd.api.types.is_bool_dtype(values):
        raise ValueError(f"{where} holds true and false, and times are numbers or ISO dates")
    numeric = pd.api.types.is_numeric_dtype(values)
    known = values if numeric else values[~is_missing(values)]
    if time_format is None and (numeric or (len(known) and _is_number(known.iloc[0]))):
        return _numbers(values, where)
    notes: list[str] = []
    if time_format is not None:
        stamps, form = _formatted(values, time_format), f"dates in the format {time_format}"
        allowed = f"time_format={time_format!r} must read all of them"
    else:
        stamps, form, notes = _dates(values, known, where)
        allowed = READABLE
    _refuse(stamps.isna().to_numpy(), values, where, "cannot be read", allowed)
    exact = stamps.dt.as_unit("ns").astype(np.int64).to_numpy()
    return _seconds(exact, "nanoseconds"), exact, form, notes


def is_clock(values: pd.Series) -> bool:
    """Whether all values are times of day, like 14:05 or 2:05:30 pm."""
    return values.dtype == object and bool(values.map(str).str.strip().str.fullmatch(CLOCK).all())


def _numbers(values, where):
    exact, unit = to_numbers(values), None
    _refuse(~np.isfinite(exact.to_numpy(dtype=np.float64, na_value=np.nan)), values, where, "cannot be read", READABLE)
    whole = pd.api.types.is_integer_dtype(exact) and exact.max() < 2**63
    exact = exact.to_numpy(dtype=np.int64 if whole else np.float64)
    middle = np.median(exact) if len(exact) else 0
    unit = next((name for name, factor in UNITS.items() if EARLIEST <= middle / factor < LATEST), None)
    if unit is None:
        return exact, exact, None, _look_like_days(exact, where)
    outside = (exact < EARLIEST * UNITS[unit]) | (exact >= LATEST * UNITS[unit])
    allowed = f"most times are {unit} since 1970, and those of 1973 to 2128 are expected"
    _refuse(outside, values, where, f"are no {unit} since 1970", allowed)
    return _seconds(exact, unit), exact, unit, []


def _look_like_days(numbers, where):
    """Numbers like 20140315 sort rightly as they are, but are no seconds."""
    if not len(numbers) or numbers.min() < 19700101 or numbers.max() > 21001231 or (numbers % 1).any():
        return []
    days = pd.Series(np.unique(numbers.astype(np.int64))).astype(str)
    if pd.to_datetime(days, format="%Y%m%d", errors="coerce").isna().any():
        return []
    return [f"{where} looks like days and is kept as numbers; time_format=%Y%m%d reads them as days"]


def _formatted(values, time_format):
    if not isinstance(time_format, str) or "%" not in time_format:
        raise ValueError(
            f"time_format={time_format!r} is not usable: it must be a format of strptime, like '%d/%m/%Y %H:%M'"
        )
    texts = values.astype(object).where(values.notna(), None).map(_plain, na_action="ignore")
    try:
        return pd.to_datetime(texts, format=time_format, errors="coerce", utc=True)
    except (ValueError, re.error) as error:  # of the format: unreadable values become NaT
        raise ValueError(f"time_format={time_format!r} is not usable: {error}") from error


def _plain(value):
    """Whole numbers that became floats beside missing ones are written without ``.0``."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _dates(values, known, where):
    """Datetimes in UTC, NaT where there is none; how they are written; notes."""
    # Words that pandas takes for a time.
    words = values.isin(["now", "today"]) if values.dtype == object else pd.Series(False, values.index)
    stamps = _iso(values).mask(words)
    if stamps.notna().all() or not len(known) or values.dtype != object:
        return stamps, "ISO dates", []
    texts = known.map(str).str.strip()
    raw_texts, texts = texts, _zones_as_offsets(texts)
    found = _iso(texts).mask(words[known.index])
    form, notes = "ISO dates", []
    if not found.notna().any():
        form = f"dates like {raw_texts.iloc[0]!r}"
        if texts.str.fullmatch(AMAZONS_DATE).iloc[0]:  # month day, year
            found = pd.to_datetime(texts, format="%m %d, %Y", errors="coerce", utc=True)
        elif texts.str.fullmatch(NUMERIC_DATE).iloc[0]:
            found, notes = _numeric_dates(texts, where)
        else:
            found = _first_fitting(_without_furniture(texts), WORDED)
    return found.reindex(values.index), form, notes


def _iso(values):
    return pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")


def _zones_as_offsets(texts):
    texts = texts.str.replace(r"\s+", " ", regex=True)
    texts = texts.str.replace(r"\[[\w/+\-]+\]$|\s*\([^()]*\)$", "", regex=True)  # Z[UTC], +0200 (CEST)
    texts = texts.str.replace(r"(?<=[+-]\d{4}) (?:UTC|GMT)$", "", regex=True)
    texts = texts.str.replace(r"\s?\b(?:UTC|GMT)(?=[+-]\d)", " ", regex=True)
    dated = ~texts.str.contains(":", regex=False)
    texts = texts.mask(dated, texts.str.replace(r"\s?\b(?:UTC|GMT|Z)$", "", regex=True))
    return texts.str.replace(r"\s?\b(?:UTC|GMT)\b", " +0000", regex=True)


def _without_furniture(texts):
    """Drops weekdays, commas, dots of abbreviations, and 1st, 2nd."""
    texts = texts.str.replace(r"^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? ", "", regex=True, case=False)
    texts = texts.str.replace(r",| at(?= \d)|(?<=[a-z])\.", "", regex=True, case=False)
    texts = texts.str.replace(r"(?<=\d)(?:st|nd|rd|th)\b", "", regex=True, case=False)
    return texts.str.replace(r"\bSept\b", "Sep", regex=True, case=False)


def _first_fitting(texts, formats):
    """Reads all that the formats can: that of the first unread text, then of the next that is left."""
    found = pd.Series(pd.NaT, index=texts.index, dtype="datetime64[ns, UTC]")
    left = texts
    while len(left):
        for each in formats:
            if pd.notna(pd.to_datetime(left.iloc[0], format=each, errors="coerce", utc=True)):
                break
        else:
            break
        read = pd.to_datetime(left, format=each, errors="coerce", utc=True)
        found[left.index] = read
        left = left[read.isna().to_numpy()]
    return found


def _numeric_dates(texts, where):
    """Dates like 13/01/2019 or 01.10.2019 9:05: which number is the day?

    Raises:
        ValueError: no row tells.
    """
    parts = texts.str.extract(f"^{NUMERIC_DATE}$")
    first, second = (to_numbers(parts[column]) for column in (0, 2))
    dots = bool((parts[1].dropna() == ".").all())  # day.month.year, nowhere the other way round
    telling = first.index[first > 12] if dots or (first > 12).any() else second.index[second > 12]
    if not dots and not len(telling):
        mark = parts[1].iloc[0]
        fitting = (each for each in CLOCKS if _first_fitting(texts[:1], [f"%d{mark}%m{mark}%Y{each}"]).notna().any())
        clock = next(fitting, "")
        raise ValueError(
            f"{where}: {texts.iloc[0]!r} in row {texts.index[0] + 1} may be day and month or month and day, and no row "
            f"tells, as no number is above 12; name it, --time_format='%d{mark}%m{mark}%Y{clock}' or "
            f"--time_format='%m{mark}%d{mark}%Y{clock}'"
        )
    day_first = dots or bool((first > 12).any())
    year, month, day = parts[3], parts[2] if day_first else parts[0], parts[0] if day_first else parts[2]
    iso = (year + "-" + month + "-" + day + (" " + parts[4]).fillna("")).dropna()
    found = _first_fitting(iso, [f"%Y-%m-%d{clock}" for clock in CLOCKS]).reindex(texts.index)
    if dots:
        return found, []
    order = "day, month, year" if day_first else "month, day, year"
    return found, [f"{where}: read as {order}, as row {telling[0] + 1} tells ({texts[telling[0]]!r})"]


def _is_number(value):
    try:
        return np.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _seconds(exact, unit):
    """Whole seconds stay whole numbers. float64 tells microseconds of our time apart, nanoseconds not."""
    factor = UNITS[unit]
    if exact.dtype.kind not in "iu":
        return exact / factor
    if not (exact % factor).any():
        return exact // factor
    return exact // 10**3 / 10**6 if unit == "nanoseconds" else exact / factor


def _refuse(bad, values, where, problem, allowed):
    rows = np.flatnonzero(bad)
    if len(rows):
        value = values.iloc[rows[0]]
        missing = pd.api.types.is_scalar(value) and (pd.isna(value) or value == "")
        raise ValueError(
            f"{where}: {len(rows):,} of {len(values):,} times {problem}, that of row {values.index[rows[0]] + 1} first "
            f"({'missing' if missing else repr(str(value)[:80])}); {allowed}"
        )
