"""Layers; they take tensors and a :class:`~hsa_geometric.TreeIndex`, never a ``Data``."""

from .conv import HierarchicalAttentionConv

__all__ = ["HierarchicalAttentionConv"]
