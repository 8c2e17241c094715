"""``run``: configuration → data → model → trainer → result. ``load``: a trained model back.

Never imports ``recbole.quick_start``, which needs ray and fails on today's NumPy and setuptools.
"""

from __future__ import annotations

import tempfile
from logging import getLogger
from pathlib import Path

import torch
from recbole.data.utils import create_samplers, get_dataloader
from recbole.utils import init_seed

from recbole_vsid.checkpoint import check_weights, read_continuation, read_weights, unpack_table
from recbole_vsid.config import Config
from recbole_vsid.data.dataset import dataset_class
from recbole_vsid.evaluation import results
from recbole_vsid.evaluation.machine import request_milliseconds
from recbole_vsid.journal import forgive_log_files
from recbole_vsid.locks import sole_writer
from recbole_vsid.needs import check_columns, told_in_one_line
from recbole_vsid.run_files import DataNote
from recbole_vsid.semantic_id.report import print_diagnostics
from recbole_vsid.storage import check_writable, remove_stale, write_json
from recbole_vsid.trainer import run_folder, trainer_class


def build_data(config, checkpoint=None):
    """Load, filter, split; for this package's models fit the tokenizer.

    Args:
        config: a :class:`~recbole_vsid.config.Config`.
        checkpoint: of an earlier run, whose table is used instead of fitting a tokenizer.

    Returns:
        the dataset, and RecBole's loaders for training, validation and test.

    Raises:
        ValueError: the data do not allow the evaluation asked for.
    """
    with told_in_one_line(f"dataset {config['dataset']!r} could not be read for model {config['model']}"):
        dataset = dataset_class(config)(config)
    if not config.is_generative:
        check_columns(config, dataset)
    if checkpoint is not None and checkpoint["semantic_ids"]:
        dataset.restored_table = unpack_table(checkpoint["semantic_ids"]), checkpoint["tokenizer_report"]
        dataset.restored_state = checkpoint["state_dict"]
    n_candidates = dataset.item_num - 1
    if max(config["topk"]) > n_candidates:
        raise ValueError(
            f"topk={max(config['topk'])} is larger than the catalogue: {config['dataset']} has {n_candidates} items "
            "after filtering"
        )
    getLogger().info(dataset)
    with told_in_one_line(f"dataset {config['dataset']!r} could not be split for model {config['model']}"):
        built = dataset.build()
    for part in (dataset, *built):
        part.restored_state = None  # read by now, and as large as the model
    samplers = create_samplers(config, dataset, built)
    loaders = [
        get_dataloader(config, phase)(config, part, sampler, shuffle=config["shuffle"] if phase == "train" else False)
        for phase, part, sampler in zip(("train", "valid", "test"), built, samplers)
    ]
    return dataset, loaders


def build_model(config, loaders):
    """The model on its device, and the loader it trains from."""
    torch.autograd.set_detect_anomaly(config["detect_anomaly"])
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    train_dataset = loaders[0]._dataset
    with told_in_one_line(f"model {config['model']} could not be built with these settings and data"):
        model = config.model_class(config, train_dataset).to(config["device"])
    train_data = model.train_loader(config, train_dataset) if config.is_generative else loaders[0]
    return model, train_data


def run(model=None, dataset=None, config_file_list=None, config_dict=None, saved=True):
    """Train a model and test it; the programmatic form of ``run_recbole_vsid.py``.

    Args:
        model: name of one of this package's or RecBole's models.
        dataset: name of a dataset; ``ml-100k`` needs no files.
        config_file_list: YAML files.
        config_dict: settings that win over the files.
        saved: whether to keep checkpoints and the JSON record (what a ``result_file`` names is kept anyway).

    Returns:
        dict: the result record, with ``valid_result`` and ``test_result`` under both protocols.

    Raises:
        ValueError, FileNotFoundError: bad input, before any training.
        BlockingIOError: another process is at work on the same run.
    """
    if not saved:
        with tempfile.TemporaryDirectory() as folder:  # the best epoch must be kept somewhere until the test
            return run(model, dataset, config_file_list, {**(config_dict or {}), "checkpoint_dir": folder})
    config = Config(model, dataset, config_file_list, config_dict)
    for name in ("best.pth", "last.pth", "result.json"):
        check_writable(run_folder(config) / name, "checkpoint_dir")
    if config["result_file"]:
        check_writable(config["result_file"], "result_file")
    check_writable(Path("log_tensorboard") / "events", "TensorBoard")
    with sole_writer(run_folder(config), "checkpoint_dir"):
        remove_stale(run_folder(config))
        return _train_and_test(config)


def _train_and_test(config):
    """:func:`run` when everything about its settings is known to be usable."""
    config.set_up_process()
    logger = getLogger()
    forgive_log_files(logger)
    logger.debug(config)
    last = _last_checkpoint(config, logger)
    note = DataNote(config, run_folder(config), resumed=last is not None)

    data, loaders = build_data(config, last)
    if last and data.fingerprint() != data.semantic_ids.provenance.get("data_fingerprint"):
        raise ValueError(
            f"resume=True: the interactions of {config['dataset']} changed since {run_folder(config)} was written; "
            "start anew without resume"
        )
    if config.is_generative:
        print_diagnostics(data.tokenizer_report)
    recommender, train_data = build_model(config, loaders)
    trainer = trainer_class(config)(config, recommender)
    trainer.data_fingerprint = data.fingerprint()
    if last:
        trainer.resume_checkpoint(trainer.folder / "last.pth")

    selected_by = trainer.selected_by(loaders[1])
    logger.info(f"Selection: {selected_by}")
    note.begin()
    with told_in_one_line(f"model {config['model']} could not be trained with these settings and data"):
        trainer.fit(train_data, loaders[1], show_progress=config["show_progress"], callback_fn=note.write)
    valid_result = trainer.validation_result(loaders[1])
    test_result = trainer.evaluate_protocols(loaders[2], show_progress=config["show_progress"])
    milliseconds = request_milliseconds(trainer, loaders[2])
    result = results.record(
        config, data, trainer, recommender, loaders[2].sample_size, selected_by, valid_result, test_result, milliseconds
    )
    result["data_hash"] = note.result()
    results.print_record(result)
    file = Path(config["result_file"] or trainer.folder / "result.json")
    for path in dict.fromkeys([trainer.folder / "result.json", file]):  # in its folder a leaderboard looks for it
        write_json(path, result)
    note.remove()
    others = results.comparable(result, config["checkpoint_dir"])
    if len(others) > 1:
        results.print_comparison(others)
    logger.info(f"Result record: {file}")
    return result


def _last_checkpoint(config, logger):
    """The ``last`` checkpoint to resume from, or None; hints at one that is not used."""
    path = run_folder(config) / "last.pth"
    if not config["resume"]:
        if path.is_file():
            logger.info(f"An earlier run of this configuration is in {path.parent}; --resume=True would continue it")
        return None
    if not config.is_generative:
        raise ValueError(f"resume=True works for this package's models only, and {config['model']} is RecBole's")
    if not path.is_file():
        raise FileNotFoundError(f"resume=True: there is no {path}; this configuration has not been run here")
    if not path.with_name("best.pth").is_file():
        raise FileNotFoundError(f"resume=True: there is no best.pth beside {path}; start anew without resume")
    try:
        read_weights(path.with_name("best.pth"))  # known now, not in the test after the last epoch
        return read_continuation(path, config.model_class.trainer_class.progress_fields)
    except ValueError as error:
        raise ValueError(f"resume=True: {error}; start anew without resume") from error


def load(checkpoint, config_dict=None):
    """Rebuild a trained model from its ``best.pth`` or ``last.pth``.

    Args:
        checkpoint: path of the file.
        config_dict: settings to change, for instance ``data_path`` or ``beam_width``.

    Returns:
        (Config, dataset, loaders, model); the model is in eval mode.

    Raises:
        ValueError: the file is damaged, another program's or holds NaN, the model keeps more than tensors and plain
            values, or the data have changed under one of RecBole's, which know users and items by running numbers only.
    """
    state = read_weights(checkpoint)
    config = Config(state["model"], state["dataset"], config_dict={**state["settings"], **(config_dict or {})})
    init_seed(config["seed"], config["reproducibility"])
    dataset, loaders = build_data(config, state)
    if state["data_fingerprint"] not in (None, dataset.fingerprint()):
        message = f"{checkpoint} was trained on other interactions than {config['data_path']} holds now"
        if not config.is_generative:
            raise ValueError(f"{message}, so users and items may have other numbers; train {state['model']} again")
        getLogger().warning(message)
    model, _ = build_model(config, loaders)
    kept = {name for name, value in model.other_parameter().items() if not isinstance(value, torch.nn.Module)}
    missing = kept - set(state["other_parameter"])  # the weights of a module are in the state_dict
    if missing:
        raise ValueError(
            f"{checkpoint}: {state['model']} keeps {sorted(missing)}, which no safe file holds; train it again"
        )
    check_weights(checkpoint, state, model)
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state["other_parameter"])
    return config, dataset, loaders, model.eval()
