"""The arguments of the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..call import Call, accumulator
from ..dropout import kept_scale
from .plan import Plan

# Elements of a tile.
TILE = 2048
# Rows of a tile of families, of long ones, and what is long.
ROWS, LONG_ROWS, LONG = 8, 64, 1024
# Levels that a launch goes down; and where levels are many and thin.
LEVELS, MANY_LEVELS = 8, 32

# Whether one launch goes up all levels. It relies on the order of memory operations of different
# programs; one launch a level does not, and computes the same to the last bit.
ONE_LAUNCH = True


def beside(x: Tensor) -> Tensor:
    """``x [N, H, D]``, copied if the heads of a row do not stand beside each other."""
    return x if x[:1].is_contiguous() else x.contiguous()


class Arguments(NamedTuple):
    """A call, with the values of nodes in storage order.

    Attributes:
        q: ``[N, H, D]`` of the leaves, as ``k``, and ``v [N, H, V]``. Heads stand beside each other
            in each row; rows may be parts of longer ones. All other tensors are contiguous.
        pos_q: ``[T, H, P]``, as ``pos_k``.
        temperature: ``[T, H]``, as ``bias``.
        seen: ``[N, 1, 1]`` whether a leaf has mass, if leaves have masses.
        weight: ``[T]`` what part of its parent's mass each node has.
        log_mass: ``[T]``.
        scale: factor of the dot products.
        self_loop: whether a leaf attends to itself.
        dropout_p: probability that a weight is dropped.
        seed: of the masks, one number on the device.
        plan: the tree.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    pos_q: Tensor | None
    pos_k: Tensor | None
    temperature: Tensor | None
    bias: Tensor | None
    seen: Tensor | None
    weight: Tensor
    log_mass: Tensor
    scale: float
    self_loop: bool
    dropout_p: float
    seed: Tensor | None
    plan: Plan

    @classmethod
    def of(cls, call: Call, weight: Tensor, log_mass: Tensor) -> Arguments:
        """Of a call and, in storage order, each node's share of its parent's mass and log mass."""
        dtype, seen = accumulator(call.q.dtype), None
        leaves = [call.q, call.k, call.v]
        if call.mass is not None:  # padding may hold anything, and its means are 0
            seen = (call.mass > 0).view(-1, 1, 1)
            leaves = [torch.where(seen, x, 0) for x in leaves]
        of_nodes = call.learned[3:]
        order = call.tree.order
        return cls._make([
            *map(beside, leaves),
            *(None if x is None else x.to(dtype).index_select(0, order) for x in of_nodes),
            seen, weight, log_mass, call.scale, call.self_loop, call.dropout_p, call.seed,
            Plan.of(call.tree),
        ])  # fmt: skip

    @property
    def heads(self) -> int:
        """H."""
        return self.q.shape[1]

    @property
    def acc(self) -> torch.dtype:
        """The precision of sums."""
        return accumulator(self.q.dtype)

    @property
    def dropout(self) -> tuple[float, float]:
        """The probability to drop, and the factor of what is kept."""
        return self.dropout_p, kept_scale(self.dropout_p)

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised numbers in the precision of sums."""
        return self.q.new_empty(shape, dtype=self.acc)

    def scalars(self) -> Tensor:
        """Uninitialised ``[T, H]``."""
        return self.empty(self.plan.num_nodes, self.heads)
