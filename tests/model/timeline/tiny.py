"""A SASTrie of some thousand weights over any table, and plain re-computations of what it does.

Everything naive here walks codes in dictionaries, one item and one level at a time, single-child levels included.
"""

from __future__ import annotations

import numpy as np
import torch

from recbole_vsid.model.timeline.sastrie import SASTrie
from tests.decoding.naive import children_of, code_of_item
from tests.model.tiny_tiger import SETTINGS, Stub, interaction_of

__all__ = ["HISTORIES", "interaction_of", "naive_choices", "naive_items", "naive_log_p", "tiny_sastrie"]

HISTORIES = [[2], [1, 5, 3, 4, 5], [4, 4], [3, 1, 2]]

OWN_SETTINGS = {
    "hidden_size": 8,
    "head_size": 4,
    "n_layers": 2,
    "dropout_prob": 0.0,
    "own_vectors": "all",
    "code_vectors": True,
    "depth_network": "linear",
    "depth_layers": 1,
    "depth_dropout": 0.0,
    "generative_weight": 1.0,
    "dense_weight": 1.0,
    "full_softmax_items": 1000,
    "uniform_negatives": 5,
    "rank_by": "generative",
}


class CountingStub(Stub):
    """A dataset whose items were all bought, the first ones more often."""

    def popularity(self):
        return np.r_[0, np.arange(self.semantic_ids.n_items - 1, 0, -1)]


def tiny_sastrie(table, seed=0, scale=0.3, dtype=torch.float64, **changes):
    """An evaluating model whose every weight, also those that begin at zero, is moved by noise of size ``scale``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SASTrie({**SETTINGS, **OWN_SETTINGS, **changes}, CountingStub(table)).eval().to(dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = scale * torch.randn(parameter.shape, dtype=dtype)
                if name.startswith("node_vectors"):
                    noise[0] = 0  # the padding row
                parameter.add_(noise)
    return model


def chain(codes, prefix):
    """``prefix`` and what follows it as long as there is nothing to choose."""
    while len(children_of(codes, prefix)) == 1:
        prefix = (*prefix, *children_of(codes, prefix))
    return prefix


def first_of_level(table):
    return np.r_[0, np.cumsum(table.vocab_sizes)]


def code_vector(model, level, token):
    table = model.semantic_ids
    own = token if table.shared_vocabulary else token - first_of_level(table)[level]
    return model.node_vectors.code.weight[1 + first_of_level(table)[level] + own]


def node_vector(model, codes, prefix):
    """What a choice of ``prefix`` among its siblings, or an item with the whole chain, gets."""
    whole = chain(codes, prefix)
    total = torch.zeros(model.node_vectors.code.weight.size(1), dtype=model.node_vectors.code.weight.dtype)
    for level in range(len(prefix) - 1, len(whole)):
        total = total + code_vector(model, level, whole[level])
    item = next(item for item, code in codes.items() if code[: len(prefix)] == prefix)
    chosen_before = sum(
        1 for length in range(1, len(prefix)) if length == 1 or len(children_of(codes, prefix[: length - 1])) > 1
    )
    node = int(model.tree.paths[item, chosen_before])
    return total + model.node_vectors.own.weight[model.node_vectors.own_row[node]]


def naive_items(model):
    """Vectors of all items ``[n_items, width]``, from codes and own vectors."""
    codes = code_of_item(model.semantic_ids)
    rows = [torch.zeros_like(model.node_vectors.code.weight[0])]
    for code in codes.values():
        rows.append(sum(node_vector(model, codes, prefix) for prefix in naive_choices(codes, code)))
    return torch.stack(rows)


def naive_choices(codes, code):
    """The prefixes of ``code`` that were chosen among siblings, and the first one."""
    return [code[:n] for n in range(1, len(code) + 1) if n == 1 or len(children_of(codes, code[: n - 1])) > 1]


def naive_log_p(model, hidden, codes=None):
    """log p of every item for a state ``[width]``, item → scalar with a gradient; the tree of ``codes``.

    Every level of a code is a softmax over the children of its prefix, also where there is only one child.
    """
    whole = code_of_item(model.semantic_ids)
    codes = whole if codes is None else codes
    log_p = {}
    for item, code in codes.items():
        total, inputs, steps = 0.0, [hidden], 0
        for n in range(len(code)):
            children = sorted(children_of(codes, code[:n]))
            if n == 0 or len(children_of(whole, code[:n])) > 1:
                vectors = torch.stack([node_vector(model, whole, (*code[:n], token)) for token in children])
                logits = vectors @ naive_state(model, inputs, steps)
                inputs.append(node_vector(model, whole, code[: n + 1]))
                steps += 1
            else:
                logits = torch.zeros(len(children), dtype=hidden.dtype)
            total = total + logits.log_softmax(0)[children.index(code[n])]
        log_p[item] = total
    return log_p


def naive_state(model, inputs, step):
    network = model.depth
    if hasattr(network, "steps"):
        return network.steps[step].weight @ inputs[0]
    if hasattr(network, "transformer"):
        return network.transformer(torch.stack(inputs).unsqueeze(0))[0, -1]
    return inputs[0]
