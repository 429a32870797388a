"""Families as dense blocks: which are treated together, and how their rows move in and out.

A tensor call costs as much as thousands of numbers, so a tree whose families have twenty sizes
should not need twenty sets of calls. Families of neighbouring sizes share a block where the padding
costs less than the calls; :func:`groups` finds the cheapest partition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .plan import Plan
from .sweeps import CHUNK_ELEMENTS, chunks

LOGITS = 1 << 20  # logits held at a time

# Below this number of multiplications torch's batched product leaves MKL for a loop over results
# that is five times slower.
FEWEST_PRODUCTS = 400

# Costs in nanoseconds on one core of an AMD EPYC, float32, forward; only their ratios matter.
PER_BLOCK, PER_NUMBER, PER_LOGIT, PER_PRODUCT = 100_000, 0.9, 5.0, 0.6
PER_SCATTERED = 15.0  # of one head of one row that could have been written in order


class Group(NamedTuple):
    """Families ``start:stop`` in order of size, all treated as if they had ``size`` members.

    ``first`` is the position of their first member if all members are consecutive, else -1.
    """

    size: int
    start: int
    stop: int
    padded: bool
    first: int


@lru_cache(maxsize=256)
def groups(
    sizes: tuple[tuple[int, int, int, int], ...], heads: int, width: int, limit: int
) -> tuple[Group, ...]:
    """The cheapest partition of the rows of :attr:`TreeIndex.sizes` into groups.

    Dynamic programming over consecutive sizes, of which a group spans at most 32.
    """
    best, cut, block = [0.0], [0], []
    in_order = [0]  # rows of consecutive families among the sizes so far
    for j, (b, start, stop, first) in enumerate(sizes):
        in_order.append(in_order[-1] + (b * (stop - start) if first >= 0 else 0))
        choices = []
        for size in {b, max(b, math.isqrt(FEWEST_PRODUCTS // max(1, width) - 1) + 1)}:
            cost = heads * size * (3 * width * PER_NUMBER + size * PER_LOGIT)
            if size * size * width < FEWEST_PRODUCTS:
                cost += heads * size * size * width * PER_PRODUCT
            choices.append((cost, size))
        each, size = min(choices)
        block.append(size)
        # A family of more logits than the limit fills a block by itself.
        lowest = j if heads * size * size > limit else max(0, j - 31)
        options = []
        for i in range(lowest, j + 1):
            scattered = in_order[-1] - in_order[i] if size > sizes[i][0] else 0
            cost = PER_BLOCK + (stop - sizes[i][1]) * each + PER_SCATTERED * heads * scattered
            options.append((best[i] + cost, i))
        cost, i = min(options)
        best.append(cost)
        cut.append(i)
    found, j = [], len(sizes)
    while j:
        i = cut[j]
        size = block[j - 1]
        padded = size > sizes[i][0]
        first = -1 if padded else sizes[i][3]
        found.append(Group(size, sizes[i][1], sizes[j - 1][2], padded, first))
        j = i
    return tuple(reversed(found))


class Block(NamedTuple):
    """Members of some families, as many columns as the largest has.

    Attributes:
        members: ``[F, b]`` positions. A smaller family repeats its last member: whatever it holds,
            NaN too, stays in the family.
        target: ``[F, b]`` where results go: as ``members``, but for a repeated one the row behind
            the last, which is thrown away.
        absent: ``[F, b]`` where a member is repeated; None where none is. Nobody may see it, and
            what it asks for must not reach the gradients of what it asks.
        start: the first position if all are consecutive, else -1.
    """

    members: Tensor
    target: Tensor
    absent: Tensor | None
    start: int = -1

    def take(self, x: Tensor, heads: int, at: int = 0, width: int | None = None) -> Tensor:
        """Columns ``at : at + heads * width`` of ``x [T, C]`` as ``[F, heads, b, width]``."""
        width = x.shape[1] // heads if width is None else width
        index, step = _index(self.members, x.shape[1], heads, at, width)
        return x.reshape(-1, step).index_select(0, index.view(-1)).view(*index.shape[:3], width)

    def put(self, out: Tensor, x: Tensor, at: int = 0, first: int = 0, add: bool = False) -> None:
        """Write ``x [F, heads, n, width]``, members from ``first`` on, to ``out [T + 1, C]``."""
        if self.start >= 0 and not add:  # one strided copy
            families, heads, _, width = x.shape
            here = out[self.start : self.start + self.members.numel()]
            here = here[:, at : at + heads * width].unflatten(0, (families, -1))
            here = here.unflatten(2, (heads, width))[:, first : first + x.shape[2]]
            here.transpose(1, 2).copy_(x)
            return
        rows = self.target[:, first : first + x.shape[2]]
        index, step = _index(rows, out.shape[1], x.shape[1], at, x.shape[3])
        out = out.view(-1, step)
        x = x.reshape(-1, step)
        if add:
            out.index_add_(0, index.view(-1), x)
        else:
            out.index_copy_(0, index.view(-1), x)


def _index(rows: Tensor, columns: int, heads: int, at: int, width: int) -> tuple[Tensor, int]:
    """Where the numbers are, ``[F, heads, b, pieces]``, in pieces of the second result's length.

    Moving pieces of rows to where they are needed is one pass; moving rows and transposing is two.
    """
    step = math.gcd(columns, at, width) or 1
    index = (rows * (columns // step)).view(rows.shape[0], 1, -1, 1)
    return index + _within(heads, at, width, step, rows.device), step


@lru_cache(maxsize=256)
def _within(heads: int, at: int, width: int, step: int, device: torch.device) -> Tensor:
    """Places ``[heads, 1, pieces]`` within a row."""
    return (torch.arange(heads * width // step, device=device) + at // step).view(heads, 1, -1)


def blocks(plan: Plan, heads: int, width: int) -> Iterator[Block]:
    """All nodes once, in an order that depends on the tree and the sizes alone."""
    num_nodes = plan.up.shape[0]
    table = tuple(map(tuple, plan.sizes.tolist()))
    for b, g0, g1, padded, position in groups(table, heads, width, LOGITS):
        step = max(1, min(LOGITS // max(1, heads * b * b), CHUNK_ELEMENTS // (b * heads * width)))
        column = torch.arange(b, device=plan.up.device)
        for lo, hi in chunks(g0, g1, step):
            first, size = plan.by_size[:, lo:hi].unsqueeze(-1)
            if not padded:
                members = first + column
                start = position + (lo - g0) * b if position >= 0 else -1
                yield Block(members, members, None, start)
                continue
            absent = column >= size
            members = first + torch.minimum(column, size - 1)
            yield Block(members, members.masked_fill(absent, num_nodes), absent)


def pieces(heads: int, size: int) -> Iterator[tuple[int, int]]:
    """Queries ``(start, stop)`` of a block: all, unless one family's logits would be too many."""
    small = heads * size * size <= LOGITS
    yield from chunks(0, size, size if small else max(1, LOGITS // (heads * size)))
