"""Names → classes: this package's models, tokenizers and content encoders, then RecBole's models.

Classes are imported only when asked for, so that ``--help`` and a mistyped name answer at once.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from pathlib import Path

import torch

MODELS = {
    "VLSID": "recbole_vsid.model.vlsid:VLSID",
    "TIGER": "recbole_vsid.model.tiger:TIGER",
    "ReSID": "recbole_vsid.model.resid:ReSID",
    "DIGER": "recbole_vsid.model.diger:DIGER",
    "IntRR": "recbole_vsid.model.intrr:IntRR",
    "IntRRFlat": "recbole_vsid.model.intrr_flat:IntRRFlat",
    "SASTrie": "recbole_vsid.model.timeline.sastrie:SASTrie",
    "MARIUS": "recbole_vsid.model.timeline.marius:MARIUS",
}

TOKENIZERS = {
    "vlsid": "recbole_vsid.tokenizer.dvae_tokenizer:DVAETokenizer",
    "dvae": "recbole_vsid.tokenizer.dvae_tokenizer:FixedDVAETokenizer",
    "rkmeans": "recbole_vsid.tokenizer.rkmeans:RKMeansTokenizer",
    "rvq": "recbole_vsid.tokenizer.rvq:RVQTokenizer",
    "rqvae": "recbole_vsid.tokenizer.rqvae:RQVAETokenizer",
    "opq": "recbole_vsid.tokenizer.opq:OPQTokenizer",
    "gaoq": "recbole_vsid.tokenizer.gaoq:GAOQTokenizer",
}

CONTENT_ENCODERS = {
    "tfidf": "recbole_vsid.data.content:tfidf",
    "cooccurrence": "recbole_vsid.data.content:cooccurrence",
    "text": "recbole_vsid.data.text:text",
    "fields": "recbole_vsid.data.fields:fields",
    "famae": "recbole_vsid.data.fields:famae",
    "file": "recbole_vsid.data.content_file:from_file",
}

# Encoders that take minutes → what their result depends on, so that it can be kept in the cache.
CONTENT_IDENTITIES = {
    "text": "recbole_vsid.data.text:text_identity",
    "famae": "recbole_vsid.data.fields:famae_identity",
}

# RecBole's models that fail on SciPy 1.13 or later unless their adjacency matrix is built differently.
GRAPH_MODELS = ("LightGCN", "NGCF", "NCL", "GCMC")

# Models of other packages → their property files, see register_model.
OUTSIDE_PROPERTIES = {}

RECBOLE_FAMILIES = (
    "general_recommender",
    "context_aware_recommender",
    "sequential_recommender",
    "knowledge_aware_recommender",
    "exlib_recommender",
)


def _load(target):
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def unknown(kind, name, known, where=""):
    """A ``ValueError`` that names the nearest valid names, all of them, and where was looked."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    by_case = [other for other in known if other.lower() == str(name).lower()]
    hint = f" Did you mean {(by_case or close)[0]!r}?" if by_case or close else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.{where}")


def recbole_models():
    """Names of RecBole's own models, read from its property files; nothing is imported."""
    import recbole

    folder = Path(recbole.__file__).parent / "properties" / "model"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def get_model(name):
    """The model class called ``name``: one of this package's, else RecBole's.

    Raises:
        ValueError: no such model; all names are listed.
        ImportError: the model needs a library that is not installed.
    """
    if isinstance(name, str) and name in MODELS:
        return _load(MODELS[name])
    module = _recbole_module(name) if isinstance(name, str) else None
    if module is None or not hasattr(module, name):
        raise unknown(
            "model",
            name,
            list(MODELS) + recbole_models(),
            " Looked in recbole_vsid.registry.MODELS and in recbole.model.",
        )
    model = getattr(module, name)
    if name in GRAPH_MODELS:
        from recbole_vsid.model.graph import NormalisedAdjacency

        model = type(name, (NormalisedAdjacency, model), {})
    return model


def register_model(target, properties):
    """Make a model outside this package known by the name of its class, in this process.

    Args:
        target: ``"package.module:Class"``, a subclass of :class:`~recbole_vsid.model.base.GenerativeRecommender`. It is
            imported when the model is asked for.
        properties: path of the YAML file with all its settings and their defaults.

    Raises:
        ValueError: ``target`` is of another form, or its name belongs to another model.
        FileNotFoundError: there is no such file.
    """
    module, _, name = target.partition(":")
    if not module or not name.isidentifier():
        raise ValueError(f"target={target!r} is not usable: it must be like 'package.module:Class'")
    if MODELS.get(name, target) != target or name in recbole_models():
        raise ValueError(f"target={target!r} is not usable: there is another model of the name {name!r}")
    if not Path(properties).is_file():
        raise FileNotFoundError(f"properties of {name}: there is no file {str(properties)!r}")
    MODELS[name], OUTSIDE_PROPERTIES[name] = target, Path(properties).resolve()


def _recbole_module(name):
    for family in RECBOLE_FAMILIES:
        # find_spec on the parent only: importing exlib_recommender needs lightgbm and xgboost.
        folder = importlib.util.find_spec("recbole.model").submodule_search_locations[0]
        if name.lower() in {module.name for module in pkgutil.iter_modules([f"{folder}/{family}"])}:
            try:
                module = importlib.import_module(f"recbole.model.{family}.{name.lower()}")
            except ImportError as error:
                raise ImportError(f"model {name} needs the library {error.name}, which is not installed") from error
            # recbole/model/sequential_recommender/sine.py switches anomaly detection on for the
            # whole process when it is imported, which makes every model about 1.4 times slower.
            torch.autograd.set_detect_anomaly(False)
            return module
    return None


def get_tokenizer(name):
    """The tokenizer class called ``name``."""
    if not isinstance(name, str) or name not in TOKENIZERS:
        raise unknown("tokenizer", name, list(TOKENIZERS))
    return _load(TOKENIZERS[name])


def get_content_encoder(name):
    """The content encoder function called ``name``."""
    if not isinstance(name, str) or name not in CONTENT_ENCODERS:
        raise unknown("content encoder", name, list(CONTENT_ENCODERS))
    return _load(CONTENT_ENCODERS[name])


def get_content_identity(name):
    """The function that says what the slow encoder ``name`` depends on; None for a fast one."""
    return _load(CONTENT_IDENTITIES[name]) if name in CONTENT_IDENTITIES else None
