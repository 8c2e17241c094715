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

import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.data.sequences import PrefixLoader
from recbole_vsid.model.base import GenerativeRecommender
from recbole_vsid.model.streams import token_stream
from recbole_vsid.model.t5 import BeamDecoder, Stack
from recbole_vsid.semantic_id.table import PAD

IGNORED = -100


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
        self.start_token = table.n_tokens  # begins every code in the decoder and fills what is empty
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

    def encode(self, interaction):
        """The encoder's output ``[B, S, width]`` for the histories, and bool ``[B, S]``, True behind their end.

        With ``user_tokens`` the ``interaction`` also needs ``user_id`` ``[B]``.
        """
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items = items[:, : int(lengths.max())]
        position = torch.arange(items.size(1), device=items.device)
        lead = items.new_empty(len(items), 0)
        if self.user_token.numel():
            lead = self.user_token[interaction[self.USER_ID]].unsqueeze(1)
        costs = self.code_lengths[items] * (position < lengths.unsqueeze(1))
        tokens, n_tokens = token_stream(self.codes, items, costs, lead, self.start_token)
        # A row without any token keeps the filling one, for attention to nothing is undefined.
        padding = torch.arange(tokens.size(1), device=items.device) >= n_tokens.clamp(min=1).unsqueeze(1)
        return self.encoder(self.token_embedding(tokens), padding), padding

    def _logits(self, hidden, position):
        """Logits of the tokens of the code's ``position`` for ``hidden`` ``[…, width]``."""
        first, end = self.vocabularies[position]
        if self.head is None:  # T5 scales what a tied head sees
            return F.linear(hidden * hidden.size(-1) ** -0.5, self.token_embedding.weight[first:end])
        return F.linear(hidden, self.head.weight[first:end])

    def calculate_loss(self, interaction):
        """Mean cross-entropy over every token of the targets' codes."""
        memory, padding = self.encode(interaction)
        codes = self.codes[interaction[self.ITEM_ID]]
        before = F.pad(codes[:, :-1], (1, 0), value=PAD)
        hidden = self.decoder(
            self.token_embedding(before.masked_fill(before == PAD, self.start_token)), None, memory, padding
        )
        total = 0.0
        for position, (first, _) in enumerate(self.vocabularies):
            target = torch.where(codes[:, position] == PAD, IGNORED, codes[:, position] - first)
            logits = self._logits(hidden[:, position], position).float()
            total = total + F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        return total / (codes != PAD).sum()

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
