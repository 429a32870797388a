"""Hierarchies from what people have: parent vectors, networkx graphs, cluster vectors."""

from hsa_geometric.builders.clusters import from_clusters
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.networkx import from_networkx, to_networkx

__all__ = ["from_clusters", "from_networkx", "from_parent", "to_networkx"]
