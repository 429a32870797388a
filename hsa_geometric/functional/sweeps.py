"""Leaves to nodes and back."""

from __future__ import annotations

from torch import Tensor

from ..kernels.call import accumulator
from ..kernels.scatter import sweep
from ..tree import TreeIndex
from .checks import as_tree, check_nodes, check_rows, check_tensor


def aggregate(x: Tensor, tree: TreeIndex | Tensor) -> Tensor:
    r"""Sum leaf values over the leaves of every tree node.

    .. math::
        y_A = \sum_{i \in \ell(A)} x_i

    The transpose of :func:`distribute`, which is its backward. Sums are taken in float32 at least.

    Args:
        x: leaf values.
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.

    Shapes:
        - **input:** x :math:`(N, *)`
        - **output:** :math:`(T, *)`, rows by node id

    Raises:
        ValueError: if :obj:`x` has another number of rows than the tree has leaves.

    Cost: :math:`O(T)` rows read and written.

    Example:
        >>> import torch
        >>> aggregate(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3, 3, 4, 4, 4]))
        tensor([1., 2., 4., 3., 7.])
    """
    tree = as_tree(tree)
    check_tensor(x, "x")
    check_rows(x, "x", tree)
    sums = sweep(x.to(accumulator(x.dtype)), False, tree)
    return sums.index_select(0, tree.position).to(x.dtype)


def distribute(z: Tensor, tree: TreeIndex | Tensor) -> Tensor:
    r"""Sum node values over every leaf and its ancestors.

    .. math::
        x_i = \sum_{A \ni i} z_A

    The transpose of :func:`aggregate`, which is its backward. Sums are taken in float32 at least.

    Args:
        z: node values, rows by node id.
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.

    Shapes:
        - **input:** z :math:`(T, *)`
        - **output:** :math:`(N, *)`

    Raises:
        ValueError: if :obj:`z` has another number of rows than the tree has nodes.

    Cost: :math:`O(T)` rows read and written.

    Example:
        >>> import torch
        >>> distribute(torch.tensor([1.0, 2.0, 4.0, 10.0, 100.0]), torch.tensor([3, 3, 4, 4, 4]))
        tensor([111., 112., 104.])
    """
    tree = as_tree(tree)
    check_tensor(z, "z")
    check_nodes(z, "z", tree)
    sums = sweep(z.to(accumulator(z.dtype)).index_select(0, tree.order), True, tree)
    return sums.to(z.dtype)
