"""The tree of semantic IDs with its chains merged: what the vectors of a timeline model belong to.

A node with one child leaves nothing to choose, so the nodes from one that has siblings down to the next branching (or
the leaf) are one node here, a *chain*. The own vectors of a chain always occur together and are one vector, and the
choices that are gone had probability one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recbole_vsid.decoding.trie import PrefixTrie
from recbole_vsid.semantic_id.table import PAD, SemanticIDs

ROOT = 0


@dataclass(frozen=True, eq=False)
class CodeTree:
    """A merged tree; build it with :meth:`from_table`. Node 0 is the root; siblings are neighbours.

    Attributes:
        trie: the merged tree itself, in which the token of a node is its number.
        table: the paths as codes of a table, from which :meth:`restricted` makes sub-trees.
        paths: int64 ``[n_items, depth]``, the nodes of each item from below the root to its leaf; 0 behind the leaf.
        codes: int64 ``[n_nodes, longest chain]``, rows of the code embeddings on each node's chain, counted from 1 over
            all levels one after another; 0 behind the chain's end. A level has rows of its own for every code.
        n_codes: rows that the code embeddings need, the unused row 0 included.
        suffix: whether the last code of every item only tells apart items with the same content.
    """

    trie: PrefixTrie
    table: SemanticIDs
    paths: Tensor
    codes: Tensor
    n_codes: int
    suffix: bool

    @classmethod
    def from_table(cls, table: SemanticIDs, device: torch.device | str | None = None) -> CodeTree:
        """Merge the tree of ``table``.

        Raises:
            ValueError: a code of the table begins a longer one, see :meth:`PrefixTrie.from_table`.
        """
        single = PrefixTrie.from_table(table)
        n_children = single.child_offsets.diff().numpy()
        parent = np.r_[0, np.repeat(np.arange(single.n_nodes), n_children)]
        begins = (n_children[parent] > 1) | (parent == 0)  # all but the root's children and siblings go on a chain
        depth = single.depth.numpy()
        chain, place = np.arange(single.n_nodes), np.zeros(single.n_nodes, dtype=np.int64)
        for level in range(1, single.max_depth + 1):
            nodes = np.flatnonzero((depth == level) & ~begins)
            chain[nodes], place[nodes] = chain[parent[nodes]], place[parent[nodes]] + 1

        paths = _merged(_node_paths(single, parent, table), begins)
        merged = _as_table(paths, table)
        trie = PrefixTrie.from_table(merged)
        # From the numbers of the single tree to those of the merged one, in which siblings are neighbours.
        number = np.zeros(single.n_nodes, dtype=np.int64)
        number[trie.token[1:].numpy()] = np.arange(1, trie.n_nodes)
        number[chain != np.arange(single.n_nodes)] = number[chain[chain != np.arange(single.n_nodes)]]
        paths = np.where(paths == PAD, ROOT, number[paths])

        sizes = np.asarray(table.vocab_sizes)
        first = np.r_[0, np.cumsum(sizes)]
        flat = single.token.numpy() - (0 if table.shared_vocabulary else first[np.maximum(depth - 1, 0)])
        codes = np.zeros((trie.n_nodes, int(place.max()) + 1), dtype=np.int64)
        codes[number[1:], place[1:]] = 1 + flat[1:] + first[depth[1:] - 1]
        return cls(
            trie=replace(trie, token=torch.arange(trie.n_nodes)).to(device),
            table=_as_table(np.where(paths == ROOT, PAD, paths), table),
            paths=torch.from_numpy(paths).to(device),
            codes=torch.from_numpy(codes).to(device),
            n_codes=1 + int(first[-1]),
            suffix=table.suffix,
        )

    def content_codes(self) -> Tensor:
        """:attr:`codes` without those that say nothing of the items, int64 ``[n_nodes, longest chain]``."""
        if not self.suffix:
            return self.codes
        last = (self.codes > 0).sum(1, keepdim=True) - 1
        is_leaf = (self.trie.item > 0).unsqueeze(1)
        here = torch.arange(self.codes.size(1), device=self.codes.device) == last
        return self.codes.masked_fill(here & is_leaf, 0)

    def ends(self) -> Tensor:
        """How many codes of its item stand above the end of each node of a path, int64 ``[n_items, depth]``.

        Behind the leaf, a number above that of all codes.
        """
        lengths = (self.codes > 0).sum(1)[self.paths].cumsum(1)
        return lengths.masked_fill(self.paths == ROOT, self.codes.numel() + 1)

    def begins(self, other: CodeTree) -> bool:
        """Whether ``other`` has all items of this tree, with the same codes in their order, and perhaps more."""
        n_items = len(self.paths)
        if len(other.paths) < n_items:
            return False
        mine, theirs = (tree.codes[tree.paths[:n_items]].flatten(1) for tree in (self, other))
        width = max(mine.size(1), theirs.size(1))
        packed = []
        for codes in (mine, theirs):  # the chains of an item one behind the other
            codes = torch.nn.functional.pad(codes, (0, width - codes.size(1)))
            packed.append(codes.gather(1, (codes == 0).long().argsort(dim=1, stable=True)))
        return torch.equal(*packed)

    def restricted(self, items: Tensor | np.ndarray) -> PrefixTrie:
        """The tree of ``items`` only; the tokens of its nodes are the nodes' numbers here."""
        return PrefixTrie.from_table(self.table, items, self.paths.device)

    def siblings(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """First child and number of children of the parents ``nodes``, each int64 of the same shape."""
        first = self.trie.child_offsets[nodes]
        return first + 1, self.trie.child_offsets[nodes + 1] - first


def _node_paths(trie, parent, table):
    """Nodes of each item level by level, int64 ``[n_items, max_depth]``, −1 padded."""
    nodes = np.full((table.n_items, max(trie.max_depth, 1)), PAD, dtype=np.int64)
    leaf = np.zeros(table.n_items, dtype=np.int64)
    members, row = trie.items_of(torch.arange(trie.n_nodes))
    leaf[members.numpy()] = row.numpy()
    depth, items = trie.depth.numpy(), np.flatnonzero(leaf)
    here = leaf[items]
    while len(items):
        nodes[items, depth[here] - 1] = here
        here = parent[here]
        items, here = items[here > 0], here[here > 0]
    return nodes


def _merged(nodes, begins):
    """Paths with the first node of every chain only, −1 padded."""
    kept = np.where(nodes == PAD, False, begins[nodes])
    paths = np.full(nodes.shape, PAD, dtype=np.int64)
    row, column = np.nonzero(kept)
    paths[row, (kept.cumsum(1) - 1)[row, column]] = nodes[row, column]
    return paths[:, : max(1, int(kept.sum(1).max()))]


def _as_table(paths, table):
    """Paths of nodes as the codes of a table."""
    n_nodes = int(paths.max()) + 1
    return SemanticIDs(
        codes=paths,
        lengths=(paths != PAD).sum(1),
        vocab_sizes=(n_nodes,) * paths.shape[1],
        shared_vocabulary=True,
        item_tokens=table.item_tokens,
        unique=table.unique,
        prefix_free=table.prefix_free,
    )
