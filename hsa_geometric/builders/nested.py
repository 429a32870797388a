"""Nested lists, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hsa_geometric.builders._postorder import from_postorder
from hsa_geometric.builders.networkx import labels
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.layout import layout


def from_nested(nested: Sequence[Any], *, internal: str = "error", **leaf_data: Any) -> Hierarchy:
    r"""Build a hierarchy from nested lists such as ``[["a", "b"], ["c", ["d", "e"]]]``.

    Lists and tuples are inner nodes, everything in them is a leaf. Leaves are tree nodes
    ``0 .. N-1`` in reading order, then come the lists in the order in which their brackets close,
    the outermost last.

    The objects themselves are kept as attribute ``name`` of the leaves,
    ``h.tree_names.attrs[i]["name"]``, for :func:`to_nested` and :func:`to_networkx`. They
    are names, not features: give those as ``x=...``.

    Args:
        nested: the outermost list.
        internal: what becomes of lists with rows of ``x`` (or other leaf data) of their own, row
            :obj:`a` being that of tree node :obj:`a`, lists last: as for
            :func:`~hsa_geometric.builders.from_parent`. (default: ``'error'``)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`, leaves in reading order.

    Raises:
        TypeError: if :obj:`nested` is no list or tuple.
        ValueError: naming the place, if a list is empty, or holds itself; and what
            :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: a few Python steps for each node. No recursion, so any depth.

    Example:
        >>> h = from_nested([["a", "b"], ["c", ["d", "e"]]])
        >>> h
        Hierarchy(leaves=5, nodes=9, depth=3, tree_names=[9])
        >>> h.parent
        tensor([5, 5, 7, 6, 6, 8, 7, 8, 8])
        >>> to_nested(h)
        [['a', 'b'], ['c', ['d', 'e']]]
    """
    if not isinstance(nested, (list, tuple)):
        raise TypeError(f"Expected 'nested' to be a list (got {type(nested).__name__})")
    attrs: list[dict[Any, Any]] = []
    depth: list[int] = []
    # One entry for each list that is open: where it is being read, and which it is.
    reading: list[Iterator[tuple[int, Any]]] = [iter([(0, nested)])]
    path: list[int] = []
    lists: dict[int, None] = {}
    while reading:
        for i, child in reading[-1]:
            if not isinstance(child, (list, tuple)):
                attrs.append({"name": child})
                depth.append(len(lists))
                continue
            path.append(i)
            if not child or id(child) in lists:
                where = "nested" + "".join(f"[{i}]" for i in path[1:])
                what = "hold no list that holds itself" if child else "have an item in every list"
                raise ValueError(
                    f"Expected 'nested' to {what} (got {where}{'' if child else ' = []'})"
                )
            lists[id(child)] = None
            reading.append(enumerate(child))
            break
        else:
            reading.pop()
            if lists:
                lists.popitem()
                path.pop()
                attrs.append({})
                depth.append(len(lists))
    return from_postorder(np.array(depth), attrs, internal, leaf_data)


def to_nested(hierarchy: Hierarchy, *, name: str = "name") -> list[Any]:
    r"""Turn a tree into nested lists; the inverse of :func:`from_nested`.

    Siblings are in the order of the least leaf row below them, so leaf rows in reading order, as
    :func:`from_nested` gives them, are read back as they were. Data other than the objects is left
    out. A tree of a single node becomes a list of one object.

    Args:
        hierarchy: one tree.
        name: attribute that holds the objects. A leaf without it becomes its name in
            :func:`to_networkx`, which for most builders means leaf :obj:`i` becomes ``i``.

    Raises:
        TypeError, ValueError: if the hierarchy is not valid.
        ValueError: if it has several trees.

    Cost: a few Python steps for each node.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> to_nested(from_parent([3, 3, 4, 4, 4]))
        [[0, 1], 2]
    """
    hierarchy.validate()
    tree = hierarchy.tree.to("cpu")
    if tree.num_trees != 1:
        raise ValueError(f"Expected 'hierarchy' to be one tree (got {tree.num_trees} trees)")
    items: list[Any] = labels(hierarchy, name)
    if tree.num_nodes == 1:
        return items
    parent = tree.parent.tolist()
    for node in set(parent):
        items[node] = []
    for node in torch.argsort(layout(tree).start).tolist():
        if parent[node] != node:
            items[parent[node]].append(items[node])
    outermost: list[Any] = items[int(tree.order[0])]
    return outermost
