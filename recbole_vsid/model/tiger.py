"""TIGER: an encoder–decoder that reads the semantic IDs of a history and writes the next item's.

S. Rajput et al., *Recommender Systems with Generative Retrieval*, arXiv 2305.05065.
The encoder reads the codes of the last items, flattened, after an optional token of the user; the decoder writes the
code of the next item, trained with teacher forcing and searched over the trie of codes that exist.

Differences from the paper, on purpose: every position of a code has a softmax over its own tokens only, so no
probability is lost on tokens that cannot stand there; invalid codes are never generated; codes may have any lengths,
as long as none begins another; no user token by default; sizes are those of ReSID's generator; few epochs with Muon for
the matrices, and averaged weights are evaluated.
"""

from __future__ import annotations

import zlib
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.data.sequences import PrefixLoader
from recbole_vsid.model.base import GenerativeRecommender
from recbole_vsid.model.streams import token_stream
from recbole_vsid.model.t5 import BeamDecoder, Stack
from recbole_vsid.semantic_id.table import PAD

IGNORED = -100


class Tokens(NamedTuple):
    """How items are written as tokens, and tokens as vectors.

    Attributes:
        codes: int64 ``[n_items, max_length]``, −1 padded.
        embed: token ids of any shape → vectors.
        start: the token that begins every code in the decoder and fills what is empty; users' tokens follow it.
    """

    codes: torch.Tensor
    embed: Callable
    start: int


class TIGER(GenerativeRecommender):
    """TIGER's generator; which semantic IDs it reads and writes is the tokenizer's affair.

    Args:
        config: reads ``hidden_size``, ``n_layers`` (of each stack), ``n_heads``, ``head_size``, ``inner_size``,
            ``dropout_prob``, ``tie_embeddings``, ``user_tokens``, ``train_rows``, ``MAX_ITEM_LIST_LENGTH``,
            ``train_batch_size`` (rows, that is targets) and the keys of the base class.
        dataset: a built :class:`~recbole_vsid.data.dataset.SemanticIDDataset`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        table, width = self.semantic_ids, config["hidden_size"]
        self.vocabularies = table.vocabularies()
        self.start_token = table.n_tokens
        names = dataset.field2id_token[dataset.uid_field] if config["user_tokens"] else []
        # Not part of a checkpoint: other data may hold other users, or the same in another order.
        hashed = _hashed(names, config["user_tokens"]) + self.start_token + 1
        self.register_buffer("user_token", hashed, persistent=False)
        self.token_embedding = nn.Embedding(self.start_token + 1 + config["user_tokens"], width)
        size = (width, config["n_layers"], config["n_heads"], config["head_size"], config["inner_size"])
        self.encoder = Stack(*size, config["dropout_prob"])
        self.decoder = Stack(*size, config["dropout_prob"], causal=True, has_memory=True)
        self.head = None if config["tie_embeddings"] else nn.Linear(width, table.n_tokens, bias=False)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    @classmethod
    def check_settings(cls, config):
        super().check_settings(config)
        for key, least in {"n_layers": 1, "n_heads": 1, "inner_size": 1, "user_tokens": 0}.items():
            if config[key] < least:
                raise ValueError(f"{key}={config[key]!r} is not usable: it must be a whole number of at least {least}")
        if config["train_rows"] not in ("all_prefixes", "sampled_prefix"):
            raise ValueError(
                f"train_rows={config['train_rows']!r} is not usable: it must be all_prefixes or sampled_prefix"
            )

    def hidden_matrices(self):
        return [
            module.weight
            for stack in (self.encoder, self.decoder)
            for module in stack.modules()
            if isinstance(module, nn.Linear)
        ]

    def train_loader(self, config, dataset):
        sampled = config["train_rows"] == "sampled_prefix"
        return PrefixLoader(config, dataset, config["MAX_ITEM_LIST_LENGTH"], config["train_batch_size"], sampled)

    # ------------------------------------------------------------ encoder, decoder

    @property
    def tokens(self):
        """The table's codes and the learnt embedding."""
        return Tokens(self.codes, self.token_embedding, self.start_token)

    def encode(self, interaction, tokens=None):
        """The encoder's output ``[B, S, width]`` for the histories, and bool ``[B, S]``, True behind their end.

        With ``user_tokens`` the ``interaction`` also needs ``user_id`` ``[B]``; ``tokens`` are :attr:`tokens` by
        default.
        """
        tokens = tokens or self.tokens
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items = items[:, : int(lengths.max())]
        position = torch.arange(items.size(1), device=items.device)
        lead = items.new_empty(len(items), 0)
        if self.user_token.numel():
            lead = self.user_token[interaction[self.USER_ID]].unsqueeze(1) + (tokens.start - self.start_token)
        costs = self.code_lengths[items] * (position < lengths.unsqueeze(1))
        ids, n_ids = token_stream(tokens.codes, items, costs, lead, tokens.start)
        # A row without any token keeps the filling one, for attention to nothing is undefined.
        padding = torch.arange(ids.size(1), device=items.device) >= n_ids.clamp(min=1).unsqueeze(1)
        return self.encoder(tokens.embed(ids), padding), padding

    def _logits(self, hidden, position):
        """Logits of the tokens of the code's ``position`` for ``hidden`` ``[…, width]``."""
        first, end = self.vocabularies[position]
        if self.head is None:  # T5 scales what a tied head sees
            return F.linear(hidden * hidden.size(-1) ** -0.5, self.token_embedding.weight[first:end])
        return F.linear(hidden, self.head.weight[first:end])

    def target_logits(self, interaction, history=None, targets=None):
        """Logits of each position's vocabulary, float32 ``[B, V]`` each, given the target's tokens before it.

        ``history`` and ``targets`` are the :class:`Tokens` that the encoder and the decoder read.
        """
        memory, padding = self.encode(interaction, history)
        targets = targets or self.tokens
        before = F.pad(targets.codes[interaction[self.ITEM_ID]][:, :-1], (1, 0), value=PAD)
        hidden = self.decoder(targets.embed(before.masked_fill(before == PAD, targets.start)), None, memory, padding)
        return [self._logits(hidden[:, position], position).float() for position in range(len(self.vocabularies))]

    def cross_entropy(self, logits, codes):
        """Mean cross-entropy over every token of the flat ``codes`` ``[B, max_length]``."""
        total = 0.0
        for (first, _), of_position, tokens in zip(self.vocabularies, logits, codes.unbind(1)):
            target = torch.where(tokens == PAD, IGNORED, tokens - first)
            total = total + F.cross_entropy(of_position, target, ignore_index=IGNORED, reduction="sum")
        return total / (codes != PAD).sum()

    def calculate_loss(self, interaction):
        """Mean cross-entropy over every token of the targets' codes."""
        return self.cross_entropy(self.target_logits(interaction), self.codes[interaction[self.ITEM_ID]])

    def start_decoding(self, interaction):
        """As in the base class; the step returns the logits of its position's vocabulary only."""
        decoder = BeamDecoder(self.decoder, *self.encode(interaction))
        start = self.codes.new_full((len(interaction[self.ITEM_SEQ_LEN]), 1), self.start_token)

        def step(tokens, parents):
            position = decoder.n_steps
            hidden = decoder.step(self.token_embedding(start if tokens is None else tokens), parents)
            return self._logits(hidden, position)

        return step


def _hashed(names, n_values):
    """A number in ``0..n_values - 1`` for each name, the same in every process and data set; int64."""
    return torch.tensor([zlib.crc32(str(name).encode()) % n_values for name in names], dtype=torch.int64)
