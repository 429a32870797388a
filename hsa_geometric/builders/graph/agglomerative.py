"""Agglomerative clustering of node features along the edges, by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._extra import extra
from hsa_geometric.builders._progress import Step, no_step
from hsa_geometric.builders.graph._graph import Graph
from hsa_geometric.builders.graph._parts import components_of, parts_of
from hsa_geometric.functional.options import check_choice

LINKAGES = ("ward", "average", "complete", "single")


def agglomerative(
    graph: Graph,
    step: Step = no_step,
    *,
    linkage: str = "ward",
    features: str | None = None,
) -> Tensor:
    """Forest of binary trees: the order in which neighbours merge."""
    check_choice(linkage, "linkage", LINKAGES)
    with extra("clusters", "method='agglomerative' needs scikit-learn"):
        from sklearn.cluster import AgglomerativeClustering
    points = _features(graph, features)
    adjacency = graph.adjacency()
    num_nodes = graph.num_nodes
    parent, offset = np.arange(2 * num_nodes), num_nodes
    # One component at a time: scikit-learn would join them with a warning.
    for nodes, sub in parts_of(adjacency, components_of(adjacency)):
        if nodes.size == 1:
            step(1)
            continue
        merges = AgglomerativeClustering(
            n_clusters=None, distance_threshold=0, linkage=linkage, connectivity=sub
        ).fit(points[nodes])
        new = offset + np.arange(nodes.size - 1)
        parent[np.concatenate([nodes, new])[merges.children_]] = new[:, None]
        offset += new.size
        step(nodes.size)
    return torch.from_numpy(parent[:offset]).to(graph.sample.device)


def _features(graph: Graph, name: str | None) -> np.ndarray[Any, Any]:
    if name is None:
        name = next((key for key in ("x", "pos") if graph.attrs.get(key) is not None), None)
        if name is None:
            raise ValueError(
                "Expected 'x' or 'pos' for method='agglomerative', or 'features' to name another "
                "attribute (got none)"
            )
    if graph.attrs.get(name) is None:
        raise ValueError(f"Expected 'features' to name an attribute of the nodes (got {name!r})")
    value = torch.as_tensor(graph.attrs[name]).detach().cpu()
    if value.dim() == 0 or value.size(0) != graph.num_nodes or value.numel() == 0:
        raise ValueError(
            f"Expected '{name}' to have features for each of the {graph.num_nodes} nodes "
            f"(got shape {list(value.shape)})"
        )
    points: np.ndarray[Any, Any] = value.reshape(graph.num_nodes, -1).double().numpy()
    bad = ~np.isfinite(points).all(1)
    if bad.any():
        raise ValueError(f"Expected '{name}' to be finite (got node {int(bad.argmax())} otherwise)")
    return points - points.min(axis=0)  # sums of squares keep the digits of what is near
