"""Balanced bisection of point sets: every part of a level is cut in the same few tensor calls.

The points lie in memory part by part. To cut all parts, each point gets a number (its coordinate
along the axis its part is cut across) and one sort orders the points by part and number. A part
is then cut by naming a place in it: nothing moves, and how many points go where is known before
any coordinate is looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric.builders._levels import parent_of_levels
from hsa_geometric.functional.options import check_choice, check_integer

EIGH_DIMENSIONS = 8  # beyond, D x D covariances of all parts would outgrow the points themselves
POWER_STEPS = 8


def check_options(method: str, branching: int, leaf_size: int | None) -> int:
    """Check the options of a bisection; returns the leaf size, by default the branching."""
    check_choice(method, "method", METHODS)
    check_integer(branching, "branching", 2)
    if leaf_size is None:
        return branching
    check_integer(leaf_size, "leaf_size", 2)
    return leaf_size


def bisect(
    pos: Tensor, group: Tensor | None = None, *, method: str, branching: int, leaf_size: int
) -> Tensor:
    """Parent vector of a forest over points: tree ``g`` holds the points of group ``g``.

    Leaves are nodes ``0 .. N-1``; the roots are the last nodes, in the order of their groups.

    Args:
        pos: ``[N, D]`` finite coordinates.
        group: ``[N]`` ids ``0 .. G-1``, each used. (default: one group)
        method: one of :data:`METHODS`.
        branching: the most children of an inner node above the lowest.
        leaf_size: the most leaves below one of the lowest inner nodes.
    """
    number = METHODS[method]
    parts = _Parts.of(pos, group)
    leaf_level = torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device)
    leaf_node = torch.empty_like(leaf_level)

    def settle(parts: _Parts, which: Tensor, level: int) -> _Parts:
        """Hang the points of some parts below the parts' nodes, and go on without them."""
        if not which.any():
            return parts
        done = parts.select(which)
        leaf_level[done.order] = level
        leaf_node[done.order] = done.node.repeat_interleave(done.size)
        return parts.select(~which)

    ups = [parts.node]
    for level in itertools.count():
        largest = (parts.total + parts.count - 1) // parts.count
        pieces = ((largest + leaf_size - 1) // leaf_size).clamp(max=branching)
        parts = settle(parts, pieces == 1, level)
        if parts.size.numel() == 0:
            break
        parts = _split(parts, pieces[pieces > 1], number)
        parts = settle(parts, parts.size == 1, level)  # a lone point needs no node of its own
        ups.append(parts.node)
        parts.node = torch.arange(parts.size.numel(), device=pos.device)
    return parent_of_levels(ups, leaf_level, leaf_node)


@dataclass
class _Parts:
    """Points, part after part.

    Shapes: ``x`` ``[D, M]`` coordinates and ``order`` ``[M]`` rows of the points; for each part
    ``size`` ``[P]``, ``node`` its number in its level, ``total`` the number of points of its group
    and ``count`` the number of parts that the group has in this level.
    """

    x: Tensor
    order: Tensor
    size: Tensor
    node: Tensor
    total: Tensor
    count: Tensor

    @classmethod
    def of(cls, pos: Tensor, group: Tensor | None) -> _Parts:
        """Groups, not cut yet."""
        x = pos.detach().t()
        x = x if x.dtype == torch.float64 else x.float()
        if group is None:
            order = torch.arange(pos.shape[0], device=pos.device)
            size = order.new_full((1,), pos.shape[0])
            x = x.contiguous()
        else:
            order = group.argsort(stable=True)
            size = group.bincount()
            x = x.index_select(1, order)
        x = _rescaled(x, size)
        node = torch.arange(size.numel(), device=pos.device)
        return cls(x, order, size, node, total=size, count=torch.ones_like(size))

    def select(self, which: Tensor) -> _Parts:
        """Some of the parts, with their points."""
        at = which.repeat_interleave(self.size).nonzero().view(-1)
        return _Parts(
            self.x.index_select(1, at),
            self.order[at],
            *(v[which] for v in (self.size, self.node, self.total, self.count)),
        )


def _rescaled(x: Tensor, size: Tensor) -> Tensor:
    """Bring each group's longest side near 1, so that no square is infinite or rounds to 0.

    A power of two changes no digit, and so no cut. Wherever a group lies, its side is the same.
    """
    low, high = _each(x, size, "min"), _each(x, size, "max")
    side = (high / 2 - low / 2).amax(dim=0)  # the difference itself may be infinite
    reach = torch.maximum(high.abs(), low.abs()).amax(dim=0)
    # Not so near that a coordinate all points share becomes infinite.
    exponent = torch.maximum(torch.frexp(side)[1], torch.frexp(reach)[1] - 100)
    for half in (exponent // 2, exponent - exponent // 2):  # 2^-exponent itself may be infinite
        scale = torch.ldexp(torch.ones_like(side), -half)
        x = x * (scale if scale.numel() == 1 else scale.repeat_interleave(size))
    return x


def _split(parts: _Parts, pieces: Tensor, number: Number) -> _Parts:
    """Cut each part into so many pieces of nearly equal size, in rounds of bisection.

    Piece ``j`` of ``k`` of a part of ``n`` points ends before its point ``(j + 1) n // k``. In each
    round a section that is to become ``t > 1`` pieces is cut into ``t // 2`` and the rest. The
    node of a new part is the old part's.
    """
    x, order = parts.x, parts.order
    part = torch.arange(pieces.numel(), device=pieces.device)  # of each section
    first, take = torch.zeros_like(pieces), pieces  # its first piece, and number of pieces

    def end(piece: Tensor) -> Tensor:
        return piece * parts.size[part] // pieces[part]

    size = parts.size
    for _ in range((int(pieces.max()) - 1).bit_length()):
        section = torch.arange(size.numel(), device=size.device)
        section = section.repeat_interleave(size, output_size=order.numel())
        by = _argsort(number(x, size, section), section)
        x, order = x.index_select(1, by), order[by]

        half = take // 2
        old = torch.arange(take.numel(), device=take.device).repeat_interleave(1 + (half > 0))
        second = torch.zeros_like(old, dtype=torch.bool)
        second[1:] = old[1:] == old[:-1]
        part, half, take, first = part[old], half[old], take[old], first[old]
        first = torch.where(second, first + half, first)
        take = torch.where(second | (half == 0), take - half, half)
        size = end(first + take) - end(first)
    count = parts.count * pieces
    return _Parts(x, order, size, parts.node[part], parts.total[part], count[part])


def _argsort(number: Tensor, section: Tensor) -> Tensor:
    """Stable order by section and then by number."""
    # Integers are sorted several times faster. The bits of floats are ordered as the floats are,
    # but for the negative ones, whose order is the reverse, and -0, which becomes 0 here.
    if number.dtype == torch.float32:
        bits = (number + 0.0).view(torch.int32)
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        return ((section << 32) + bits + 2**31).argsort(stable=True)
    bits = (number + 0.0).view(torch.int64)
    by = (bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)).argsort(stable=True)
    return by.index_select(0, section.index_select(0, by).argsort(stable=True))


def _each(x: Tensor, size: Tensor, reduce: str) -> Tensor:
    """``[..., P]`` one number for each row and section of ``x [..., M]``."""
    rows = x.reshape(-1, x.shape[-1])
    out = [torch.segment_reduce(row, reduce, lengths=size, unsafe=True) for row in rows]
    return torch.stack(out).view(*x.shape[:-1], size.numel())


# How the points of all sections are numbered: x [D, M], size [P], section [M] -> [M] ##############

Number = Callable[[Tensor, Tensor, Tensor], Tensor]


def _widest(x: Tensor, size: Tensor, section: Tensor) -> Tensor:
    """The coordinate in which the section is widest."""
    width = _each(x, size, "max") - _each(x, size, "min")
    return x.gather(0, width.argmax(dim=0)[section].unsqueeze(0)).squeeze(0)


def _principal(x: Tensor, size: Tensor, section: Tensor) -> Tensor:
    """The place along the axis of largest variance."""
    x = _centred(x, size, section)
    dim = x.shape[0]
    if dim <= EIGH_DIMENSIONS:
        row, col = torch.triu_indices(dim, dim, device=x.device)
        upper = torch.stack(
            [_each((x[i] * x[j]).double(), size, "sum") for i, j in zip(row, col, strict=True)]
        )
        moments = upper.new_empty(dim, dim, size.numel())
        moments[row, col] = moments[col, row] = upper
        axis = torch.linalg.eigh(moments.permute(2, 0, 1)).eigenvectors[:, :, -1].t()
    else:
        axis = _far_axis(x, size, section)
        for _ in range(POWER_STEPS):
            axis = _each((x * _along(x, _unit(axis), section)).double(), size, "sum")
    return _along(x, _unit(axis), section)


def _far(x: Tensor, size: Tensor, section: Tensor) -> Tensor:
    """The place along the line between two points that are far apart."""
    x = _centred(x, size, section)
    return _along(x, _unit(_far_axis(x, size, section)), section)


def _far_axis(x: Tensor, size: Tensor, section: Tensor) -> Tensor:
    """``[D, P]`` from the point that is farthest from the mean to that farthest from it."""
    one = x[:, _farthest(x, size, section)]
    other = x[:, _farthest(x - one.index_select(1, section), size, section)]
    return other - one


def _farthest(x: Tensor, size: Tensor, section: Tensor) -> Tensor:
    """``[P]`` where in each section the longest vector is, the first one of equals."""
    length = x.square().sum(dim=0)
    at = (length == _each(length, size, "max")[section]).nonzero().view(-1)
    first = size.new_full(size.shape, length.numel())
    return first.scatter_reduce_(0, section[at], at, "amin")


def _centred(x: Tensor, size: Tensor, section: Tensor) -> Tensor:
    """The points relative to their section's mean."""
    # From the section's corner first: far from the origin a mean has no digits for what is near.
    x = x - _each(x, size, "min").index_select(1, section)
    mean = _each(x.double(), size, "sum") / size
    return x - mean.to(x.dtype).index_select(1, section)


def _unit(axis: Tensor) -> Tensor:
    """Unit vectors. An axis has no direction of its own: let its largest component be positive."""
    length = axis.norm(dim=0) * axis.gather(0, axis.abs().argmax(dim=0, keepdim=True))[0].sign()
    return axis / torch.where(length == 0, 1, length)


def _along(x: Tensor, axis: Tensor, section: Tensor) -> Tensor:
    """``[M]`` coordinate of each point along the axis of its section."""
    return (x * axis.to(x.dtype).index_select(1, section)).sum(dim=0)


METHODS: dict[str, Number] = {"kd": _widest, "pca": _principal, "ball": _far}
