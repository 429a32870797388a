"""Edges between leaves to edges between clusters."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_tensor
from .edges import check_edge_index, check_range
from .options import check_choice
from .pool import pool_rows

EDGE_REDUCTIONS = ("sum", "mean", "count")


class CoarseEdges(NamedTuple):
    """Edges between clusters.

    Attributes:
        edge_index: ``[2, E']`` sorted by row, then column; no self-loops, no duplicates.
        edge_weight: ``[E']`` what each stands for.
        edge_attr: ``[E', ...]`` mean of the features of the edges it stands for, or :obj:`None`.
    """

    edge_index: Tensor
    edge_weight: Tensor
    edge_attr: Tensor | None


def coarse_edges(
    edge_index: Tensor,
    cluster: Tensor,
    *,
    edge_weight: Tensor | None = None,
    edge_attr: Tensor | None = None,
    reduce: str = "sum",
) -> CoarseEdges:
    r"""Join the edges between the same two clusters.

    Edges within a cluster vanish, self-loops with them. An undirected graph stays undirected.

    Args:
        edge_index: edges between leaves.
        cluster: cluster of each leaf, ``0 .. K - 1``, such as ``clusters_at(...).cluster``.
        edge_weight: weight of each edge. (default: every edge weighs 1)
        edge_attr: features of each edge, which are averaged.
        reduce: how the weights are reduced: ``'sum'``, ``'mean'``, or ``'count'``, which counts
            edges whatever they weigh. Without :obj:`edge_weight` a sum is a count.

    Shapes:
        - **input:** edge_index :math:`(2, E)`, cluster :math:`(N)`, edge_weight :math:`(E)`,
          edge_attr :math:`(E, *)`
        - **output:** :class:`CoarseEdges` with :math:`(2, E^{\prime})`, :math:`(E^{\prime})` and
          :math:`(E^{\prime}, *)`. Weights are in the dtype of :obj:`edge_weight`; counts in
          torch's default dtype

    Raises:
        TypeError: if :obj:`edge_index` holds no integers, or weights or features no floating-point
            numbers (categories have no mean: encode them first).
        ValueError: if :obj:`reduce` is unknown, a shape is wrong, or :obj:`edge_index` is out of
            range.

    Cost: one sort of :math:`E` keys.

    Example:
        >>> import torch
        >>> edge_index = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 0]])
        >>> edges = coarse_edges(edge_index, torch.tensor([0, 0, 1]))
        >>> edges.edge_index, edges.edge_weight
        (tensor([[0, 1],
                [1, 0]]), tensor([2., 1.]))
    """
    check_choice(reduce, "reduce", EDGE_REDUCTIONS)
    edge_index = check_edge_index(edge_index)
    check_range(edge_index, cluster.numel())
    num_edges = edge_index.shape[1]
    for name, value, dim in (("edge_weight", edge_weight, 1), ("edge_attr", edge_attr, None)):
        if value is None:
            continue
        check_tensor(value, name, dim, like=cluster)
        if value.dim() == 0 or value.shape[0] != num_edges:
            raise ValueError(
                f"Expected '{name}' to have one row for each of the {num_edges} edges "
                f"(got {value.shape[0] if value.dim() else 0} rows)"
            )
    if edge_weight is None or reduce == "count":
        edge_weight = torch.ones(num_edges, device=cluster.device)
    size = int(cluster.max()) + 1 if cluster.numel() else 1  # nothing, in a shard of nothing
    row, col = cluster[edge_index]
    between = row != col
    key, joined = torch.unique((row * size + col)[between], return_inverse=True)
    how = "mean" if reduce == "mean" else "sum"
    return CoarseEdges(
        torch.stack([key // size, key % size]),
        pool_rows(edge_weight[between], joined, key.numel(), reduce=how),
        None if edge_attr is None else pool_rows(edge_attr[between], joined, key.numel()),
    )
