"""Operators as functions of tensors and a :class:`~hsa_geometric.TreeIndex`."""

from .attention import attention_matrix, hierarchical_attention
from .clusters import Clusters, clusters_at
from .sweeps import aggregate, distribute

__all__ = [
    "Clusters",
    "aggregate",
    "attention_matrix",
    "clusters_at",
    "distribute",
    "hierarchical_attention",
]
