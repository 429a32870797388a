"""What the types of leaves have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hsa_geometric.functional.layout import over_subtrees


class Leaves(NamedTuple):
    """A value as leaves, with the tree above them.

    Attributes:
        rows: ``[n, width]`` or ``[n]``.
        parent: ``[t]`` tree of the value, leaves first; or None where the value is itself a leaf.
        place: ``[t, columns]`` of each node within its family, but for the root.
        kept: what the rows do not tell: strings, numbers, sizes.
        edge_index: ``[2, E]`` edges between the rows.
        edge_attr: ``[E, edge_width]``
    """

    rows: Any
    parent: Tensor | None = None
    place: Tensor | None = None
    kept: Any = None
    edge_index: Tensor | None = None
    edge_attr: Tensor | None = None


class LeafType:
    r"""Base class: how values of one type become leaves, and leaves values again.

    A type of one's own says which values it takes and has the two methods :meth:`encode` and
    :meth:`decode`; see the source of :class:`TensorLeaves`, the shortest.

    Attributes:
        width: number of channels of a leaf; :obj:`None` of ids.
        dtype: type of the rows.
        domain: on which the nodes below a value stand.
        columns: numbers to a place there.
        takes_type: Python type of the values.
        expects: the values in words.
    """

    width: int | None = None
    dtype: torch.dtype = torch.float32
    domain: str = "set"
    columns: int = 0
    takes_type: Any = object
    expects: str = "a value"

    def takes(self, value: Any) -> bool:
        """Whether it is a value of this type."""
        return isinstance(value, self.takes_type)

    def encode(self, value: Any) -> Leaves:
        """The leaves of a value that :meth:`takes` lets pass."""
        raise NotImplementedError

    def decode(self, leaves: Leaves) -> Any:
        """The value; here ``place`` has the rows of the leaves alone, and all columns."""
        raise NotImplementedError

    def stack(self, rows: list[Any]) -> Tensor:
        """The rows of all values of a sample; there may be none."""
        shape = (0,) if self.width is None else (0, self.width)
        return torch.cat([torch.empty(shape, dtype=self.dtype), *rows])


def is_rows(x: Any, width: int | None, dtype: torch.dtype) -> bool:
    """Whether it holds at least one row of this width, on the CPU."""
    shape = () if width is None else (width,)
    fits = isinstance(x, Tensor) and x.dtype == dtype and x.dim() > 0 and x.shape[1:] == shape
    return bool(fits and x.shape[0] > 0 and x.device.type == "cpu")


def said_rows(width: int | None, dtype: torch.dtype) -> str:
    """The shape and type in words."""
    return f"[n] of {dtype}" if width is None else f"[n, {width}] of {dtype}"


def described(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype} on {value.device}"
    return type(value).__name__


def family(n: int) -> Tensor:
    """Parent vector of a node with so many leaves."""
    return torch.full((n + 1,), n)


def ranks(parent: Tensor, value: Tensor) -> Tensor:
    """``[t]`` how many different values smaller than its own each node sees among its siblings.

    The value of an inner node is the least of the leaves, ``value``, below it.
    """
    most = int(value.max()) + 1
    above = value.new_full((parent.numel() - value.numel(),), most)
    least = over_subtrees(torch.cat([value, above]), parent, "amin")
    ids = torch.arange(parent.numel())
    group = torch.where(parent == ids, ids.numel(), parent)  # the root is no child of its own
    found, which = torch.unique(group * most + least, return_inverse=True)
    first = torch.searchsorted(found, found // most * most)
    return (torch.arange(found.numel()) - first)[which]
