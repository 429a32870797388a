"""Trees read from a text, in which a node ends after its children."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._nx_record import NetworkxRecord
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy


def parent_of_postorder(depth: np.ndarray[Any, Any]) -> tuple[Tensor, list[int]]:
    """Parent vector of nodes given by their depths in the order in which they end.

    Returns:
        The parent of each node, leaves first and then inner nodes, each in the order in which they
        end; and the place of each of them in that order.
    """
    size = depth.size
    place = np.arange(size)
    is_inner = np.zeros(size, dtype=bool)
    is_inner[1:] = depth[:-1] > depth[1:]
    order = np.argsort(is_inner, kind="stable")
    new_id = np.empty(size, dtype=np.int64)
    new_id[order] = place
    # The parent is the next node to end one level higher: search (depth, place) among the sorted.
    key = depth * size + place
    by_depth = np.argsort(depth, kind="stable")
    child = depth > 0
    parent = place.copy()
    parent[child] = by_depth[np.searchsorted(key[by_depth], key[child] - size)]
    return torch.from_numpy(new_id[parent[order]]), order.tolist()


def from_postorder(
    depth: np.ndarray[Any, Any],
    attrs: list[dict[Any, Any]],
    internal: str,
    leaf_data: dict[str, Any],
    tree_data: dict[str, Tensor] | None = None,
) -> Hierarchy:
    """The hierarchy of nodes given by depths and attributes, in the order in which they end.

    With ``internal='leaf'`` an own leaf shares the attributes of its node.
    """
    parent, order = parent_of_postorder(depth)
    attrs = [attrs[place] for place in order]
    tree_data = {key: value[order] for key, value in (tree_data or {}).items()}
    h = from_parent(parent, internal=internal, **tree_data, **leaf_data)
    own = own_leaves(len(attrs), h)
    attrs += [dict(attr) for attr in attrs[own]]
    h.tree_names = NetworkxRecord(list(range(len(attrs))), attrs, [{} for _ in attrs])
    return h


def own_leaves(num_nodes: int, h: Hierarchy) -> slice:
    """Ids of the own leaves in a tree read with ``num_nodes`` nodes.

    Each stands where its inner node stood, at the end, which made it a node more.
    """
    return slice(2 * num_nodes - h.num_tree_nodes, num_nodes)
