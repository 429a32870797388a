"""Rows of inner nodes alone: sums of the leaves below each, and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..tree import TreeIndex


class InnerNodes(NamedTuple):
    """The tree without its leaves, sorted by level, so that a level is a slice.

    Attributes:
        sizes: how many inner nodes each level has.
        above: of those of each level their parents' place in the level above.
        over: ``[N]`` place of each leaf's parent; one past the last, if the leaf is a whole tree.
        rank: ``[I]`` rank of each by id.
        by_id: ``[I]`` its inverse: place of each, these in ascending id.
        level: ``[I]`` level of each.
        leaves: ``[I]`` number of leaves below each.
    """

    sizes: list[int]
    above: list[Tensor]
    over: Tensor
    rank: Tensor
    by_id: Tensor
    level: Tensor
    leaves: Tensor

    def up(self, x: Tensor) -> Tensor:
        """Sums ``[I, ...]`` of leaf values ``[N, ...]``."""
        y = x.new_zeros(self.level.numel() + 1, *x.shape[1:]).index_add(0, self.over, x)
        levels = list(y.split([*self.sizes, 1]))[:-1]
        for i in reversed(range(1, len(levels))):
            levels[i - 1] = levels[i - 1].index_add(0, self.above[i], levels[i])
        return torch.cat(levels) if levels else y[:0]

    def down(self, z: Tensor) -> Tensor:
        """Means ``[N, ...]`` of ``[I, ...]`` over the inner nodes above each leaf, or 0."""
        levels = list(z.split(self.sizes))
        for i in range(1, len(levels)):
            levels[i] = levels[i] + levels[i - 1].index_select(0, self.above[i])
        means = [x / (i + 1) for i, x in enumerate(levels)]
        return torch.cat([*means, z.new_zeros(1, *z.shape[1:])]).index_select(0, self.over)


def inner_nodes(tree: TreeIndex) -> InnerNodes:
    """Worked out once for a tree."""

    def make() -> InnerNodes:
        position = tree.family_parent.sort().values
        level = torch.searchsorted(tree.starts, position, right=True)
        sizes = torch.bincount(level).tolist()
        place = torch.full_like(tree.up, position.numel())  # by position
        place[position] = torch.arange(position.numel(), device=tree.device)
        first = torch.tensor([0, *sizes[:-1]], device=tree.device).cumsum(0)
        above = place[tree.up[position]] - first[(level - 1).clamp(min=0)]
        by_id = tree.order[position].argsort()
        rank = torch.empty_like(by_id)
        rank[by_id] = torch.arange(rank.numel(), device=tree.device)
        return InnerNodes(
            sizes, list(above.split(sizes)), place[tree.up[tree.leaf]], rank, by_id, level,
            tree.count[position],
        )  # fmt: skip

    out: InnerNodes = tree.once("inner_nodes", make)
    return out


def inner_ids(tree: TreeIndex) -> Tensor:
    """``[I]`` ids of the inner nodes, ascending."""
    out: Tensor = tree.once("inner_ids", lambda: tree.order[tree.family_parent].sort().values)
    return out
