"""A TIGER of a few thousand weights over any table, and plain re-computations of what it does."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_vsid.model.tiger import TIGER

SETTINGS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": 20,
    "device": "cpu",
    "enable_amp": False,
    "decoding": "beam",
    "beam_width": 20,
    "hidden_size": 12,
    "n_layers": 2,
    "n_heads": 2,
    "head_size": 8,  # 2 × 8 is not the width, on purpose
    "inner_size": 20,
    "dropout_prob": 0.0,
    "tie_embeddings": False,
    "user_tokens": 0,
}


class Stub:
    """As much of a dataset as the model's constructor needs."""

    tokenizer_report = None
    uid_field = "user_id"

    def __init__(self, table, users=()):
        self.semantic_ids = table
        self.field2id_token = {"user_id": np.array(["[PAD]", *users])}

    def num(self, field):
        return self.semantic_ids.n_items


def tiny_tiger(table, users=(), seed=0, scale=0.2, **changes):
    """An evaluating TIGER whose every weight, also the head's, is moved by noise of size ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    model = TIGER({**SETTINGS, **changes}, Stub(table, users)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            start = torch.zeros_like(parameter) if parameter.ndim > 1 else torch.ones_like(parameter)
            parameter.copy_(start + scale * torch.randn(parameter.shape, generator=generator))
    return model


def interaction_of(histories, users=None, targets=None):
    width = max(map(len, histories))
    columns = {
        "item_id_list": [[*row, *[0] * (width - len(row))] for row in histories],
        "item_length": [len(row) for row in histories],
    }
    if users is not None:
        columns["user_id"] = users
    if targets is not None:
        columns["item_id"] = targets
    return Interaction({name: torch.tensor(column, dtype=torch.int64) for name, column in columns.items()})


def flat_code(table, item):
    """The tokens of an item as a list; without a shared vocabulary those of each position stand behind the last's."""
    code, first = [], 0
    for position in range(table.lengths[item]):
        code.append(int(table.codes[item, position]) + first)
        first += 0 if table.shared_vocabulary else table.vocab_sizes[position]
    return code


def own_tokens(table, position):
    """All tokens that the vocabulary of a position has."""
    if table.shared_vocabulary:
        return list(range(table.vocab_sizes[0]))
    first = sum(table.vocab_sizes[:position])
    return list(range(first, first + table.vocab_sizes[position]))


def naive_stream(table, history, lead=()):
    return [*lead, *(token for item in history for token in flat_code(table, item))]


@torch.no_grad()
def naive_log_probs(model, history, code, lead=(), renormalise_first=True):
    """Log-probability of each token of ``code``: one row, the whole code at once, nothing padded or cached.

    Args:
        renormalise_first: whether only tokens that begin a code share the probability of the first, as in decoding.
    """
    table = model.semantic_ids
    memory = model.encoder(model.token_embedding(torch.tensor([naive_stream(table, history, lead)])))
    before = torch.tensor([[table.n_tokens, *code[:-1]]])
    nothing_padded = torch.zeros(memory.shape[:2], dtype=torch.bool)
    hidden = model.decoder(model.token_embedding(before), None, memory, nothing_padded)[0]
    head = model.token_embedding.weight / hidden.size(-1) ** 0.5 if model.head is None else model.head.weight
    beginnings = sorted({flat_code(table, item)[0] for item in range(1, table.n_items)})
    log_probs = []
    for position, token in enumerate(code):
        allowed = beginnings if position == 0 and renormalise_first else own_tokens(table, position)
        logits = {candidate: (hidden[position] @ head[candidate]).item() for candidate in allowed}
        log_probs.append(logits[token] - float(np.logaddexp.reduce(list(logits.values()))))
    return log_probs


def naive_scores(model, history, lead=()):
    """Log-probability of every item, ``[n_items]``; −inf for the padding item."""
    table = model.semantic_ids
    codes = [flat_code(table, item) for item in range(1, table.n_items)]
    return torch.tensor([-torch.inf, *(sum(naive_log_probs(model, history, code, lead)) for code in codes)])
