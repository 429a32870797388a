"""The second door, both ways: networkx trees.

Vocabulary: a *name* is a node of the networkx graph, an *id* a row of the hierarchy's tree. Leaves
get ids ``0 .. N-1`` and inner nodes ``N .. T-1``, each in the order in which the graph iterates.

Numeric attributes become tensors. What no tensor can hold (names, strings, attributes that
only some nodes have, attributes of edges and of the graph) travels along in ``h.tree_names``,
so that the way back restores it, also for one sample taken out of a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._nx_record import NetworkxRecord
from hsa_geometric.builders._nx_tree import parents
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_of

# Attributes that have a meaning of their own: half a set of them is a mistake, not a choice.
_WHOLE = ("x", "pos", "mass")
_PLAIN = ("x", "y", "pos", "time", "mass", "tree_pos", "tree_kind")
_MISSING = object()


def from_networkx(
    G: Any,
    root: Hashable | list[Hashable] | None = None,
    *,
    node_attrs: Iterable[str] | None = None,
) -> Hierarchy:
    r"""Build a hierarchy from a networkx tree or forest.

    An attribute :obj:`a` that all leaves have, numeric and of one shape, becomes ``h.a``
    ``[N, ...]``; if all inner nodes have it, theirs becomes ``h.inner_a`` ``[T - N, ...]``. An
    attribute named ``tree_*`` (such as ``tree_kind``) must be on every node and becomes one
    tensor ``[T, ...]``. Python floats get torch's default dtype. Everything else is kept for
    :func:`to_networkx`.

    Args:
        G: a :class:`networkx.DiGraph` with edges from parent to child, or an undirected
            :class:`networkx.Graph`.
        root: name of the root, or a list of names, one for each tree of a forest. Needed for an
            undirected graph; in a directed one the roots are the nodes without a parent, and
            :obj:`root` is only compared with them.
        node_attrs: names of the attributes to turn into tensors, each of which must then be
            there. (default: all that can be turned into tensors)

    Raises:
        TypeError: if :obj:`G` is no networkx graph or :obj:`node_attrs` is a string.
        ValueError: naming the node: two parents, a cycle, not connected to the root, an unknown
            root, an empty graph, an undirected graph without :obj:`root`; ``x``, ``pos``, ``mass``
            or an attribute in :obj:`node_attrs` that some leaf lacks.

    Cost: a few Python steps for each node and attribute; for millions of nodes use
    :func:`~hsa_geometric.builders.from_parent`.

    Example:
        >>> import networkx as nx
        >>> G = nx.DiGraph([("book", "ch1"), ("book", "ch2"), ("ch1", "a"), ("ch1", "b")])
        >>> for i, leaf in enumerate(["ch2", "a", "b"]):
        ...     G.nodes[leaf]["x"] = [float(i), 1.0]
        >>> h = from_networkx(G)
        >>> h
        Hierarchy(leaves=3, nodes=5, depth=2, x=[3, 2], tree_names=[5])
        >>> h.tree_names.names
        ['ch2', 'a', 'b', 'book', 'ch1']
    """
    import networkx as nx

    if not isinstance(G, nx.Graph):
        raise TypeError(f"Expected 'G' to be a networkx graph (got {type(G).__name__})")
    if isinstance(node_attrs, str):
        raise TypeError("Expected 'node_attrs' to be a list of names (got a string)")

    parent = parents(G, root)
    has_child = set(parent.values())
    names = [v for v in G if v not in has_child] + [v for v in G if v in has_child]
    num_leaves = len(names) - len(has_child)
    ids = {name: i for i, name in enumerate(names)}

    attrs = [dict(G.nodes[name]) for name in names]
    tensors = _take_tensors(names, attrs, num_leaves, node_attrs)
    edges = [_edge_attrs(G, parent[v], v) if v in parent else {} for v in names]
    record = NetworkxRecord(names, attrs, edges, dict(G.graph), G.is_directed())
    return from_parent(
        [ids[parent.get(name, name)] for name in names], **tensors, tree_names=record
    )


def to_networkx(hierarchy: Hierarchy, *, undirected: bool | None = None) -> Any:
    r"""Turn a hierarchy into a networkx graph; the inverse of :func:`from_networkx`.

    Rows of tensors become attributes (numbers, or lists of them): ``h.a`` of the leaves and
    ``h.inner_a`` of the inner nodes become attribute ``a``, ``h.tree_a`` becomes ``tree_a`` of
    every node. Edges between leaves and data of whole samples belong to no node and are left
    out.

    Args:
        hierarchy: the hierarchy. Its nodes are named by their ids unless it remembers names from
            :func:`from_networkx`; in a batch they are then named ``(sample, name)``.
        undirected: whether to return a :class:`networkx.Graph` instead of a
            :class:`networkx.DiGraph` with edges from parent to child.
            (default: as :func:`from_networkx` got it, else :obj:`False`)

    Raises:
        TypeError, ValueError: if the hierarchy is not valid.

    Cost: a few Python steps for each node and attribute.

    Example:
        >>> h = from_parent([3, 3, 4, 4, 4], mass=[1.0, 2.0, 0.5])
        >>> G = to_networkx(h)
        >>> list(G.edges)
        [(3, 0), (3, 1), (4, 2), (4, 3)]
        >>> G.nodes[1]
        {'mass': 2.0}
    """
    import networkx as nx

    hierarchy.validate()
    tree = hierarchy.tree
    record = _record(hierarchy)
    leaf = tree.leaf_ids.tolist()
    is_leaf = set(leaf)
    rows: dict[str, Sequence[int]] = {
        "leaf": leaf,
        "inner": [i for i in range(tree.num_nodes) if i not in is_leaf],
        "tree": range(tree.num_nodes),
    }

    G = nx.Graph() if (not record.directed if undirected is None else undirected) else nx.DiGraph()
    G.graph.update(record.graph)
    for name, attrs in zip(record.names, record.attrs, strict=True):
        G.add_node(name)
        G.nodes[name].update(attrs)
    for key, value in hierarchy._store.items():
        kind = rows_of(key)
        if not isinstance(value, Tensor) or kind == "other" or key in ("parent", "batch"):
            continue
        if value.dim() == 0 or value.size(0) != len(rows[kind]):
            continue  # one row for the sample, not for its nodes
        attr = key.removeprefix("inner_")
        for i, row in zip(rows[kind], value.tolist(), strict=True):
            G.nodes[record.names[i]][attr] = row
    for i, p in enumerate(hierarchy.parent.tolist()):
        if i != p:
            G.add_edge(record.names[p], record.names[i])
            G.edges[record.names[p], record.names[i]].update(record.edges[i])
    return G


def _take_tensors(
    names: list[Hashable],
    attrs: list[dict[Any, Any]],
    num_leaves: int,
    node_attrs: Iterable[str] | None,
) -> dict[str, Tensor]:
    """Move the attributes that fit into tensors out of ``attrs``."""
    found = list(dict.fromkeys(key for attr in attrs for key in attr))
    wanted = [key for key in found if _can_be_key(key)] if node_attrs is None else list(node_attrs)
    out: dict[str, Tensor] = {}
    for key in wanted:
        if not _can_be_key(key):
            raise ValueError(f"Expected 'node_attrs' to leave out {key!r}, which has other uses")
        if rows_of(key) == "tree":
            groups = {key: range(len(names))}
        else:
            groups = {key: range(num_leaves), f"inner_{key}": range(num_leaves, len(names))}
        some = {target: any(key in attrs[i] for i in group) for target, group in groups.items()}
        # What was asked for must be somewhere, and whole on the leaves if it is there at all.
        asked = node_attrs is not None and (some[key] or not any(some.values()))
        required = asked or (some[key] and key in _WHOLE)
        for target, group in groups.items():
            values = [attrs[i].get(key, _MISSING) for i in group]
            rows = _rows(values) if some[target] else None
            if rows is not None:
                out[target] = rows
                for i in group:
                    del attrs[i][key]
            elif target == key and required:
                what = "leaf" if rows_of(key) == "leaf" else "node"
                i = group[_offender(values)]
                got = f"{attrs[i][key]!r}" if key in attrs[i] else "none"
                raise ValueError(
                    f"Expected every {what} to have a numeric {key!r} of one shape "
                    f"(got {got} at node {names[i]!r})"
                )
    return out


def _can_be_key(key: Any) -> bool:
    """Whether a tensor may be stored under this name without meaning something else."""
    return isinstance(key, str) and (
        key in _PLAIN
        or not (
            key.startswith(("_", "inner_"))
            or rows_of(key) == "other"
            or key in ("parent", "tree_names", "batch")
            or hasattr(Hierarchy, key)
        )
    )


def _row(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        row = value.detach()
    else:
        try:
            row = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError):
            return None
    return None if row.is_complex() else row


def _rows(values: list[Any]) -> Tensor | None:
    """Stack numbers or arrays of one shape; None if they are not that."""
    if all(type(value) is type(values[0]) for value in values) and isinstance(
        values[0], (bool, int, float, np.floating)
    ):
        return _row(values)  # the common case, without a tensor for each node
    rows: list[Tensor] = []
    for value in values:
        row = _row(value)
        if row is None or (rows and row.shape != rows[0].shape):
            return None
        rows.append(row)
    dtype = rows[0].dtype
    for row in rows:
        dtype = torch.promote_types(dtype, row.dtype)
    return torch.stack([row.to(dtype) for row in rows])


def _offender(values: list[Any]) -> int:
    """The first value that is no number, or else not of the first one's shape."""
    rows = [_row(value) for value in values]
    shapes = [None if row is None else row.shape for row in rows]
    return next((i for i, s in enumerate(shapes) if s is None or s != shapes[0]), 0)


def _edge_attrs(G: Any, u: Hashable, v: Hashable) -> dict[Any, Any]:
    data = G.get_edge_data(u, v)
    return dict(next(iter(data.values())) if G.is_multigraph() else data)


def _record(hierarchy: Hierarchy) -> NetworkxRecord:
    """The record of one sample, of a batch, or one that says nothing."""
    stored = hierarchy._store.get("tree_names")
    if isinstance(stored, list):
        return NetworkxRecord(
            names=[(i, name) for i, record in enumerate(stored) for name in record.names],
            attrs=[attrs for record in stored for attrs in record.attrs],
            edges=[edge for record in stored for edge in record.edges],
            directed=all(record.directed for record in stored),
        )
    if stored is not None:
        return stored
    empty: list[dict[Any, Any]] = [{} for _ in range(hierarchy.num_tree_nodes)]
    return NetworkxRecord(list(range(hierarchy.num_tree_nodes)), empty, empty)
