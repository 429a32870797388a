"""Hierarchies over the nodes of a graph: :func:`from_graph`, one file for each method."""

from hsa_geometric.builders.graph.from_graph import from_graph

__all__ = ["from_graph"]
