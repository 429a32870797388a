"""From the nodes of each level, found top-down, to a parent vector."""

from __future__ import annotations

import torch
from torch import Tensor

AT_ONCE = 2**20


class Levels:
    """The nodes of a forest, some of each level at a time, and in the end the parent of each.

    Args:
        num_leaves: number of leaves.
        device: where the vectors are.
    """

    def __init__(self, num_leaves: int, device: torch.device) -> None:
        self.dtype = torch.int32 if num_leaves < 2**31 else torch.int64
        self.ups: list[list[Tensor]] = []
        self.counts: list[int] = []
        self.leaf_level = torch.empty(num_leaves, dtype=torch.int8, device=device)
        self.leaf_node = torch.empty(num_leaves, dtype=self.dtype, device=device)

    def count(self, level: int) -> int:
        """Number of nodes of a level so far."""
        return self.counts[level] if level < len(self.counts) else 0

    def add(self, level: int, up: Tensor) -> Tensor:
        """Add the next nodes of a level; returns their numbers within it.

        Args:
            level: 0 for the roots; at most one more than there are.
            up: ``[nodes]`` the parent of each as a number within the level above; for the roots
                only their number counts.
        """
        if level == len(self.ups):
            self.ups.append([])
            self.counts.append(0)
        self.ups[level].append(up.to(self.dtype))
        self.counts[level] += up.numel()
        return torch.arange(self.counts[level] - up.numel(), self.counts[level], device=up.device)

    def hang(self, rows: Tensor, level: int | Tensor, node: Tensor) -> None:
        """Hang leaves from nodes of these levels, of these numbers within them."""
        self.leaf_level[rows] = level if isinstance(level, int) else level.to(torch.int8)
        self.leaf_node[rows] = node.to(self.dtype)

    def parent(self) -> Tensor:
        """Number the nodes and write down the parent of each.

        Leaves come first, then the deepest level, and so on: the roots come last, in their order.
        """
        leaves = self.leaf_node.numel()
        starts = [leaves + sum(self.counts[level + 1 :]) for level in range(len(self.counts))]
        device = self.leaf_node.device
        parent = torch.empty(leaves + sum(self.counts), dtype=torch.long, device=device)
        first = torch.tensor(starts, device=device)
        for at in range(0, leaves, AT_ONCE):
            some = slice(at, min(at + AT_ONCE, leaves))
            parent[some] = first[self.leaf_level[some].long()] + self.leaf_node[some]
        for level in range(len(starts) - 1, 0, -1):
            at = starts[level]
            for up in self.ups[level]:
                parent[at : at + up.numel()] = up.long() + starts[level - 1]
                at += up.numel()
        torch.arange(starts[0], parent.numel(), out=parent[starts[0] :])
        return parent
