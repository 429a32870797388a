"""Checks of edges at the door."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .options import check_integers


def check_edge_index(edge_index: Any, name: str = "edge_index") -> Tensor:
    """An integer tensor ``[2, E]``."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"Expected '{name}' to be a tensor (got {type(edge_index).__name__})")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"Expected '{name}' to be of shape [2, E] (got {list(edge_index.shape)})")
    check_integers(edge_index, name)
    return edge_index.detach().long()


def check_range(edge_index: Tensor, num_nodes: int) -> None:
    """Ids of nodes that there are."""
    outside = ((edge_index < 0) | (edge_index >= num_nodes)).any(0)
    if outside.any():
        edge = int(outside.nonzero()[0])
        raise ValueError(
            f"Expected 'edge_index' to hold node ids in [0, {num_nodes - 1}] "
            f"(got edge {edge} between {int(edge_index[0, edge])} and {int(edge_index[1, edge])})"
        )


def check_samples(edge_index: Tensor, sample: Tensor) -> None:
    """No edge between two samples."""
    apart = sample[edge_index[0]] != sample[edge_index[1]]
    if apart.any():
        edge = int(apart.nonzero()[0])
        u, v = edge_index[:, edge].tolist()
        raise ValueError(
            f"Expected 'edge_index' to join nodes of one sample (got edge {edge} between node {u} "
            f"of sample {int(sample[u])} and node {v} of sample {int(sample[v])})"
        )
