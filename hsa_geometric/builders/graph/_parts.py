"""Parts of a graph for the libraries that take one at a time, and cutting it from the top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._progress import Step, no_step
from hsa_geometric.builders.graph._graph import Graph

Labels: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def cut_down(
    graph: Graph,
    split: Callable[[Any], Labels],
    step: Step = no_step,
    *,
    branching: int,
    leaf_size: int,
) -> Tensor:
    """Forest of parts: one tree for each component, down to parts of ``leaf_size`` nodes.

    ``split`` says the part of each node, of ``branching`` ones, from the adjacency matrix of a
    connected part; ``step`` is told how many nodes found their family. A part that fell apart is
    cut in two where one of its components ends, as near to the middle as can be; one that ``split``
    leaves whole is halved in the order of its nodes.
    """
    adjacency = graph.adjacency()
    num_nodes, whole = graph.num_nodes, max(leaf_size, branching)
    leaf_parent = np.arange(num_nodes)
    above: list[int] = []  # parent of each part; -1 for a component
    components = parts_of(adjacency, components_of(adjacency), whole)
    todo = [(nodes, sub, -1) for nodes, sub in components]
    while todo:
        nodes, sub, up = todo.pop()
        if nodes.size == 1:
            leaf_parent[nodes] = nodes if up < 0 else num_nodes + up
            step(1)
            continue
        part = len(above)
        above.append(up)
        if nodes.size <= whole:
            leaf_parent[nodes] = num_nodes + part
            step(nodes.size)
            continue
        todo += [(nodes[n], s, part) for n, s in parts_of(sub, _cut(sub, split), whole)]
    inner = np.array(above, dtype=np.int64)
    inner = np.where(inner < 0, np.arange(inner.size), inner) + num_nodes
    return torch.from_numpy(np.concatenate([leaf_parent, inner])).to(graph.sample.device)


def components_of(adjacency: Any) -> Labels:
    """Component of each node, numbered by their first nodes."""
    from scipy.sparse.csgraph import connected_components

    labels: Labels = connected_components(adjacency, directed=False)[1]
    return labels


def parts_of(adjacency: Any, label: Labels, whole: int = 0) -> Iterator[tuple[Labels, Any]]:
    """Nodes and adjacency matrix of each part: one permutation, then slices.

    Parts of at most ``whole`` nodes come with None: slicing would take longer than all else there.
    """
    order = np.argsort(label, kind="stable")
    size = np.bincount(label)
    end = size[size > 0].cumsum()
    ordered: Any = adjacency[order][:, order] if size.max() > whole else None
    for start, stop in zip([0, *end[:-1]], end, strict=True):
        sub = ordered[start:stop, start:stop] if stop - start > whole else None
        yield order[start:stop], sub


def _cut(adjacency: Any, split: Callable[[Any], Labels]) -> Labels:
    size = adjacency.shape[0]
    component = components_of(adjacency)
    if component.any():
        order = np.argsort(component, kind="stable")
        ends = np.bincount(component).cumsum()[:-1]
        middle = ends[np.abs(2 * ends - size).argmin()]
    else:
        label = split(adjacency)
        if np.unique(label).size > 1:
            return label
        order, middle = np.arange(size), size // 2
    halves = np.zeros(size, dtype=np.int64)
    halves[order[middle:]] = 1
    return halves
