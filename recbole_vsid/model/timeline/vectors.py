"""Vectors of nodes and items: codes that are shared by level, and what a node has of its own.

The vector of a node is the sum of the embeddings of the codes on its chain and of its own vector, that of an item the
sum over the nodes of its path. So items share what they have in common, from coarse to fine, and what sets an item
apart is learnt as far as the data allow; an item without an own vector is made of codes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_vsid.model.timeline.tree import ROOT, CodeTree


@dataclass(frozen=True)
class NodeTable:
    """Vectors of the nodes of a tree, or of some of them.

    Attributes:
        vectors: ``[m, width]``; the first is the root's, zero.
        place: int64 ``[n_nodes]``, the row of each node that is there; None if row *n* is node *n*.
    """

    vectors: Tensor
    place: Tensor | None = None

    def rows(self, nodes: Tensor) -> Tensor:
        """Rows of ``nodes``, int64 of any shape."""
        return nodes if self.place is None else self.place[nodes]

    def of_items(self, paths: Tensor) -> Tensor:
        """Vectors ``[n, width]`` of the items with ``paths`` int64 ``[n, depth]``."""
        return F.embedding_bag(self.rows(paths), self.vectors, mode="sum", padding_idx=ROOT)

    def to(self, dtype: torch.dtype) -> NodeTable:
        """The same with other numbers."""
        return NodeTable(self.vectors.to(dtype), self.place)


class NodeVectors(nn.Module):
    """What the vectors of a merged tree are made of.

    Args:
        tree: the tree.
        width: size of a vector.
        own: which nodes have a vector of their own: ``all``, ``leaf`` (the last of each path) or ``none``. If leaves
            have one, a code that only tells items apart has none: what it shares between items would mean nothing.
        codes: whether codes have vectors; without them only own vectors are left.
        std: spread of the initial vectors.
    """

    def __init__(self, tree: CodeTree, width: int, own: str = "all", codes: bool = True, std: float = 0.05) -> None:
        super().__init__()
        self.use_suffix = own == "none"
        self._take(tree)
        self.code = nn.Embedding(tree.n_codes, width, padding_idx=0) if codes else None
        rows = torch.zeros(tree.trie.n_nodes, dtype=torch.int64)
        if own != "none":
            has_own = tree.trie.item.cpu() > 0 if own == "leaf" else torch.arange(len(rows)) > 0
            rows[has_own] = torch.arange(1, int(has_own.sum()) + 1)
        self.register_buffer("own_row", rows, persistent=False)
        self.own = nn.Embedding(int(rows.max()) + 1, width, padding_idx=0) if own != "none" else None
        for embedding in (self.code, self.own):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=std)
                nn.init.zeros_(embedding.weight[:1])

    def follow(self, tree: CodeTree) -> None:
        """Go over to a tree with more items, in which every item that is here keeps its vector.

        A new item may part a chain in two. Its own vector stays with the upper part, which the new item shares; but
        that of a leaf stays with the leaf.

        Raises:
            ValueError: items that are here have other codes there, or the vocabularies differ.
        """
        before = self.tree
        n_items = len(before.paths)
        ends, new_ends = before.ends(), tree.ends()[:n_items]
        if tree.n_codes != before.n_codes or len(new_ends) < n_items or not before.begins(tree):
            raise ValueError("a later table must keep the codes of all items and the sizes of the vocabularies")
        item, step = before.paths.nonzero(as_tuple=True)
        begin = F.pad(ends, (1, 0))[item, step]
        is_leaf = before.trie.item[before.paths[item, step]] > 0
        last = (tree.paths[:n_items] > 0).sum(1)[item] - 1
        place = torch.where(is_leaf, last, (new_ends[item] <= begin.unsqueeze(1)).sum(1))
        rows = self.own_row.new_zeros(tree.trie.n_nodes)
        rows[tree.paths[item, place]] = self.own_row[before.paths[item, step]]
        self._take(tree)
        self.own_row = rows

    def _take(self, tree):
        self.tree = tree
        codes = tree.codes if self.use_suffix else tree.content_codes()
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, nodes: Tensor | None = None) -> NodeTable:
        """The vectors of all nodes, or of ``nodes``, int64, distinct, ascending, the root among them."""
        codes, rows, place = self.codes, self.own_row, None
        if nodes is not None:
            codes, rows = codes[nodes], rows[nodes]
            place = torch.empty(self.tree.trie.n_nodes, dtype=torch.int64, device=nodes.device)
            place[nodes] = torch.arange(len(nodes), device=nodes.device)
        parts = []
        if self.code is not None:
            parts.append(F.embedding_bag(codes, self.code.weight, mode="sum", padding_idx=0))
        if self.own is not None:
            parts.append(self.own(rows))
        return NodeTable(sum(parts), place)
