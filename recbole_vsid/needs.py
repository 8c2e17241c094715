"""What RecBole's models need, looked up before any work."""

from __future__ import annotations

from typing import Any


def check_needs(config: Any) -> None:
    pass
