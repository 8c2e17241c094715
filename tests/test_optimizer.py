"""Muon against PyTorch's own, and against what defines it."""

from __future__ import annotations

import copy

import pytest
import torch

from recbole_vsid.config import Config
from recbole_vsid.optimizer import MuonAdamW, orthogonalize
from recbole_vsid.quick_start import build_data, build_model
from recbole_vsid.trainer import GenerativeTrainer


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
def test_orthogonalize_keeps_the_singular_vectors_and_levels_the_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices).float()
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    levelled = u.transpose(1, 2) @ result @ v.transpose(1, 2)
    diagonal = levelled.diagonal(dim1=1, dim2=2)
    large = values > 0.05 * values.amax(1, keepdim=True)  # five steps do not lift the tiniest ones
    assert ((diagonal > 0.6) & (diagonal < 1.3))[large].all()
    assert (levelled - torch.diag_embed(diagonal)).abs().max() < 0.05


def test_the_scale_of_a_gradient_does_not_matter_and_zero_is_no_step():
    matrices = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(orthogonalize(matrices * 2.0**-13), orthogonalize(matrices))
    assert (orthogonalize(torch.zeros(1, 4, 6)) == 0).all()


def gradients(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def copies():
    generator = torch.Generator().manual_seed(7)
    shapes = [(16, 16), (16, 16), (64, 16), (16, 64), (5, 16), (16,)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
def test_matrices_of_one_shape_step_together_as_they_do_alone():
    ours, theirs = copies(), copies()
    optimizer = MuonAdamW([{"params": ours[:4], "muon": True, "weight_decay": 0.1}, {"params": ours[4:]}], lr=0.02)
    muon = torch.optim.Muon(theirs[:4], lr=0.02, weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs[4:], lr=0.02)
    for step in range(5):
        for parameters in (ours, theirs):
            gradients(parameters, step)
        optimizer.step()
        muon.step()
        adamw.step()
    for one, other in zip(ours[:4], theirs[:4]):
        assert torch.allclose(one, other, atol=2e-3)  # bf16 inside
    for one, other in zip(ours[4:], theirs[4:]):
        assert torch.equal(one, other)


def test_a_parameter_without_gradient_stays():
    first, second, *_ = copies()
    before = second.detach().clone()
    optimizer = MuonAdamW([{"params": [first, second], "muon": True}], lr=0.02)
    gradients([first], 0)
    optimizer.step()
    assert torch.equal(second, before) and not torch.equal(first, copies()[0])


def test_a_restored_state_continues_exactly():
    def build():
        parameters = copies()
        groups = [{"params": parameters[:4], "muon": True}, {"params": parameters[4:]}]
        return parameters, MuonAdamW(groups, lr=0.02)

    unbroken, first = build()
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(first.state_dict())
            restored, second = build()
            for target, source in zip(restored, unbroken):
                target.data.copy_(source.data)
            second.load_state_dict(state)
        gradients(unbroken, step)
        first.step()
        if step >= 2:
            gradients(restored, step)
            second.step()
    assert all(torch.equal(one, other) for one, other in zip(unbroken, restored))


def test_the_trainer_gives_muon_the_blocks_and_adamw_the_rest(small_settings):
    config = Config("VLSID", "toy", config_dict=small_settings(learner="muon"))
    _, loaders = build_data(config)
    model, _ = build_model(config, loaders)
    groups = GenerativeTrainer(config, model).optimizer.param_groups
    (muon,) = (group for group in groups if group.get("muon"))
    assert {id(p) for p in muon["params"]} == {id(p) for p in model.transformer.parameters()}
    assert muon["initial_lr"] == config["muon_learning_rate"]
    everything = [id(p) for group in groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())
    (decayed,) = (group for group in groups if group["weight_decay"])
    assert [p is model.head.weight for p in decayed["params"]] == [True]


def test_muon_is_refused_for_recboles_models():
    with pytest.raises(ValueError, match="learner='muon' is not usable: it must be one of"):
        Config("SASRec", "toy", config_dict={"learner": "muon"})
