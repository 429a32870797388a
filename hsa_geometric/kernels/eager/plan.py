"""The tree as the operators receive it, and what they work out about it once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...tree import Layout


class Level(NamedTuple):
    """One level below the roots; the numbers are a row of :attr:`Layout.levels`.

    Families ``f0:f1``, nodes ``n0:n1``, the first parent ``p0`` if the parents are consecutive
    (else -1), the family ``size`` if all agree (else 0), the inner nodes ``lo:hi``.

    Attributes:
        above: position of each node's parent.
        parents: positions of the families' parents.
        ptr: where the families begin, counted from ``n0``, and the end.
        inner_parents: the parents, as inner nodes are numbered.
        inner_ptr: where the inner members of the families begin, counted from ``lo``, and the end.
    """

    f0: int
    f1: int
    n0: int
    n1: int
    p0: int
    size: int
    lo: int
    hi: int
    above: Tensor
    parents: Tensor
    ptr: Tensor
    inner_parents: Tensor
    inner_ptr: Tensor


@dataclass(eq=False)
class Plan:
    """:attr:`hsa_geometric.TreeIndex.tensors`, taken apart, and what follows from them.

    Operators receive a list of tensors, once for each layer and pass; :meth:`of` gives the same
    plan for the same list for as long as the tree lives.
    """

    up: Tensor
    leaf: Tensor
    family_parent: Tensor
    family_ptr: Tensor
    inner: Tensor
    inner_ptr: Tensor
    family_inner: Tensor
    above: Tensor
    by_size: Tensor
    pass_child: Tensor
    pass_above: Tensor
    pass_parent: Tensor
    pass_ptr: Tensor
    level_table: Tensor
    sizes: list[tuple[int, ...]]
    passes: list[tuple[int, ...]]
    num_roots: int
    first_leaf: int
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tree: list[Tensor]) -> Plan:
        """The plan of a tree, made at the first call."""
        *_, numbers = tree
        plan = _PLANS.get(numbers)
        if plan is None:
            plan = _PLANS[numbers] = cls._made(*tree)
        return plan

    @classmethod
    @torch.inference_mode(False)
    def _made(cls, up: Tensor, leaf: Tensor, packed: Tensor, numbers: Tensor) -> Plan:
        # A slice of `numbers`, the key, would keep the plan alive for ever.
        *parts, levels, sizes, passes, num_roots, first_leaf = Layout.of(packed, numbers.clone())
        table, *pass_parts = passes
        rows = [[tuple(row) for row in x.tolist()] for x in (sizes, table)]
        given: list[Any] = [up, leaf, *parts, *pass_parts, levels, *rows, num_roots, first_leaf]
        return cls(*given)

    @property
    def num_nodes(self) -> int:
        """Positions are ``0 .. num_nodes - 1``; roots come first."""
        return self.up.shape[0]

    @property
    def deep(self) -> bool:
        """Whether sweeps run in passes of logarithmic number instead of level by level."""
        return len(self.passes) > 0

    @cached_property
    def rows(self) -> list[int]:
        """How many nodes are on each level, the roots first."""
        return [self.num_roots, *(self.level_table[:, 3] - self.level_table[:, 2]).tolist()]

    @cached_property
    @torch.inference_mode(False)
    def levels(self) -> list[Level]:
        """Levels below the roots, from the top."""
        table = self.level_table
        if table.shape[0] == 0:
            return []
        families = table[:, 1] - table[:, 0]
        counts = (families + 1).to(self.up.device, non_blocking=True)
        number = torch.arange(table.shape[0], device=self.up.device)
        number = number.repeat_interleave(counts, output_size=len(self.family_ptr) + len(table) - 1)
        # Families of a level and, once more, the first of the next: as many as bounds.
        bound = torch.arange(number.shape[0], device=number.device) - number
        start = table.to(number.device, non_blocking=True)[number]
        ptr = self.family_ptr[bound] - start[:, 2]
        inner_ptr = self.inner_ptr[bound] - start[:, 6]
        sizes, bounds = families.tolist(), (families + 1).tolist()
        columns = zip(
            table.tolist(),
            self.up.split(self.rows)[1:],
            self.family_parent.split(sizes),
            ptr.split(bounds),
            self.family_inner.split(sizes),
            inner_ptr.split(bounds),
            strict=True,
        )
        return [Level(*row, *tensors) for row, *tensors in columns]

    @cached_property
    def leaf_rows(self) -> slice | Tensor:
        """Positions of the leaves: a slice where they are consecutive."""
        start = self.first_leaf
        return self.leaf if start < 0 else slice(start, start + self.leaf.shape[0])

    @cached_property
    @torch.inference_mode(False)
    def leaf_members(self) -> tuple[Tensor, Tensor, Tensor]:
        """Leaves by family: their rows of ``x``, their positions, and where families begin."""
        inner_roots = self.levels[0].lo if self.levels else 0
        position, row = (x[self.num_roots - inner_roots :] for x in self.leaf.sort())
        return row, position, torch.searchsorted(position, self.family_ptr)

    @cached_property
    @torch.inference_mode(False)
    def leaf_above(self) -> Tensor:
        """``[N]`` which inner node is the parent of each leaf."""
        return self.above.index_select(0, self.leaf)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, worked out at the first call; for what only some need."""
        if key not in self.memo:
            with torch.inference_mode(False):
                self.memo[key] = make()
        return self.memo[key]

    def take_leaves(self, y: Tensor) -> Tensor:
        """Leaf rows of ``y [T, C]``: a view where they are consecutive."""
        rows = self.leaf_rows
        return y[rows] if isinstance(rows, slice) else y.index_select(0, rows)


_PLANS = WeakTensorKeyDictionary()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums of :obj:`dtype` are taken: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32
