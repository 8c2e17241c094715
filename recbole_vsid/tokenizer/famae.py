"""FAMAE: item vectors from structured fields and training sequences (arXiv 2602.02338, section "E-stage").

A small bidirectional transformer reads a user's last items and the next one, some of whose fields are
hidden, and predicts the hidden fields. The vector of an item is the concatenation of the *embeddings* of
its fields, so it depends on no user. Every field's embeddings are input and output at once. The training is in
famae_training.py.

Differences from the paper, on purpose: no event outside the training split is ever read (the paper adds
evaluation targets that training lacks), items with missing fields stay (a missing value is embedded but
never predicted), and fields may hold several values. Windows of similar length share a batch, which with
positions counted from the end changes nothing but the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.tokenizer.base import Settings
from recbole_vsid.tokenizer.defaults import DEEPEST, WIDEST, require_choice, require_integer, require_real

N_HEADS = 4
INITIAL_DEVIATION = 0.02

# A field with more values than this is trained against drawn ones instead of all.
LARGEST_FULL_SOFTMAX = 20_000


@dataclass(frozen=True)
class ItemField:
    """One structured field of all items.

    Args:
        name: for reports.
        values: int64 ``[n_items, width]``, values 1..``n_values``. Rows with several values are filled up with 0; a
            row of zeros is an item whose value is missing, or the padding item, row 0.
        n_values: number of different values.
    """

    name: str
    values: np.ndarray
    n_values: int


@dataclass(frozen=True)
class FAMAESettings(Settings):
    """Settings of FAMAE; ``properties/semantic_id.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    prefix: ClassVar[str] = "famae_"

    width: int | str = "auto"
    layers: int = 2
    window: int = 20
    windows: str = "all"
    epochs: int = 10
    patience: int = 3
    batch_size: int = 512
    learning_rate: float = 0.003
    weight_decay: float = 0.00001
    dropout: float = 0.1
    logit_scale: float = 11.3
    negatives: int = 512
    bf16: bool = True

    def __post_init__(self):
        require_integer(self, "width", N_HEADS, auto=True, high=WIDEST)
        if self.width != "auto":
            self.require("width", self.width % N_HEADS == 0, f"auto or a multiple of {N_HEADS}, the attention heads")
        require_integer(self, "layers", 1, high=DEEPEST)
        require_integer(self, "window", 2, high=WIDEST)
        require_choice(self, "windows", ("all", "sampled"))
        for name in ("epochs", "patience", "batch_size"):
            require_integer(self, name, 1)
        require_real(self, "learning_rate", 0, open_low=True)
        require_real(self, "weight_decay", 0)
        require_real(self, "dropout", 0, 1)
        # exp of a logit is summed as it is; it overflows from 88 on.
        require_real(self, "logit_scale", 0, 50, open_low=True, open_high=False)
        require_integer(self, "negatives", 128)
        self.require("bf16", isinstance(self.bf16, bool), "true or false")


def resolve_width(settings, n_items):
    """The width to use for ``n_items``: 64 up to 20,000 items, 128 above."""
    if settings.width != "auto":
        return settings.width
    return 64 if n_items <= 20_000 else 128


# ------------------------------------------------------------------- the model


class EncoderLayer(nn.Module):
    """Pre-norm self-attention over all slots and a ReLU MLP, both residual."""

    def __init__(self, width, dropout):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, visible=None, queries=None):
        """Transform ``x`` ``[B, L, width]``.

        Args:
            visible: bool ``[B, L]``, False for slots that nobody attends to; None for none of them.
            queries: how many of the last slots to compute; all by default.

        Returns:
            ``[B, queries, width]``.
        """
        y = self.attention_norm(x)
        if queries is not None:
            x = x[:, -queries:]
        q, k, v = self.query(y[:, -x.size(1) :]), *self.key_value(y).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (N_HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        mask = None if visible is None else visible[:, None, None]
        # The fused kernel for CPUs trains several times faster in float32 than in bf16.
        with torch.autocast("cpu", enabled=False):
            attended = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class FAMAE(nn.Module):
    """The encoder and the embeddings of all fields.

    Args:
        item_fields: list of :class:`ItemField`; the first one is the item id, whose value is the row number.
        settings: :class:`FAMAESettings`.
    """

    def __init__(self, item_fields, settings):
        super().__init__()
        self.settings, self.n_fields = settings, len(item_fields)
        width = resolve_width(settings, item_fields[0].n_values)
        # One table holds all fields: of each the row of a missing value, then those of its values.
        self.sizes = [size for field in item_fields for size in (1, field.n_values)]
        self.table = nn.Parameter(torch.randn(sum(self.sizes), width) * INITIAL_DEVIATION)
        self.mask_tokens = nn.Parameter(torch.randn(self.n_fields, width) * INITIAL_DEVIATION)
        self.positions = nn.Parameter(torch.randn(settings.window, width) * INITIAL_DEVIATION)
        self.layers = nn.ModuleList(EncoderLayer(width, settings.dropout) for _ in range(settings.layers))
        widths = [field.values.shape[1] for field in item_fields]
        self.columns = np.cumsum([0, *widths])
        first_rows = np.cumsum([0, *self.sizes])[:-1:2]
        for name, array in (
            ("values", np.concatenate([field.values for field in item_fields], axis=1)),
            ("weights", np.concatenate([_shares(field.values) for field in item_fields], axis=1)),
            ("column_field", np.repeat(np.arange(self.n_fields), widths)),
            ("column_row", np.repeat(first_rows, widths)),
        ):
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def embed(self, items, weights=None):
        """Sum over fields of the mean of the values' embeddings, ``[n, width]`` for ``items`` ``[n]``."""
        weights = self.weights[items] if weights is None else weights
        return F.embedding_bag(self.values[items] + self.column_row, self.table, per_sample_weights=weights, mode="sum")

    def forward(self, items, masked):
        """Unit vectors h at the target slot, ``[B, width]``.

        Args:
            items: int64 ``[B, L]``, left-padded with 0, the target in the last slot; L is at most the window.
            masked: bool ``[B, n_fields]``, the fields of the target that are replaced by their mask token.
        """
        history, target = items[:, :-1], items[:, -1]
        seen = self.weights[target] * ~masked[:, self.column_field]
        target = self.embed(target, seen) + masked.to(self.mask_tokens) @ self.mask_tokens
        x = torch.cat([self.embed(history.flatten()).unflatten(0, history.shape), target.unsqueeze(1)], dim=1)
        x = x + self.positions[-x.size(1) :]
        visible = items > 0
        visible = None if visible.all() else visible
        for layer in self.layers[:-1]:
            x = layer(x, visible)
        # Only the target slot is read, so the last layer computes no other.
        x = self.layers[-1](x, visible, queries=1)
        return F.normalize(x[:, 0].float(), dim=-1)

    def loss(self, items, masked, generator=None):
        """Cross-entropy of the masked fields, summed over the fields of a window and averaged over windows.

        Args:
            items, masked: as for :meth:`forward`.
            generator: of the values drawn in fields too large for a full softmax.
        """
        hidden, target, total = self(items, masked), items[:, -1], 0.0
        for k, classes in enumerate(self.classes()):
            known = self.values[target, self.columns[k]] > 0
            rows = torch.nonzero(masked[:, k] & known).squeeze(1)
            total = total + self._field_loss(k, classes, hidden[rows], target[rows], generator).sum()
        return total / len(items)

    def _field_loss(self, k, classes, hidden, items, generator):
        """``-Σ_v p(v) log q(v)`` with p uniform over the item's values of field ``k``, ``[n]``."""
        columns = slice(self.columns[k], self.columns[k + 1])
        query, values = self.settings.logit_scale * hidden, self.values[items, columns] - 1
        own = (query.unsqueeze(1) * F.normalize(F.embedding(values.clamp_min(0), classes), dim=-1)).sum(-1)
        # Logits are bounded by their scale, so the softmax needs no maximum taken off.
        if len(classes) <= LARGEST_FULL_SOFTMAX:
            total = (query @ F.normalize(classes, dim=-1).t()).exp().sum(1).float()
        else:
            shape = (self.settings.negatives,)
            drawn = torch.randint(len(classes), shape, generator=generator, device=classes.device)
            others = (query @ F.normalize(F.embedding(drawn, classes), dim=-1).t()).exp()
            own_value = (drawn == values.unsqueeze(-1)).any(1)
            total = others.masked_fill(own_value, 0).sum(1).float() + (own.exp() * (values >= 0)).sum(1)
        return total.log() - (own * self.weights[items, columns]).sum(1)

    def classes(self):
        """Per field the embeddings of the values that can be predicted, ``[n_values, width]``: not the missing one."""
        return self.table.split(self.sizes)[1::2]

    def cosines(self, hidden, k):
        """Cosine of ``hidden`` ``[B, width]`` with every value 1.. of field ``k``, ``[B, n_values]``."""
        return hidden @ F.normalize(self.classes()[k], dim=-1).t()

    def fused_cosines(self, hidden):
        """Cosine of ``hidden`` ``[B, width]`` with the summed embeddings of every item 1.., ``[B, n_items - 1]``."""
        items = torch.arange(1, len(self.values), device=hidden.device)
        return hidden @ F.normalize(self.embed(items), dim=-1).t()

    @torch.no_grad()
    def item_vectors(self):
        """Concatenated field embeddings, float32 ``[n_items, n_fields * width]``; row 0 is zero."""
        items = torch.arange(len(self.values), device=self.table.device)
        blocks = [self.embed(items, self.weights * (self.column_field == k)) for k in range(self.n_fields)]
        vectors = torch.cat(blocks, dim=1)
        vectors[0] = 0
        return vectors.cpu().numpy()


def _shares(values):
    """Weights of a mean over the values of each row, float32; a row without any puts all on its first column."""
    present = values > 0
    shares = present / np.maximum(present.sum(1, keepdims=True), 1)
    shares[~present.any(1), 0] = 1
    return shares.astype(np.float32)


def draw_masks(n_windows, n_fields, generator=None, device="cpu"):
    """Fields to mask, bool ``[n_windows, n_fields]``: K ~ U{1..n_fields} per window, then K fields at random."""
    count = torch.randint(1, n_fields + 1, (n_windows, 1), generator=generator, device=device)
    rank = torch.rand(n_windows, n_fields, generator=generator, device=device).argsort(1).argsort(1)
    return rank < count
