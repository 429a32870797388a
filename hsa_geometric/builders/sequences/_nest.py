"""From the units of each level to a parent vector.

A *unit* is a set of leaves that belong together at one level: a window, a sentence, a cell. A
level is a vector ``[N]``: the unit of each leaf, ``-1`` where it has none at this level. Unit ids
need not be contiguous. Levels go from fine to coarse. ``batch`` ascends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Nested(NamedTuple):
    """A tree over the units.

    Attributes:
        parent: ``[T]`` leaves first, then the units of each level, then root ``b`` of sample ``b``.
        level: ``[T]`` 0 for a leaf, ``k`` for a unit of the ``k``-th level, one more for a root.
        first: ``[T]`` row of the first leaf below each node.
    """

    parent: Tensor
    level: Tensor
    first: Tensor


def refine(levels: Sequence[Tensor], batch: Tensor) -> list[Tensor]:
    """Split the units where one of a coarser level, or a sample, ends."""
    out, coarser = [], batch
    for unit in reversed(levels):
        _, coarser = torch.unique(coarser * (unit.max() + 2) + unit + 1, return_inverse=True)
        out.append(torch.where(unit < 0, -1, coarser))
    return out[::-1]


def nest(levels: Iterable[Tensor], batch: Tensor, *, collapse: bool) -> Nested:
    """Hang leaves below units, units below units of coarser levels, and all below the roots.

    Units must nest, which :func:`refine` sees to. With ``collapse`` a unit that would have a single
    child is left out, and so is one that holds a whole sample, for that is what its root is.

    Cost: a pass over the nodes that still have no parent for each level; no Python per node.
    """
    top = leaf = torch.arange(batch.numel(), device=batch.device)
    child: list[Tensor] = []
    above: list[Tensor] = []
    first, count = [leaf], [leaf.numel()]
    # `top` are the nodes without a parent so far, `leaf` the first leaf below each.
    for units in levels:
        at = (units[leaf] >= 0).nonzero().view(-1)
        unit = units[leaf[at]]
        members = torch.bincount(unit)
        keep = members > int(collapse)
        if collapse:
            sample = batch[leaf]
            whole = members[unit] == torch.bincount(sample)[sample[at]]
            keep[unit[whole]] = False
        joins = keep[unit]
        at, unit = at[joins], (keep.cumsum(0) - 1)[unit[joins]]

        new = torch.arange(int(keep.sum()), device=leaf.device)
        child.append(top[at])
        above.append(unit + sum(count))
        first.append(torch.full_like(new, batch.numel()).scatter_reduce(0, unit, leaf[at], "amin"))
        rest = torch.ones_like(top, dtype=torch.bool)
        rest[at] = False
        top = torch.cat([top[rest], new + sum(count)])
        leaf = torch.cat([leaf[rest], first[-1]])
        count.append(new.numel())

    child.append(top)
    above.append(batch[leaf] + sum(count))
    sizes = torch.bincount(batch)
    first.append(sizes.cumsum(0) - sizes)
    count.append(sizes.numel())
    parent = torch.arange(sum(count), device=leaf.device)
    parent[torch.cat(child)] = torch.cat(above)
    level = torch.arange(len(count)).repeat_interleave(torch.tensor(count))
    return Nested(parent, level.to(leaf.device), torch.cat(first))
