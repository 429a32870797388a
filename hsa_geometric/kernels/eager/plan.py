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
    family_order: Tensor
    levels: Tensor
    sizes: Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums of :obj:`dtype` are taken: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# What a backward returns for the tree: autograd wants the structure of the input.
NO_GRAD: list[None] = [None] * len(Plan._fields)
