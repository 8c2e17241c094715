"""An IntRR or its flattened twin of a few thousand weights over any table, and plain re-computations of what they do.

Everything naive here takes one row at a time, pads nothing, caches nothing and multiplies no matrices beforehand.
"""

from __future__ import annotations

import numpy as np
import torch

from recbole_vsid.model.intrr import IntRR
from recbole_vsid.model.intrr_flat import IntRRFlat
from tests.decoding.naive import code_of_item, recursive_scores
from tests.model.tiny_tiger import SETTINGS, Stub, naive_stream, own_tokens
from tests.property.strategies import make_table

BACKBONES = ["transformer", "hstu"]

FIXED = make_table([(0, 2, 1), (1, 0, 0), (1, 2, 2), (2, 1, 1), (0, 0, 0), (2, 2, 1)], [3, 3, 3])
OWN = make_table([(0, 2), (1, 0), (1, 3), (2, 1), (0, 0), (2, 2)], [3, 4], shared_vocabulary=False)
VARYING = make_table([(0, 1), (1,), (2, 0, 3), (2, 0, 1), (3, 3), (2, 1)], [4, 4, 4])
OWN_VARYING = make_table([(0, 1), (1,), (2, 0, 3), (2, 0, 1), (2, 1)], [3, 2, 5], shared_vocabulary=False)
SHARED_CODES = make_table(
    [(0, 1), (1, 1), (0, 1), (2, 0), (1, 1), (0, 1)], [3, 2], False, unique=False, prefix_free=False
)
TABLES = {"fixed": FIXED, "own": OWN, "varying": VARYING, "own_varying": OWN_VARYING, "shared_codes": SHARED_CODES}
HISTORIES = [[2], [1, 5, 3, 4, 5], [4, 4], [3, 1, 2]]

OWN_SETTINGS = {
    "backbone": "transformer",
    "renormalize": True,
    "uid_size": 6,
    "ran_hidden_size": 14,
    "codebook_std": 0.7,
    "item_token": "redistributed",
    "assign": "soft",
    "alignment_weight": 0.1,
}


def tiny(model_class, table, seed=0, scale=0.3, **changes):
    """An evaluating model whose every weight, also those that begin at zero, is moved by noise of size ``scale``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class({**SETTINGS, **OWN_SETTINGS, **changes}, Stub(table)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn(parameter.shape))
    return model


def tiny_intrr(table, **changes):
    return tiny(IntRR, table, **changes)


def tiny_flat(table, **changes):
    return tiny(IntRRFlat, table, **changes)


# ------------------------------------------------------------------ the recursive network


def naive_walk(network, guidance, path=None, assign="soft"):
    """Section 4.1 of the specification, for one ``guidance`` ``[width]``.

    Args:
        path: codes to follow, as many as there are levels or fewer; without it the walk is free.

    Returns:
        contexts and logits, a tensor per level. A path of n codes has n contexts, and the logits of the level behind
        it too if there is one.
    """
    contexts, logits = [], []
    for level, codebook in enumerate(network.codebooks):
        question = guidance
        if level > 0:
            asked = network.questions[level - 1]
            question = asked.outward(asked.inward(torch.cat([contexts[-1], guidance])).relu())
        logits.append(codebook.weight @ question)
        if path is not None and level == len(path):
            break
        mixture = logits[-1].softmax(0) @ codebook.weight
        if path is not None:
            contexts.append(codebook.weight[path[level]])
        elif assign == "ste":
            hard = codebook.weight[logits[-1].argmax()]
            contexts.append(mixture + (hard - mixture).detach())
        else:
            contexts.append(mixture)
    return contexts, logits


def cross_entropy(logits, path):
    """Sum over the levels of ``path``, the codes of one item."""
    return sum(-level.log_softmax(0)[code] for level, code in zip(logits, path))


# ---------------------------------------------------------------------------------- IntRR


def path_of(table, item):
    """The codes of an item, counted from 0 at each level."""
    return table.codes[item, : table.lengths[item]].tolist()


def naive_token(model, item):
    """What the backbone reads of an item ``[width]``, and the logits of each level."""
    path = path_of(model.semantic_ids, item)
    if model.item_token == "codes":
        return sum(book.weight[code] for book, code in zip(model.ran.codebooks, path)), []
    guidance = model.guide(model.uid.weight[item])
    if model.item_token == "uid":
        return guidance, []
    contexts, logits = naive_walk(model.ran, guidance, assign=model.assign)
    return sum(contexts[: len(path)]), logits


def naive_guidance(model, history):
    """The backbone's last state behind a history without padding, ``[width]``."""
    return model.backbone(torch.stack([naive_token(model, item)[0] for item in history])[None])[0, -1]


def naive_intrr_loss(model, rows):
    """One row per prefix: the mean over targets, and the weighted mean over the events read."""
    table, targets, read = model.semantic_ids, [], []
    for row in rows:
        for place in range(1, len(row)):
            path = path_of(table, row[place])
            _, logits = naive_walk(model.ran, naive_guidance(model, row[:place]), path)
            targets.append(cross_entropy(logits, path))
            read.append(cross_entropy(naive_token(model, row[place - 1])[1], path_of(table, row[place - 1])))
    return sum(targets) / len(targets) + model.alignment_weight * sum(read) / len(read)


@torch.no_grad()
def naive_intrr_scores(model, history):
    """Log-probability of every item ``[n_items]``."""
    table, hidden = model.semantic_ids, naive_guidance(model, history)

    def logits_after(prefix):
        path = [token - table.vocabularies()[level][0] for level, token in enumerate(prefix)]
        logits = naive_walk(model.ran, hidden, path)[1][len(prefix)]
        return dict(zip(own_tokens(table, len(prefix)), logits.tolist()))

    return torch.from_numpy(recursive_scores(code_of_item(table), table.n_items, logits_after, model.renormalize))


# ------------------------------------------------------------------------ its flattened twin


def naive_flat_logits(model, stream, position):
    """Token → logit of all tokens of a position behind the tokens ``stream``."""
    hidden = model.backbone(model.token_embedding(torch.tensor([stream])))[0, -1]
    return {token: model.head.weight[token] @ hidden for token in own_tokens(model.semantic_ids, position)}


def naive_flat_loss(model, rows):
    """One row per prefix and code: the sum over the codes of a target, the mean over targets."""
    table, codes, losses = model.semantic_ids, code_of_item(model.semantic_ids), []
    for row in rows:
        for place in range(1, len(row)):
            stream, loss = naive_stream(table, row[:place]), 0.0
            for position, token in enumerate(codes[row[place]]):
                logits = naive_flat_logits(model, stream, position)
                loss = loss + torch.stack(list(logits.values())).logsumexp(0) - logits[token]
                stream.append(token)
            losses.append(loss)
    return sum(losses) / len(losses)


@torch.no_grad()
def naive_flat_scores(model, history):
    """Log-probability of every item ``[n_items]``."""
    table = model.semantic_ids
    stream = naive_stream(table, history)

    def logits_after(prefix):
        return naive_flat_logits(model, [*stream, *prefix], len(prefix))

    return torch.from_numpy(recursive_scores(code_of_item(table), table.n_items, logits_after, model.renormalize))


def gradients(loss, model):
    """Name → gradient of every parameter, zeros where there is none."""
    names, parameters = zip(*model.named_parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if each is None else each
        for name, parameter, each in zip(names, parameters, found)
    }


def check_same_training(model, loss, expected, atol=1e-5):
    """Two losses of one model are equal, and so are their gradients of every parameter."""
    torch.testing.assert_close(loss, expected, atol=atol, rtol=1e-5)
    theirs = gradients(expected, model)
    for name, gradient in gradients(loss, model).items():
        torch.testing.assert_close(
            gradient, theirs[name], atol=atol, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def larger_table(n_levels, n_items=60, seed=0):
    """Random codes of one length, many with a common beginning."""
    size = 64 if n_levels == 1 else 5 if n_levels > 2 else 9
    rng, codes = np.random.default_rng(seed), set()
    while len(codes) < n_items:
        codes.add(tuple(rng.integers(0, size, n_levels).tolist()))
    return make_table(sorted(codes), [size] * n_levels, shared_vocabulary=False)


def ragged_histories(n_items, seed=0, lengths=(5, 2, 3, 9, 2)):
    """Rows of random items with repeats, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, n_items, (length,), generator=generator).tolist() for length in lengths]
