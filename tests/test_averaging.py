"""Averaged weights against a plain loop, and what the trainer does with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_vsid.averaging import WeightAverage
from recbole_vsid.config import Config
from recbole_vsid.quick_start import build_data, build_model
from recbole_vsid.trainer import GenerativeTrainer


@pytest.mark.parametrize("decay", [0, 0.5, 0.99])
def test_the_average_is_the_recursion_of_its_definition(decay):
    layer = torch.nn.Linear(3, 2).double()
    average = WeightAverage(layer, decay)
    expected = layer.weight.detach().numpy().copy()
    rng = np.random.default_rng(0)
    for step in range(1, 30):
        raw = rng.normal(size=(2, 3))
        layer.weight.data = torch.from_numpy(raw.copy())
        average.update()
        past = min(decay, (1 + step) / (10 + step))
        expected = past * expected + (1 - past) * raw
        with average.applied():
            np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-10)
        np.testing.assert_array_equal(layer.weight.detach().numpy(), raw)
    if decay == 0:
        np.testing.assert_allclose(expected, raw)


def test_the_models_own_weights_come_back_after_an_error():
    layer = torch.nn.Linear(2, 2)
    average = WeightAverage(layer, 0.9)
    own = layer.weight.detach().clone()
    layer.weight.data = own + 1
    with pytest.raises(RuntimeError), average.applied():
        assert torch.equal(layer.weight, own)
        raise RuntimeError
    assert torch.equal(layer.weight, own + 1)


def test_the_trainer_evaluates_and_saves_the_average_and_trains_on_the_raw_weights(small_settings):
    config = Config("VLSID", "toy", config_dict=small_settings(ema_decay=0.9, epochs=2))
    _, loaders = build_data(config)
    model, train_data = build_model(config, loaders)
    trainer = GenerativeTrainer(config, model)
    seen = []
    predict = model.full_sort_predict
    model.full_sort_predict = lambda batch: seen.append(model.head.weight.detach().clone()) or predict(batch)
    trainer.fit(train_data, loaders[1])

    last = torch.load(trainer.folder / "last.pth", weights_only=True)
    averaged, raw = last["state_dict"]["head.weight"], last["raw_state_dict"]["head.weight"]
    assert torch.equal(seen[-1], averaged) and torch.equal(model.head.weight, raw)
    assert not torch.equal(averaged, raw)
    best = torch.load(trainer.folder / "best.pth", weights_only=True)
    assert any(torch.equal(best["state_dict"]["head.weight"], weight) for weight in seen)

    trainer.evaluate(loaders[2])
    assert torch.equal(seen[-1], best["state_dict"]["head.weight"])
    trainer.evaluate(loaders[2], load_best_model=False)
    assert torch.equal(seen[-1], best["state_dict"]["head.weight"])
