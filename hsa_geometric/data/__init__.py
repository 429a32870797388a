"""Hierarchies as PyTorch Geometric data."""

from hsa_geometric.data.coarsen import coarsen
from hsa_geometric.data.hierarchy import Hierarchy

__all__ = ["Hierarchy", "coarsen"]
