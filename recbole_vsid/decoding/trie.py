"""The prefix tree of all semantic IDs, as arrays: what a decoder may generate.

A semantic-ID table without prefixes among its codes (arXiv 2602.16375, section 5.2 of its code's
behaviour) is a tree whose leaves are the items; items that share a code share a leaf. The nodes are
numbered breadth first and siblings by token, so the children of a node are neighbours and need no edge
list: edge *i* of the compressed rows leads to node *i + 1* (the root is the only node without an edge).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from recbole_vsid.semantic_id.table import PAD


@dataclass(frozen=True, eq=False)
class PrefixTrie:
    """An immutable array prefix tree; build it with :meth:`from_table`.

    Attributes:
        child_offsets: int64 ``[n_nodes + 1]``; the children of node *n* are the nodes
            ``child_offsets[n] + 1 .. child_offsets[n + 1]``, ordered by token.
        token: int64 ``[n_nodes]``, the token of the edge into the node; −1 for the root.
        item: int64 ``[n_nodes]``, the (smallest) item id at a leaf; 0 for inner nodes.
        members: int64, all items of the tree leaf by leaf, those of a leaf by id.
        member_offsets: int64 ``[n_nodes + 1]``; the items of leaf *n* are
            ``members[member_offsets[n] : member_offsets[n + 1]]``.
        depth: int64 ``[n_nodes]``, number of tokens from the root.
        max_depth: length of the longest code in the tree.
        n_tokens: size of the flat vocabulary (of the table, whatever the subset).
        n_items: rows of the table, the padding item included (whatever the subset).
        n_leaves: number of leaves, as many as items unless some share a code.
    """

    child_offsets: torch.Tensor
    token: torch.Tensor
    item: torch.Tensor
    members: torch.Tensor
    member_offsets: torch.Tensor
    depth: torch.Tensor
    max_depth: int
    n_tokens: int
    n_items: int
    n_leaves: int

    @classmethod
    def from_table(cls, table, items=None, device=None):
        """Build the tree of a :class:`~recbole_vsid.semantic_id.table.SemanticIDs`.

        Args:
            table: the semantic IDs.
            items: ids to which the tree is restricted (repeats count once); all items by default.
            device: where the tensors live.

        Raises:
            ValueError: ``items`` is empty, or has ids outside ``1..n_items - 1``; or the code of an
                item is the beginning of a longer one, or equal to another although the table claims to be unique.
        """
        ids = np.arange(1, table.n_items) if items is None else _check_items(items, table)
        codes = table.flat_codes()[ids]
        order = np.lexsort(codes.T[::-1])  # by first token, then second, ...; ended codes (−1) first
        ids, codes = ids[order], codes[order]  # lexsort is stable: items with one code stay ordered by id
        before, after = codes[:-1], codes[1:]
        same = (before == after).all(1)
        # In this order a code that begins others stands directly before one of them.
        begins = ((before == after) | (before == PAD)).all(1) & ~(same & (not table.unique))
        if begins.any():
            row = int(begins.argmax())
            first, second = (str(token) for token in table.item_tokens[ids[row : row + 2]])
            raise ValueError(
                f"a prefix tree needs a prefix-free table, but the code of item {first!r}, {codes[row].tolist()}, "
                f"begins the code of item {second!r}, {codes[row + 1].tolist()}; append a disambiguation token"
            )

        is_new = np.ones(codes.shape, dtype=bool)
        is_new[1:] = np.logical_or.accumulate(before != after, axis=1)
        is_new &= codes != PAD
        node = np.zeros(len(codes), dtype=np.int64)  # node of each row's prefix at the current position
        leaf, parents, n_nodes = node, [], 1
        n_new = is_new.sum(0)
        max_depth = int((n_new > 0).sum())  # a table may be wider than its longest code
        for position in range(max_depth):
            parents.append(node[is_new[:, position]])
            # Rows whose code has ended get a neighbour's node here, which nothing reads.
            node = n_nodes - 1 + np.cumsum(is_new[:, position])
            leaf = np.where(codes[:, position] != PAD, node, leaf)
            n_nodes += n_new[position]
        item = np.zeros(n_nodes, dtype=np.int64)
        item[leaf[::-1]] = ids[::-1]  # the smallest id is written last
        by_leaf = np.lexsort((ids, leaf))
        n_children = np.bincount(np.concatenate(parents), minlength=n_nodes)

        def tensor(first, rest):
            return torch.as_tensor(np.concatenate([[first], rest]), dtype=torch.int64, device=device)

        return cls(
            child_offsets=tensor(0, np.cumsum(n_children)),
            token=tensor(-1, codes.T[is_new.T]),
            item=torch.as_tensor(item, device=device),
            members=torch.as_tensor(ids[by_leaf], device=device),
            member_offsets=tensor(0, np.cumsum(np.bincount(leaf, minlength=n_nodes))),
            depth=tensor(0, np.repeat(np.arange(1, codes.shape[1] + 1), n_new)),
            max_depth=max_depth,
            n_tokens=table.n_tokens,
            n_items=table.n_items,
            n_leaves=int((item > 0).sum()),
        )

    @property
    def n_nodes(self):
        return self.token.numel()

    @property
    def device(self):
        return self.token.device

    def to(self, device):
        """The same tree on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: value.to(device) for name, value in tensors.items()})

    @property
    def shares_leaves(self):
        """Whether some leaf holds more than one item."""
        return self.members.numel() > self.n_leaves

    def items_of(self, nodes):
        """All items of the leaves ``nodes`` ``[M]``, one leaf after another.

        Returns:
            ``(items, row)``, each int64: an item, and the position of its leaf in ``nodes`` (non-decreasing).
        """
        places, row = ragged(self.member_offsets, nodes)
        return self.members[places], row

    def children(self, nodes):
        """All children of ``nodes`` ``[M]``, one after another; leaves have none.

        Returns:
            ``(tokens, children, row)``, each int64 ``[n_edges]``: the token of the edge, the node it
            leads to, and the position of its parent in ``nodes`` (non-decreasing).
        """
        edges, row = ragged(self.child_offsets, nodes)
        return self.token[edges + 1], edges + 1, row


def ragged(offsets, rows):
    """Positions ``offsets[r] .. offsets[r + 1] - 1`` of all ``rows`` one after another, and whose each is, int64."""
    first = offsets[rows]
    counts = offsets[rows + 1] - first
    row = torch.repeat_interleave(counts)
    # Positions are numbered 0.. over all rows; minus those of earlier rows gives 0.. within the row.
    shift = first - (counts.cumsum(0) - counts)
    return torch.arange(row.numel(), device=row.device) + shift[row], row


def _check_items(items, table):
    items = np.unique(torch.as_tensor(items).cpu().numpy())
    if items.size == 0:
        raise ValueError("a prefix tree needs at least one item, the subset is empty")
    if items.dtype.kind not in "iu":
        raise ValueError(f"the subset must be item ids, not values of type {items.dtype}")
    outside = items[(items < 1) | (items >= table.n_items)]
    if outside.size:
        raise ValueError(f"item id {outside[0]} is not among 1..{table.n_items - 1} (0 is the padding item)")
    return items
