"""A DIGER of a few thousand weights over random latent vectors, and the plain form of its forward pass."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.model.diger import DIGER
from recbole_vsid.semantic_id.moving import first_table
from recbole_vsid.tokenizer.joint import JointSettings, JointTokenizer
from tests.model.tiny_tiger import SETTINGS, Stub

N_ITEMS, N_LEVELS, N_CODES, SIZE = 19, 3, 4, 5
SETTINGS = {**SETTINGS, "topk": [5], "n_layers": 1}
HISTORIES, TARGETS = [[2], [1, 5, 3, 4, 5], [4, 4], [3, 1, 2]], [7, 9, 7, 2]


def tiny_diger(seed=0, scale=0.2, **joint):
    """A training DIGER whose weights are moved by noise of size ``scale``.

    Args:
        joint: settings without their prefix; the defaults here are no noise, raw logits and nearest codes.
    """
    joint = {"noise": "none", "logits": "raw", "assignment": "nearest", "temperature": 1.0, **joint}
    settings = JointSettings(**joint)
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(N_ITEMS, SIZE, generator=generator)
    codebooks = torch.randn(N_LEVELS, N_CODES, SIZE, generator=generator) * torch.tensor([0.8, 0.6, 0.4])[:, None, None]
    tokenizer = JointTokenizer(vectors, nn.Identity(), codebooks, settings)
    tokens = np.array(["[PAD]", *(f"i{item}" for item in range(1, N_ITEMS))])
    dataset = Stub(first_table(tokenizer.assign().numpy(), N_CODES, 6, tokens, {}))
    dataset.joint = tokenizer
    changes = {f"joint_{name}": value for name, value in joint.items()}
    torch.manual_seed(seed)
    model = DIGER({**SETTINGS, **changes}, dataset)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if scale and not name.startswith("joint."):
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.train()


def soft_one_hots(model, items, quantised):
    """``[n, L, K]``: one-hot of the table's codes in value, the distributions in the backward pass."""
    codes = torch.from_numpy(model.semantic_ids.codes[items.numpy(), :-1].astype(np.int64))
    return F.one_hot(codes, N_CODES) + (quantised.soft - quantised.soft.detach())


def naive_generation_loss(model, histories, targets, paths, rows_of_tokenizer):
    """The recommendation loss by matrix products with one-hots, a row at a time, nothing shared or padded.

    Args:
        rows_of_tokenizer: (items in ascending order, what the tokenizer returned for them).
    """
    items, quantised = rows_of_tokenizer
    soft, table, weight = soft_one_hots(model, items, quantised), model.semantic_ids, model.token_embedding.weight
    bounds = table.vocabularies()
    place = {int(item): row for row, item in enumerate(items)}

    def one_hots(item, path):
        rows = soft[place[item]]
        return rows if path in paths else rows.detach()

    def embedded(item, path):
        vectors = [one_hots(item, path)[level] @ weight[slice(*bounds[level])] for level in range(N_LEVELS)]
        return [*vectors, weight[bounds[-1][0] + table.codes[item, -1]]]

    total = 0.0
    for history, target in zip(histories, targets):
        read = torch.stack([vector for item in history for vector in embedded(item, "history")])
        memory = model.encoder(read[None], torch.zeros(1, len(read), dtype=torch.bool))
        before = torch.stack([weight[model.start_token], *embedded(target, "teacher")[:-1]])
        hidden = model.decoder(before[None], None, memory, torch.zeros(1, len(read), dtype=torch.bool))[0]
        for position in range(N_LEVELS):
            log_probs = model._logits(hidden[position], position).log_softmax(-1)
            total = total - (one_hots(target, "label")[position] * log_probs).sum()
        suffix = model._logits(hidden[N_LEVELS], N_LEVELS).log_softmax(-1)
        total = total - suffix[table.codes[target, -1]]
    return total / (len(targets) * (N_LEVELS + 1))
