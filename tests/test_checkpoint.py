"""Checkpoints that lack a part, have an odd one or fit another model are refused by name, and nothing is changed."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_vsid.checkpoint import CONTINUATION, PROGRESS, WEIGHTS, check_optimizer, read_continuation, read_weights
from recbole_vsid.cli import main
from recbole_vsid.config import Config
from recbole_vsid.quick_start import build_data, build_model
from recbole_vsid.storage import load_checkpoint, save_checkpoint
from recbole_vsid.trainer import trainer_class

ODD = (None, -1.5, "text", [None], {"a": None}, {3: torch.ones(2)}, torch.zeros(0), True)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def trainer(small_settings):
    """Of a run of one epoch, with its ``last.pth`` and ``best.pth``; DIGER's, whose checkpoints hold most."""
    config = Config("DIGER", "toy", config_dict=small_settings("DIGER", epochs=1, learner="adamw"))
    _, loaders = build_data(config)
    model, train_data = build_model(config, loaders)
    trainer = trainer_class(config)(config, model)
    trainer.fit(train_data, loaders[1])
    return trainer


def changed(state, path, value=None, drop=False):
    """A copy of ``state`` with another value at a path of keys."""
    state = copy.deepcopy(state)
    place = state
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return state


@pytest.fixture
def holding(monkeypatch):
    """``holding(state)``: from now on every checkpoint holds it, as if it had been written to the file."""

    def hold(state):
        monkeypatch.setattr("recbole_vsid.checkpoint.load_checkpoint", lambda path, device="cpu": copy.deepcopy(state))

    return hold


def situation(trainer):
    """What a refused file must not change."""
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    own = {key: value for key, value in vars(trainer).items() if isinstance(value, (int, float, str, list, dict))}
    draws = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    return weights, copy.deepcopy(own), draws


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_every_part_is_needed(trainer, holding):
    last = trainer.folder / "last.pth"
    whole = load_checkpoint(last)
    paths = (
        [(name,) for name in CONTINUATION] + [("progress",)] + [("progress", name) for name in trainer.progress_fields]
    )
    paths += [("optimizer", name) for name in ("state", "param_groups")]
    paths += [("random", name) for name in ("python", "numpy", "torch", "cuda")]
    paths += [("semantic_ids", name) for name in whole["semantic_ids"]]
    paths += [("tokenizer_report", name) for name in ("tokenizer", "length", "positions", "fit_seconds")]
    before, raw = situation(trainer), last.read_bytes()
    for path in paths:
        holding(changed(whole, path, drop=True))
        with pytest.raises(ValueError, match=f"last.pth is no .* its part {'.'.join(path)} is missing"):
            trainer.resume_checkpoint(last)
    assert last.read_bytes() == raw
    assert same(situation(trainer), before)
    holding({name: whole[name] for name in WEIGHTS})  # what a best.pth is
    with pytest.raises(ValueError, match="its part raw_state_dict is missing"):
        read_continuation(last)
    for name in WEIGHTS:
        holding(changed(whole, (name,), drop=True))
        with pytest.raises(ValueError, match=f"its part {name} is missing"):
            read_weights(last)


def test_parts_of_an_odd_kind_are_refused_or_do_no_harm(trainer, holding):
    """Every part with every odd value: a ValueError that names the file, or a continuation that has what it needs."""
    last = trainer.folder / "last.pth"
    whole = load_checkpoint(last)
    paths = [(name,) for name in CONTINUATION] + [("progress", name) for name in trainer.progress_fields]
    paths += [("random", "python"), ("random", "numpy"), ("random", "torch"), ("optimizer", "state", 0)]
    paths += [("optimizer", "param_groups"), ("optimizer", "param_groups", 0)]
    paths += [("semantic_ids", name) for name in whole["semantic_ids"]]
    refused = 0
    before = situation(trainer)
    for path in paths:
        for value in ODD:
            holding(changed(whole, path, value))
            try:
                trainer.resume_checkpoint(last)
            except ValueError as error:
                assert "last.pth" in str(error) and "\n" not in str(error), (path, value)
                refused += 1
            else:  # an odd value of the right kind
                assert refused and callable(trainer.fit), (path, value)
                holding(whole)
                trainer.resume_checkpoint(last)
                before = situation(trainer)
        assert same(situation(trainer), before), path
    assert refused > 0.8 * len(paths) * len(ODD)


def test_no_key_of_a_file_becomes_an_attribute(trainer):
    last = trainer.folder / "last.pth"
    state = load_checkpoint(last)
    for name in ("fit", "evaluate", "folder", "saved_model_file", "__class__", "new"):
        state["progress"][name] = state[name] = "overwritten"
    save_checkpoint(last, state)
    folder, file = trainer.folder, trainer.saved_model_file
    trainer.resume_checkpoint(last)
    assert callable(trainer.fit) and callable(trainer.evaluate) and not hasattr(trainer, "new")
    assert (trainer.folder, trainer.saved_model_file) == (folder, file)
    assert set(PROGRESS) < set(trainer.progress_fields)


def test_weights_of_another_model(trainer):
    last = trainer.folder / "last.pth"
    whole = load_checkpoint(last)
    name = next(iter(trainer.model.state_dict()))
    for part in ("state_dict", "raw_state_dict"):
        for path, value, words in (
            ((part, name), torch.zeros(3, 7), "does not fit the data or the settings"),
            ((part, "new"), torch.zeros(3), f"{part} has an unknown 'new'"),
        ):
            save_checkpoint(last, changed(whole, path, value))
            with pytest.raises(ValueError, match=f"last.pth .*{words}"):
                trainer.resume_checkpoint(last)
        save_checkpoint(last, changed(whole, (part, name), drop=True))
        with pytest.raises(ValueError, match=f"{part} lacks '{name}'"):
            trainer.resume_checkpoint(last)


LEARNERS = {
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.1),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1),
    "Adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_states_of_optimizers(name):
    def new(*shapes):
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
        return LEARNERS[name]([{"params": parameters, "name": "all"}]), parameters

    def stepped(*shapes):
        optimizer, parameters = new(*shapes)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer.state_dict()

    state = stepped((2, 3), (4,))
    check_optimizer("x.pth", state, new((2, 3), (4,))[0])
    others = [stepped((2, 3)), stepped((2, 3), (4,), (1,))]
    others += [changed(state, ("param_groups",), []), changed(state, ("state", 9), {})]
    if name != "SGD":  # which keeps nothing without momentum
        others.append(stepped((2, 2), (4,)))
        kept = state["state"][0]
        others += [changed(state, ("state", 0, entry), drop=True) for entry in kept]
        others += [changed(state, ("state", 0, entry), 3) for entry in kept]
        others += [changed(state, ("state", 0, entry), torch.full_like(kept[entry], torch.nan)) for entry in kept]
    for other in others:
        with pytest.raises(ValueError, match="x.pth"):
            check_optimizer("x.pth", other, new((2, 3), (4,))[0])


# ----------------------------------------------------------- by the command line


def test_resume_and_recommend_name_the_file(small_settings, capsys):
    settings = small_settings("TIGER", epochs=1)
    arguments = [
        f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()
    ]
    train = ["--model=TIGER", "--dataset=toy", *arguments]
    assert main(train) == 0
    (folder,) = Path("saved").glob("TIGER-*")
    last, best = folder / "last.pth", folder / "best.pth"
    whole, good = last.read_bytes(), best.read_bytes()
    state = load_checkpoint(last)

    def refused(command, *told):
        before = last.read_bytes(), best.read_bytes()
        capsys.readouterr()
        assert main(command) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
        assert line.startswith("error:") and all(part in line for part in told), line
        assert "weights_only" not in line and len(line) < 400, line
        assert (last.read_bytes(), best.read_bytes()) == before

    resume = [*train, "--resume=true"]
    for key in ("optimizer", "random", "progress", "state_dict"):
        save_checkpoint(last, changed(state, (key,), drop=True))
        refused(resume, "resume=True", "last.pth", f"its part {key} is missing", "start anew")
    save_checkpoint(last, changed(state, ("optimizer", "state", 0, "exp_avg"), torch.zeros(1)))
    refused(resume, "last.pth", "optimizer")
    last.write_bytes(whole)
    for damaged in (good[: len(good) // 2], b"no checkpoint", b"PK\x03\x04" + bytes(99)):
        best.write_bytes(damaged)
        refused(resume, "best.pth", "damaged, or written by another program")
        for verb in ("recommend", "explore"):
            refused([verb, f"--checkpoint={best}"], "best.pth", "damaged, or written by another program")
    best.write_bytes(good)
    for key in ("settings", "semantic_ids", "tokenizer_report", "model"):
        save_checkpoint(best, changed(state, (key,), drop=True))
        for command in (["recommend", f"--checkpoint={best}"], ["explore", f"--checkpoint={best}"], resume):
            refused(command, "best.pth", f"its part {key} is missing")
    best.write_bytes(good)
    assert main(resume) == 0
