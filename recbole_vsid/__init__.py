"""recbole_vsid: semantic-ID generative recommenders behind RecBole's dataset, trainer and evaluator."""

__version__ = "0.1.0"

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


def __getattr__(name):
    # Lazily, so that `--help` and `--version` answer without importing PyTorch.
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'recbole_vsid' has no attribute {name!r}")
