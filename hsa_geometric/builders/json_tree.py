"""Trees of dicts, as in JSON and D3, both ways."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import torch

from hsa_geometric.builders._progress import counting
from hsa_geometric.builders.networkx import from_networkx, to_networkx
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.layout import layout


def from_json(
    tree: dict[str, Any] | list[dict[str, Any]] | str | bytes,
    *,
    children: str = "children",
    node_attrs: Iterable[str] | Mapping[str, Any] | None = None,
    internal: str = "keep",
    progress: bool = False,
) -> Hierarchy:
    r"""Build a hierarchy from a tree of dicts such as ``{"name": "a", "children": [{...}, ...]}``.

    Leaves are tree nodes ``0 .. N-1`` and inner nodes ``N .. T-1``, each in reading order (a node
    before its children). Every other key of a dict is an attribute of its node, with the rules of
    :func:`~hsa_geometric.builders.from_networkx`: numeric attributes of one shape that all leaves
    have become tensors, the rest (names, say) is kept in ``h.tree_names.attrs``.

    Args:
        tree: the root, or a list of the roots of a forest, or a JSON text of either.
        children: key of the list of children. A node without it is a leaf, and so is one where it
            is empty or None.
        node_attrs: names of the attributes to turn into tensors; or a dict of them, with what a
            node has that lacks one, such as ``{"x": math.nan}``, so that every tree gets the same
            keys: see :func:`~hsa_geometric.builders.from_networkx`.
            (default: all that can be turned into tensors, which may differ from tree to tree)
        internal: what becomes of features that inner nodes have of their own: ``'keep'``,
            ``'leaf'``, ``'drop'`` or ``'error'``, as for
            :func:`~hsa_geometric.builders.from_networkx`. The own leaf of a node comes before the
            leaves below that node, as a heading before its text. (default: ``'keep'``)
        progress: whether a bar on stderr counts the nodes whose attributes are read. (default: off)

    Raises:
        TypeError: naming the place, if a node is no dict or its children no list.
        ValueError: if :obj:`tree` is no JSON text or has a key twice in one object (naming the
            line, or the key), holds no node or a node that holds itself; and
            what :func:`~hsa_geometric.builders.from_networkx` raises (nodes are then numbered,
            leaves first).

    Cost: a few Python steps for each node and attribute. No recursion, so any depth; but Python
    reads JSON **text** only to a depth of about a thousand.

    Example:
        >>> h = from_json('{"name": "r", "children": [{"name": "a", "x": 1.5}, {"x": 2.5}]}')
        >>> h
        Hierarchy(leaves=2, nodes=3, depth=1, x=[2], tree_names=[3])
        >>> h.tree_names.attrs
        [{'name': 'a'}, {}, {'name': 'r'}]
        >>> to_json(h)
        {'name': 'r', 'children': [{'name': 'a', 'x': 1.5}, {'x': 2.5}]}

        Of trees whose nodes lack this and that, each gets the same keys:

        >>> trees = ['{"y": 1}', '{"children": [{"x": 1.5}, {"y": 2}]}']
        >>> nan = float("nan")
        >>> [from_json(text, node_attrs={"x": nan, "y": -1}).y for text in trees]
        [tensor([1]), tensor([-1,  2])]
    """
    import networkx as nx

    if isinstance(tree, (str, bytes)):
        tree = _parse(tree)
    roots = tree if isinstance(tree, list) else [tree]
    if not roots:
        raise ValueError("Expected 'tree' to hold at least one node (got an empty list)")
    nodes, above = _walk(roots, children, isinstance(tree, list))

    # Number the nodes as the hierarchy will: leaves first.
    holders = set(above) - {-1}
    leaf, inner = count(), count(len(nodes) - len(holders))
    name = [next(inner if i in holders else leaf) for i in range(len(nodes))]
    G = nx.DiGraph()
    G.add_nodes_from(name)
    with counting(progress, len(nodes), "from_json", "node") as step:
        for i, node in enumerate(nodes):
            attrs = G.nodes[name[i]]
            attrs.update((key, x) for key, x in node.items() if key != children)
            if above[i] >= 0:
                G.add_edge(name[above[i]], name[i])
            step(1)
    return from_networkx(G, node_attrs=node_attrs, internal=internal)


def to_json(hierarchy: Hierarchy, *, children: str = "children") -> Any:
    r"""Turn a hierarchy into a tree of dicts; the inverse of :func:`from_json`.

    A dict holds the attributes that :func:`~hsa_geometric.builders.to_networkx` gives the node. If
    the nodes are named by strings, a name is written under ``"name"`` unless the node has an
    attribute of that key. Siblings, and trees, are in the order of the least leaf row below them.

    Args:
        hierarchy: one sample or a batch.
        children: key of the list of children; leaves do not have it.

    Returns:
        The root's dict, or for a forest a list of them. ``json.dumps`` makes it a text, as far as
        the attributes allow and to a depth of about a thousand.

    Raises:
        TypeError, ValueError: if the hierarchy is not valid.
        ValueError: if a node has an attribute named as :obj:`children`.

    Cost: a few Python steps for each node and attribute.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> to_json(from_parent([3, 3, 3, 3], mass=[1.0, 2.0, 3.0]))
        {'children': [{'mass': 1.0}, {'mass': 2.0}, {'mass': 3.0}]}
    """
    G = to_networkx(hierarchy, undirected=False)
    tree = hierarchy.tree.to("cpu")
    nodes: list[dict[Any, Any]] = []
    for name, attrs in G.nodes(data=True):  # in id order
        nodes.append(dict(attrs))
        if children in attrs:
            raise ValueError(
                f"Expected 'children' to be no attribute of a node (got {children!r}, which node "
                f"{name!r} has)"
            )
        if isinstance(name, str):
            nodes[-1].setdefault("name", name)
    parent, roots = tree.parent.tolist(), []
    for node in torch.argsort(layout(tree).start).tolist():
        if parent[node] == node:
            roots.append(nodes[node])
        else:
            nodes[parent[node]].setdefault(children, []).append(nodes[node])
    return roots if len(roots) > 1 else roots[0]


def _parse(text: str | bytes) -> Any:
    try:
        text = text.removeprefix("\ufeff") if isinstance(text, str) else text
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(
            "Expected 'tree' to be a JSON text that Python can read (got one nested too deep; pass "
            "dicts instead)"
        ) from None
    except ValueError as error:
        raise ValueError(f"Expected 'tree' to be a JSON text (got {error})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of these pairs; the parser alone would drop all but the last of a key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} more than once in one object; keep one of them")
    return found


def _walk(roots: list[Any], children: str, listed: bool) -> tuple[list[dict[str, Any]], list[int]]:
    """All nodes in reading order, and the number of each one's parent, -1 for a root."""
    nodes: list[dict[str, Any]] = []
    above: list[int] = []
    # One entry for each node whose children are being read, after one for the roots.
    reading: list[tuple[int, Iterator[tuple[int, Any]]]] = [(-1, enumerate(roots))]
    path, within = [0], dict.fromkeys([-1])
    while reading:
        number, siblings = reading[-1]
        path[-1], node = next(siblings, (-1, None))
        if path[-1] < 0:
            reading.pop()
            path.pop()
            within.popitem()
            continue
        if not isinstance(node, dict):
            raise TypeError(
                f"Expected every node to be a dict (got {type(node).__name__} at "
                f"{_place(path, children, listed)})"
            )
        if id(node) in within:
            raise ValueError(
                f"Expected no node to hold itself (got {_place(path, children, listed)})"
            )
        below = node.get(children)
        if not (below is None or isinstance(below, (list, tuple))):
            raise TypeError(
                f"Expected {children!r} to be a list (got {type(below).__name__} at "
                f"{_place(path, children, listed)})"
            )
        nodes.append(node)
        above.append(number)
        if below:
            reading.append((len(nodes) - 1, enumerate(below)))
            path.append(0)
            within[id(node)] = None
    return nodes, above


def _place(path: list[int], children: str, listed: bool) -> str:
    top = f"tree[{path[0]}]" if listed else "tree"
    return top + "".join(f"[{children!r}][{i}]" for i in path[1:])
