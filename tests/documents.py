"""What a Markdown page asks a reader to do, for tests that do it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MENTION_OR_BLOCK = re.compile(r"^`([\w/.]+)`|^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(name):
    """The code blocks of ``docs/<name>``, in order.

    Returns:
        list of (file, language, text): the file is the last one whose name, in backticks, has begun a line.
    """
    file, found = None, []
    for mentioned, language, text in MENTION_OR_BLOCK.findall((ROOT / "docs" / name).read_text(encoding="utf-8")):
        file = mentioned or file
        if language:
            found.append((file, language, text))
    return found
