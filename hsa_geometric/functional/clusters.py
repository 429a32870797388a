"""The leaves of a tree, grouped by their ancestors at one level: a coarser graph's nodes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..shard import TreeShard
from ..tree import TreeIndex
from .checks import as_tree
from .options import check_integer


class Clusters(NamedTuple):
    """Leaves grouped by tree nodes.

    Attributes:
        cluster: ``[N]`` cluster of each leaf, ``0 .. K - 1`` in the order of their first leaves.
        node: ``[K]`` tree node id of each cluster.
        tree: ``[K]`` number of the tree, hence of the sample, that each cluster belongs to.
    """

    cluster: Tensor
    node: Tensor
    tree: Tensor

    @property
    def num_clusters(self) -> int:
        """How many clusters there are."""
        return self.node.numel()


def clusters_at(tree: TreeIndex | Tensor, level: int) -> Clusters:
    r"""Group the leaves by their ancestors at a level.

    A leaf that ends above the level is a cluster of its own, so every level partitions the leaves,
    however ragged the tree. Level 0 are the roots. Negative levels count, as Python does, from the
    deepest level of **each tree**: ``-1`` are the leaves themselves, ``-2`` what is one level above
    the deepest ones, so trees of different depths batch as they would one by one. A level below the
    deepest one gives the leaves, one above the root gives the roots.

    Args:
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        level: distance from the root, or, negative, from below the deepest leaf of each tree.

    Returns:
        :class:`Clusters`: ``cluster`` ``[N]``, ``node`` ``[K]`` and ``tree`` ``[K]``.

    Raises:
        TypeError: if :obj:`level` is no integer.

    Cost: :math:`\mathcal{O}(T \log \text{depth})` by pointer doubling.

    Example:
        >>> import torch
        >>> parent = torch.tensor([5, 5, 6, 6, 7, 7, 7, 7])  # two families and leaf 4 below a root
        >>> clusters_at(parent, 1).cluster
        tensor([0, 0, 1, 1, 2])
        >>> clusters_at(parent, 1).node
        tensor([5, 6, 4])
    """
    tree = as_tree(tree, sharded=True)
    check_integer(level, "level")
    if isinstance(tree, TreeShard):
        tree.check_level(level)
    up, leaf = tree.up, tree.leaf
    depth = tree.level[tree.order][leaf]
    root = climb(up, leaf, depth)
    if level < 0:
        if isinstance(tree, TreeShard):
            deepest = tree.deepest
        else:
            deepest = depth.new_zeros(tree.num_trees).scatter_reduce(0, root, depth, "amax")
        target = (deepest + 1 + level).clamp(min=0)[root]
    else:
        target = torch.full_like(depth, level)
    above = climb(up, leaf, (depth - target).clamp(min=0))

    # Number the clusters by their first leaf, so that those of a tree stay together.
    rows = torch.arange(leaf.numel(), device=leaf.device)
    first = rows.new_full((tree.num_nodes,), leaf.numel())
    first = first.scatter_reduce(0, above, rows, "amin")
    opens = first[above] == rows
    cluster = (opens.cumsum(0) - 1)[first[above]]
    return Clusters(cluster, tree.order[above[opens]], root[opens])


def climb(up: Tensor, start: Tensor, steps: Tensor) -> Tensor:
    """Positions ``steps`` levels above ``start``, in binary strides."""
    at, jump = start, up
    for bit in range(int(steps.max()).bit_length() if steps.numel() else 0):
        at = torch.where((steps >> bit) & 1 == 1, jump[at], at)
        jump = jump[jump]
    return at
