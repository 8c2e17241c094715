"""IntRR's flattened twin: the same backbone on the codes of all items, one after another.

The baseline of the tables of IntRR (arXiv 2602.20704; section 4.6 of its specification): a history of n items is n × L
tokens, and the next item is generated with one backbone step per level. There is no start or separator token: the state
at the last code of an item predicts the first code of the next. Unlike the official code, which runs the whole
prefix again for every beam and level, the keys and values of the history are computed once and shared by all beams.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.model.causal import CausalRecommender
from recbole_vsid.model.prefix_decoder import PrefixDecoder
from recbole_vsid.model.streams import token_stream
from recbole_vsid.semantic_id.table import PAD


class IntRRFlat(CausalRecommender):
    """The flattened twin.

    Args:
        config: reads the keys of :class:`~recbole_vsid.model.causal.CausalRecommender`.
        dataset: a built :class:`~recbole_vsid.data.dataset.SemanticIDDataset`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        n_tokens, width = self.semantic_ids.n_tokens, config["hidden_size"]
        self.token_embedding = nn.Embedding(n_tokens, width)
        self.head = nn.Linear(width, n_tokens, bias=False)
        nn.init.zeros_(self.head.weight)
        levels = torch.arange(self.codes.size(1)).expand_as(self.codes)
        self.register_buffer("levels", levels.masked_fill(self.codes == PAD, PAD), persistent=False)

    def _stream(self, codes, items, lengths):
        """``codes`` of the first ``lengths`` ``[B]`` of ``items`` ``[B, n]``, flattened; and the rows' lengths."""
        costs = self.code_lengths[items] * (torch.arange(items.size(1), device=items.device) < lengths.unsqueeze(1))
        return token_stream(codes, items, costs, items.new_empty(len(items), 0), fill=PAD)

    def _logits(self, hidden, level):
        first, end = self.vocabularies[level]
        return F.linear(hidden, self.head.weight[first:end])

    def calculate_loss(self, interaction):
        """Mean over targets of the cross-entropy summed over levels; all items but the first are targets."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        tokens, n_tokens = self._stream(self.codes, items, lengths)
        levels, _ = self._stream(self.levels, items, lengths)
        hidden = self.backbone(self.token_embedding(tokens[:, :-1].clamp(min=0)))
        position = torch.arange(1, tokens.size(1), device=tokens.device)
        level = levels[:, 1:].masked_fill(position < self.code_lengths[items[:, 0]].unsqueeze(1), PAD)
        total = 0.0
        for each, (first, _) in enumerate(self.vocabularies):
            here = level == each
            logits = self._logits(hidden[here], each).float()
            total = total + F.cross_entropy(logits, tokens[:, 1:][here] - first, reduction="sum")
        return total / (lengths - 1).sum()

    def start_decoding(self, interaction):
        """As in the base class; the step returns the logits of its position's vocabulary only."""
        tokens, lengths = self._stream(self.codes, interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        decoder = PrefixDecoder(self.backbone, self.token_embedding(tokens.clamp(min=0)), lengths)

        def step(tokens, parents):
            if tokens is None:
                return self._logits(decoder.last, 0).unsqueeze(1)
            level = decoder.n_steps + 1
            return self._logits(decoder.step(self.token_embedding(tokens), parents), level)

        return step
