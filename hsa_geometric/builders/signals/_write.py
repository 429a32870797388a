"""From a nested signal to the nodes of its tree, one item after the other."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders.signals._items import Item, SignalItems, path
from hsa_geometric.builders.signals._leaves import LeafType, Leaves, described
from hsa_geometric.builders.signals.marks import CONTAINERS, Typed

ONE = torch.zeros(1, dtype=torch.int64)  # tree of a single node


class Writer:
    """A tree that grows while a signal is read."""

    def __init__(self, types: Mapping[str, LeafType], domains: Sequence[str], keys: Any):
        self.types, self.keys = types, keys
        self.kinds = {domain: kind for kind, domain in enumerate(domains)}
        self.numbers = {name: number for number, name in enumerate(types)}
        self.items: list[Item] = []
        self.kind: list[int] = []  # of each item among the members of what holds it
        self.place: list[float] = []
        self.leaves: list[Leaves] = []  # of each item; a list or dict has none
        self.at: list[Any] = []  # keys and indices on the way to what is being read

    def read(self, signal: Any) -> None:
        """Walk the signal without recursion."""
        # One entry for each list or dict that is open: its members, number and domain.
        root: Iterator[Any] = iter([(None, signal, 0.0)])
        reading = [(root, -1, "set")]
        at, within = self.at, {-1: None}
        at.append(None)
        while reading:
            members, above, domain = reading[-1]
            at[-1], value, place = next(members, (None, None, -1.0))
            if place < 0:
                reading.pop()
                at.pop()
                within.popitem()
                continue
            self.kind.append(self.kinds[domain])
            self.place.append(place)
            if type(value) not in CONTAINERS:
                self._leaf(value, above)
                continue
            if not value:
                raise ValueError(f"Expected {self._where()} to hold something (got {value!r})")
            if id(value) in within:
                raise ValueError(f"Expected nothing that holds itself (got {self._where()})")
            below = CONTAINERS[type(value)]
            if below not in self.kinds:
                raise ValueError(
                    f"Expected 'domains' to have '{below}', on which what {self._where()} holds "
                    f"stands (got {list(self.kinds)})"
                )
            reading.append((self._members(value, below), len(self.items), below))
            self.items.append(Item(above, at[-1], type(value).__name__))
            self.leaves.append(Leaves(None))
            at.append(None)
            within[id(value)] = None

    def _where(self) -> str:
        return path(self.at[1:])

    def _members(self, value: Any, domain: str) -> Iterator[tuple[Any, Any, float]]:
        if domain == "key":
            return ((key, x, self._key(key)) for key, x in value.items())
        if isinstance(value, (set, frozenset)):  # in an order that is always the same
            value = sorted(value, key=lambda x: (type(x).__name__, repr(x)))
        return ((i, x, float(i) if domain == "sequence" else 0.0) for i, x in enumerate(value))

    def _key(self, key: Any) -> float:
        if not isinstance(key, str):
            raise TypeError(
                f"Expected the keys of {path(self.at[1:-1])} to be strings (got {key!r})"
            )
        if isinstance(self.keys, int):
            return float(zlib.crc32(key.encode()) % self.keys)
        if key not in self.keys:
            raise ValueError(
                f"Expected the keys of {path(self.at[1:-1])} to be among the declared ones, "
                f"{list(self.keys)} (got {key!r})"
            )
        return float(self.keys[key])

    def _leaf(self, value: Any, above: int) -> None:
        """The leaves of a value."""
        marked = isinstance(value, Typed)
        name, value = self._type(value)
        try:
            new = self.types[name].encode(value)
        except (TypeError, ValueError) as error:
            raised = TypeError if isinstance(error, TypeError) else ValueError
            raise raised(f"{self._where()}, of type '{name}': {error}") from error
        n = 1 if new.parent is None else len(new.rows)
        self.items.append(Item(above, self.at[-1], self.numbers[name], n, marked, new.kept))
        self.leaves.append(new)

    def _type(self, value: Any) -> tuple[str, Any]:
        """Name of the one type that takes a value, and the value without its mark."""
        types = self.types
        if isinstance(value, Typed):
            if value.type not in types:
                raise ValueError(
                    f"Expected {self._where()} to be of a declared type, "
                    f"{list(types)} (got {value.type!r})"
                )
            types, value = {value.type: types[value.type]}, value.value
        taking = [name for name, leaf in types.items() if leaf.takes(value)]
        if len(taking) == 1:
            return taking[0], value
        if taking:
            raise ValueError(
                f"Expected {self._where()} to say of which type it is, as {taking} take "
                f"{described(value)}; mark it: Typed({taking[0]!r}, ...)"
            )
        near = {name: leaf for name, leaf in types.items() if isinstance(value, leaf.takes_type)}
        wanted = ", ".join(f"'{name}' ({leaf.expects})" for name, leaf in (near or types).items())
        raise (ValueError if near else TypeError)(
            f"Expected {self._where()} to be of a declared type: {wanted} (got {described(value)})"
        )

    def rows(self, name: str) -> list[Any]:
        """Rows of the leaves of one type."""
        found = zip(self.items, self.leaves, strict=True)
        return [new.rows for item, new in found if item.kind == self.numbers[name]]

    def edges(self) -> list[Tensor]:
        """Edges between leaves of each graph."""
        count = torch.tensor([item.leaves for item in self.items])
        found = zip(self.leaves, (count.cumsum(0) - count).tolist(), strict=True)
        return [new.edge_index + begin for new, begin in found if new.edge_index is not None]

    def tree(self) -> tuple[Tensor, dict[str, Any]]:
        """Parents, data of nodes and leaves, and the record of the items."""
        parents = [ONE if new.parent is None else new.parent for new in self.leaves]
        count = torch.tensor([parent.numel() for parent in parents])
        item = torch.arange(len(self.items)).repeat_interleave(count)
        start = count.cumsum(0) - count
        rank = torch.arange(item.numel()) - start[item]
        parent = torch.cat(parents)
        is_leaf = rank < torch.tensor([one.leaves for one in self.items])[item]
        order = torch.cat([is_leaf.nonzero(), (~is_leaf).nonzero()]).view(-1)
        new_id = torch.empty_like(order)
        new_id[order] = torch.arange(order.numel())

        # The root of an item's tree is a member of the list or dict that holds it, a single node.
        top = parent == rank
        parent += start[item]
        held = torch.tensor([one.parent for one in self.items])
        parent[top] = torch.where(held < 0, parent[top], start[held])
        type_of = torch.tensor([one.kind if one.leaves else 0 for one in self.items])[item]
        kind = torch.tensor([self.kinds[leaf.domain] for leaf in self.types.values()])[type_of]
        kind[top] = torch.tensor(self.kind)
        columns = max(1, *(leaf.columns for leaf in self.types.values()))
        place = torch.zeros(item.numel(), columns, dtype=torch.float32)
        for begin, new in zip(start.tolist(), self.leaves, strict=True):
            if (at := new.place) is not None:
                place[begin : begin + len(at), : at.shape[1]] = at.detach()
        place[top] = 0
        place[top, 0] = torch.tensor(self.place, dtype=torch.float32)

        rank = torch.where(is_leaf, rank, 0)[order]
        items = SignalItems(item[order], rank, tuple(self.items), tuple(self.types))
        return new_id[parent[order]], {
            "tree_kind": kind[order],
            "tree_pos": place[order],
            "leaf_type": type_of[is_leaf],
            "tree_items": items,
        }
