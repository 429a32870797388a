"""Balanced bisection of point sets: every part of a level is cut in the same few tensor calls.

The points stand in order part by part. To cut all parts, each point gets a number (its coordinate
along the axis its part is cut across) and one sort orders the points by part and number. A part
is then cut by naming a place in it: nothing moves, and how many points go where is known before
any coordinate is looked at.

So that memory stays bounded, coordinates of at most ``AT_ONCE`` points are copied at a time. Parts
of no more points together are cut up to the end before the next; a larger part is looked at in
pieces, and its extents and sums are carried on from piece to piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hsa_geometric.builders._levels import Levels
from hsa_geometric.builders._progress import counting
from hsa_geometric.builders._sort import argsort
from hsa_geometric.functional.options import check_choice, check_integer

AT_ONCE = 2**18
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
    pos: Tensor,
    group: Tensor | None = None,
    *,
    method: str,
    branching: int,
    leaf_size: int,
    progress: bool = False,
) -> Tensor:
    """Parent vector of a forest over points: tree ``g`` holds the points of group ``g``.

    Leaves are nodes ``0 .. N-1``; the roots are the last nodes, in the order of their groups.

    Args:
        pos: ``[N, D]`` finite coordinates.
        group: ``[N]`` ids ``0 .. G-1``, each used. (default: one group)
        method: one of :data:`METHODS`.
        branching: the most children of an inner node above the lowest.
        leaf_size: the most leaves below one of the lowest inner nodes.
        progress: whether a bar counts the points that have found their place.
    """
    number = METHODS[method]
    levels = Levels(pos.shape[0], pos.device)
    with counting(progress, pos.shape[0], f"bisection: {method}", "point") as step:

        def settle(parts: _Parts, which: Tensor, level: int) -> _Parts:
            """Hang the points of some parts below the parts' nodes, and go on without them."""
            if not which.any():
                return parts
            done = parts.select(which)
            levels.hang(done.order, level, done.node.repeat_interleave(done.size))
            step(done.order.numel())
            return parts.select(~which)

        def grow(parts: _Parts, level: int) -> None:
            """Cut the parts of a level, and what comes of them, up to the end."""
            while parts.size.numel() > 0:
                if level > 0:
                    parts = settle(parts, parts.size == 1, level - 1)  # needs no node of its own
                parts.node = levels.add(level, parts.node)
                pieces = _pieces(parts.total, parts.count, branching, leaf_size)
                parts = settle(parts, pieces == 1, level)
                if parts.size.numel() > 0:
                    parts = _split(parts, pieces[pieces > 1], number)
                level += 1
                if parts.x is None:
                    return grow_all(parts, level)

        def grow_all(parts: _Parts, level: int) -> None:
            for first, last in _windows(parts.size):
                grow(parts.window(first, last), level)

        grow_all(_Parts.of(pos, group), 0)
    return levels.parent()


def _pieces(total: Tensor, count: Tensor, branching: int, leaf_size: int) -> Tensor:
    """Into how many pieces parts are cut whose groups have so many points and parts."""
    largest = (total + count - 1) // count
    return ((largest + leaf_size - 1) // leaf_size).clamp(max=branching)


def _windows(size: Tensor) -> Iterator[tuple[int, int]]:
    """First and end of parts that can be looked at together, or of a single larger one."""
    end, first = size.cumsum(0), 0
    while first < size.numel():
        most = end[first] - size[first] + AT_ONCE
        last = max(int(torch.searchsorted(end, most, right=True)), first + 1)
        yield first, last
        first = last


@dataclass
class _Parts:
    """Points, part after part.

    The coordinates are multiplied by a power of two that brings the longest side of a group near 1,
    so that no square is infinite or rounds to 0. It changes no digit, and so no cut.

    Shapes: ``pos`` ``[N, D]`` of all points, ``order`` ``[M]`` rows of these and, where they are
    few, ``x`` ``[D, M]`` their coordinates; for each part ``size`` ``[P]``, ``node`` its number in
    its level, of its group ``total`` the number of points, ``count`` that of parts in this level
    and ``exponent`` of its longest side.
    """

    pos: Tensor
    x: Tensor | None
    order: Tensor
    size: Tensor
    node: Tensor
    total: Tensor
    count: Tensor
    exponent: Tensor

    @classmethod
    def of(cls, pos: Tensor, group: Tensor | None) -> _Parts:
        """Groups, not cut yet."""
        if group is None:
            dtype = torch.int32 if pos.shape[0] < 2**31 else torch.int64
            order = torch.arange(pos.shape[0], dtype=dtype, device=pos.device)
            size = torch.tensor([pos.shape[0]], device=pos.device)
        else:
            order, size = argsort(group), group.bincount()
        none = torch.zeros_like(size)
        parts = cls(pos.detach(), None, order, size, none, size, none + 1, none)
        parts.exponent = torch.cat([_exponent(points) for _, points in parts.points()])
        return parts

    def select(self, which: Tensor) -> _Parts:
        """Some of the parts, with their points."""
        if which.all():
            return self
        at = which.repeat_interleave(self.size).nonzero().view(-1)
        x = None if self.x is None else self.x.index_select(1, at)
        per_part = (self.size, self.node, self.total, self.count, self.exponent)
        return _Parts(self.pos, x, self.order[at], *(v[which] for v in per_part))

    def window(self, first: int, last: int) -> _Parts:
        """Some parts in a row, with the coordinates of their points where these are few."""
        size = self.size[first:last]
        start = int(self.size[:first].sum())
        order = self.order[start : start + int(size.sum())]
        per_part = (self.node, self.total, self.count, self.exponent)
        out = _Parts(self.pos, None, order, size, *(v[first:last] for v in per_part))
        if order.numel() <= AT_ONCE:
            out.x = out.copied(order)
        return out

    def copied(self, rows: Tensor) -> Tensor:
        """``[D, m]`` coordinates of all points, or of some of a single part."""
        x = self.pos.index_select(0, rows).t()
        x = x.contiguous() if x.dtype == torch.float64 else x.float().contiguous()
        for half in (self.exponent // 2, self.exponent - self.exponent // 2):  # 2^-exponent itself
            scale = torch.ldexp(torch.ones_like(half, dtype=x.dtype), -half)  # may be infinite
            x *= scale if scale.numel() == 1 else scale.repeat_interleave(self.size)
        return x

    def points(self) -> Iterator[tuple[slice, _Points]]:
        """All points, as many at a time as can be looked at together, or all of one part."""
        if self.x is not None:
            x = self.x
            yield slice(None), _Points([lambda: x], self.size)
            return
        start = 0
        for first, last in _windows(self.size):
            part = self.window(first, last)
            at = slice(start, start + part.order.numel())
            pieces = [partial(part.copied, rows) for rows in part.order.split(AT_ONCE)]
            yield at, _Points(pieces, part.size)
            start = at.stop


class _Points:
    """Points of some sections, all at once, or of a single one in pieces.

    Args:
        pieces: each returns ``[D, M]`` coordinates.
        size: ``[P]`` number of points of each section.
    """

    def __init__(self, pieces: Sequence[Callable[[], Tensor]], size: Tensor) -> None:
        self.pieces, self.size = pieces, size
        self.whole: tuple[Tensor, Tensor, Tensor] | None = None
        if len(pieces) == 1:
            ids = torch.arange(size.numel(), device=size.device)
            self.whole = pieces[0](), size, ids.repeat_interleave(size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Coordinates ``[D, M]``, sizes ``[P]`` and the section ``[M]`` of each point."""
        if self.whole is not None:
            yield self.whole
            return
        for piece in self.pieces:
            x = piece()
            yield x, self.size.new_full((1,), x.shape[1]), self.size.new_zeros(x.shape[1])

    def then(self, f: Value) -> _Points:
        """Other coordinates of the same points."""

        def changed(piece: Callable[[], Tensor]) -> Tensor:
            x = piece()
            return f(x, self.size.new_zeros(x.shape[1]))

        if self.whole is None:
            return _Points([partial(changed, piece) for piece in self.pieces], self.size)
        x, size, section = self.whole
        out = _Points([], size)
        out.whole = f(x, section), size, section
        return out

    def map(self, f: Value) -> Tensor:
        """``[M]`` a number for each point."""
        if self.whole is not None:
            return f(self.whole[0], self.whole[2])
        out, start = torch.empty(0), 0
        for x, _, section in self:
            value = f(x, section)
            out = value.new_empty(int(self.size)) if start == 0 else out
            out[start : start + value.numel()] = value
            start += value.numel()
        return out

    def each(self, reduce: str, f: Value | None = None) -> Tensor:
        """``[..., P]`` a number for each section of the coordinates, or of another value."""
        out = None
        for x, size, section in self:
            out = _each(x if f is None else f(x, section), size, reduce, out)
        assert out is not None
        return out


def _each(x: Tensor, size: Tensor, reduce: str, begin: Tensor | None = None) -> Tensor:
    """``[..., P]`` one number for each row and section of ``x [..., M]``; sums are float64.

    A piece of a section may begin with the numbers of those before it, as if all were one.
    """
    rows = x.reshape(-1, x.shape[-1])
    initial = [None] * len(rows) if begin is None else begin.flatten().tolist()
    out = [
        torch.segment_reduce(
            row.double() if reduce == "sum" else row, reduce, lengths=size, unsafe=True, initial=i
        )
        for row, i in zip(rows, initial, strict=True)
    ]
    return torch.stack(out).view(*x.shape[:-1], size.numel())


def _exponent(points: _Points) -> Tensor:
    """``[P]`` exponent of a power of two near the longest side of each section."""
    low, high = points.each("min"), points.each("max")
    side = (high / 2 - low / 2).amax(dim=0)  # the difference itself may be infinite
    reach = torch.maximum(high.abs(), low.abs()).amax(dim=0)
    # Not so near that a coordinate all points share becomes infinite.
    return torch.maximum(torch.frexp(side)[1], torch.frexp(reach)[1] - 100)


def _split(parts: _Parts, pieces: Tensor, number: Number) -> _Parts:
    """Cut each part into so many pieces of nearly equal size, in rounds of bisection.

    Piece ``j`` of ``k`` of a part of ``n`` points ends before its point ``(j + 1) n // k``. In each
    round a section that is to become ``t > 1`` pieces is cut into ``t // 2`` and the rest. The
    node of a new part is the old part's.
    """
    part = torch.arange(pieces.numel(), device=pieces.device)  # of each section
    first, take = torch.zeros_like(pieces), pieces  # its first piece, and number of pieces

    def end(piece: Tensor) -> Tensor:
        return piece * parts.size[part] // pieces[part]

    now = parts
    for _ in range((int(pieces.max()) - 1).bit_length()):
        for at, points in now.points():
            by = _order(number(points), points)
            now.order[at] = now.order[at][by]
            if now.x is not None:
                now.x = now.x.index_select(1, by)

        half = take // 2
        old = torch.arange(take.numel(), device=take.device).repeat_interleave(1 + (half > 0))
        second = torch.zeros_like(old, dtype=torch.bool)
        second[1:] = old[1:] == old[:-1]
        part, half, take, first = part[old], half[old], take[old], first[old]
        first = torch.where(second, first + half, first)
        take = torch.where(second | (half == 0), take - half, half)
        per_part = (parts.node, parts.total, parts.count * pieces, parts.exponent)
        size = end(first + take) - end(first)
        now = _Parts(parts.pos, now.x, now.order, size, *(v[part] for v in per_part))
    return now


def _order(number: Tensor, points: _Points) -> Tensor:
    """Stable order by section and then by number."""
    # Integers are sorted several times faster. The bits of floats are ordered as the floats are,
    # but for the negative ones, whose order is the reverse, and -0, which becomes 0 here.
    small = number.dtype == torch.float32
    bits = (number + 0.0).view(torch.int32 if small else torch.int64)
    bits ^= (bits >> (31 if small else 63)) & (2**31 - 1 if small else 2**63 - 1)
    if points.whole is None:
        return argsort(bits)
    section = points.whole[2]
    if small:
        return ((section << 32) + bits + 2**31).argsort(stable=True)
    by = bits.argsort(stable=True)
    return by.index_select(0, section.index_select(0, by).argsort(stable=True))


# How the points of all sections are numbered: [M] ##############################################

Value = Callable[[Tensor, Tensor], Tensor]  # of coordinates [D, M] and section [M]
Number = Callable[[_Points], Tensor]


def _widest(points: _Points) -> Tensor:
    """The coordinate in which the section is widest."""
    axis = (points.each("max") - points.each("min")).argmax(dim=0)
    return points.map(lambda x, section: x.gather(0, axis[section].unsqueeze(0)).squeeze(0))


def _principal(points: _Points) -> Tensor:
    """The place along the axis of largest variance."""
    points = _centred(points)
    dim = next(iter(points))[0].shape[0]
    if dim <= EIGH_DIMENSIONS:
        row, col = torch.triu_indices(dim, dim)
        pairs = list(zip(row.tolist(), col.tolist(), strict=True))
        upper = points.each("sum", lambda x, _: torch.stack([x[i] * x[j] for i, j in pairs]))
        moments = upper.new_empty(dim, dim, points.size.numel())
        moments[row, col] = moments[col, row] = upper
        axis = torch.linalg.eigh(moments.permute(2, 0, 1)).eigenvectors[:, :, -1].t()
        return _along(points, axis)
    axis = _far_axis(points)
    for _ in range(POWER_STEPS):
        axis = points.each("sum", partial(_towards, _unit(axis)))
    return _along(points, axis)


def _towards(unit: Tensor, x: Tensor, section: Tensor) -> Tensor:
    """``[D, M]`` each point times its place along the axis."""
    return x * _place(unit, x, section)


def _far(points: _Points) -> Tensor:
    """The place along the line between two points that are far apart."""
    points = _centred(points)
    return _along(points, _far_axis(points))


def _far_axis(points: _Points) -> Tensor:
    """``[D, P]`` from the point that is farthest from the mean to that farthest from it."""
    one = _farthest(points)
    return _farthest(points, one) - one


def _farthest(points: _Points, start: Tensor | None = None) -> Tensor:
    """``[D, P]`` where in each section the point farthest from a start is, the first of equals."""
    found = most = None
    for x, size, section in points:
        length = (x if start is None else x - start.index_select(1, section)).square().sum(dim=0)
        longest = _each(length, size, "max")
        at = (length == longest[section]).nonzero().view(-1)
        first = size.new_full(size.shape, length.numel())
        here = x[:, first.scatter_reduce_(0, section[at], at, "amin")]
        if found is not None and most is not None:
            here = torch.where(longest > most, here, found)
            longest = torch.maximum(longest, most)
        found, most = here, longest
    assert found is not None
    return found


def _centred(points: _Points) -> _Points:
    """The points relative to their section's mean."""
    # From the section's corner first: far from the origin a mean has no digits for what is near.
    low = points.each("min")
    points = points.then(lambda x, section: x - low.index_select(1, section))
    mean = points.each("sum") / points.size
    mean = mean.to(low.dtype)
    return points.then(lambda x, section: x - mean.index_select(1, section))


def _unit(axis: Tensor) -> Tensor:
    """Unit vectors. An axis has no direction of its own: let its largest component be positive."""
    length = axis.norm(dim=0) * axis.gather(0, axis.abs().argmax(dim=0, keepdim=True))[0].sign()
    return axis / torch.where(length == 0, 1, length)


def _along(points: _Points, axis: Tensor) -> Tensor:
    """``[M]`` place of each point along the axis of its section."""
    return points.map(partial(_place, _unit(axis)))


def _place(unit: Tensor, x: Tensor, section: Tensor) -> Tensor:
    return (x * unit.to(x.dtype).index_select(1, section)).sum(dim=0)


METHODS: dict[str, Number] = {"kd": _widest, "pca": _principal, "ball": _far}
