"""Inner nodes of networkx trees that carry attributes of their own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from hsa_geometric.builders._nx_tensors import leaf_features


def settle_inner_attrs(
    attrs: dict[Hashable, dict[Any, Any]],
    parent: dict[Hashable, Hashable],
    node_attrs: list[str] | None,
    internal: str,
) -> list[str]:
    """Let the inner nodes of a networkx tree keep no attribute that is a feature of the leaves.

    With ``internal='leaf'`` a node ``v`` that has any gets a child named ``(v, 'own')``, which
    takes them, and its place in the order.

    Args:
        attrs: attributes of each node, in order; changed in place.
        parent: parent of each node that has one; changed in place.
        node_attrs: names of the attributes that may be features, or None for all.
        internal: ``'leaf'``, ``'drop'`` or ``'error'``.

    Returns:
        Names of the features.
    """
    inner = set(parent.values())
    features = leaf_features([a for v, a in attrs.items() if v not in inner], node_attrs)
    settled: dict[Hashable, dict[Any, Any]] = {}
    for v, attr in attrs.items():
        carried = [key for key in features if key in attr] if v in inner else []
        if carried and internal == "error":
            raise ValueError(
                f"Expected only leaves to have {carried[0]!r} (got {attr[carried[0]]!r} at inner "
                f"node {v!r}); internal='leaf' gives it a leaf of its own, 'drop' drops it, 'keep' "
                f"keeps it in 'inner_{carried[0]}'"
            )
        taken = {key: attr.pop(key) for key in carried}
        if carried and internal == "leaf":
            own = (v, "own")
            if own in attrs:
                raise ValueError(f"Expected no node of 'G' to be named {own!r}: it is needed here")
            of_place = {k: x for k, x in attr.items() if isinstance(k, str) and k[:5] == "tree_"}
            settled[own] = taken | of_place
            parent[own] = v
        settled[v] = attr
    attrs.clear()
    attrs.update(settled)
    return features
