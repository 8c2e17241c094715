"""recbole_vsid: semantic-ID generative recommenders behind RecBole's dataset, trainer and evaluator."""

from __future__ import annotations

__version__ = "0.1.0"

RECBOLE = "1.2.1"
_PUBLIC = {
    "run": "recbole_vsid.quick_start",
    "load": "recbole_vsid.quick_start",
    "tokenize": "recbole_vsid.tokenization",
    "explore": "recbole_vsid.explorer.build",
    "recommend": "recbole_vsid.recommendation",
    "prepare": "recbole_vsid.data.prepare",
    "Config": "recbole_vsid.config",
    "SemanticIDs": "recbole_vsid.semantic_id",
}
__all__ = [*_PUBLIC, "__version__"]


def check_recbole() -> None:
    """Look for RecBole, which on Python 3.12 and later no package can depend on (see setup.cfg).

    Raises:
        ImportError: it is not installed, or in another version: left to itself, pip takes an older one there.
    """
    from importlib import metadata, util

    try:
        found = metadata.version("recbole")
    except metadata.PackageNotFoundError:
        found = RECBOLE if util.find_spec("recbole") else None  # a source tree has no version to look at
    if found != RECBOLE:
        raise ImportError(
            f"recbole_vsid needs RecBole {RECBOLE}, which is not installed"
            f"{f' (RecBole {found} is)' if found else ''}: pip install --no-deps recbole=={RECBOLE}"
        )


def __getattr__(name):
    # Lazily, so that `--help` and `--version` answer without importing PyTorch.
    if name in _PUBLIC:
        import importlib

        check_recbole()
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'recbole_vsid' has no attribute {name!r}")
