"""What the kernels need to know of a tree beyond its :class:`~hsa_geometric.TreeIndex`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ...tree import TreeIndex

# Positions and offsets are int32 below this number of entries.
INT32_LIMIT = 1 << 31
# Levels are many and thin from so many on, of at most so many nodes each on average.
MANY, THIN = 64, 25


class Level(NamedTuple):
    """One level below the roots: of families, nodes and inner nodes the first and the one after."""

    families: tuple[int, int]
    nodes: tuple[int, int]
    inner: tuple[int, int]


@dataclass(eq=False)
class Plan:
    """Worked out once for a tree; a device is waited for only here.

    Rows of leaves stay where the caller has them, in his order and dtype. Rows of inner nodes stand
    in tensors of their own, in the order of :attr:`inner` and in the precision of sums. So nothing
    of the size of the input is copied.

    Attributes:
        leaf: the tree's, as ``family_parent`` and ``family_ptr``. (The tree itself, which holds the
            plan, would keep both alive.)
        inner: ``[F]`` position of each inner node, ascending.
        inner_ptr: ``[F + 1]`` inner members of family ``f`` are
            ``inner[inner_ptr[f]:inner_ptr[f + 1]]``.
        above: ``[T]`` which inner node is the parent of the node at each position; ``F`` for a
            root.
        family: ``[F]`` which family is below each inner node.
        source: ``[T]`` of each position, the leaf's row; or ``-1 - n`` for the ``n``-th inner node.
        starts: ``[T]`` first position of the node's family; a root is one of its own.
        ends: ``[T]`` the position after its last one.
        levels: those below the roots, from the top.
        sizes: family sizes, ascending, and how many families have each; a root is one of its own.
        first_leaf: the first position of a leaf.
        num_roots: number of trees; roots come first.
    """

    leaf: Tensor
    family_parent: Tensor
    family_ptr: Tensor
    inner: Tensor
    inner_ptr: Tensor
    above: Tensor
    family: Tensor
    source: Tensor
    starts: Tensor
    ends: Tensor
    levels: list[Level]
    sizes: list[tuple[int, int]]
    first_leaf: int
    num_roots: int

    @classmethod
    def of(cls, tree: TreeIndex) -> Plan:
        """The plan of a tree."""
        return tree.once("triton", lambda: cls._made(tree))

    @classmethod
    def _made(cls, tree: TreeIndex) -> Plan:
        num_roots, ptr = tree.num_trees, tree.family_ptr
        position = torch.arange(tree.num_nodes, device=tree.device)
        inner, family = tree.family_parent.sort()
        families = inner.shape[0]
        above = torch.searchsorted(inner, tree.up)
        above[:num_roots].fill_(families)
        number = torch.searchsorted(ptr, position[num_roots:], right=True)
        roots = position[:num_roots]
        starts = torch.cat([roots, ptr[number - 1]])
        ends = torch.cat([roots + 1, ptr[number]])
        source = torch.empty_like(position)
        source.index_copy_(0, tree.leaf, position[: tree.num_leaves])
        source.index_copy_(0, inner, -1 - position[:families])
        if tree.num_nodes < INT32_LIMIT:
            source, starts, ends = source.int(), starts.int(), ends.int()

        edges = torch.cat([tree.starts, tree.starts.new_full((1,), tree.num_nodes)])
        first = [edges, torch.searchsorted(ptr, edges), torch.searchsorted(inner, edges)]
        size, count = torch.cat([torch.ones_like(roots), ptr.diff()]).unique(return_counts=True)
        host = torch.cat([*first, size, count, tree.leaf.min().view(1)]).tolist()
        end = tree.depth + 1
        nodes, of_families, of_inner = (
            list(pairwise(x)) for x in (host[:end], host[end : 2 * end], host[2 * end : 3 * end])
        )
        size_of, count_of = host[3 * end : -1][: len(size)], host[3 * end : -1][len(size) :]
        return cls(
            leaf=tree.leaf,
            family_parent=tree.family_parent,
            family_ptr=tree.family_ptr,
            inner=inner,
            inner_ptr=torch.searchsorted(inner, ptr),
            above=above,
            family=family,
            source=source,
            starts=starts,
            ends=ends,
            levels=list(map(Level, of_families, nodes, of_inner)),
            sizes=list(zip(size_of, count_of, strict=True)),
            first_leaf=host[-1],
            num_roots=num_roots,
        )

    @property
    def num_nodes(self) -> int:
        """Positions are ``0 .. num_nodes - 1``."""
        return self.source.shape[0]

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.source.device

    @property
    def deep(self) -> bool:
        """Whether levels are many and thin."""
        return len(self.levels) > MANY and self.num_nodes <= THIN * len(self.levels)
