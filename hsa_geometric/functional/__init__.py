"""Operators as functions of tensors and a :class:`~hsa_geometric.TreeIndex`."""

from .attention import attention_matrix, hierarchical_attention
from .attention_blocks import AttentionBlocks, attention_blocks
from .causal_cache import CausalCache
from .clusters import Clusters, clusters_at
from .coarse_edges import CoarseEdges, coarse_edges
from .coarse_tree import CoarseTree, coarse_tree
from .entmax_attention import entmax_attention
from .lift import lift
from .pool import pool
from .sibling_rank import sibling_rank
from .sweeps import aggregate, distribute

__all__ = [
    "AttentionBlocks",
    "CausalCache",
    "Clusters",
    "CoarseEdges",
    "CoarseTree",
    "aggregate",
    "attention_blocks",
    "attention_matrix",
    "clusters_at",
    "coarse_edges",
    "coarse_tree",
    "distribute",
    "entmax_attention",
    "hierarchical_attention",
    "lift",
    "pool",
    "sibling_rank",
]
