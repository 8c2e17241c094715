"""NaN and infinities in training: the run ends by name, and what is saved is finite and can be continued."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from recbole.model.general_recommender import BPR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from recbole_vsid.averaging import WeightAverage
from recbole_vsid.finiteness import NotFinite, first_not_finite, infinite_by_design, is_finite, tensors_of
from recbole_vsid.model.tiger import TIGER
from recbole_vsid.quick_start import load, run
from recbole_vsid.storage import load_checkpoint, save_checkpoint

NAN, INF = float("nan"), float("inf")
FINITE = torch.tensor([1e38, -1e38])


def test_what_is_finite():
    sparse = torch.sparse_coo_tensor([[0, 2]], [1.0, NAN], (4,))
    assert (
        is_finite(FINITE) and is_finite(torch.arange(3)) and is_finite(torch.zeros(0)) and is_finite(torch.tensor(True))
    )
    assert not is_finite(sparse) and is_finite(torch.sparse_coo_tensor([[0]], [1.0], (4,)))
    assert first_not_finite([("a", FINITE), ("b", torch.tensor([INF])), ("c", torch.tensor(NAN))]) == "b is infinite"
    assert first_not_finite([("a", FINITE), ("c", torch.tensor([INF, NAN]))]) == "c is NaN"
    assert first_not_finite([("a", FINITE)]) is None
    nested = {0: {"x": FINITE, "step": 3}, "list": [FINITE]}
    assert [name for name, _ in tensors_of(nested, "s")] == ["s[0]['x']", "s['list'][0]"]


def test_masks_may_be_infinite():
    model = torch.nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    assert infinite_by_design(model) == {"mask"}


# ----------------------------------------------------------------- a whole run


@pytest.fixture
def fault():
    """``fault(step, damage)``: ``damage(optimizer)`` after (or before) that update, counted from 1; gives the count."""
    hooks = []

    def inject(at, damage, before=False):
        count = [0]

        def damaged(optimizer, *_):
            count[0] += 1
            if count[0] == at:
                damage(optimizer)

        register = register_optimizer_step_pre_hook if before else register_optimizer_step_post_hook
        hooks.append(register(damaged))
        return count

    yield inject
    for hook in hooks:
        hook.remove()


def parameters(optimizer):
    return optimizer.param_groups[0]["params"]


def weight(value):
    return lambda optimizer: parameters(optimizer)[0].detach().view(-1)[:1].fill_(value)


def gradient(value):
    return lambda optimizer: parameters(optimizer)[0].grad.view(-1)[:1].fill_(value)


def second_moment(optimizer):
    next(iter(optimizer.state.values()))["exp_avg_sq"].view(-1)[:1].fill_(INF)


def kept_files():
    files = {path.name: load_checkpoint(path) for path in Path("saved").glob("*/*.pth")}
    for state in files.values():
        for part in ("state_dict", "raw_state_dict", "optimizer"):
            assert first_not_finite(tensors_of(state.get(part, {}), part)) is None
    return files


TIGER_STEPS = 5  # of an epoch, see `test_a_fault_ends_the_run_and_leaves_what_is_good`

FAULTS = {
    # name: (update, damage, before the update, what the line names, last good epoch)
    "weight after the last update of an epoch": (2 * TIGER_STEPS, weight(NAN), False, "the weight", 0),
    "infinite weight after the last update of all": (3 * TIGER_STEPS, weight(INF), False, "the weight", 1),
    "weight within an epoch": (TIGER_STEPS + 2, weight(NAN), False, "the weight", 0),
    "weight in the first epoch": (2, weight(NAN), False, "the weight", None),
    "gradient in the last update": (2 * TIGER_STEPS, gradient(NAN), True, "the weight", 0),
    "infinite gradient": (TIGER_STEPS + 3, gradient(INF), True, "the weight", 0),
    "state of the optimizer": (2 * TIGER_STEPS, second_moment, False, "the optimizer's state", 0),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_the_run_and_leaves_what_is_good(small_settings, fault, name):
    at, damage, before, named, good = FAULTS[name]
    settings = small_settings("TIGER", epochs=3, learner="adam", train_batch_size=100)
    count = fault(at, damage, before)
    with pytest.raises(NotFinite) as raised:
        run("TIGER", "toy", config_dict=settings)
    message = str(raised.value)
    assert named in message and re.search("NaN|infinite", message), message
    assert f"in epoch {(at - 1) // TIGER_STEPS}, step {(at - 1) % TIGER_STEPS + 1}." in message
    files = kept_files()
    if good is None:
        assert not files and "Nothing was saved before" in message
        return
    assert set(files) == {"best.pth", "last.pth"} and files["last.pth"]["epoch"] == good
    assert "last.pth, from which --resume=true goes on" in message
    assert count[0] >= at


def test_a_run_continues_from_the_last_good_state_to_the_metrics_of_an_unbroken_one(small_settings, fault):
    settings = small_settings("TIGER", epochs=3, learner="adam", train_batch_size=100, ema_decay=0.9)
    unbroken = run("TIGER", "toy", config_dict={**settings, "checkpoint_dir": "unbroken"})
    fault(2 * TIGER_STEPS, weight(NAN))
    with pytest.raises(NotFinite):
        run("TIGER", "toy", config_dict=settings)
    resumed = run("TIGER", "toy", config_dict={**settings, "resume": True})
    assert resumed["test_result"] == unbroken["test_result"] and resumed["valid_result"] == unbroken["valid_result"]


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_loss_term_is_named(small_settings, monkeypatch, value):
    losses, calls = TIGER.losses, []

    def broken(model, interaction):
        calls.append(1)
        terms = losses(model, interaction)
        return {**terms, "extra": terms["generation"] * (value if len(calls) == TIGER_STEPS + 2 else 0)}

    monkeypatch.setattr(TIGER, "losses", broken)
    kind = "NaN" if value != value else "infinite"
    with pytest.raises(NotFinite, match=f"the loss term 'extra' is {kind} in epoch 1, step 2"):
        run("TIGER", "toy", config_dict=small_settings("TIGER", epochs=2, train_batch_size=100))
    assert kept_files()["last.pth"]["epoch"] == 0


def test_the_averaged_weights_are_looked_at(small_settings, monkeypatch):
    update = WeightAverage.update

    def damaged(average):
        update(average)
        if average.steps == TIGER_STEPS:
            average._average[0].view(-1)[:1].fill_(NAN)

    monkeypatch.setattr(WeightAverage, "update", damaged)
    with pytest.raises(NotFinite, match="the averaged weight '.*' is NaN in epoch 0, step 5"):
        run("TIGER", "toy", config_dict=small_settings("TIGER", train_batch_size=100, ema_decay=0.9))
    assert not kept_files()


@pytest.mark.parametrize(("model", "per_epoch"), [("BPR", 6), ("DIGER", 5)])
def test_other_models(small_settings, fault, model, per_epoch):
    sizes = {"embedding_size": 8, "learner": "adam"} if model == "BPR" else {"learner": "adamw"}
    fault(2 * per_epoch, weight(NAN))
    with pytest.raises(NotFinite, match=f"is NaN in epoch 1, step {per_epoch}"):
        run(model, "toy", config_dict=small_settings(model, epochs=2, train_batch_size=100, **sizes))
    assert kept_files()["best.pth"]["epoch"] == 0


def test_the_loss_of_recboles_models(small_settings, monkeypatch):
    calculate, calls = BPR.calculate_loss, []

    def broken(model, interaction):
        calls.append(1)
        return calculate(model, interaction) * (INF if len(calls) == 3 else 1)

    monkeypatch.setattr(BPR, "calculate_loss", broken)
    with pytest.raises(NotFinite, match="the loss term 'loss' is infinite in epoch 0, step 3. Nothing was saved"):
        run("BPR", "toy", config_dict=small_settings("BPR", embedding_size=8, train_batch_size=100))


def test_a_norm_that_must_be_finite(small_settings, monkeypatch):
    original = BPR.__init__

    def hooked(model, *arguments):
        original(model, *arguments)
        model.user_embedding.weight.register_hook(lambda gradient: gradient * INF)

    monkeypatch.setattr(BPR, "__init__", hooked)
    clip = {"max_norm": 1, "error_if_nonfinite": True}
    with pytest.raises(NotFinite, match="a gradient is not finite in epoch 0, step 1"):
        run("BPR", "toy", config_dict=small_settings("BPR", embedding_size=8, clip_grad_norm=clip))


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_checkpoint_with_nan_is_refused(small_settings, value):
    run("TIGER", "toy", config_dict=small_settings("TIGER", epochs=1))
    (best,) = Path("saved").glob("*/best.pth")
    state = load_checkpoint(best)
    name = next(name for name, tensor in state["state_dict"].items() if tensor.is_floating_point())
    state["state_dict"][name].view(-1)[:1].fill_(value)
    save_checkpoint(best, state)
    with pytest.raises(ValueError, match=f"best.pth is not usable: {re.escape(repr(name))} in its state_dict is"):
        load(best)


# --------------------------------------------------------------------- scores


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_scores_that_rank_nobody_are_refused(small_settings, monkeypatch, value):
    monkeypatch.setattr(BPR, "full_sort_predict", lambda model, batch: torch.full((len(batch), 42), value))
    with pytest.raises(ValueError, match="BPR gives NaN, infinite or no scores to 60 of 60 users"):
        run("BPR", "toy", config_dict=small_settings("BPR", epochs=1, embedding_size=8))
    assert not list(Path("saved").glob("*/best.pth"))


def test_users_whose_scores_are_nan_are_counted(small_settings, monkeypatch, caplog):
    predict = BPR.full_sort_predict

    def gap(model, batch):
        scores = predict(model, batch).view(len(batch), -1).clone()
        scores[batch["user_id"] == 3, 5] = NAN
        return scores

    monkeypatch.setattr(BPR, "full_sort_predict", gap)
    run("BPR", "toy", config_dict=small_settings("BPR", epochs=1, embedding_size=8))
    assert "BPR gives NaN, infinite or no scores to 1 of 60 users: they count as misses" in caplog.text
