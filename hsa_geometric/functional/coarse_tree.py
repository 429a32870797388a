"""The tree above a level: its clusters are the leaves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..shard import TreeShard
from ..tree import TreeIndex
from .checks import as_tree
from .clusters import Clusters, clusters_at


class CoarseTree(NamedTuple):
    """The part of a tree at and above a level.

    Attributes:
        tree: the :class:`~hsa_geometric.TreeIndex` whose leaves are the clusters: row ``k`` of
            features at this level is cluster ``k``. Ids ``0 .. K - 1`` are the clusters, then come
            the inner nodes in the order of their ids in the finer tree.
        clusters: the :class:`Clusters`, which say what cluster each leaf of the finer tree is in.
        node: ``[T']`` id in the finer tree of each node.
    """

    tree: TreeIndex
    clusters: Clusters
    node: Tensor


def coarse_tree(tree: TreeIndex | Tensor, level: int) -> CoarseTree:
    r"""Cut a tree at a level: the clusters there become the leaves.

    So hierarchical attention runs on the values that :func:`pool` gives. Families at and above the
    level stay whole; the number and order of the trees stay too.

    Args:
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        level: as for :func:`clusters_at`. A level at or below the deepest leaf keeps the whole
            tree, one at or above the root leaves the root alone.

    Returns:
        :class:`CoarseTree`: the index, the clusters, and the old id of each node.

    Raises:
        TypeError: if :obj:`level` is no integer.

    Cost: :math:`\mathcal{O}(T \log \text{depth})` by pointer doubling, and the index of the
    coarse tree.

    Example:
        >>> import torch
        >>> parent = torch.tensor([5, 5, 6, 6, 7, 7, 7, 7])  # two families and leaf 4 below a root
        >>> coarse = coarse_tree(parent, 1)
        >>> coarse.tree
        TreeIndex(leaves=3, nodes=4, trees=1, depth=1)
        >>> coarse.node  # leaf 4 is a cluster of its own, behind the two families
        tensor([5, 6, 4, 7])
    """
    tree = as_tree(tree, sharded=True)
    clusters = clusters_at(tree, level)
    above = torch.zeros_like(tree.parent, dtype=torch.bool)
    above[clusters.node] = True
    jump = tree.parent
    for _ in range(tree.depth.bit_length()):  # all ancestors, in doubling strides
        above[jump[above]] = True
        jump = jump[jump]
    above[clusters.node] = False
    node = torch.cat([clusters.node, above.nonzero().view(-1)])
    new_id = torch.empty_like(tree.parent)
    new_id[node] = torch.arange(node.numel(), device=node.device)
    parent = new_id[tree.parent[node]]
    if isinstance(tree, TreeShard):
        return CoarseTree(tree.coarsened(parent, node, level), clusters, node)
    return CoarseTree(TreeIndex.from_parent(parent), clusters, node)
