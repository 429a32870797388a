"""Pooling to a level of the tree as a layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from ...functional.checks import as_tree, check_channels, check_tensor
from ...functional.options import check_choice
from ...functional.pool import REDUCTIONS, pool
from ...tree import TreeIndex


class HierarchyPooling(torch.nn.Module):
    r"""Pools the leaves of a tree to the clusters at one of its levels.

    .. math::
        \mathbf{x}^{\prime}_A = \mathrm{reduce}_{i \in \ell(A)} \; \mathbf{x}_i

    with masses as weights, as in :func:`hsa_geometric.functional.pool`. With
    ``reduce='attention'`` the channels are split into heads, and within each cluster head :math:`h`
    takes the mean of its channels with weights
    :math:`\mathrm{softmax}_i(\mathbf{w}_h^{\top} \mathbf{x}_i + b_h)`, the attention pooling of
    `"Gated Graph Sequence Neural Networks" <https://arxiv.org/abs/1511.05493>`_.

    Only features are pooled, so that the layer fits into a :class:`torch_geometric.nn.Sequential`.
    The graph and the tree of the coarse level are data, not features: take them from
    :func:`~hsa_geometric.functional.coarse_edges` and
    :func:`~hsa_geometric.functional.coarse_tree`, or all at once from
    :func:`~hsa_geometric.data.coarsen`.

    Args:
        level: level of the output, as for :func:`~hsa_geometric.functional.clusters_at`.
        reduce: ``'mean'``, ``'sum'``, ``'max'`` or ``'attention'``. (default: ``'mean'``)
        from_level: level of the input. (default: the leaves)
        in_channels: size of each input sample, or :obj:`-1` to derive it from the first input;
            for ``reduce='attention'`` only.
        heads: number of heads, which must divide :obj:`in_channels`; for ``reduce='attention'``
            only. (default: :obj:`1`)

    Shapes:
        - **input:** x :math:`(N, F)`, tree with :math:`N` leaves, mass :math:`(N)`
        - **output:** :math:`(K, F)`, one row for each cluster

    Example:
        >>> import torch
        >>> parent = torch.tensor([3, 3, 4, 4, 4])  # leaves 0 and 1 below node 3, leaf 2 beside it
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 4.0], [8.0, 6.0]])
        >>> HierarchyPooling(level=1)(x, parent)
        tensor([[2., 2.],
                [8., 6.]])
        >>> HierarchyPooling(level=0, reduce="attention", in_channels=2)(x, parent).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        level: int,
        reduce: str = "mean",
        *,
        from_level: int = -1,
        in_channels: int | None = None,
        heads: int = 1,
    ):
        super().__init__()
        check_choice(reduce, "reduce", REDUCTIONS)
        if heads < 1:
            raise ValueError(f"Expected 'heads' to be positive (got {heads})")
        if reduce == "attention":
            if in_channels is None:
                raise ValueError("Expected 'in_channels' for reduce='attention' (got None)")
            _check_heads(in_channels, heads)
        elif in_channels is not None or heads != 1:
            raise ValueError(
                f"Expected 'in_channels' and 'heads' for reduce='attention' only "
                f"(got reduce='{reduce}')"
            )
        self.level = level
        self.reduce = reduce
        self.from_level = from_level
        self.in_channels = in_channels
        self.heads = heads
        self.lin_score = Linear(in_channels, heads) if in_channels is not None else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        if self.lin_score is not None:
            self.lin_score.reset_parameters()

    def forward(self, x: Tensor, tree: TreeIndex | Tensor, *, mass: Tensor | None = None) -> Tensor:
        r"""Run the layer.

        Args:
            x: features of the leaves, or of the clusters at :obj:`from_level`.
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree``, or a parent
                vector (indexed anew at each call).
            mass: weight of each row of :obj:`x`; 0 marks padding.
        """
        tree = as_tree(tree)
        score = None
        if self.lin_score is not None:
            check_tensor(x, "x", 2)
            check_channels(x, "x", self.in_channels)
            _check_heads(x.shape[1], self.heads)
            score = self.lin_score(x)
            x = x.view(x.shape[0], self.heads, -1)
        out = pool(
            x, tree, self.level, from_level=self.from_level, reduce=self.reduce, mass=mass,
            score=score,
        )  # fmt: skip
        return out if score is None else out.flatten(1)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(level={self.level}, reduce='{self.reduce}')"


def _check_heads(channels: int, heads: int) -> None:
    if channels != -1 and (channels < 1 or channels % heads):
        raise ValueError(
            f"Expected 'in_channels' to be a multiple of 'heads', {heads} (got {channels})"
        )
