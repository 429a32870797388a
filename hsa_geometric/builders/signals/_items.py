"""What tensors cannot hold of a nested signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Item(NamedTuple):
    """One list, dict or value of a signal.

    Attributes:
        parent: number of the list or dict that holds it; -1 of the signal itself.
        name: its key or index there.
        kind: name of the Python type, or the number of the type of its leaves.
        leaves: number of its own leaves, 0 of lists and dicts.
        marked: whether it was marked by ``Typed``.
        kept: what the rows of its leaves do not tell.
    """

    parent: int
    name: Any
    kind: str | int
    leaves: int = 0
    marked: bool = False
    kept: Any = None


@dataclass(frozen=True)
class SignalItems:
    """Which item of the signal each tree node of **one** sample belongs to.

    Not a list and not a mapping on purpose, as PyG reaches into both. A batch holds a list of
    these, one for each sample.

    Args:
        item: ``[T]`` number of the item of each tree node.
        rank: ``[T]`` number of each leaf within its item, 0 of inner nodes.
        items: the items in reading order.
        types: names of the declared types.
    """

    item: Tensor
    rank: Tensor
    items: tuple[Item, ...]
    types: tuple[str, ...]

    def select(self, rows: Tensor) -> SignalItems:
        """The record of the nodes in the mask or the list of ids :obj:`rows`."""
        rows = rows.cpu()
        return SignalItems(self.item[rows], self.rank[rows], self.items, self.types)

    @staticmethod
    def join(records: Any, further: Any = ()) -> SignalItems:
        """Refused."""
        raise ValueError(
            "Expected hierarchies without 'tree_items', as the joined signal is another one; build "
            "it from the list of the signals, or del h['tree_items']"
        )

    def path(self, number: int) -> str:
        """Where an item stands in the signal."""
        at = []
        while self.items[number].parent >= 0:
            at.append(self.items[number].name)
            number = self.items[number].parent
        return path(at[::-1])

    def __repr__(self) -> str:
        return f"[{self.item.numel()}]"


def path(at: list[Any]) -> str:
    """``signal['figures'][2]``, say."""
    return "signal" + "".join(f"[{name!r}]" for name in at)


# A dataset on disk names the classes of what it holds, which `torch.load` must trust.
torch.serialization.add_safe_globals([SignalItems, Item])
