r"""Sweeps over deep trees in a number of passes that grows with the logarithm of the depth.

A sweep level by level makes as many passes as there are levels: 3,000 for a caterpillar 3,000
deep, each over a handful of rows. Here levels are paired as in a parallel prefix sum (Brent & Kung,
1982). Upward, with :math:`2^r` a distance in levels:

1. for r = 0, 1, …: nodes at an odd multiple of :math:`2^r` add what they hold to their ancestors
   :math:`2^r` levels up; then a node at level :math:`2^r \cdot` odd holds the sum over the
   :math:`2^r` levels below it, and a root everything;
2. for r = …, 1, 0: nodes at a multiple of :math:`2^{r+1}`, which hold everything below them by now,
   add it to their ancestors :math:`2^r` levels up, which lacked just that.

Each pass adds rows to other rows: :math:`y \mathrel{+}= E_r y`. The downward sweep is the
transpose: the same passes in reverse order, from ancestors to descendants. All are sums of disjoint
parts, without the cancellation of prefix sums. About 2 rows are read for each node.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# A pass over a level costs about as much as moving 25 rows: below that, levels are too thin.
FEWEST_LEVELS, THINNEST_LEVEL = 64, 25

# Columns of ``Passes.table``.
PASS_COLUMNS = 5


class Passes(NamedTuple):
    r"""The passes of a deep forest; all empty for a forest that is swept level by level.

    Attributes:
        table: ``[P, 5]`` on the CPU, one row for each pass of the upward sweep: its slice of
            ``child``, its slice of ``parent``, and r.
        child: ``[K]`` positions of the nodes that give, the passes one after another.
        above: ``[K]`` position of the ancestor that each of them gives to.
        parent: ``[M]`` positions of the nodes that receive, once in each pass.
        ptr: ``[M + 1]`` givers of ``parent[m]`` are ``child[ptr[m]:ptr[m + 1]]``.
    """

    table: Tensor
    child: Tensor
    above: Tensor
    parent: Tensor
    ptr: Tensor

    @classmethod
    def of(cls, up: Tensor, starts: Tensor) -> Passes:
        """Passes for parents ``up [T]`` of positions.

        ``starts``, on the CPU, is the first position of each level but the roots'.
        """
        depth, device = starts.numel(), up.device
        none = up.new_empty(0)
        if depth <= FEWEST_LEVELS or up.numel() > THINNEST_LEVEL * depth:
            return cls(
                torch.empty(0, PASS_COLUMNS, dtype=torch.long), none, none, none, up.new_zeros(1)
            )
        first = [(r, 2**r) for r in range(depth.bit_length())]
        second = [(r, 2 ** (r + 1)) for r in range(depth.bit_length() - 1)]
        passes = [*first, *reversed(second)]
        levels = [torch.arange(lowest, depth + 1, 2 ** (r + 1)) for r, lowest in passes]
        ends = torch.tensor([x.numel() for x in levels]).cumsum(0)

        # Who gives follows from the levels, on the CPU: all nodes of some, one after another.
        bounds, level = torch.cat([starts, torch.tensor([up.numel()])]), torch.cat(levels)
        begin = bounds[level - 1]
        length = bounds[level] - begin
        stop = length.cumsum(0)
        givers = torch.cat([stop.new_zeros(1), stop[ends - 1]])
        total = int(givers[-1])
        # A copy to the device need not be waited for.
        packed = torch.cat([begin - stop + length, length, givers]).to(device, non_blocking=True)
        shift, length, ends = packed.split([level.numel(), level.numel(), givers.numel()])
        child = torch.arange(total, device=device)
        child += shift.repeat_interleave(length, output_size=total)
        above, jump, slices = torch.empty_like(child), up, givers.tolist()
        for exponent in range(depth.bit_length()):
            for (r, _), k0, k1 in zip(passes, slices[:-1], slices[1:], strict=True):
                if r == exponent:
                    above[k0:k1] = jump.index_select(0, child[k0:k1])
            jump = jump.index_select(0, jump)

        # Levels are sorted by parent, hence by any ancestor: what one receives stands together.
        is_first = torch.ones_like(child, dtype=torch.bool)
        is_first[1:] = above[1:] != above[:-1]
        rank = is_first.index_fill_(0, ends[:-1], True).cumsum(0)
        receivers = torch.cat([givers[:1], rank[ends[1:] - 1].cpu()])
        ptr = rank.new_zeros(int(receivers[-1]) + 1)
        ptr = ptr.index_add_(0, rank, torch.ones_like(rank)).cumsum(0)
        exponents = torch.tensor([r for r, _ in passes])
        columns = [givers[:-1], givers[1:], receivers[:-1], receivers[1:], exponents]
        return cls(torch.stack(columns, dim=1), child, above, above[ptr[:-1]], ptr)
