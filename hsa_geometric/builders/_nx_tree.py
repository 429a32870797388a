"""Reading a forest out of a networkx graph, or saying which node is wrong."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


def parents(G: Any, root: Any) -> dict[Hashable, Hashable]:
    """Parent of each node that has one. Raises ValueError, naming the node, if G is no forest."""
    if G.number_of_nodes() == 0:
        raise ValueError("Expected 'G' to hold at least one node (got an empty graph)")
    for u, v in G.edges():
        if u == v:
            raise ValueError(f"Expected 'G' to be a tree (got a cycle: node {u!r} joins itself)")
    if root is None and not G.is_directed():
        raise ValueError("Expected 'root' to name the root of an undirected graph (got None)")
    roots = None if root is None else _roots(G, root)
    return _directed(G, roots) if G.is_directed() else _undirected(G, roots or [])


def _roots(G: Any, root: Any) -> list[Hashable]:
    roots = list(root) if isinstance(root, list) else [root]
    if not roots:
        raise ValueError("Expected 'root' to name at least one node (got an empty list)")
    known: set[Hashable] = set()
    for r in roots:
        if r not in G:
            raise ValueError(f"Expected 'root' to be a node of 'G' (got {r!r})")
        if r in known:
            raise ValueError(f"Expected 'root' to name each node once (got {r!r} twice)")
        known.add(r)
    return roots


def _directed(G: Any, roots: list[Hashable] | None) -> dict[Hashable, Hashable]:
    parent: dict[Hashable, Hashable] = {}
    for u, v in G.edges():
        if v in parent:
            raise ValueError(
                f"Expected every node of 'G' to have one parent (got node {v!r} with two: "
                f"{parent[v]!r} and {u!r})"
            )
        parent[v] = u
    free = [v for v in G if v not in parent]
    if roots is not None:
        for r in roots:
            if r in parent:
                raise ValueError(
                    f"Expected 'root' to have no parent (got {r!r} below {parent[r]!r})"
                )
        named = set(roots)
        for v in free:
            if v not in named:
                raise ValueError(f"Expected every node to be connected to the root (got {v!r})")
    reached = list(free)
    for v in reached:
        reached += G.successors(v)
    seen = set(reached)
    for v in G:
        if v not in seen:  # it has ancestors without end: the walk upwards comes back
            walked = set()
            while v not in walked:
                walked.add(v)
                v = parent[v]
            raise ValueError(f"Expected 'G' to be a tree (got a cycle through node {v!r})")
    return parent


def _undirected(G: Any, roots: list[Hashable]) -> dict[Hashable, Hashable]:
    parent: dict[Hashable, Hashable] = {}
    reached = list(roots)
    seen = set(roots)
    for u in reached:
        for v in G.neighbors(u):
            if G.number_of_edges(u, v) > 1:
                raise ValueError(f"Expected 'G' to be a tree (got two edges from {u!r} to {v!r})")
            if v not in seen:
                seen.add(v)
                parent[v] = u
                reached.append(v)
            elif u not in parent or parent[u] != v:
                # A second way to v: round a cycle, or down from another root.
                one, other = _top(u, parent), _top(v, parent)
                if one != other:
                    raise ValueError(
                        f"Expected roots in different trees (got roots {one!r} and {other!r} "
                        f"joined at node {v!r})"
                    )
                raise ValueError(f"Expected 'G' to be a tree (got a cycle through node {v!r})")
    for v in G:
        if v not in seen:
            raise ValueError(f"Expected every node to be connected to the root (got {v!r})")
    return parent


def _top(node: Hashable, parent: dict[Hashable, Hashable]) -> Hashable:
    while node in parent:
        node = parent[node]
    return node
