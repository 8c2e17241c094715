"""Too little memory: an evaluation goes on with half of the users at once, or ends in one line with what to lower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR

from recbole_vsid.cli import main
from recbole_vsid.memory import is_out_of_memory, told_what_to_lower
from recbole_vsid.model.tiger import TIGER
from recbole_vsid.quick_start import run
from recbole_vsid.recommendation import recommend

CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to …"
ERRORS = {
    "GPU": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "CPU": RuntimeError(CPU),
    "CPU, newer": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
    "NumPy": MemoryError("Unable to allocate 9 GiB for an array"),
}


def test_what_says_that_memory_ran_out():
    assert all(map(is_out_of_memory, ERRORS.values()))
    assert not any(map(is_out_of_memory, (RuntimeError("shapes differ"), ValueError("out of memory"), KeyError(3))))
    with pytest.raises(RuntimeError, match="shapes differ"), told_what_to_lower("x", "y"):
        raise RuntimeError("shapes differ")
    with (
        pytest.raises(ValueError, match="training ran out of memory: lower train_batch_size"),
        told_what_to_lower("training", "train_batch_size"),
    ):
        raise MemoryError


@pytest.fixture
def short_of_memory(monkeypatch):
    """``short_of_memory(model, most, error)``: it ranks at most so many users at once; gives the sizes asked for."""

    def limit(model, most, error):
        predict, asked = model.full_sort_predict, []

        def limited(self, interaction):
            asked.append(len(interaction))
            if len(interaction) > most:
                raise error
            return predict(self, interaction)

        monkeypatch.setattr(model, "full_sort_predict", limited)
        return asked

    return limit


@pytest.mark.parametrize(("model", "most", "error"), [(TIGER, 15, "GPU"), (TIGER, 15, "NumPy"), (BPR, 2, "CPU")])
def test_an_evaluation_goes_on_in_halves_to_the_same(small_settings, short_of_memory, caplog, model, most, error):
    name = model.__name__
    sizes = {"eval_batch_size": 30} if name == "TIGER" else {"eval_batch_size": 4 * 42, "embedding_size": 8}
    settings = small_settings(name, epochs=1, **sizes)
    whole = run(name, "toy", config_dict={**settings, "checkpoint_dir": "whole"})
    asked = short_of_memory(model, most, ERRORS[error])
    halves = run(name, "toy", config_dict=settings)
    for split in ("valid_result", "test_result"):
        for protocol, metrics in whole[split].items():
            assert halves[split][protocol] == pytest.approx(metrics, abs=1e-6)
    assert halves["test_breakdown"] == whole["test_breakdown"] and halves["config_hash"] == whole["config_hash"]
    assert sum(size > most for size in asked) == 1, "the validation found it, the test knows"
    assert "half of eval_batch_size" in caplog.text


def test_a_half_that_does_not_fit_either_is_one_line(small_settings, short_of_memory, capsys):
    settings = small_settings("TIGER", epochs=1, eval_batch_size=32)
    short_of_memory(TIGER, 3, ERRORS["CPU"])
    arguments = [
        f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()
    ]
    assert main(["--model=TIGER", "--dataset=toy", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
    assert "ran out of memory: lower eval_batch_size=32, beam_width=20" in line


def test_recommend_goes_on_in_halves(small_settings, short_of_memory, monkeypatch):
    run("TIGER", "toy", config_dict=small_settings("TIGER", epochs=1, eval_batch_size=32))
    (best,) = Path("saved").glob("*/best.pth")
    whole = recommend(best, k=5)
    short_of_memory(TIGER, 16, ERRORS["GPU"])
    halves = recommend(best, k=5)
    assert halves["item"].tolist() == whole["item"].tolist()
    np.testing.assert_allclose(halves["score"], whole["score"], atol=1e-5)
    short_of_memory(TIGER, 2, ERRORS["GPU"])
    with pytest.raises(ValueError, match="recommend, .* ran out of memory: lower eval_batch_size=32, beam_width=20"):
        recommend(best, k=5)


def test_training_that_does_not_fit_is_one_line(small_settings, monkeypatch):
    def broken(model, interaction):
        raise ERRORS["GPU"]

    monkeypatch.setattr(BPR, "calculate_loss", broken)
    with pytest.raises(ValueError, match="training ran out of memory: lower train_batch_size=128"):
        run("BPR", "toy", config_dict=small_settings("BPR", epochs=1))
