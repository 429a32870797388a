"""Attributes of networkx nodes as tensors, where they can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_by_name

# Attributes that have a meaning of their own: half a set of them is a mistake, not a choice.
_WHOLE = ("x", "pos", "mass")
_PLAIN = ("x", "y", "pos", "time", "mass", "tree_pos", "tree_kind")
_MISSING = object()


def settle_inner_attrs(
    attrs: dict[Hashable, dict[Any, Any]],
    parent: dict[Hashable, Hashable],
    node_attrs: list[str] | None,
    internal: str,
) -> list[str]:
    """Names of the features of the leaves, of which inner nodes keep none.

    With ``internal='leaf'`` a node ``v`` that has any gets a child named ``(v, 'own')``, which
    takes them, and its place in the order. Changes ``attrs`` and ``parent``.
    """
    inner = set(parent.values())
    features = _leaf_features([a for v, a in attrs.items() if v not in inner], node_attrs)
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


def take_tensors(
    names: list[Hashable],
    attrs: list[dict[Any, Any]],
    num_leaves: int,
    node_attrs: list[str] | None,
    needed: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Move the attributes that fit into tensors out of ``attrs``; those ``needed`` must."""
    on_leaves = Counter(key for attr in attrs[:num_leaves] for key in attr)
    on_inner = Counter(key for attr in attrs[num_leaves:] for key in attr)
    found = list(dict.fromkeys(key for attr in attrs for key in attr))
    wanted = [key for key in found if _can_be_key(key)] if node_attrs is None else node_attrs
    out: dict[str, Tensor] = {}
    for key in wanted:
        if not _can_be_key(key):
            raise ValueError(f"Expected 'node_attrs' to leave out {key!r}, which has other uses")
        if rows_by_name(key) == "tree":
            groups = {key: range(len(names))}
            count = {key: on_leaves[key] + on_inner[key]}
        else:
            groups = {key: range(num_leaves), f"inner_{key}": range(num_leaves, len(names))}
            count = {key: on_leaves[key], f"inner_{key}": on_inner[key]}
        some = {target: number > 0 for target, number in count.items()}
        # What was asked for must be somewhere, and whole on the leaves if it is there at all.
        asked = node_attrs is not None and (some[key] or not any(some.values()))
        required = asked or key in needed or (some[key] and key in _WHOLE)
        for target, group in groups.items():
            rows = None
            if some[target] and count[target] == len(group):  # no pass over all nodes for any other
                rows = _rows([attrs[i][key] for i in group])
            if rows is not None:
                out[target] = rows
                for i in group:
                    del attrs[i][key]
            elif target == key and required:
                what = "node" if rows_by_name(key) == "tree" else "leaf"
                i = group[_offender([attrs[i].get(key, _MISSING) for i in group])]
                got = f"{attrs[i][key]!r}" if key in attrs[i] else "none"
                raise ValueError(
                    f"Expected every {what} to have a numeric {key!r} of one shape "
                    f"(got {got} at node {names[i]!r})"
                )
    return out


def fill_attrs(
    attrs: dict[Hashable, dict[Any, Any]], fill: dict[str, Any], inner: set[Hashable], internal: str
) -> None:
    """Give each node of ``attrs`` what it lacks."""
    if not fill:
        return
    for v, attr in attrs.items():
        # An inner node that keeps nothing of its own, or gives it all to a leaf, lacks nothing.
        whole = v not in inner or internal == "keep" or any(key in attr for key in fill)
        for key, value in fill.items():
            if whole or key.startswith("tree_"):
                attr.setdefault(key, value)


def _leaf_features(attrs: list[dict[Any, Any]], node_attrs: list[str] | None) -> list[str]:
    """Names of the attributes that become tensors of the leaves whose ``attrs`` these are."""
    names = list(attrs[0]) if node_attrs is None else node_attrs
    return [
        key
        for key in names
        if _can_be_key(key)
        and rows_by_name(key) in ("leaf", None)
        and all(key in attr for attr in attrs)
        and _rows([attr[key] for attr in attrs]) is not None
    ]


def _can_be_key(key: Any) -> bool:
    """Whether a tensor may be stored under this name without meaning something else."""
    return isinstance(key, str) and (
        key in _PLAIN
        or not (
            key.startswith(("_", "inner_"))
            or rows_by_name(key) in ("edge", "reference", "other")
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
