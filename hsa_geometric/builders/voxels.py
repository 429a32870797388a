"""Hierarchies from points: quadtrees, octrees and the like."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders._coordinates import Coordinates, as_coordinates
from hsa_geometric.builders._ids import Ids, as_batch
from hsa_geometric.builders._levels import Levels
from hsa_geometric.builders._progress import Step, counting
from hsa_geometric.builders._sort import argsort
from hsa_geometric.builders.from_parent import built
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_integer, check_positive

AT_ONCE = 2**18  # points of which more than the codes are held
CODE_BITS = 62  # of a non-negative int64, less one
CELL_BITS = 52  # that float64 can tell apart
EXPONENT = 0x7FF << 52  # where float64 holds it


def from_voxels(
    pos: Coordinates,
    *,
    size: float | None = None,
    levels: int | None = None,
    batch: Ids | None = None,
    progress: bool = False,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy of voxels over points: a quadtree in two dimensions, an octree in three.

    Space is a cube of cells; a cell is halved along each of the :math:`D` axes and so has up to
    :math:`2^D` children. Only cells that hold points are nodes. The points hang below the finest
    cells: duplicates share one, and so may other points, as many as there are. Cells stand in the
    order of their Morton codes (z-order).

    Give one of :obj:`size` and :obj:`levels`. Either way the lowest corner of a sample's bounding
    box is the corner of its cube, and all its leaves lie at one depth. A cell with a single
    occupied child is kept, so that levels stay sizes: ``collapse_chains()`` removes those.

    A point on the border of two cells belongs to the upper one: along each axis, cell :math:`c`
    holds what lies from :math:`c \cdot \textrm{size}` to below
    :math:`(c + 1) \cdot \textrm{size}` from the corner. Floats miss borders (0.3 / 0.1 is less than
    3), so a point is on a border, too, if what it lacks can be rounding: at most four steps between
    neighbouring numbers of the type of :obj:`pos`, there or at the corner, and a 1,024th of a
    cell; or less than one such step and half a cell. Ten points 0.1 apart lie in ten cells of size
    0.1, and in 10,000 of UTM coordinates too.

    Args:
        pos: ``[N, D]`` coordinates, floating point; kept as ``h.pos``. Memory maps and tensors are
            read and kept as :func:`from_points` does.
        size: side of the finest cells, in the unit of :obj:`pos`. It doubles from level to level
            until one cell holds all: :math:`\lceil \log_2 n \rceil` times for :math:`n` cells
            along the longest side. If all points share a finest cell, that is the root.
        levels: how often the bounding cube is halved: 0 gives one root over all leaves. The cube's
            side is the longest of the bounding box, and points on its upper faces belong to
            the last cells.
        batch: ``[N]`` sample of each point, ids ``0 .. B-1``, in any order; each sample becomes a
            tree of its own, the same as if built alone (tree ``b`` is sample ``b``), and the vector
            is kept as ``h.batch``. (default: one tree)
        progress: whether a bar on stderr counts the points in their cells. (default: off)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Raises:
        TypeError: if :obj:`pos` holds no floating-point numbers or :obj:`levels` is no integer.
        ValueError: naming what is wrong: both or none of :obj:`size` and :obj:`levels`, one that is
            negative or so fine that the codes do not fit 62 bits (20 levels in 3-D, 31 in 2-D), no
            points, a coordinate that is NaN or infinite (with the point), a wrong :obj:`batch`; and
            what :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: one sort of :math:`N` codes and :math:`\mathcal{O}(N)` for each level, on the device of
    :obj:`pos`; no Python per node. Memory as in :func:`from_points`.

    Example:
        >>> pos = torch.tensor([[0.1, 0.1], [0.9, 0.2], [3.5, 3.5], [0.2, 1.4]])
        >>> h = from_voxels(pos, size=1.0)
        >>> h
        Hierarchy(leaves=4, nodes=10, depth=3, pos=[4, 2])
        >>> h.parent  # points 0 and 1 share a cell; 3 is in the cell above
        tensor([4, 4, 6, 5, 7, 7, 8, 9, 9, 9])
    """
    check_options(size, levels)
    pos = as_coordinates(pos)
    dim = pos.shape[1]
    bits = min(CELL_BITS, CODE_BITS // dim)
    if levels is not None and levels > bits:
        raise ValueError(
            f"Expected 'levels' to be at most {bits} in {dim} dimensions (got {levels})"
        )
    if batch is not None:
        batch = leaf_data["batch"] = as_batch(batch, pos.shape[0]).to(pos.device)
    sample = batch if batch is not None and int(batch.max()) > 0 else None
    code, depth = _codes(pos.detach(), sample, size, levels, bits)
    forest = Levels(pos.shape[0], pos.device)
    with counting(progress, pos.shape[0], "from_voxels", "point") as step:
        _grow(forest, code, depth, sample, dim, step)
    del code
    return built(forest.parent(), pos.shape[0], depth.numel(), pos=pos, **leaf_data)


def check_options(size: float | None, levels: int | None) -> None:
    """One of the two, of the right kind."""
    if (size is None) == (levels is None):
        given = "none" if size is None else "both"
        raise ValueError(f"Expected one of 'size' and 'levels' (got {given})")
    if size is not None:
        check_positive(size, "size")
    if levels is not None:
        check_integer(levels, "levels", 0)


def _codes(
    pos: Tensor, sample: Tensor | None, size: float | None, levels: int | None, bits: int
) -> tuple[Tensor, Tensor]:
    """Morton code ``[N]`` of each point's finest cell, and levels ``[B]`` below each root."""
    eps, quarter = torch.finfo(pos.dtype).eps, 4 if size is None else 1
    low, high = (corner / quarter for corner in _boxes(pos, sample))  # has finite differences
    side = (high - low).amax(dim=1)
    if size is None:
        depth = torch.full(side.shape, levels or 0, device=pos.device)
        unit, times = torch.where(side == 0, 1, side), 2 ** (levels or 0)
    else:
        unit, times = torch.full_like(side, size), 1
        last = _cells(high, low, unit.view(-1, 1), times, eps).amax(dim=1)
        if not (last < 2**bits).all():
            raise ValueError(
                f"Expected 'size' to give at most 2^{bits} cells along each of {pos.shape[1]} "
                f"axes, over a length of {float(side.max()):g} (got {size})"
            )
        depth = torch.frexp(last)[1].long()  # the number of binary digits of an integer
    deepest = int(depth.max())
    code = torch.empty(pos.shape[0], dtype=torch.long, device=pos.device)
    for at in _slices(pos.shape[0]):
        own = slice(None) if sample is None else sample[at]
        place = pos[at].double() / quarter
        cell = _cells(place, low[own], unit[own].view(-1, 1), times, eps)
        code[at] = _morton(cell.long().clamp_(max=2**deepest - 1), deepest)
    return code, depth


def _slices(rows: int) -> list[slice]:
    return [slice(at, min(at + AT_ONCE, rows)) for at in range(0, rows, AT_ONCE)]


def _boxes(pos: Tensor, sample: Tensor | None) -> tuple[Tensor, Tensor]:
    """``[B, D]`` lowest and highest corner of each sample's bounding box, in float64."""
    samples = 1 if sample is None else int(sample.max()) + 1
    low = torch.full((samples, pos.shape[1]), torch.inf, dtype=torch.double, device=pos.device)
    high = -low
    for at in _slices(pos.shape[0]):
        x = pos[at].double()
        if sample is None:
            torch.minimum(low, x.amin(dim=0), out=low)
            torch.maximum(high, x.amax(dim=0), out=high)
        else:
            own = sample[at].view(-1, 1).expand_as(x)
            low.scatter_reduce_(0, own, x, "amin")
            high.scatter_reduce_(0, own, x, "amax")
    return low, high


def _cells(pos: Tensor, corner: Tensor, unit: Tensor, times: int, eps: float) -> Tensor:
    """``[N, D]`` number of each place's cell from the corner, so many to each unit."""
    step = torch.maximum(pos.abs(), corner.abs())
    step.view(torch.int64).bitwise_and_(EXPONENT)  # the power of two at or below it
    # Between the numbers of the coordinates' type, at the point or at the corner.
    return _floor((pos - corner).div_(unit).mul_(times), step.mul_(eps).div_(unit).mul_(times))


def _floor(place: Tensor, step: Tensor) -> Tensor:
    """Number of the cell, of sides 1; what lies on a border but for rounding is on it."""
    # Four steps of the type where that is little beside a cell. In cells of few steps it is less
    # than one: what rounding the true places can make, and never what separates two places.
    near = torch.maximum((4 * step).clamp_(max=2.0**-10), step.mul_(1 - 2.0**-10))
    return place.add_(near.clamp_(max=0.5)).floor_()


def _morton(cell: Tensor, bits: int) -> Tensor:
    """Interleave the binary digits of the coordinates, those of the first one lowest."""
    dim = cell.shape[1]
    axis = torch.arange(dim, device=cell.device)
    code = cell.new_zeros(cell.shape[0])
    for bit in range(bits):
        code += (((cell >> bit) & 1) << axis).sum(dim=1) << (bit * dim)
    return code


def _grow(
    forest: Levels, code: Tensor, depth: Tensor, sample: Tensor | None, dim: int, step: Step
) -> None:
    """Add the cells, which are the prefixes of the codes, level by level."""
    order = argsort(code)
    if sample is not None:
        order = order[argsort(sample[order])]
    uneven = sample is not None and not bool((depth == depth[0]).all())
    # The last point of those before: the next ones may be in its cells.
    last_code, last_sample, last_node = (torch.tensor([v], device=code.device) for v in (0, -1, 0))
    for points in order.split(AT_ONCE):
        own = torch.zeros_like(points, dtype=torch.long) if sample is None else sample[points]
        codes, samples = torch.cat([last_code, code[points]]), torch.cat([last_sample, own])
        last_code, last_sample = codes[-1:], samples[-1:]

        # One row for each finest cell, for as long as its sample has further levels.
        opens = _opens(codes, samples)
        finest = opens.cumsum(0)[1:] - 1
        codes, samples = codes[opens], samples[opens]
        below = depth[samples]
        rows = torch.arange(codes.numel(), device=codes.device)
        node = torch.empty_like(codes)  # of the cell around the finest cell, within its level
        for level in range(int(depth.max()) + 1):
            if uneven:
                going = below >= level
                going[0] = True
                rows, codes, samples, below = (v[going] for v in (rows, codes, samples, below))
            opens = _opens(codes >> (dim * (below - level)).clamp_(min=0), samples)
            opens[0] = False
            before = forest.count(level)
            forest.add(level, node[rows[opens]])
            node[rows] = opens.cumsum(0) + (before - 1)
        node[:1] = last_node
        last_node = node[-1:]
        forest.hang(points, depth[own], node[finest])
        step(points.numel())


def _opens(code: Tensor, sample: Tensor) -> Tensor:
    """Where another cell begins."""
    opens = torch.ones_like(code, dtype=torch.bool)
    opens[1:] = (code[1:] != code[:-1]) | (sample[1:] != sample[:-1])
    return opens
