"""``tokenize``: semantic IDs for a dataset without a recommender; ``compare``: several tokenizers side by side."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_vsid.config import Config
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.processes import in_own_process, interrupted_by_signals
from recbole_vsid.registry import get_tokenizer
from recbole_vsid.semantic_id.exchange import NUMBERED, format_of, write_table
from recbole_vsid.storage import check_writable, write_json


class SemanticIDsOnly(SequentialRecommender):
    """Stands where RecBole's configuration wants a model, and is never built."""

    input_type = InputType.POINTWISE
    dataset_class = SemanticIDDataset


def tokenize(dataset=None, config_file_list=None, config_dict=None, table_file=None, table_format=None):
    """Fit a tokenizer on the training split and write the table with its diagnostics.

    Args:
        dataset: name of a dataset; ``ml-100k`` needs no files.
        config_file_list: YAML files.
        config_dict: settings that win over the files.
        table_file: where the table goes. By default
            ``saved/semantic_ids/<tokenizer>-<dataset>-seed<seed>-<hash>.safetensors``.
        table_format: see :func:`~recbole_vsid.semantic_id.exchange.write_table`; the extension decides by default.
            A format of running numbers gets an ids file beside it, ``<name>.ids.txt``.

    Returns:
        dict: the diagnostics, with the table as ``table`` and its path as ``file``.

    Raises:
        ValueError, FileNotFoundError: bad input.
    """
    config = Config(SemanticIDsOnly, dataset, config_file_list, config_dict)
    file = Path(table_file or default_file(config, "safetensors"))
    ids = file.with_name(file.stem + ".ids.txt") if format_of(file, table_format) in NUMBERED else None
    diagnostics = file.with_name(file.stem + ".diagnostics.json")
    for output in filter(None, (file, ids, diagnostics)):
        check_writable(output, "table_file")
    config.set_up_process()
    data = SemanticIDDataset(config)
    getLogger().info(data)
    data.build()
    table, report = data.semantic_ids, data.tokenizer_report
    write_table(table, file, table_format, ids)
    write_json(diagnostics, {**report, "provenance": table.provenance})
    return {**report, "table": table, "file": file}


def default_file(config, extension):
    """Where what was made of the table of ``config`` is kept."""
    source = "file" if config["sid_file"] else config["tokenizer"]
    name = f"{source}-{config['dataset']}-seed{config['seed']}-{config.run_hash()}.{extension}"
    return Path(config["checkpoint_dir"]) / "semantic_ids" / name


def compare(tokenizers, dataset=None, config_file_list=None, config_dict=None):
    """Run :func:`tokenize` for several tokenizers, each in a process of its own so that peak memory is its own.

    Args:
        tokenizers: names; a setting ``sid_x`` goes to those that know it.

    Returns:
        dict: name → diagnostics, or name → the message of its error.

    Raises:
        ValueError: no or an unknown tokenizer, or a setting that none of them knows.
        KeyboardInterrupt: interrupted or told to end; the process of the tokenizer has ended, too.
    """
    if not tokenizers:
        raise ValueError("compare names no tokenizer; write --compare=rkmeans,rqvae")
    settings = dict(config_dict or {})
    known = {name: set(get_tokenizer(name).Settings.keys()) for name in tokenizers}
    every_key = set().union(*known.values())
    for key in settings:
        if key.startswith("sid_") and key not in every_key:
            raise ValueError(
                f"none of {', '.join(tokenizers)} knows the setting {key!r}; they know {sorted(every_key)}"
            )
    reports = {}
    for name in tokenizers:
        own = {key: value for key, value in settings.items() if key not in every_key or key in known[name]}
        try:
            with interrupted_by_signals():
                reports[name] = in_own_process(_report, name, dataset, config_file_list, own)
        except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
            reports[name] = str(error) or type(error).__name__
            getLogger().error(f"tokenizer {name}: {reports[name]}")
    return reports


def _report(tokenizer, dataset, config_file_list, settings):
    result = tokenize(dataset, config_file_list, {**settings, "tokenizer": tokenizer})
    return {key: value for key, value in result.items() if key not in ("table", "file")}
