"""Layers; they take tensors and a :class:`~hsa_geometric.TreeIndex`, never a ``Data``."""

from .conv import HierarchicalAttentionConv
from .models import HierarchicalUNet
from .pool import HierarchyPooling, HierarchyUnpooling

__all__ = [
    "HierarchicalAttentionConv",
    "HierarchicalUNet",
    "HierarchyPooling",
    "HierarchyUnpooling",
]
