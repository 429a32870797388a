"""The tree as the operators receive it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Plan(NamedTuple):
    """:attr:`hsa_geometric.TreeIndex.tensors`, by name."""

    up: Tensor
    leaf: Tensor
    family_parent: Tensor
    family_ptr: Tensor
    inner: Tensor
    inner_ptr: Tensor
    family_inner: Tensor
    above: Tensor
    by_size: Tensor
    levels: Tensor
    sizes: Tensor
    layout: Tensor
    pass_table: Tensor
    pass_child: Tensor
    pass_above: Tensor
    pass_parent: Tensor
    pass_ptr: Tensor

    @property
    def num_roots(self) -> int:
        """Roots have positions ``0 .. num_roots - 1``."""
        return int(self.layout[0])

    @property
    def deep(self) -> bool:
        """Whether sweeps run in passes of logarithmic number instead of level by level."""
        return self.pass_table.shape[0] > 0

    def leaf_rows(self) -> slice | Tensor:
        """Positions of the leaves: a slice where they are consecutive."""
        start = int(self.layout[1])
        return self.leaf if start < 0 else slice(start, start + self.leaf.shape[0])

    def take_leaves(self, y: Tensor) -> Tensor:
        """Leaf rows of ``y [T, C]``: a view where they are consecutive."""
        rows = self.leaf_rows()
        return y[rows] if isinstance(rows, slice) else y.index_select(0, rows)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums of :obj:`dtype` are taken: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# What a backward returns for the tree: autograd wants the structure of the input.
NO_GRAD: list[None] = [None] * len(Plan._fields)
