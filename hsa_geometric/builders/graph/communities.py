"""Communities of networkx: Louvain's nested levels, or greedy modularity."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._forest import stack
from hsa_geometric.builders._progress import Step, no_step
from hsa_geometric.builders.graph._graph import Graph
from hsa_geometric.builders.graph._parts import components_of, parts_of
from hsa_geometric.functional.options import check_choice, check_integer, check_positive

ALGORITHMS = ("louvain", "greedy_modularity")
TIE = 1e-9  # far above rounding, far below what tells weights apart


def communities(
    graph: Graph,
    step: Step = no_step,
    *,
    algorithm: str = "louvain",
    resolution: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Forest of communities, nested for Louvain, below the connected components."""
    check_choice(algorithm, "algorithm", ALGORITHMS)
    check_positive(resolution, "resolution")
    check_integer(seed, "seed", 0)
    adjacency = graph.adjacency()
    import networkx as nx

    # One sample at a time, as modularity counts the edges of the whole graph. A community is named
    # by its first node, so names differ between samples.
    labels: list[np.ndarray[Any, Any]] = []
    for nodes, sub in parts_of(adjacency, graph.sample.cpu().numpy()):
        if sub.nnz == 0:
            step(nodes.size)
            continue
        levels = _partitions(nx.from_scipy_sparse_array(sub), algorithm, resolution, seed)
        while len(labels) < len(levels):  # other samples repeat their last level
            labels.append(labels[-1].copy() if labels else np.arange(graph.num_nodes))
        for i, label in enumerate(labels):
            for members in levels[min(i, len(levels) - 1)]:
                inside = nodes[list(members)]
                label[inside] = inside.min()
        step(nodes.size)

    vectors, names = [], np.arange(graph.num_nodes)
    for label in [*labels, components_of(adjacency)]:
        names, cluster = np.unique(label[names], return_inverse=True)
        vectors.append(torch.from_numpy(cluster).long().to(graph.sample.device))
    return stack(vectors, graph.num_nodes, graph.sample.device)


def _partitions(
    G: Any, algorithm: str, resolution: float, seed: int
) -> list[Collection[Collection[int]]]:
    from networkx.algorithms import community

    if algorithm == "louvain":
        # Where two communities are equally good for a node, rounding can have networkx move it to
        # and fro without end (its issue 8739). Chance decides instead, in the last digits.
        chance = Random(seed)
        for *_, attrs in G.edges(data=True):
            attrs["weight"] *= 1 + TIE * chance.random()
        return list(community.louvain_partitions(G, resolution=resolution, seed=seed))
    return [community.greedy_modularity_communities(G, weight="weight", resolution=resolution)]
