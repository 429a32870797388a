"""What every backend is given."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..tree import TreeIndex


class Call(NamedTuple):
    """The arguments of one attention, checked.

    Rows of ``q``, ``k``, ``v`` and ``mass`` are leaves; those of the four after them nodes by id.
    float64 is not mixed with less; half precisions and float32 may be mixed.

    Attributes:
        q: ``[N, H, D]``.
        k: ``[N, H, D]``.
        v: ``[N, H, Dv]``.
        pos_q: ``[T, H, P]`` or None, as ``pos_k``.
        pos_k: ``[T, H, P]`` or None.
        temperature: ``[T, H]`` or None.
        bias: ``[T, H]`` or None.
        mass: ``[N]`` or None: data without gradient.
        seed: ``[1]`` int64 on the device of ``q`` where ``dropout_p > 0``, else None.
        tree: the tree.
        scale: factor of the dot product of ``q`` and ``k``.
        self_loop: whether a leaf attends to itself.
        dropout_p: probability of dropping a weight: 0 outside training.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    pos_q: Tensor | None
    pos_k: Tensor | None
    temperature: Tensor | None
    bias: Tensor | None
    mass: Tensor | None
    seed: Tensor | None
    tree: TreeIndex
    scale: float
    self_loop: bool
    dropout_p: float


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32
