"""Where the row of each node is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..eager.plan import Plan

# Positions and offsets are int32 below this number of entries.
INT32_LIMIT = 1 << 31


class Places(NamedTuple):
    """Where kernels find a tree's rows; worked out once for a tree.

    Rows of leaves stay where the caller has them, in his order and dtype. Rows of inner nodes stand
    in tensors of their own, in the order of :attr:`Plan.inner` and in the precision of sums. So
    nothing of the size of the input is copied.

    Attributes:
        source: ``[T]`` of each position, the leaf's row; or ``-1 - n`` for the ``n``-th inner node.
        starts: ``[T]`` first position of the node's family; a root is one of its own.
        ends: ``[T]`` the position after its last one.
        family: ``[F]`` which family is below each inner node.
    """

    source: Tensor
    starts: Tensor
    ends: Tensor
    family: Tensor

    @classmethod
    def of(cls, plan: Plan) -> Places:
        """The places of a tree, made at the first call."""
        return plan.once("places", lambda: cls._made(plan))

    @classmethod
    def _made(cls, plan: Plan) -> Places:
        position = torch.arange(plan.num_nodes, device=plan.up.device)
        number = torch.searchsorted(plan.family_ptr, position[plan.num_roots :], right=True)
        roots = position[: plan.num_roots]
        starts = torch.cat([roots, plan.family_ptr[number - 1]])
        ends = torch.cat([roots + 1, plan.family_ptr[number]])
        source, family = torch.empty_like(position), torch.empty_like(plan.inner)
        leaves, inner = plan.leaf.shape[0], plan.inner.shape[0]
        source.index_copy_(0, plan.leaf, position[:leaves])
        source.index_copy_(0, plan.inner, -1 - position[:inner])
        family.index_copy_(0, plan.family_inner, position[:inner])
        if plan.num_nodes < INT32_LIMIT:
            source, starts, ends = source.int(), starts.int(), ends.int()
        return cls(source, starts, ends, family)
