"""Hierarchical self-attention for PyTorch Geometric."""

from . import builders, data, functional, nn
from .builders import from_clusters, from_networkx, from_parent, to_networkx
from .data import Hierarchy
from .tree import TreeIndex

__version__ = "0.1.0"
__all__ = [
    "Hierarchy",
    "TreeIndex",
    "builders",
    "data",
    "from_clusters",
    "from_networkx",
    "from_parent",
    "functional",
    "nn",
    "to_networkx",
]
