"""FAMAE: the masking policy, exact shortcuts, what it must not see, and that it learns on planted data."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.tokenizer import famae as model_module
from recbole_vsid.tokenizer import famae_training as module
from recbole_vsid.tokenizer.famae import FAMAE, FAMAESettings, ItemField, draw_masks, resolve_width
from recbole_vsid.tokenizer.famae_training import Windows, task_metrics, train_famae, variance_shares

PROPERTIES = Path(__file__).parents[2] / "properties" / "semantic_id.yaml"

N_ITEMS = 500


def planted(n_users=1000, seed=0):
    """Items, offsets and fields of a log in which the next item mostly comes from the successor of a category.

    8 categories of 4 subcategories; 80 stores, each in one category; 5 price bins, each of 16 stores.
    """
    rng = np.random.default_rng(seed)
    sub = rng.integers(32, size=N_ITEMS)
    category = sub // 4
    store = 10 * category + rng.integers(10, size=N_ITEMS)
    price = (store * 7) % 5
    popularity = rng.zipf(1.5, N_ITEMS).clip(max=50).astype(float)
    by_sub = [np.flatnonzero(sub == each) for each in range(32)]
    successor = rng.permutation(32)
    items, counts = [], rng.integers(6, 14, n_users)
    for count in counts:
        item = int(rng.integers(N_ITEMS))
        for _ in range(count):
            items.append(item + 1)
            draw = rng.random()
            following = sub[item] if draw < 0.2 else successor[sub[item]] if draw < 0.85 else rng.integers(32)
            pool = by_sub[following]
            chance = popularity[pool] * np.where(store[pool] % 10 == store[item] % 10, 6, 1)
            item = int(rng.choice(pool, p=chance / chance.sum()))
    columns = {"category": category, "sub": sub, "store": store, "price": price}
    return np.array(items), np.r_[0, np.cumsum(counts)], as_fields(columns)


def as_fields(columns):
    """The item id and single-valued fields from values 0.. of items 1.. ."""
    fields = [ItemField("item", np.arange(N_ITEMS + 1)[:, None], N_ITEMS)]
    for name, values in columns.items():
        fields.append(ItemField(name, np.r_[0, values + 1][:, None], int(values.max()) + 1))
    return fields


def small_fields():
    """Six items with an id, a field whose value item 3 lacks, and a field of up to three values that item 5 lacks."""
    several = np.array([[0, 0, 0], [1, 2, 0], [3, 0, 0], [4, 2, 1], [2, 0, 0], [0, 0, 0], [4, 3, 0]])
    return [
        ItemField("item", np.arange(7)[:, None], 6),
        ItemField("brand", np.array([0, 1, 2, 0, 1, 2, 3])[:, None], 3),
        ItemField("genres", several, 4),
    ]


def small_model(seed=0, n_layers=2):
    """An untrained model of the small fields whose embeddings are large enough to tell differences."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMAE(small_fields(), FAMAESettings(width=16, layers=n_layers, window=8))
        torch.nn.init.normal_(model.table)
        torch.nn.init.normal_(model.mask_tokens)
        torch.nn.init.normal_(model.positions)
    return model.eval()


BATCH = torch.tensor([[0, 0, 1, 3, 2], [4, 5, 6, 1, 3], [0, 0, 0, 2, 5]])
NOTHING = torch.zeros(3, 3, dtype=torch.bool)


# ----------------------------------------------------------------- settings


def test_property_file_lists_every_setting_with_its_default():
    written = {key: value for key, value in yaml.safe_load(PROPERTIES.read_text()).items() if key[:6] == "famae_"}
    defaults = {"famae_" + name: value for name, value in asdict(FAMAESettings()).items()}
    assert written == defaults and set(written) == set(FAMAESettings.keys())
    assert {key: type(value) for key, value in written.items()} == {key: type(v) for key, v in defaults.items()}
    assert FAMAESettings.from_config({**written, "famae_epochs": 3}) == FAMAESettings(epochs=3)


@pytest.mark.parametrize(
    "name, value",
    [("width", 6), ("width", 0), ("width", "wide"), ("layers", 0), ("window", 1), ("windows", "some"), ("epochs", 0),
     ("patience", 0), ("batch_size", 0.5), ("learning_rate", 0), ("learning_rate", "1e-3"), ("weight_decay", -1),
     ("dropout", 1.0), ("logit_scale", 0), ("logit_scale", 51), ("logit_scale", math.nan), ("negatives", 10)],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^famae_{name}={value!r} is not usable"):
        FAMAESettings(**{name: value})


def test_width_by_catalogue():
    assert [resolve_width(FAMAESettings(), n) for n in (100, 20_000, 20_001)] == [64, 64, 128]
    assert resolve_width(FAMAESettings(width=32), 10**6) == 32


# ------------------------------------------------------------------- masking


@pytest.mark.parametrize("n_fields", [1, 3, 5])
def test_mask_statistics(n_fields):
    """Invariant 11."""
    draws = 100_000
    masks = draw_masks(draws, n_fields, torch.Generator().manual_seed(0)).double()

    def close(observed, expected):
        return abs(float(observed) - expected) <= 3 * math.sqrt(expected * (1 - expected) / draws) + 1e-12

    assert all(close(share, (n_fields + 1) / (2 * n_fields)) for share in masks.mean(0))
    assert close((masks.sum(1) == n_fields).double().mean(), 1 / n_fields)
    only_id = (masks[:, 0] == 1) & (masks.sum(1) == 1)
    assert close(only_id.double().mean(), 1 / n_fields**2)
    assert masks.sum(1).min() == 1


def test_masked_values_do_not_reach_the_encoder():
    """Items 2 and 5 share their brand; with id and genres masked they are the same target."""
    model, masked = small_model(), NOTHING.clone()
    masked[:, [0, 2]] = True
    other = BATCH.clone()
    other[0, -1], other[2, -1] = 5, 2
    assert torch.equal(model(BATCH, masked)[[0, 2]], model(other, masked)[[0, 2]])
    everything = ~NOTHING
    other[:, -1] = torch.tensor([6, 4, 1])
    assert torch.equal(model(BATCH, everything), model(other, everything))
    assert not torch.allclose(model(BATCH, NOTHING), model(other, NOTHING), atol=1e-3)


def test_each_field_has_its_own_mask_token():
    model = small_model()
    masks = torch.eye(3, dtype=torch.bool)
    # An item without any value: the rows of missing values are all that could be told apart, so set them alike.
    with torch.no_grad():
        model.table[:] = 0.3
    hidden = model(BATCH[:1].expand(3, -1), masks)
    assert torch.pdist(hidden).min() > 1e-3


def test_history_is_never_masked():
    model = small_model()
    other = BATCH.clone()
    other[:, -2] = torch.tensor([1, 5, 4])
    assert (model(BATCH, ~NOTHING) - model(other, ~NOTHING)).norm(dim=1).min() > 1e-3


# ------------------------------------------------------- the encoder, naively


def naive_hidden(model, items, masked):
    """One window at a time: no padding, every slot of every layer, embeddings summed one by one."""
    tables, fields, hidden = model.table.split(model.sizes), small_fields(), []
    for row, hide in zip(items.tolist(), masked.tolist()):
        slots = [item for item in row if item > 0]
        x = []
        for slot, item in enumerate(slots):
            total = model.positions[len(model.positions) - len(slots) + slot].clone()
            for k, field in enumerate(fields):
                values = [value for value in field.values[item] if value > 0]
                if slot == len(slots) - 1 and hide[k]:
                    total += model.mask_tokens[k]
                elif values:
                    total += sum(tables[2 * k + 1][value - 1] for value in values) / len(values)
                else:
                    total += tables[2 * k][0]
            x.append(total)
        x = torch.stack(x)[None]
        for layer in model.layers:
            x = layer(x)
        hidden.append(F.normalize(x[0, -1], dim=0))
    return torch.stack(hidden)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_target_slot_alone_equals_the_full_computation(n_layers):
    """Also: padding, and how much of it, changes nothing."""
    model, masked = small_model(n_layers=n_layers), draw_masks(3, 3, torch.Generator().manual_seed(4))
    expected = naive_hidden(model, BATCH, masked)
    torch.testing.assert_close(model(BATCH, masked), expected, atol=1e-5, rtol=1e-4)
    wider = F.pad(BATCH, (3, 0))
    torch.testing.assert_close(model(wider, masked), expected, atol=1e-5, rtol=1e-4)


def naive_field_loss(model, k, hidden, item, candidates=None):
    """Mean over the item's values of -log softmax, the candidates (values 1..) being all by default."""
    table = F.normalize(model.table.split(model.sizes)[2 * k + 1], dim=1)
    own = [int(value) for value in small_fields()[k].values[item] if value > 0]
    if candidates is None:
        candidates = list(range(1, len(table) + 1))
    else:
        candidates = own + [value for value in candidates if value not in own]
    logits = {value: float((11.3 * hidden @ table[value - 1]).detach()) for value in set(candidates)}
    total = math.log(sum(math.exp(logits[value]) for value in candidates))
    return sum(total - logits[value] for value in own) / len(own)


def test_the_loss_of_masked_fields():
    model, masked = small_model(), torch.tensor([[True, True, False], [True, False, True], [False, True, True]])
    hidden = model(BATCH, masked)
    # The second window's target is item 3, whose brand is missing; the third's is item 5, without genres.
    expected = sum(naive_field_loss(model, k, hidden[row], int(BATCH[row, -1]))
                   for row, k in ((0, 0), (0, 1), (1, 0), (1, 2), (2, 1))) / 3  # fmt: skip
    assert float(model.loss(BATCH, masked).detach()) == pytest.approx(expected, rel=1e-4)


def test_missing_values_are_embedded_but_never_predicted():
    model, masked = small_model(), NOTHING.clone()
    masked[:, 1] = True
    item_3 = BATCH[1:2]
    assert float(model.loss(item_3, masked[:1]).detach()) == 0
    assert [len(rows) for rows in model.classes()] == [6, 3, 4]
    assert model.cosines(model(BATCH, masked), 1).shape == (3, 3)
    before = model(item_3, NOTHING[:1])
    with torch.no_grad():
        model.table.split(model.sizes)[2][0] += 1.0
    assert not torch.allclose(model(item_3, NOTHING[:1]), before, atol=1e-3)


def test_drawn_negatives_leave_out_the_own_values(monkeypatch):
    model, masked = small_model(), ~NOTHING
    hidden = model(BATCH, masked)
    monkeypatch.setattr(model_module, "LARGEST_FULL_SOFTMAX", 3)
    draws = torch.Generator().manual_seed(5)
    drawn = {k: (torch.randint(n, (512,), generator=draws) + 1).tolist() for k, n in ((0, 6), (2, 4))}
    expected = sum(naive_field_loss(model, 0, hidden[row], int(BATCH[row, -1]), drawn[0]) for row in range(3))
    expected += sum(naive_field_loss(model, 1, hidden[row], int(BATCH[row, -1])) for row in (0, 2))
    expected += sum(naive_field_loss(model, 2, hidden[row], int(BATCH[row, -1]), drawn[2]) for row in (0, 1))
    loss = model.loss(BATCH, masked, torch.Generator().manual_seed(5))
    assert float(loss.detach()) == pytest.approx(expected / 3, rel=1e-4)


def test_item_vectors_are_raw_rows_side_by_side():
    model = small_model()
    vectors, tables = model.item_vectors(), [rows.detach().numpy() for rows in model.table.split(model.sizes)]
    assert vectors.shape == (7, 48) and vectors.dtype == np.float32 and not vectors[0].any()
    np.testing.assert_allclose(vectors[3], np.r_[tables[1][2], tables[2][0], tables[5][[0, 1, 3]].mean(0)], rtol=1e-5)
    np.testing.assert_allclose(vectors[5], np.r_[tables[1][4], tables[3][1], tables[4][0]], rtol=1e-5)
    shares = variance_shares(model)
    assert shares.shape == (3,) and shares.sum() == pytest.approx(1)


# ------------------------------------------------------------------- windows


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=12), size=st.integers(2, 6), seed=st.integers(0, 99))
def test_windows_against_slices(counts, size, seed):
    offsets = np.r_[0, np.cumsum(counts)].astype(np.int64)
    items = np.arange(1, offsets[-1] + 1)
    windows = Windows(items, offsets, size, seed)
    with_history = [p for a, b in zip(offsets, offsets[1:]) for p in range(a + 1, b)]
    assert sorted([*windows.training, *windows.held_out]) == with_history
    assert set(windows.held_out) <= set(offsets[1:] - 1), "only a user's last event: no history holds it"
    assert len(windows.held_out) == math.ceil(0.1 * sum(count > 1 for count in counts))
    seen = []
    for batch in windows.batches(windows.training, 4, np.random.default_rng(seed)):
        for row in batch.numpy():
            target = row[-1] - 1
            first = max(offsets[np.searchsorted(offsets, target, side="right") - 1], target - size + 1)
            assert row[row > 0].tolist() == list(range(first + 1, target + 2)) and not row[: (row == 0).sum()].any()
            seen.append(target)
        assert batch.shape[0] <= 4 and (batch[:, 0] > 0).any(), "no wider than the longest window"
    assert sorted(seen) == windows.training.tolist()
    sampled = windows.targets("sampled", np.random.default_rng(seed))
    assert set(sampled) <= set(windows.training)
    assert sorted(windows.users[sampled]) == sorted(set(windows.users[windows.training]))


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def trained():
    """A model of the first 1,000 users and all windows of 200 others."""
    items, offsets, fields = planted(n_users=1200)
    chosen = FAMAESettings(width=32, epochs=4, batch_size=128, learning_rate=0.005)
    cut = offsets[1000]
    model, details = train_famae(fields, items[:cut], offsets[:1001], chosen, seed=1)
    others = Windows(items[cut:], offsets[1000:] - cut, chosen.window, 1)
    popularity = np.bincount(items[:cut], minlength=N_ITEMS + 1)
    return model, details, others, np.sort(np.r_[others.training, others.held_out]), fields, popularity


@torch.no_grad()
def accuracy(model, batch, field, k, masked_fields):
    """Share of windows whose value of field ``k`` is the nearest one when these fields are masked."""
    masked = torch.zeros(len(batch), model.n_fields, dtype=torch.bool)
    masked[:, masked_fields] = True
    best = model.cosines(model(batch, masked), k).argmax(1).numpy() + 1
    return (best == field.values[batch[:, -1].numpy(), 0]).mean()


def test_planted_fields_are_learnt(trained):
    """Invariant 12: better than the most frequent value on every field, masked with the id only or with all others."""
    model, _, others, targets, fields, popularity = trained
    batch = others.gather(targets)
    for k, field in enumerate(fields[1:], start=1):
        most_frequent = np.bincount(field.values[:, 0], popularity).argmax()
        baseline = (field.values[batch[:, -1].numpy(), 0] == most_frequent).mean()
        single, full = accuracy(model, batch, field, k, [0, k]), accuracy(model, batch, field, k, [0, 1, 2, 3, 4])
        assert single > 1.5 * baseline and full > 1.2 * baseline, (field.name, single, full, baseline)


def test_planted_tasks_are_learnt(trained):
    """Invariant 12: the two metrics against popularity, each other, and exchanged histories."""
    model, _, others, targets, _, popularity = trained
    metrics = task_metrics(model, others, targets)
    baseline = np.isin(others.items[targets], np.argsort(-popularity)[:10]).mean()
    assert metrics["collaborative"] > 2 * baseline and metrics["discriminative"] > metrics["collaborative"]
    assert metrics["collaborative_fused"] > 2 * baseline
    exchanged = task_metrics(model, Exchanged(others), targets)
    assert exchanged["collaborative"] < 1.2 * baseline


def test_the_details_are_those_of_the_best_epoch(trained):
    _, details, *_ = trained
    assert details["metrics"] == details["metrics_by_epoch"][details["best_epoch"] - 1]
    assert details["held_out_windows"] == 100 and details["epochs"] == len(details["metrics_by_epoch"])


class Exchanged:
    """Windows with the histories of others, far enough away to be another user's."""

    def __init__(self, windows):
        self.windows = windows

    def gather(self, targets):
        batch = self.windows.gather(targets)
        return torch.cat([batch[:, :-1].roll(len(batch) // 2, 0), batch[:, -1:]], dim=1)


def quick(seed=3, **changes):
    items, offsets, fields = planted(n_users=80)
    chosen = FAMAESettings(**{"width": 16, "epochs": 2, "batch_size": 128, **changes})
    return train_famae(fields, items, offsets, chosen, seed=seed)


def test_the_seed_decides_and_global_random_state_is_left_alone():
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    (first, details), (again, same) = quick(), quick()
    assert torch.equal(state[0], torch.random.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()
    assert np.array_equal(first.item_vectors(), again.item_vectors()) and details == same
    assert not np.allclose(first.item_vectors(), quick(seed=4)[0].item_vectors(), atol=1e-3)


def test_sampled_windows_say_so():
    _, details = quick(windows="sampled")
    assert details["windows"] == "one random prefix per user and epoch"
    assert quick()[1]["windows"] == "every prefix"


def test_bf16_gives_nearly_the_same():
    items, offsets, fields = planted(n_users=80)
    plain, half = (
        train_famae(fields, items, offsets, FAMAESettings(width=16, epochs=1, dropout=0, bf16=bf16))[0].item_vectors()
        for bf16 in (False, True)
    )
    assert half.dtype == np.float32 and not np.array_equal(plain, half)
    np.testing.assert_allclose(half, plain, atol=0.02)


def test_items_without_training_events_are_counted():
    """Also those whose only event is held out."""
    items, offsets, fields = planted(n_users=80)
    never = np.setdiff1d(np.arange(1, N_ITEMS + 1), items)
    items[offsets[1:] - 1] = never[:80]
    left = N_ITEMS - len(set(items))
    _, details = train_famae(fields, items, offsets, FAMAESettings(width=16, epochs=1))
    assert (details["held_out_windows"], details["items_never_trained"]) == (8, left + 8)


def test_stopping_and_the_best_state(monkeypatch):
    """Stop when neither task has improved for ``patience`` epochs; keep the best geometric mean."""
    scripted = [(0.1, 0.5), (0.4, 0.4), (0.2, 0.6), (0.3, 0.5), (0.3, 0.6), (0.9, 0.9)]
    states = []

    def metrics(model, windows, targets):
        collaborative, discriminative = scripted[len(states)]
        states.append(model.item_vectors())
        return {"collaborative": collaborative, "collaborative_fused": 0.0, "discriminative": discriminative}

    monkeypatch.setattr(module, "task_metrics", metrics)
    model, details = quick(epochs=6, patience=2)
    assert (details["epochs"], details["best_epoch"]) == (5, 5)
    assert np.array_equal(model.item_vectors(), states[4])
    states.clear()
    scripted[4] = (0.1, 0.1)
    model, details = quick(epochs=6, patience=2)
    assert (details["epochs"], details["best_epoch"]) == (5, 2)
    assert np.array_equal(model.item_vectors(), states[1])


def test_too_few_events():
    fields = as_fields({})
    with pytest.raises(ValueError, match="hardly any user has two training events"):
        train_famae(fields, np.array([1, 2]), np.array([0, 1, 2]), FAMAESettings())
