"""Whether a written atomic file reads back as what it was made of, read as RecBole 1.2.1 does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

# Python's csv module, which RecBole reads with, takes no longer value.
LONGEST_VALUE = 131_072
CHUNK_ROWS = 200_000
# pandas' Python parser is off by some 1e-12 of very small and very large numbers; RecBole keeps 32 bits in the end.
TOLERANCE = 1e-9


def check_file(path: Path, name: str, frame: pd.DataFrame) -> None:
    """Compare an atomic file, value by value, with the frame that it was written from.

    Args:
        path: the file as it is now.
        name: how messages call it.
        frame: column names ``field:type``; texts, empty where a value is missing, or numbers.

    Raises:
        ValueError: the file cannot be read, or a value of it is another; the column, row and value are named.
    """
    dtype = {header: np.float64 if header.endswith(":float") else str for header in frame}
    n_read = 0
    try:
        # Options as in recbole.data.dataset.Dataset._load_feat.
        with pd.read_csv(
            path, delimiter="\t", usecols=list(frame), dtype=dtype, encoding="utf-8", engine="python",
            chunksize=CHUNK_ROWS,
        ) as chunks:  # fmt: skip
            for chunk in chunks:
                _compare(chunk, frame.iloc[n_read : n_read + len(chunk)], n_read, name)
                n_read += len(chunk)
    except _DiffersError:
        raise
    except ValueError as error:  # also pandas' and the encoding's
        raise ValueError(f"{name} would not be readable by RecBole, so nothing is written: {error}") from error
    if n_read != len(frame):
        raise _DiffersError(f"{name}: {n_read:,} of {len(frame):,} rows read back, so nothing is written")


class _DiffersError(ValueError):
    """What was read is not what was written."""


def _compare(read, written, n_before, name):
    if len(read) > len(written):
        raise _DiffersError(
            f"{name}: more rows read back than the {n_before + len(written):,} written; nothing is kept"
        )
    for header in written:
        found, meant = read[header].to_numpy(), written[header]
        if header.endswith(":float"):
            meant = pd.to_numeric(meant.replace("", np.nan)).to_numpy(dtype=np.float64)
            same = np.isclose(found, meant, rtol=TOLERANCE, atol=0, equal_nan=True)
        else:
            found, meant = read[header].fillna("").to_numpy(dtype=object), meant.to_numpy(dtype=object)
            same = found == meant
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            found, meant = _shown(read[header].iloc[row]), _shown(written[header].iloc[row])
            raise _DiffersError(
                f"{name}, column {header.rpartition(':')[0]!r}: row {n_before + row + 1} reads back as {found}, not "
                f"{meant}, so nothing is written; change that value, or leave the column out"
            )


def _shown(value):
    return "nothing" if pd.isna(value) or value == "" else repr(str(value)[:80])
