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
    def of(cls, up: Tensor, level: Tensor, depth: int) -> Passes:
        """Passes for parents ``up [T]`` of positions at ascending levels ``level [T]``."""
        none = up.new_empty(0)
        if depth <= FEWEST_LEVELS or up.numel() > THINNEST_LEVEL * depth:
            return cls(torch.empty(0, 5, dtype=torch.long), none, none, none, up.new_zeros(1))
        jumps = [up]
        while 2 ** len(jumps) <= depth:
            jumps.append(jumps[-1][jumps[-1]])
        first = [(r, level % 2 ** (r + 1) == 2**r) for r in range(len(jumps))]
        second = [(r, (level % 2 ** (r + 1) == 0) & (level > 0)) for r in range(len(jumps))]
        exponents, children, aboves = [], [], []
        for r, giving in [*first, *reversed(second)]:
            child = giving.nonzero().view(-1)
            if child.numel() > 0:
                exponents.append(r)
                children.append(child)
                aboves.append(jumps[r][child])
        # Levels are sorted by parent, hence by any ancestor: what one receives stands together.
        parents, counts = zip(
            *(torch.unique_consecutive(a, return_counts=True) for a in aboves), strict=True
        )
        ends = [
            torch.tensor([0, *(x.numel() for x in parts)]).cumsum(0)
            for parts in (children, parents)
        ]
        columns = [ends[0][:-1], ends[0][1:], ends[1][:-1], ends[1][1:], torch.tensor(exponents)]
        table = torch.stack(columns, dim=1)
        ptr = torch.cat([up.new_zeros(1), torch.cat(counts).cumsum(0)])
        return cls(table, torch.cat(children), torch.cat(aboves), torch.cat(parents), ptr)
