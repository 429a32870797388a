"""Cluster values back to the leaves, or to the clusters of a finer level."""

from __future__ import annotations

from torch import Tensor

from ..kernels.call import accumulator
from ..tree import TreeIndex
from .checks import as_tree, check_device, check_tensor
from .clusters import Clusters, clusters_at


def lift(x: Tensor, tree: TreeIndex | Tensor, level: int, *, to_level: int = -1) -> Tensor:
    r"""Copy the values of the clusters at one level to the leaves, or to finer clusters.

    .. math::
        x^{\prime}_i = x_{c(i)}

    where :math:`c(i)` is the cluster of leaf :math:`i` in :func:`clusters_at`\ ``(tree, level)``.
    The transpose of :func:`pool` with ``reduce='sum'``, and ``reduce='mean'`` undoes it.

    Args:
        x: cluster values, rows in the order of :func:`clusters_at`.
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        level: level of :obj:`x`, as for :func:`clusters_at`.
        to_level: level of the output, at least as fine. (default: the leaves)

    Shapes:
        - **input:** x :math:`(K, *)`, one row for each cluster at :obj:`level`
        - **output:** :math:`(N, *)`, or one row for each cluster at :obj:`to_level`

    Raises:
        TypeError: if :obj:`x` holds no floating-point numbers or a level is no integer.
        ValueError: if :obj:`x` has another number of rows than there are clusters, or if
            some cluster at :obj:`to_level` does not lie within one at :obj:`level`. That cannot
            happen between two levels of one sign, the finer one being the greater; levels of
            different signs cross where trees are ragged.

    Cost: the clusters and :math:`O(N)` rows copied. Gradients are summed in float32 at least.

    Example:
        >>> import torch
        >>> parent = torch.tensor([3, 3, 4, 4, 4])  # leaves 0 and 1 below node 3, leaf 2 beside it
        >>> lift(torch.tensor([1.0, 2.0]), parent, level=1)
        tensor([1., 1., 2.])
    """
    tree = as_tree(tree, sharded=True)
    check_tensor(x, "x")
    coarse = clusters_at(tree, level)
    check_cluster_rows(x, "x", coarse.num_clusters, level, tree)
    return lift_rows(x, cluster_map(tree, coarse, level, to_level, "to_level"))


def lift_rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]``, whose backward sums in float32 at least."""
    return x.to(accumulator(x.dtype)).index_select(0, index).to(x.dtype)


def cluster_map(tree: TreeIndex, coarse: Clusters, level: int, finer: int, name: str) -> Tensor:
    """Cluster in ``coarse`` of every cluster at the level ``finer``, whose argument is ``name``."""
    if finer == -1:  # every leaf is a cluster
        return coarse.cluster
    fine = clusters_at(tree, finer)
    return nest(fine, coarse, f"'{name}' {finer}", f"'level' {level}")


def nest(fine: Clusters, coarse: Clusters, fine_name: str, coarse_name: str) -> Tensor:
    """``[K_fine]`` cluster in ``coarse`` of each cluster in ``fine``, which must have one."""
    index = coarse.cluster.new_empty(fine.num_clusters)
    index[fine.cluster] = coarse.cluster
    split = index[fine.cluster] != coarse.cluster
    if split.any():
        number = int(fine.tree[fine.cluster[split][0]])
        raise ValueError(
            f"Expected the clusters of {fine_name} to lie within those of {coarse_name} "
            f"(got one across several in tree {number})"
        )
    return index


def check_cluster_rows(x: Tensor, name: str, rows: int, level: int, tree: TreeIndex) -> None:
    """One row for each of the ``rows`` clusters at ``level``, on the tree's device."""
    if x.dim() == 0 or x.shape[0] != rows:
        what = "leaves" if level == -1 else f"clusters at level {level}"
        raise ValueError(
            f"Expected '{name}' to have one row for each of the {rows} {what} "
            f"(got {x.shape[0] if x.dim() else 0} rows)"
        )
    check_device(x, name, tree)
