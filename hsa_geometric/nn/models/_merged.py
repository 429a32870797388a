"""Leaves merged into their ancestors between two layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional.clusters import Clusters
from ...functional.coarse_edges import coarse_edges
from ...functional.coarse_tree import coarse_tree
from ...functional.lift import nest
from ...functional.pool import pool_rows
from ...tree import TreeIndex
from .._inner import inner_ids


class Level(NamedTuple):
    """What a layer needs beside the rows of its leaves.

    Attributes:
        tree: the tree, whose leaves are the clusters so far.
        clusters: these clusters of the first tree's leaves; :obj:`None` for the leaves themselves.
        mass: mass of each; :obj:`None` for leaves that all weigh 1.
        place: ``[T, F]`` features of the place of each node.
        leaf_type: type of each leaf.
        edge_index, edge_attr: edges between them.
        node: ``[T]`` id in the first tree of each node; :obj:`None` in the first tree itself.
    """

    tree: TreeIndex
    clusters: Clusters | None
    mass: Tensor | None
    place: Tensor | None
    leaf_type: Tensor | None
    edge_index: Tensor | None
    edge_attr: Tensor | None
    node: Tensor | None = None


def merged(
    x: Tensor, states: Tensor | None, last: Level, first: TreeIndex, level: int
) -> tuple[Tensor, Tensor | None, Level]:
    """Rows, states and the level above; ``level`` counts in the ``first`` tree."""
    coarse = coarse_tree(first, level)
    index, num = coarse.clusters.cluster, coarse.clusters.num_clusters
    if last.clusters is not None:
        index = nest(last.clusters, coarse.clusters, "the pooling before", f"'pool' {level}")
    mass = x.new_ones(x.shape[0], dtype=torch.float32) if last.mass is None else last.mass
    row = torch.full_like(first.parent, -1)  # of each node among those of the last tree
    ids = torch.arange(last.tree.num_nodes, device=row.device)
    row[ids if last.node is None else last.node] = ids
    node = row[coarse.node]
    if (node < 0).any():  # of one-child nodes: the same clusters, deeper
        raise ValueError(
            f"Expected 'pool' {level} to be at least as coarse as the pooling before, also where "
            f"nodes have one child"
        )

    if states is not None:
        place = torch.empty_like(ids)  # of an inner node among the states
        inner = inner_ids(last.tree)
        place[inner] = torch.arange(inner.numel(), device=row.device)
        stays = inner_ids(coarse.tree)
        states = states[place[node[stays]]]
    edge_index = edge_attr = None
    if last.edge_index is not None:
        edges = coarse_edges(last.edge_index, index, edge_attr=last.edge_attr)
        edge_index, edge_attr = edges.edge_index, edges.edge_attr
    return (
        pool_rows(x, index, num, mass=mass),
        states,
        Level(
            coarse.tree, coarse.clusters, pool_rows(mass, index, num, reduce="sum"),
            None if last.place is None else last.place[node], None, edge_index, edge_attr,
            coarse.node,
        ),
    )  # fmt: skip
