"""Tensors and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders.signals._leaves import LeafType, Leaves, family, is_rows, said_rows
from hsa_geometric.functional.options import check_integer


@dataclass(frozen=True)
class TensorLeaves(LeafType):
    r"""A tensor of rows, in order: each row is a leaf.

    Args:
        width: number of channels; :obj:`None` for a tensor of ids ``[n]``, as a tokenizer gives.
        dtype: type of the tensor. (default: ``float32``; ``int64`` of ids)

    Raises:
        TypeError, ValueError: if the width is no positive integer, or the type does not go with it.

    Example:
        >>> TensorLeaves(300).expects
        'a tensor [n, 300] of torch.float32'
    """

    width: int | None
    dtype: torch.dtype = None  # type: ignore[assignment]

    domain = "sequence"
    columns = 1
    takes_type = Tensor

    def __post_init__(self) -> None:
        if self.width is not None:
            check_integer(self.width, "width", 1)
        default = torch.int64 if self.width is None else torch.float32
        object.__setattr__(self, "dtype", self.dtype or default)
        if self.dtype.is_floating_point == (self.width is None):
            raise ValueError(
                f"Expected 'dtype' to be of floating point with a width, and of integers without "
                f"(got {self.dtype} and width {self.width})"
            )
        object.__setattr__(self, "expects", f"a tensor {said_rows(self.width, self.dtype)}")

    def takes(self, value: Any) -> bool:
        """Whether it has the width and the type, and a row."""
        return is_rows(value, self.width, self.dtype)

    def encode(self, value: Tensor) -> Leaves:
        """A leaf for each row."""
        n = value.shape[0]
        return Leaves(value, family(n), torch.arange(n + 1.0)[:, None])

    def decode(self, leaves: Leaves) -> Tensor:
        """The rows."""
        rows: Tensor = leaves.rows
        return rows


@dataclass(frozen=True)
class NumberLeaves(LeafType):
    r"""A number (:class:`int`, :class:`float`, :class:`bool`): one leaf of width 1.

    Example:
        >>> NumberLeaves().encode(2.5).rows
        2.5
    """

    width = 1
    takes_type = (int, float)
    expects = "a number"

    def encode(self, value: float) -> Leaves:
        """The leaf."""
        try:
            return Leaves(float(value), kept=value)
        except OverflowError:
            raise ValueError("Expected a number that a float can hold") from None

    def decode(self, leaves: Leaves) -> Any:
        """The number as it was."""
        return leaves.kept

    def stack(self, rows: list[float]) -> Tensor:
        """All numbers of a sample in one tensor."""
        return torch.tensor(rows, dtype=self.dtype).view(-1, 1)
