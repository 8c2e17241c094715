"""How FAMAE is trained: windows of the training events, early stopping on its two tasks (arXiv 2602.02338).

The metrics that stop the training come from events of the training split that are kept from it: the last ones
of some users. No validation or test event is read.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from tqdm import tqdm

from recbole_vsid.tokenizer.defaults import local_seed
from recbole_vsid.tokenizer.famae import FAMAE, draw_masks

# At most this many windows, and this share of the users, are kept from training for the metrics.
MOST_HELD_OUT, SHARE_HELD_OUT = 2_000, 0.1

CUTOFF = 10
RANKED_AT_ONCE = 256


class Windows:
    """Left-padded windows of a flat event log, each an event and what comes before it.

    Args:
        items: int64 ``[n_events]``, by user, then time.
        offsets: int64 ``[n_users + 1]``; user *u* owns ``items[offsets[u]:offsets[u + 1]]``.
        size: most events of a window.
        seed: of the choice of held-out users.

    Attributes:
        training: int64, positions of the targets to train on.
        held_out: int64, positions of targets kept from training; each is the last event of its user, so no history
            holds it either.
    """

    def __init__(self, items, offsets, size, seed):
        self.items = items
        counts = np.diff(offsets)
        self.users = np.repeat(np.arange(len(counts)), counts)
        before = np.arange(len(items)) - np.repeat(offsets[:-1], counts)
        self.lengths = np.minimum(before + 1, size)
        targets = np.flatnonzero(before > 0)
        last = offsets[1:][counts > 1] - 1
        n_held_out = min(MOST_HELD_OUT, math.ceil(SHARE_HELD_OUT * len(last)))
        self.held_out = np.sort(np.random.default_rng(seed).choice(last, n_held_out, replace=False))
        self.training = np.setdiff1d(targets, self.held_out, assume_unique=True)

    def gather(self, targets):
        """The windows of targets at these positions, int64 ``[n, L]`` with L the longest of them."""
        lengths = self.lengths[targets]
        back = np.arange(lengths.max() - 1, -1, -1)
        inside = back < lengths[:, None]
        return torch.from_numpy(np.where(inside, self.items[np.where(inside, targets[:, None] - back, 0)], 0))

    def batches(self, targets, size, rng):
        """All ``targets`` in batches of windows of similar length, in random order."""
        order = targets[np.lexsort((rng.random(len(targets)), self.lengths[targets]))]
        starts = np.arange(0, len(order), size)
        for start in rng.permutation(starts):
            yield self.gather(order[start : start + size])

    def targets(self, which, rng):
        """Training targets of one epoch: "all", or "sampled", one at random of every user that has any."""
        if which == "all":
            return self.training
        shuffled = rng.permutation(self.training)
        return shuffled[np.unique(self.users[shuffled], return_index=True)[1]]


def train_famae(item_fields, items, offsets, settings, seed=0, device="cpu", show_progress=False):
    """Train on the events of the training split.

    Args:
        item_fields: list of :class:`~recbole_vsid.tokenizer.famae.ItemField`, the item id first.
        items, offsets: the training events, see :class:`Windows`.
        settings: :class:`~recbole_vsid.tokenizer.famae.FAMAESettings`.
        seed: every random draw comes from it; same seed, same machine → same vectors.
        show_progress: whether a bar over the epochs shows the metrics.

    Returns:
        :class:`~recbole_vsid.tokenizer.famae.FAMAE` in its best state on the held-out windows, and plain values
        that describe the training.

    Raises:
        ValueError: no user has two training events.
    """
    n_items = len(item_fields[0].values)
    windows = Windows(items, offsets, settings.window, seed)
    if len(windows.training) == 0:
        raise ValueError("FAMAE learns from what follows what, but hardly any user has two training events")
    with local_seed(seed, device):
        model = FAMAE(item_fields, settings).to(device)
        history, best = _fit(model, windows, seed, device, show_progress)
    model.eval()
    seen = np.bincount(np.delete(items, windows.held_out), minlength=n_items)[1:] > 0
    return model, {
        "width": model.table.size(1),
        "windows": "every prefix" if settings.windows == "all" else "one random prefix per user and epoch",
        "training_windows": len(windows.training),
        "held_out_windows": len(windows.held_out),
        "epochs": len(history),
        "best_epoch": best + 1,
        "metrics": history[best],
        "metrics_by_epoch": history,
        "items_never_trained": int((~seen).sum()),
    }


def _fit(model, windows, seed, device, show_progress):
    settings = model.settings
    rng, draws = np.random.default_rng([seed, 1]), torch.Generator(device).manual_seed(seed)
    n_steps = settings.epochs * math.ceil(len(windows.targets(settings.windows, rng)) / settings.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    history, best, state = [], -1, None
    with tqdm(total=settings.epochs, desc="famae", unit="epoch", disable=not show_progress) as bar:
        for epoch in range(settings.epochs):
            model.train()
            for batch in windows.batches(windows.targets(settings.windows, rng), settings.batch_size, rng):
                batch = batch.to(device)
                masked = draw_masks(len(batch), model.n_fields, draws, device)
                with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=settings.bf16):
                    loss = model.loss(batch, masked, draws)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()
            history.append(task_metrics(model, windows, windows.held_out))
            bar.update()
            bar.set_postfix({name: f"{value:.4f}" for name, value in history[-1].items()})
            if best < 0 or _score(history[-1]) >= _score(history[best]):
                best = epoch
                state = {name: value.clone() for name, value in model.state_dict().items()}
            if epoch - _last_improvement(history) >= settings.patience:
                break
    model.load_state_dict(state)
    return history, best


def _score(metrics):
    """Geometric mean of the two tasks' recall."""
    return math.sqrt(metrics["collaborative"] * metrics["discriminative"])


def _last_improvement(history):
    """The last epoch in which one of the two tasks reached a new best."""
    values = np.array([[metrics["collaborative"], metrics["discriminative"]] for metrics in history])
    return int(values.argmax(0).max())


@torch.no_grad()
def task_metrics(model, windows, targets):
    """Recall at 10 over the whole catalogue on the windows of ``targets``.

    Returns:
        dict: ``collaborative`` (Metric 1 of the paper: all fields of the target masked, items ranked by their ids'
        embeddings), ``collaborative_fused`` (the same, by the sum of their fields' embeddings) and
        ``discriminative`` (Metric 2: only the item id masked, ranked by the ids' embeddings).
    """
    model.eval()
    hits = dict.fromkeys(("collaborative", "collaborative_fused", "discriminative"), 0)
    for start in range(0, len(targets), RANKED_AT_ONCE):
        batch = windows.gather(targets[start : start + RANKED_AT_ONCE]).to(model.table.device)
        everything = torch.ones(len(batch), model.n_fields, dtype=torch.bool, device=batch.device)
        only_id = torch.zeros_like(everything)
        only_id[:, 0] = True
        history, siblings = model(batch, everything), model(batch, only_id)
        for name, cosines in (
            ("collaborative", model.cosines(history, 0)),
            ("collaborative_fused", model.fused_cosines(history)),
            ("discriminative", model.cosines(siblings, 0)),
        ):
            own = cosines.gather(1, batch[:, -1:] - 1)
            hits[name] += int(((cosines > own).sum(1) < CUTOFF).sum())
    return {name: round(count / max(len(targets), 1), 4) for name, count in hits.items()}


def variance_shares(model):
    """Share of each field's block in the variance of the item vectors, ``[n_fields]``, sums to 1.

    The cosine loss leaves the norms of the embeddings free, so this is what a quantizer will weigh them with.
    """
    variance = model.item_vectors()[1:].astype(np.float64).var(0).reshape(model.n_fields, -1).sum(1)
    return variance / variance.sum()
