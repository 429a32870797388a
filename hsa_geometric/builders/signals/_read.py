"""From the nodes of a tree to the nested signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders.signals._items import SignalItems
from hsa_geometric.builders.signals._leaves import LeafType, Leaves
from hsa_geometric.builders.signals.marks import CONTAINERS, Typed
from hsa_geometric.data.hierarchy import Hierarchy

BY_NAME = {container.__name__: container for container in CONTAINERS}


def read(h: Hierarchy, record: SignalItems, types: Mapping[str, LeafType]) -> Any:
    """The signal, from its innermost items outward."""
    items, tree = record.items, h.tree.to("cpu")
    item = record.item
    present = torch.unique(item).tolist()
    _check_parents(record, tree.parent)

    # Leaves by item, and in it by their number there.
    leaf_item, leaf_rank = item[tree.leaf_ids], record.rank[tree.leaf_ids]
    order = torch.argsort(leaf_item * (int(leaf_rank.max()) + 1) + leaf_rank)
    count = torch.bincount(leaf_item, minlength=len(items)).tolist()
    for i in present:
        if items[i].leaves and count[i] != items[i].leaves:
            raise ValueError(
                f"Expected all {items[i].leaves} leaves of {record.path(i)} (got {count[i]}), "
                f"without which it cannot be put together"
            )
    place = h.tree_pos
    parts: dict[int, Leaves] = {}
    for number, name in enumerate(types):
        of_type = h.leaves_of_type(f"x_{name}").cpu()
        taken = order[of_type[order]]
        row = (of_type.cumsum(0) - 1)[taken].to(h.parent.device)
        mine = [i for i in present if items[i].kind == number]
        sizes = [count[i] for i in mine]
        rows = h[f"x_{name}"][row].split(sizes)
        at = [None] * len(mine)
        if place is not None:
            at = place[tree.leaf_ids[taken].to(place.device)].split(sizes)
        for i, x, where in zip(mine, rows, at, strict=True):
            parts[i] = Leaves(x, None, where, items[i].kept)
    if isinstance(h.get("edge_index"), Tensor):
        _add_edges(h, parts, leaf_item, leaf_rank)

    members: dict[int, list[int]] = {i: [] for i in present}
    for i in present[1:]:
        members[items[i].parent].append(i)
    values: dict[int, Any] = {}
    for i in reversed(present):
        one = items[i]
        if isinstance(one.kind, int):
            name = list(types)[one.kind]
            value = types[name].decode(parts[i])
            values[i] = Typed(name, value) if one.marked else value
            continue
        inside = [values.pop(j) for j in members[i]]
        names = [items[j].name for j in members[i]]
        made = BY_NAME[one.kind]
        values[i] = dict(zip(names, inside, strict=True)) if made is dict else made(inside)
    return values[present[0]]


def _check_parents(record: SignalItems, parent: Tensor) -> None:
    """Each item must still hang from the list or dict that held it."""
    above = torch.tensor([item.parent for item in record.items])
    item = record.item
    ids = torch.arange(parent.numel())
    holder = item[parent]
    lost = (parent != ids) & (holder != item) & (holder != above[item])
    if lost.any():
        at = record.path(int(item[lost][0]))
        raise ValueError(
            f"Expected the list or dict that holds {at} to have a node (got none, as after "
            f"collapse_chains)"
        )


def _add_edges(
    h: Hierarchy, parts: dict[int, Leaves], leaf_item: Tensor, leaf_rank: Tensor
) -> None:
    """Give each graph the edges among its leaves."""
    edges = h.edge_index.cpu()
    ends = leaf_item[edges]
    if (ends[0] != ends[1]).any():
        raise ValueError("Expected edges within values (got one between two of them)")
    order = torch.argsort(ends[0], stable=True)
    sizes = torch.bincount(ends[0], minlength=max(parts) + 1).tolist()
    local = leaf_rank[edges[:, order]].to(h.parent.device).split(sizes, dim=1)
    attr = h.get("edge_attr")
    attrs = None if attr is None else attr[order.to(attr.device)].split(sizes)
    for i in parts:
        parts[i] = parts[i]._replace(
            edge_index=local[i], edge_attr=None if attrs is None else attrs[i]
        )
