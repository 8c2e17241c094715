"""The skeleton of SASTrie and MARIUS: a causal transformer over items, with the tree of their codes as output layer.

An item of a history is one vector, composed of code vectors and own vectors (``vectors.py``); the next item is
predicted at every position in one pass, by a softmax over siblings down the tree (``generative.py``), a softmax over
all items (``dense.py``), or both. A beam search finds the items whose paths are likely; the dense head, where there is
one, may put them in order.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_vsid.data.sequences import WindowLoader
from recbole_vsid.decoding.beam import constrained_beam_search, ranked
from recbole_vsid.decoding.trie import ragged
from recbole_vsid.layers import Transformer
from recbole_vsid.model.base import GenerativeRecommender
from recbole_vsid.model.dropout import Dropout
from recbole_vsid.model.timeline.dense import Candidates, ItemSampler, full_loss
from recbole_vsid.model.timeline.depth import LinearDepth, NoDepth, TransformerDepth
from recbole_vsid.model.timeline.generative import NodeScores, sibling_loss
from recbole_vsid.model.timeline.tree import CodeTree
from recbole_vsid.model.timeline.vectors import NodeTable, NodeVectors
from recbole_vsid.model.unchanged import WhileUnchanged

UPDATES_PER_EPOCH = 64  # at least, or few events would mean few updates
MOST_NODES = 2**16  # in a larger tree a training step computes only the vectors that its batch needs


class TimelineRecommender(GenerativeRecommender):
    """A recommender with one vector per item of history, trained at all positions of a sequence in one pass.

    Args:
        config: reads ``hidden_size``, ``n_layers``, ``head_size``, ``dropout_prob``, ``own_vectors``, ``code_vectors``,
            ``depth_network``, ``depth_layers``, ``depth_dropout``, ``generative_weight``, ``dense_weight``,
            ``full_softmax_items``, ``uniform_negatives``, ``rank_by``, ``MAX_ITEM_LIST_LENGTH`` (most events of a
            history), ``timewise_shuffle``, ``train_batch_size`` (events per update) and the keys of the base class.
        dataset: a built :class:`~recbole_vsid.data.dataset.SemanticIDDataset`.
    """

    renormalize = "all"
    tokens_per_item = 1.0

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        width, head_size = config["hidden_size"], config["head_size"]
        self.generative_weight, self.dense_weight = config["generative_weight"], config["dense_weight"]
        self.rank_by = config["rank_by"]
        self.node_vectors = NodeVectors(self.tree, width, config["own_vectors"], config["code_vectors"])
        self.dropout = Dropout(config["dropout_prob"])
        self.timeline = Transformer(width, config["n_layers"], head_size, config["dropout_prob"])
        if config["depth_network"] == "none":
            self.depth = NoDepth()
        elif config["depth_network"] == "linear":
            self.depth = LinearDepth(width, self.codes.size(1))  # new items may part chains
        else:
            self.depth = TransformerDepth(width, config["depth_layers"], head_size, config["depth_dropout"])
        self.sampler = None
        if self.dense_weight and self.n_items - 1 > config["full_softmax_items"]:
            popularity = torch.from_numpy(dataset.popularity())
            self.sampler = ItemSampler(self.tree, popularity, config["uniform_negatives"])
        self._tables, self._items = WhileUnchanged(), WhileUnchanged()

    @classmethod
    def check_settings(cls, config):
        super().check_settings(config)
        if config["head_size"] % 4 or config["hidden_size"] % config["head_size"]:
            raise ValueError(
                f"hidden_size={config['hidden_size']} must be a multiple of head_size={config['head_size']}, "
                "and that a multiple of 4"
            )
        if config["own_vectors"] == "none" and not config["code_vectors"]:
            raise ValueError("own_vectors=none with code_vectors=False leaves items without vectors; set one of them")
        needs = {"rerank": ("generative_weight", "dense_weight"), "generative": ("generative_weight",)}
        for key in needs.get(config["rank_by"], ("dense_weight",)):
            if config[key] == 0:
                raise ValueError(
                    f"{key}=0 is not usable with rank_by={config['rank_by']!r}, which needs that head; "
                    f"set {key} above 0, or another rank_by"
                )

    def use_table(self, table, device):
        """As in the base class. A later table may have more items, which are then ranked without own vectors.

        Raises:
            ValueError: a later table has other codes for the items of the first one, or other vocabularies.
        """
        tree = CodeTree.from_table(table, device)
        if hasattr(self, "node_vectors"):
            self.node_vectors.follow(tree)
        super().use_table(table, device)
        self.tree, self.trie, self.n_items = tree, tree.trie, table.n_items

    def hidden_matrices(self):
        return [*self.timeline.parameters(), *self.depth.parameters()]

    def train_loader(self, config, dataset):
        costs = np.ones(self.semantic_ids.n_items, dtype=np.int64)
        length = config["MAX_ITEM_LIST_LENGTH"]
        size = min(config["train_batch_size"], max(length, len(dataset.training.items) // UPDATES_PER_EPOCH))
        return WindowLoader(config, dataset, costs, length, size, lead=True, shuffle=config["timewise_shuffle"])

    # --------------------------------------------------------------------- training

    def calculate_loss(self, interaction):
        return sum(self.losses(interaction).values())

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """The weighted losses of the heads, each the mean over all positions with a next item."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        real = torch.arange(1, items.size(1), device=items.device) < lengths.unsqueeze(1)
        read, targets = items[:, :-1], items[:, 1:][real]
        drawn = self.sampler.draw(targets) if self.sampler else None
        table = self.node_vectors(self._needed(read, targets, drawn))
        hidden = self.dropout(self._hidden(read, table)[real])
        if torch.is_autocast_enabled(hidden.device.type):  # which casts the operands of each product anew
            hidden, table = hidden.bfloat16(), table.to(torch.bfloat16)
        terms = {}
        if self.dense_weight:
            if drawn:
                dense = self.sampler.loss(hidden, targets, drawn, table, self.tree)
            else:
                dense = full_loss(hidden, targets, table, self.tree)
            terms["dense"] = self.dense_weight * dense
        if self.generative_weight:
            paths = self.tree.paths[targets]
            states = self.depth(hidden, paths, table)
            generation = sibling_loss(states, paths, table, self.tree)
            terms["generation"] = self.generative_weight * generation
        return terms

    def _needed(self, read: Tensor, targets: Tensor, drawn: Candidates | None) -> Tensor | None:
        """The nodes whose vectors a batch needs; None for all of them."""
        if self.tree.trie.n_nodes <= MOST_NODES or (self.dense_weight and not drawn):
            return None
        paths = self.tree.paths
        parts = [paths[read.unique()].flatten()]
        if drawn:
            parts.append(paths[drawn.items].flatten())
        if self.generative_weight:
            parents = F.pad(paths[targets.unique()], (1, 0)).unique()
            parts.append(ragged(self.tree.trie.child_offsets, parents)[0] + 1)
        return F.pad(torch.cat(parts), (1, 0)).unique()

    def _hidden(self, items: Tensor, table: NodeTable) -> Tensor:
        """The timeline's states ``[B, n, width]`` behind each of ``items`` int64 ``[B, n]``."""
        distinct, place = items.unique(return_inverse=True)
        vectors = table.of_items(self.tree.paths[distinct])
        return self.timeline(self.dropout(F.embedding(place, vectors)))

    # --------------------------------------------------------------------- decoding

    def train(self, mode=True):
        """As in PyTorch; training forgets the vectors of nodes."""
        if mode:
            self._tables.forget()
            self._items.forget()
        return super().train(mode)

    def node_table(self) -> NodeTable:
        """Vectors of all nodes, without gradient, computed anew when a weight has changed."""
        with torch.no_grad():
            return self._tables.get(self.node_vectors.parameters(), self.node_vectors, self.tree)

    def item_vectors(self) -> Tensor:
        """Vectors of all items ``[n_items, width]``; as :meth:`node_table`."""
        with torch.no_grad():
            compute = partial(self.node_table().of_items, self.tree.paths)
            return self._items.get(self.node_vectors.parameters(), compute, self.tree)

    def _autocast(self):
        # In bf16 the best items of a large catalogue would tie; only the timeline, see `state`, is worth it.
        return nullcontext()

    def state(self, interaction: Interaction) -> Tensor:
        """The timeline's state behind the last item of each history, ``[B, width]``."""
        lengths = interaction[self.ITEM_SEQ_LEN]
        with super()._autocast():
            hidden = self._hidden(interaction[self.ITEM_SEQ][:, : int(lengths.max())], self.node_table())
        last = hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        return last.to(self.node_table().vectors.dtype)

    def start_decoding(self, interaction):
        return self._decoder(self.state(interaction))

    def _decoder(self, state):
        table = self.node_table()
        walk = self.depth.walk(state, table)
        return lambda nodes, parents: NodeScores(walk(nodes, parents), table.vectors)

    def restricted_trie(self, items):
        return self.tree.restricted(items)

    @property
    def ranks_all(self):
        return super().ranks_all or self.rank_by == "dense"

    @property
    def ranking(self):
        words = {"rerank": ", re-ranked by the dense head", "dense": ", by the dense head", "generative": ""}
        return super().ranking + words[self.rank_by]

    def _beam_search(self, interaction, k=None):
        """As in the base class; with ``rank_by: rerank`` in the dense head's order.

        The scores are then its log-probabilities among the items that the beam found.
        """
        if self.rank_by == "generative":
            return super()._beam_search(interaction, k)
        state = self.state(interaction)
        items, _ = constrained_beam_search(self._decoder(state), self.trie, self.beam_width)
        vectors = self.node_table().of_items(self.tree.paths[items.flatten()]).unflatten(0, items.shape)
        scores = (vectors @ state.unsqueeze(2)).squeeze(2).float().masked_fill(items == 0, -torch.inf)
        return ranked(items, scores.log_softmax(1), k)

    def _catalogue_scores(self, interaction):
        if self.rank_by == "generative":
            return super()._catalogue_scores(interaction)
        logits = (self.state(interaction) @ self.item_vectors().T).float()
        hidden = torch.ones(self.n_items, dtype=torch.bool, device=logits.device)
        hidden[self.trie.members] = False
        return logits.masked_fill_(hidden, -torch.inf).log_softmax(1)
