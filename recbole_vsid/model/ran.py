"""IntRR's Recursive-Assignment Network: a walk over the levels of a semantic ID, outside the backbone.

Wang et al., *IntRR: A Framework for Integrating SID Redistribution and Length Reduction*, arXiv 2602.20704; section 4.1
of its specification. A guidance vector asks every level's codebook for a distribution over its codewords; what a
level passes on, its context, is one codeword or the mixture of all, and the next level's question is made of that
context and the guidance. So a level sees the level before it and none further back (it is of first order), nothing
is subtracted, and the guidance is the same throughout.

The question of level *l* is F(x) = V relu(U [context, guidance] + b) + b′, and its answer the logits C F(x). C V is
computed once per call instead of V per row, and where contexts are codewords, so is their part of U (:class:`Hop`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Question(nn.Module):
    """F of one level; its input is the previous context and behind it the guidance."""

    def __init__(self, width, hidden_size):
        super().__init__()
        self.inward = nn.Linear(2 * width, hidden_size)
        self.outward = nn.Linear(hidden_size, width)


class Hop(NamedTuple):
    """A :class:`Question` with its output matrix multiplied with the codebook that answers it.

    Attributes:
        of_context, of_guidance: ``[hidden, width]``, the two halves of U; ``bias`` ``[hidden]`` is theirs.
        codewords, offsets: ``[K, hidden]`` and ``[K]``, C V and C b′.
    """

    of_context: torch.Tensor
    of_guidance: torch.Tensor
    bias: torch.Tensor
    codewords: torch.Tensor
    offsets: torch.Tensor

    def from_context(self, context):
        """What contexts ``[…, width]`` add to the hidden layer, with its bias; ``[…, hidden]``."""
        return F.linear(context, self.of_context, self.bias)

    def from_guidance(self, guidance):
        """What guidance ``[…, width]`` adds to the hidden layer; ``[…, hidden]``."""
        return F.linear(guidance, self.of_guidance)

    def logits(self, from_context, from_guidance):
        """Logits ``[…, K]``."""
        return F.linear((from_context + from_guidance).relu(), self.codewords, self.offsets)


class RecursiveAssignment(nn.Module):
    """Codebooks and questions of all levels.

    Args:
        vocab_sizes: codewords per level.
        width: size of a codeword and of the guidance.
        hidden_size: of each question's hidden layer.
        codebook_std: of the initial codewords; ``width ** -0.5`` by default (the official code: 1).
    """

    def __init__(self, vocab_sizes, width, hidden_size, codebook_std=None):
        super().__init__()
        self.codebooks = nn.ModuleList(nn.Embedding(size, width) for size in vocab_sizes)
        self.questions = nn.ModuleList(Question(width, hidden_size) for _ in vocab_sizes[1:])
        for codebook in self.codebooks:
            nn.init.normal_(codebook.weight, std=codebook_std or width**-0.5)

    @property
    def n_levels(self):
        return len(self.codebooks)

    def hop(self, level):
        """The :class:`Hop` to ``level`` (from 1 on)."""
        question, codebook = self.questions[level - 1], self.codebooks[level].weight
        of_context, of_guidance = question.inward.weight.split(codebook.size(1), dim=1)
        outward = question.outward
        return Hop(of_context, of_guidance, question.inward.bias, codebook @ outward.weight, codebook @ outward.bias)

    def free(self, guidance, assign="soft"):
        """Walk without a path: every level goes on with what it chose itself.

        Args:
            guidance: ``[n, width]``.
            assign: ``soft``, contexts are mixtures of codewords; or ``ste``, they are the likeliest codeword, with the
                gradient of the mixture (straight-through).

        Returns:
            contexts, a list of fp32 ``[n, width]`` per level, and logits, a list of fp32 ``[n, K]`` per level.
        """
        contexts, logits = [], []
        for level, codebook in enumerate(self.codebooks):
            if level == 0:
                scores = F.linear(guidance, codebook.weight)
            else:
                hop = self.hop(level)
                scores = hop.logits(hop.from_context(contexts[-1]), hop.from_guidance(guidance))
            logits.append(scores.float())
            context = (logits[-1].softmax(-1) @ codebook.weight).float()
            if assign == "ste":
                context = context + (codebook(scores.argmax(-1)) - context).detach()
            contexts.append(context)
        return contexts, logits

    def along(self, guidance, path):
        """Walk a given path: every level's context is the codeword before it on the path.

        Args:
            guidance: ``[n, width]``.
            path: int64 ``[n, n_levels]``; negative codes stand for 0 (what follows them is of no use).

        Returns:
            logits, a list of fp32 ``[n, K]`` per level.
        """
        logits = [F.linear(guidance, self.codebooks[0].weight)]
        for level in range(1, self.n_levels):
            hop = self.hop(level)
            of_codewords = hop.from_context(self.codebooks[level - 1].weight)
            from_context = F.embedding(path[:, level - 1].clamp(min=0), of_codewords)
            logits.append(hop.logits(from_context, hop.from_guidance(guidance)))
        return [each.float() for each in logits]


class Walk:
    """The walk of many beams, or of all codewords at once, for fixed guidance.

    Args:
        network: :class:`RecursiveAssignment`.
        guidance: ``[B, width]``.
    """

    def __init__(self, network, guidance):
        self._first = F.linear(guidance, network.codebooks[0].weight)
        self._hops = [network.hop(level) for level in range(1, network.n_levels)]
        self._from_context = [hop.from_context(codebook.weight) for hop, codebook in zip(self._hops, network.codebooks)]
        self._from_guidance = [hop.from_guidance(guidance).unsqueeze(1) for hop in self._hops]

    def logits(self, level, codes=None):
        """Logits of a level after ``codes`` of the level before.

        Args:
            level: from 0 on.
            codes: int64 ``[B, W]``; all codes of the level before, in their order, if None.

        Returns:
            ``[B, W, K]``; for level 0 ``[B, 1, K]``.
        """
        if level == 0:
            return self._first.unsqueeze(1)
        from_context = self._from_context[level - 1]
        from_context = from_context.unsqueeze(0) if codes is None else from_context[codes]
        return self._hops[level - 1].logits(from_context, self._from_guidance[level - 1])
