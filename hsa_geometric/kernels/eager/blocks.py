"""Families as dense blocks: which are treated together, and how their rows move in and out.

A tensor call costs as much as thousands of numbers, so a tree whose families have twenty sizes
should not need twenty sets of calls. Families of neighbouring sizes share a block where the padding
costs less than the calls; :func:`groups` finds the cheapest partition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .plan import Plan
from .sweeps import CHUNK_ELEMENTS, chunks

LOGITS = 1 << 20  # logits held at a time

# Of a large family, whatever the limit: with fewer, sums over those who answer are not vectorised.
FEWEST_QUERIES = 32

# Heads of nodes in a tree whose blocks are made once, and pieces of each whose places are kept.
REMEMBERED, FEW_PIECES = 1 << 19, 12

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
    """The cheapest partition of the rows of :attr:`Layout.sizes` into groups.

    Dynamic programming over consecutive sizes, of which a group spans at most 32.
    """
    best, cut, block = [0.0], [0], []
    in_order = [0]  # rows of consecutive families among the sizes so far
    for j, (b, start, stop, first) in enumerate(sizes):
        in_order.append(in_order[-1] + (b * (stop - start) if first >= 0 else 0))
        choices = []
        for size in {b, max(b, math.isqrt(FEWEST_PRODUCTS // max(1, width) - 1) + 1)}:
            cost = heads * size * (3 * width * PER_NUMBER + size * PER_LOGIT)
            if size > 2 and size * size * width < FEWEST_PRODUCTS:
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
            the last, which is thrown away. Where values are read from there, that row says what
            becomes of such a member: nobody may see it, and what it asks for must not reach the
            gradients of what it asks.
    """

    members: Tensor
    target: Tensor


@dataclass(eq=False)
class Bundle:
    """Blocks whose rows move together: a call each way, however many blocks there are.

    Values of a bundle are a list with a tensor ``[F * heads, b, width]`` for each block.

    Attributes:
        blocks: the blocks.
        start: the first position if there is one block whose members are consecutive, else -1.
    """

    blocks: list[Block]
    start: int = -1
    memo: dict[Hashable, Tensor] = field(default_factory=dict, repr=False)

    def take(self, x: Tensor, heads: int, ended: bool = False) -> list[Tensor]:
        """Values ``x [T, heads * width]``; ``x [T + 1, ...]`` if :obj:`ended`."""
        index = self._index(heads, heads, 1, ended)
        taken = x.reshape(-1, x.shape[1] // heads).index_select(0, index)
        return self._by_block(taken, heads, x.shape[1] // heads)

    def take_parts(self, x: Tensor, heads: int, widths: tuple[int, ...]) -> list[list[Tensor]]:
        """For each width its values, beside each other in ``x [T, sum(heads * widths)]``."""
        step = math.gcd(*widths) or 1

        def index() -> Tensor:
            starts = itertools.accumulate((heads * w for w in widths[:-1]), initial=0)
            return torch.cat([
                self._index(x.shape[1] // step, heads, w // step, False) + at // step
                for at, w in zip(starts, widths, strict=True)
            ])  # fmt: skip

        places = self._once(("parts", heads, widths), heads, index)
        taken = x.reshape(-1, step).index_select(0, places).view(-1)
        parts = taken.split([self.size * heads * w for w in widths])
        return [self._by_block(p, heads, w) for p, w in zip(parts, widths, strict=True)]

    def take_for_all(self, x: Tensor, heads: int) -> list[Tensor]:
        """``x [T + 1]``, for each head the same: ``[F * heads, b, 1]``."""
        return self._by_block(x.index_select(0, self._index(1, heads, -1, True)), heads, 1)

    def put(self, out: Tensor, x: Tensor, heads: int, at: int = 0, add: bool = False) -> None:
        """Write or add values, :func:`joined`, to ``out [T + 1, at: at + H w]``."""
        width = x.numel() // max(1, self.size * heads)
        if self.start >= 0 and not add:  # one strided copy
            families, size = self.blocks[0].members.shape
            here = out[self.start : self.start + families * size, at : at + heads * width]
            here = here.unflatten(0, (families, size)).unflatten(2, (heads, width))
            here.transpose(1, 2).copy_(x.view(families, heads, size, width))
            return
        step = math.gcd(out.shape[1], at, width) or 1
        index = self._index(out.shape[1] // step, heads, width // step, True)
        out = out.view(-1, step)
        out = out[at // step :] if at else out
        if add:
            out.index_add_(0, index, x.reshape(-1, step))
        else:
            out.index_copy_(0, index, x.reshape(-1, step))

    def take_rows(self, x: Tensor, sibling: bool = False) -> Tensor:
        """Rows of ``x [T, C]`` as ``[F, b, C]``; with :obj:`sibling` of each member's, of two."""
        ((members, _),) = self.blocks
        if self.start >= 0 and not sibling:
            return x[self.start : self.start + members.numel()].unflatten(0, members.shape)
        index = members
        if sibling:
            index = self._once("siblings", 1, lambda: members.flip(1))
        return x.index_select(0, index.view(-1)).unflatten(0, members.shape)

    def put_rows(self, out: Tensor, x: Tensor) -> None:
        """Write ``x [F, b, C]`` to ``out [T + 1, C]``."""
        ((_, target),) = self.blocks
        if self.start >= 0:
            out[self.start : self.start + target.numel()].unflatten(0, target.shape).copy_(x)
        else:
            out.index_copy_(0, target.view(-1), x.flatten(0, 1))

    @property
    def couples(self) -> bool:
        """Whether this is one block of families of one or two, which need no softmax."""
        return len(self.blocks) == 1 and self.blocks[0].members.shape[1] <= 2

    @cached_property
    def size(self) -> int:
        """Number of members, repeated ones counted."""
        return sum(b.members.numel() for b in self.blocks)

    def _by_block(self, x: Tensor, heads: int, width: int) -> list[Tensor]:
        if len(self.blocks) == 1:
            return [x.view(-1, self.blocks[0].members.shape[1], width)]
        parts = x.view(-1).split([b.members.numel() * heads * width for b in self.blocks])
        return [
            p.view(-1, b.members.shape[1], width) for p, b in zip(parts, self.blocks, strict=True)
        ]

    def _index(self, pieces: int, heads: int, each: int, ended: bool) -> Tensor:
        """Where values are in rows of ``pieces`` pieces, ``each`` for a head: ``[F, H, b, each]``,
        block after block.

        Moving pieces of rows to where they are needed is one pass; moving rows and transposing is
        two. With ``each`` -1 all heads read the same.
        """
        ended = ended and any(b.target is not b.members for b in self.blocks)

        def places(block: Block) -> Tensor:
            rows = block.target if ended else block.members
            index = (rows * pieces).view(rows.shape[0], 1, -1, 1)
            if each < 0:
                return index.expand(-1, heads, -1, -1).reshape(-1)
            return (index + _within(heads, each, rows.device)).view(-1)

        def index() -> Tensor:
            parts = [places(block) for block in self.blocks]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return self._once(("index", pieces, heads, each, ended), heads, index)

    def _once(self, key: Hashable, heads: int, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` returns, remembered unless it would take more memory than is its due."""
        if key in self.memo:
            return self.memo[key]
        with torch.inference_mode(False):
            index = make()
        if index.numel() <= FEW_PIECES * heads * self.size:
            self.memo[key] = index
        return index


def joined(values: Sequence[Tensor]) -> Tensor:
    """Values ``[F * heads, b, *]`` of each block as one tensor, block after block."""
    if len(values) == 1:
        return values[0].flatten(0, 1)
    return torch.cat([x.flatten(0, 1) for x in values])


@lru_cache(maxsize=256)
def _within(heads: int, each: int, device: torch.device) -> Tensor:
    """Places ``[heads, 1, each]`` within a row."""
    return torch.arange(heads * each, device=device).view(heads, 1, each)


def bundles(plan: Plan, heads: int, width: int) -> Iterable[Bundle]:
    """All nodes once, in an order that depends on the tree and the sizes alone."""
    if plan.num_nodes * heads > REMEMBERED:
        return _bundled(plan, heads, width)
    key = ("bundles", heads, width, LOGITS, CHUNK_ELEMENTS)
    return plan.once(key, lambda: list(_bundled(plan, heads, width)))


def _bundled(plan: Plan, heads: int, width: int) -> Iterator[Bundle]:
    """Blocks in order, as many in a bundle as a chunk holds; those of couples each by itself."""
    held: list[Block] = []
    start, size = -1, 0
    for block, first in _made(plan, heads, width):
        more = block.members.numel() * heads * width
        if held and (held[-1].members.shape[1] <= 2 or size + more > CHUNK_ELEMENTS):
            yield Bundle(held, start)
            held, size = [], 0
        start = -1 if held else first
        held, size = [*held, block], size + more
    yield Bundle(held, start)


def _made(plan: Plan, heads: int, width: int) -> Iterator[tuple[Block, int]]:
    """Blocks, and the first position where all members are consecutive (else -1)."""
    for b, g0, g1, padded, position in groups(tuple(plan.sizes), heads, width, LOGITS):
        step = max(1, min(LOGITS // max(1, heads * b * b), CHUNK_ELEMENTS // (b * heads * width)))
        column = torch.arange(b, device=plan.up.device)
        for lo, hi in chunks(g0, g1, step):
            first, size = plan.by_size[:, lo:hi].unsqueeze(-1)
            if not padded:
                members = first + column
                yield Block(members, members), position + (lo - g0) * b if position >= 0 else -1
                continue
            members = first + torch.minimum(column, size - 1)
            yield Block(members, members.masked_fill(column >= size, plan.num_nodes)), -1


def pieces(heads: int, size: int) -> Iterator[tuple[int, int]]:
    """Queries ``(start, stop)`` of a block: all, unless one family's logits would be too many."""
    small = heads * size * size <= LOGITS
    yield from chunks(0, size, size if small else max(FEWEST_QUERIES, LOGITS // (heads * size)))
