"""The generative head: a softmax over siblings at every step down the tree.

The probability of an item is the product of the probabilities of the nodes on its path, each among its siblings. A
target costs as many dot products as its path has siblings, some hundred in a tree of ten thousand items, and no tensor
has the size targets × catalogue.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_vsid.model.timeline.tree import CodeTree
from recbole_vsid.model.timeline.vectors import NodeTable

BLOCK = 8  # choices among the same siblings that are computed together
PADDING = 1.3  # widest over narrowest family of siblings in one matrix product
EDGES_AT_ONCE = 2**18


def sibling_loss(states: Tensor, paths: Tensor, table: NodeTable, tree: CodeTree) -> Tensor:
    """Mean over targets of −log p(target), in fp32.

    Args:
        states: ``[n, depth, width]``, what chooses at each step, or ``[n, 1, width]`` if all steps share it.
        paths: int64 ``[n, depth]``, the nodes of the targets, 0 behind a leaf.
        table: with all siblings of the nodes of ``paths``.
    """
    first, n_children = tree.siblings(paths.new_zeros(()))
    beginnings = table.vectors[1 : 1 + int(n_children)]
    total = F.cross_entropy(at_least_fp32(states[:, 0] @ beginnings.T), paths[:, 0] - first, reduction="sum")
    row, step = paths[:, 1:].nonzero(as_tuple=True)
    if len(row):
        parent, node = paths[row, step], paths[row, step + 1]
        flat = row if states.size(1) == 1 else row * states.size(1) + step + 1
        total = total + _choices(states.flatten(0, 1), flat, parent, node, table, tree)
    return total / len(paths)


def at_least_fp32(values: Tensor) -> Tensor:
    """``values`` in fp32 if they are less precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _choices(states, row, parent, node, table, tree):
    """Summed −log probability of choosing ``node`` ``[m]`` below ``parent`` ``[m]`` by the states ``row`` ``[m]``.

    Choices below one parent share the vectors of its children: they are put into blocks of :data:`BLOCK`, a block is
    one small matrix product, and blocks with similarly many children are computed together. (Gathering the children
    for every choice takes twice as long; plain indexing instead of ``embedding`` has a serial gradient on a CPU.)
    """
    n_children = tree.siblings(parent)[1]
    order = (n_children * tree.trie.n_nodes + parent).argsort()
    row, parent, node = row[order], parent[order], node[order]
    first, n_children = tree.siblings(parent)
    answer, first = node - first, table.rows(first)
    position = torch.arange(len(row), device=row.device)
    opens = F.pad(parent[1:] != parent[:-1], (1, 0), value=True)
    slot = (position - position[opens][opens.cumsum(0) - 1]) % BLOCK
    opens = slot == 0
    block = opens.cumsum(0) - 1
    rows = row.new_full((int(block[-1]) + 1, BLOCK), len(states))
    rows[block, slot] = row
    states = F.pad(states, (0, 0, 0, 1))
    begins = [*opens.nonzero()[:, 0].tolist(), len(row)]
    sizes = n_children[opens].tolist()

    total, here = 0.0, 0
    while here < len(sizes):
        end = here + 1
        while end < len(sizes) and sizes[end] <= max(PADDING * sizes[here], sizes[here] + 2):
            end += 1
        column = torch.arange(sizes[end - 1], device=row.device)
        part = slice(begins[here], begins[end])
        children = (first[opens][here:end, None] + column).clamp(max=len(table.vectors) - 1)
        products = F.embedding(rows[here:end], states) @ F.embedding(children, table.vectors).transpose(1, 2)
        logits = at_least_fp32(products[block[part] - here, slot[part]])
        logits = logits.masked_fill(column >= n_children[part, None], -torch.inf)
        total = total + F.cross_entropy(logits, answer[part], reduction="sum")
        here = end
    return total


class NodeScores:
    """Logits of a step for the edges of a tree, see :func:`~recbole_vsid.decoding.beam.constrained_beam_search`.

    Args:
        states: ``[B, W, width]``, what chooses below each beam; ``[B, 1, width]`` if all beams of a user share it.
        vectors: ``[n_nodes, width]``, of all nodes of the whole merged tree.
    """

    def __init__(self, states: Tensor, vectors: Tensor) -> None:
        self.states, self.vectors, self.n_users = states, vectors, len(states)

    def of_beams(self, nodes: Tensor, slot: Tensor, width: int) -> Tensor:
        """fp32 ``[n]``, of ``nodes`` ``[n]`` below the beams ``slot`` ``[n]`` of all users, ``width`` each."""
        n_users, shared = self.states.size(0), self.states.size(1) == 1
        if not len(nodes):
            return self.vectors.new_zeros(0, dtype=torch.float32)
        first, end = int(nodes.min()), int(nodes.max()) + 1
        if shared and n_users * (end - first) < 8 * len(nodes):
            # Nodes of one level are neighbours: one matrix product costs less than so many gathered vectors.
            logits = self.states[:, 0] @ self.vectors[first:end].T
            return logits[slot // width, nodes - first].float()
        states = self.states.flatten(0, 1)
        at = slot // width if shared else slot
        parts = zip(nodes.split(EDGES_AT_ONCE), at.split(EDGES_AT_ONCE))
        return torch.cat([(states[a] * self.vectors[n]).sum(1, dtype=torch.float32) for n, a in parts])

    def of_level(self, nodes: Tensor, row: Tensor) -> Tensor:
        """fp32 ``[B, n]``, of ``nodes`` ``[n]``, each below place ``row`` ``[n]`` of every user."""
        vectors = self.vectors[nodes]
        if self.states.size(1) == 1:
            return (self.states[:, 0] @ vectors.T).float()
        return torch.cat([(part[:, row] * vectors).sum(2, dtype=torch.float32) for part in self.states.split(1)])
