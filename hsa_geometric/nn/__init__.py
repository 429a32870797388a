"""Layers; they take tensors and a :class:`~hsa_geometric.TreeIndex`, never a ``Data``."""

from .conv import HierarchicalAttentionConv, HierarchicalCrossAttention
from .models import HierarchicalUNet
from .pool import HierarchyPooling, HierarchyUnpooling

__all__ = [
    "HierarchicalAttentionConv",
    "HierarchicalCrossAttention",
    "HierarchicalUNet",
    "HierarchyPooling",
    "HierarchyUnpooling",
]
