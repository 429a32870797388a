"""Trees read from a text, in which a node ends after its children."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hsa_geometric.builders._nx_record import NetworkxRecord
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy


def from_postorder(
    depth: np.ndarray[Any, Any],
    attrs: list[dict[Any, Any]],
    internal: str,
    leaf_data: dict[str, Any],
    tree_data: dict[str, Tensor] | None = None,
) -> Hierarchy:
    """The hierarchy of nodes given by depths and attributes, in the order in which they end.

    Leaves come first, then inner nodes, in that order each. With ``internal='leaf'`` an own leaf
    shares the attributes of its node.
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
    attrs = [attrs[i] for i in order.tolist()]
    tree_data = {key: value[order] for key, value in (tree_data or {}).items()}
    h = from_parent(new_id[parent[order]], internal=internal, **tree_data, **leaf_data)
    own = own_leaves(len(attrs), h)
    attrs += [dict(attr) for attr in attrs[own]]
    h.tree_names = NetworkxRecord(list(range(len(attrs))), attrs, [{} for _ in attrs])
    return h


def own_leaves(num_nodes: int, h: Hierarchy) -> slice:
    """Ids of the own leaves in a tree read with ``num_nodes`` nodes.

    Each stands where its inner node stood, at the end, which made it a node more.
    """
    return slice(2 * num_nodes - h.num_tree_nodes, num_nodes)
