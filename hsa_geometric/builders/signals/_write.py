"""From a nested signal to the nodes of its tree, one item after the other."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders.signals._items import Item, SignalItems, path
from hsa_geometric.builders.signals._leaves import LeafType, Leaves, described
from hsa_geometric.builders.signals.marks import CONTAINERS, Typed


class Nodes:
    """Nodes so far, leaves or inner ones, in arrays that grow."""

    def __init__(self, columns: int):
        self.columns = columns
        self.parent, self.kind, self.item, self.rank = (array("q") for _ in range(4))
        self.place = array("f")

    def add(self, parent: int, kind: int, item: int, place: float) -> None:
        """One node, at a place of one number."""
        for column, number in zip(
            (self.parent, self.kind, self.item, self.rank), (parent, kind, item, 0), strict=True
        ):
            column.append(number)
        self.place.extend([place, *[0.0] * (self.columns - 1)])

    def extend(self, parent: Tensor, kind: int, item: int, place: Tensor | None, rank: Any) -> None:
        """Several nodes of one item."""
        n = parent.numel()
        self.parent.frombytes(parent.numpy().tobytes())
        self.kind.extend(array("q", [kind]) * n)
        self.item.extend(array("q", [item]) * n)
        self.rank.frombytes(np.broadcast_to(np.asarray(rank, dtype=np.int64), n).tobytes())
        wide = torch.zeros(n, self.columns)
        if place is not None:
            wide[:, : place.shape[1]] = place.detach()
        self.place.frombytes(wide.numpy().tobytes())


class Writer:
    """A tree that grows while a signal is read."""

    def __init__(self, types: Mapping[str, LeafType], domains: Sequence[str], keys: Any):
        self.types, self.keys = types, keys
        self.kinds = {domain: kind for kind, domain in enumerate(domains)}
        self.numbers = {name: number for number, name in enumerate(types)}
        columns = max(1, *(leaf.columns for leaf in types.values()))
        self.leaves, self.inner = Nodes(columns), Nodes(columns)
        self.leaf_type = array("q")
        self.items: list[Item] = []
        self.at: list[Any] = []  # keys and indices on the way to what is being read
        self.rows: dict[str, list[Any]] = {name: [] for name in types}
        self.edges: list[Tensor] = []
        self.edge_attr: list[Tensor] = []

    def read(self, signal: Any) -> None:
        """Walk the signal without recursion."""
        # One entry for each list or dict that is open: its members, number, node and domain.
        root: Iterator[Any] = iter([(None, signal, 0.0)])
        reading = [(root, -1, -1, "set")]
        at, within = self.at, {-1: None}
        at.append(None)
        while reading:
            members, above, node, domain = reading[-1]
            at[-1], value, place = next(members, (None, None, -1.0))
            if place < 0:
                reading.pop()
                at.pop()
                within.popitem()
                continue
            kind = self.kinds[domain]
            if type(value) not in CONTAINERS:
                self._leaf(value, above, node, kind, place)
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
            number, inner = len(self.items), len(self.inner.parent)
            self.items.append(Item(above, at[-1], type(value).__name__))
            self.inner.add(node, kind, number, place)
            reading.append((self._members(value, below), number, inner, below))
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

    def _leaf(self, value: Any, above: int, node: int, kind: int, place: float) -> None:
        """The leaves of a value, and the nodes between them and the list or dict that holds it."""
        marked = isinstance(value, Typed)
        name, value = self._type(value)
        spec, type_of = self.types[name], self.numbers[name]
        try:
            new = spec.encode(value)
        except (TypeError, ValueError) as error:
            raised = TypeError if isinstance(error, TypeError) else ValueError
            raise raised(f"{self._where()}, of type '{name}': {error}") from error
        number, start = len(self.items), len(self.leaves.parent)
        n = 1 if new.parent is None else len(new.rows)
        self.items.append(Item(above, self.at[-1], type_of, n, marked, new.kept))
        if new.parent is None:
            self.leaves.add(node, kind, number, place)
        else:
            self._subtree(new, new.parent, n, (node, kind, number, place), self.kinds[spec.domain])
        self.leaf_type.extend(array("q", [type_of]) * n)
        self.rows[name].append(new.rows)
        if new.edge_index is not None:
            self.edges.append(new.edge_index + start)
        if new.edge_attr is not None:
            self.edge_attr.append(new.edge_attr)

    def _subtree(
        self, new: Leaves, parent: Tensor, n: int, top: tuple[int, int, int, float], kind: int
    ) -> None:
        ids = torch.arange(parent.numel())
        root = int((parent == ids).nonzero())
        begin = len(self.inner.parent)
        above = parent - n + begin
        place = [None, None] if new.place is None else [new.place[:n], new.place[n:]]
        self.leaves.extend(above[:n], kind, top[2], place[0], ids[:n].numpy())
        self.inner.extend(above[n:], kind, top[2], place[1], 0)
        at = begin + root - n
        self.inner.parent[at], self.inner.kind[at] = top[0], top[1]
        columns = self.inner.columns
        self.inner.place[at * columns : (at + 1) * columns] = array(
            "f", [top[3], *[0.0] * (columns - 1)]
        )

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

    def tree(self) -> tuple[Tensor, dict[str, Any]]:
        """Parents, data of nodes and leaves, and the record of the items."""
        leaves, inner = self.leaves, self.inner
        parent, kind, item, rank = (
            _tensor(getattr(leaves, name), getattr(inner, name))
            for name in ("parent", "kind", "item", "rank")
        )
        parent = torch.where(parent < 0, -1, parent + len(leaves.parent))
        data: dict[str, Any] = {
            "tree_kind": kind,
            "tree_pos": _tensor(leaves.place, inner.place).view(-1, leaves.columns),
            "leaf_type": _tensor(self.leaf_type),
            "tree_items": SignalItems(item, rank, tuple(self.items), tuple(self.types)),
        }
        return parent, data


def _tensor(*arrays: array[Any]) -> Tensor:
    """One after the other."""
    return torch.from_numpy(np.concatenate([np.array(x) for x in arrays]))
