"""The second door, both ways: networkx trees.

Vocabulary: a *name* is a node of the networkx graph, an *id* a row of the hierarchy's tree. Leaves
get ids ``0 .. N-1`` and inner nodes ``N .. T-1``, each in the order in which the graph iterates.

Numeric attributes become tensors. What no tensor can hold (names, strings, attributes that
only some nodes have, attributes of edges and of the graph) travels along in ``h.tree_names``,
so that the way back restores it, also for one sample taken out of a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hsa_geometric.builders._nx_record import NetworkxRecord
from hsa_geometric.builders._nx_tensors import fill_attrs, settle_inner_attrs, take_tensors
from hsa_geometric.builders._nx_tree import parents
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_choice


def from_networkx(
    G: Any,
    root: Hashable | list[Hashable] | None = None,
    *,
    node_attrs: Iterable[str] | Mapping[str, Any] | None = None,
    internal: str = "keep",
) -> Hierarchy:
    r"""Build a hierarchy from a networkx tree or forest.

    An attribute :obj:`a` that all leaves have, numeric and of one shape, becomes ``h.a``
    ``[N, ...]``; if all inner nodes have it, theirs becomes ``h.inner_a`` ``[T - N, ...]``. An
    attribute named ``tree_*`` (such as ``tree_kind``) must be on every node and becomes one
    tensor ``[T, ...]``. Python floats get torch's default dtype. Everything else is kept for
    :func:`to_networkx`. Samples of a batch must have the same tensors: where graphs differ in what
    they carry, give :obj:`node_attrs` as a dict.

    Args:
        G: a :class:`networkx.DiGraph` with edges from parent to child, or an undirected
            :class:`networkx.Graph`.
        root: name of the root, or a list of names, one for each tree of a forest. Needed for an
            undirected graph; in a directed one the roots are the nodes without a parent, and
            :obj:`root` is only compared with them.
        node_attrs: names of the attributes to turn into tensors, each of which must then be there;
            or a dict of them, with what a node has that lacks one, such as ``{"x": math.nan}``.
            Then every graph gets the same keys, ``h.x`` and (with ``internal='keep'``)
            ``h.inner_x``, so that all of them batch, whatever else their nodes have.
            (default: all that can be turned into tensors, which may differ from graph to graph)
        internal: what becomes of features that inner nodes have of their own, that is, of
            attributes that are tensors of the leaves (or, with :obj:`node_attrs`, those of them
            that are named there). ``'keep'``: they are kept beside the tree, as ``h.inner_a`` if
            all inner nodes have them; attention, which is among leaves, does not see them.
            ``'leaf'``: a node ``v`` that has any gets one more child, a leaf named
            ``(v, 'own')``, to which they move; its row stands where ``v`` stands in the order of
            the graph (so if all nodes have features, rows are in the order of the nodes), and it
            has the ``tree_*`` attributes of ``v`` too. ``'drop'``: they are dropped. ``'error'``:
            they are refused. (default: ``'keep'``)

    Raises:
        TypeError: if :obj:`G` is no networkx graph or :obj:`node_attrs` is a string.
        ValueError: naming the node: two parents, a cycle, not connected to the root, an unknown
            root, an empty graph, an undirected graph without :obj:`root`; ``x``, ``pos``, ``mass``
            or an attribute in :obj:`node_attrs` that some leaf lacks; an inner node with features
            if ``internal='error'``, or with only some of them if ``internal='leaf'``; an unknown
            :obj:`internal`.

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

        A chapter with a feature of its own, such as its title's, gets a leaf for it:

        >>> G.nodes["ch1"]["x"] = [3.0, 1.0]
        >>> h = from_networkx(G, internal="leaf")
        >>> h.tree_names.names
        [('ch1', 'own'), 'ch2', 'a', 'b', 'book', 'ch1']
        >>> h.x[:, 0]
        tensor([3., 0., 1., 2.])

        Graphs of which one lacks what another has get the same keys:

        >>> H, nan = nx.DiGraph([("book", "ch1")]), float("nan")
        >>> [from_networkx(g, node_attrs={"x": [nan, nan]}).x.shape[0] for g in (G, H)]
        [3, 1]
    """
    import networkx as nx

    if not isinstance(G, nx.Graph):
        raise TypeError(f"Expected 'G' to be a networkx graph (got {type(G).__name__})")
    if isinstance(node_attrs, str):
        raise TypeError("Expected 'node_attrs' to be a list of names (got a string)")
    check_choice(internal, "internal", ("keep", "leaf", "drop", "error"))
    wanted = None if node_attrs is None else list(node_attrs)

    parent = parents(G, root)
    edges = {v: _edge_attrs(G, u, v) for v, u in parent.items()}
    attrs: dict[Hashable, dict[Any, Any]] = {v: dict(G.nodes[v]) for v in G}
    fill = dict(node_attrs) if isinstance(node_attrs, Mapping) else {}
    fill_attrs(attrs, fill, set(parent.values()), internal)
    features: list[str] = []
    if internal != "keep":
        features = settle_inner_attrs(attrs, parent, wanted, internal)

    has_child = set(parent.values())
    names = [v for v in attrs if v not in has_child] + [v for v in attrs if v in has_child]
    num_leaves = len(names) - len(has_child)
    ids = {name: i for i, name in enumerate(names)}
    rest = [attrs[name] for name in names]
    tensors: dict[str, Any] = {**take_tensors(names, rest, num_leaves, wanted, features)}
    record = NetworkxRecord(
        names, rest, [edges.get(name, {}) for name in names], dict(G.graph), G.is_directed()
    )
    if internal == "keep" and not has_child:
        for key in fill:
            if not key.startswith("tree_"):
                tensors[f"inner_{key}"] = tensors[key][:0]
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
    record = _record(hierarchy)
    leaf, inner = _leaf_and_inner(hierarchy)
    rows: dict[str, Sequence[int]] = {
        "leaf": leaf,
        "inner": inner,
        "tree": range(hierarchy.num_tree_nodes),
    }

    G = nx.Graph() if (not record.directed if undirected is None else undirected) else nx.DiGraph()
    G.graph.update(record.graph)
    for name, attrs in zip(record.names, record.attrs, strict=True):
        G.add_node(name)
        G.nodes[name].update(attrs)
    for key, value in hierarchy._store.items():
        kind = hierarchy.rows_of(key)
        if not isinstance(value, Tensor) or kind not in rows or key in ("parent", "batch"):
            continue
        attr = key.removeprefix("inner_")
        for i, row in zip(rows[kind], value.tolist(), strict=True):
            G.nodes[record.names[i]][attr] = row
    for i, p in enumerate(hierarchy.parent.tolist()):
        if i != p:
            G.add_edge(record.names[p], record.names[i])
            G.edges[record.names[p], record.names[i]].update(record.edges[i])
    return G


def labels(hierarchy: Hierarchy, key: str) -> list[Any]:
    """What to write for each tree node: its attribute, or else its name.

    A name that is no string says nothing more than which node it is, so it is written only for
    leaves; inner nodes get an empty string.
    """
    record = _record(hierarchy)
    leaf, inner = _leaf_and_inner(hierarchy)
    out = list(record.names)
    for i in inner:
        if not isinstance(out[i], str):
            out[i] = ""
    for i, attrs in enumerate(record.attrs):
        if key in attrs:
            out[i] = attrs[key]
    for stored, ids in ((key, leaf), (f"inner_{key}", inner)):  # numbers became tensors
        value = hierarchy._store.get(stored)
        if isinstance(value, Tensor) and value.shape == (len(ids),):
            for i, number in zip(ids, value.tolist(), strict=True):
                out[i] = number
    return out


def _leaf_and_inner(hierarchy: Hierarchy) -> tuple[list[int], list[int]]:
    """Ids of the leaves and of the inner nodes."""
    leaf = hierarchy.tree.leaf_ids.tolist()
    is_leaf = set(leaf)
    return leaf, [i for i in range(hierarchy.num_tree_nodes) if i not in is_leaf]


def _edge_attrs(G: Any, u: Hashable, v: Hashable) -> dict[Any, Any]:
    data = G.get_edge_data(u, v)
    return dict(next(iter(data.values())) if G.is_multigraph() else data)


def _record(hierarchy: Hierarchy) -> NetworkxRecord:
    """The record of one sample, of a batch, or one that says nothing."""
    stored = hierarchy._store.get("tree_names")
    if isinstance(stored, list):
        return NetworkxRecord.join(stored)
    if stored is not None:
        return stored
    empty: list[dict[Any, Any]] = [{} for _ in range(hierarchy.num_tree_nodes)]
    return NetworkxRecord(list(range(hierarchy.num_tree_nodes)), empty, empty)
