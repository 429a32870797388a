"""The way back from a level of the tree as a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from ...functional.lift import lift
from ...tree import TreeIndex


class HierarchyUnpooling(torch.nn.Module):
    r"""Copies the features of the clusters at one level of a tree to its leaves, or to the clusters
    of a finer level: the way back of :class:`HierarchyPooling`.

    .. math::
        \mathbf{x}^{\prime}_i = \mathbf{x}_A \quad \text{for} \quad i \in \ell(A)

    as in :func:`hsa_geometric.functional.lift`.

    Args:
        level: level of the input, as for :func:`~hsa_geometric.functional.clusters_at`.
        to_level: level of the output. (default: the leaves)

    Shapes:
        - **input:** x :math:`(K, *)`, one row for each cluster, tree with :math:`N` leaves
        - **output:** :math:`(N, *)`

    Example:
        >>> import torch
        >>> unpool = HierarchyUnpooling(level=1)
        >>> unpool(torch.tensor([[1.0], [2.0]]), torch.tensor([3, 3, 4, 4, 4])).view(-1)
        tensor([1., 1., 2.])
    """

    def __init__(self, level: int, to_level: int = -1):
        super().__init__()
        self.level = level
        self.to_level = to_level

    def forward(self, x: Tensor, tree: TreeIndex | Tensor) -> Tensor:
        r"""Run the layer.

        Args:
            x: features of the clusters at :obj:`level`.
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree``, or a parent
                vector (indexed anew at each call).
        """
        return lift(x, tree, self.level, to_level=self.to_level)

    def __repr__(self) -> str:
        to_level = "" if self.to_level == -1 else f", to_level={self.to_level}"
        return f"{self.__class__.__name__}(level={self.level}{to_level})"
