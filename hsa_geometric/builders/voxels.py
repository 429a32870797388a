"""Hierarchies from points: quadtrees, octrees and the like."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders._coordinates import Coordinates, as_coordinates
from hsa_geometric.builders._ids import Ids, as_batch
from hsa_geometric.builders._levels import parent_of_levels
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_integer, check_positive

CODE_BITS = 62  # of a non-negative int64, less one
CELL_BITS = 52  # that float64 can tell apart
EXPONENT = 0x7FF << 52  # where float64 holds it


def from_voxels(
    pos: Coordinates,
    *,
    size: float | None = None,
    levels: int | None = None,
    batch: Ids | None = None,
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
        pos: ``[N, D]`` coordinates, floating point; kept as ``h.pos``.
        size: side of the finest cells, in the unit of :obj:`pos`. It doubles from level to level
            until one cell holds all: :math:`\lceil \log_2 n \rceil` times for :math:`n` cells
            along the longest side. If all points share a finest cell, that is the root.
        levels: how often the bounding cube is halved: 0 gives one root over all leaves. The cube's
            side is the longest of the bounding box, and points on its upper faces belong to
            the last cells.
        batch: ``[N]`` sample of each point, ids ``0 .. B-1``, in any order; each sample becomes a
            tree of its own, the same as if built alone (tree ``b`` is sample ``b``), and the vector
            is kept as ``h.batch``. (default: one tree)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Raises:
        TypeError: if :obj:`pos` holds no floating-point numbers or :obj:`levels` is no integer.
        ValueError: naming what is wrong: both or none of :obj:`size` and :obj:`levels`, one that is
            negative or so fine that the codes do not fit 62 bits (20 levels in 3-D, 31 in 2-D), no
            points, a coordinate that is NaN or infinite (with the point), a wrong :obj:`batch`; and
            what :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: one sort of :math:`N` codes and :math:`\mathcal{O}(N)` for each level, on the device of
    :obj:`pos`; no Python per node.

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
    sample = pos.new_zeros(pos.shape[0], dtype=torch.long) if batch is None else batch
    if size is not None:
        cell, depth = _cells_of_size(pos, sample, size, bits)
    else:
        cell, depth = _cells_of_cube(pos, sample, levels or 0)
    code = _morton(cell, int(depth.max()))
    return from_parent(_parent(code, depth, sample, dim), pos=pos, **leaf_data)


def check_options(size: float | None, levels: int | None) -> None:
    """One of the two, of the right kind."""
    if (size is None) == (levels is None):
        given = "none" if size is None else "both"
        raise ValueError(f"Expected one of 'size' and 'levels' (got {given})")
    if size is not None:
        check_positive(size, "size")
    if levels is not None:
        check_integer(levels, "levels", 0)


def _corners(pos: Tensor, sample: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Places relative to the sample's lowest corner, and what floats can tell apart there.

    Shapes:
        place ``[N, D]``; step ``[N, D]`` between the numbers of a type with this ``eps``, at the
        point or at the corner, whichever is larger; side ``[B]`` the longest of the bounding box.
    """
    num_samples = int(sample.max()) + 1
    low, high = (
        pos.new_zeros(num_samples, pos.shape[1]).scatter_reduce_(
            0, sample.view(-1, 1).expand_as(pos), pos, how, include_self=False
        )
        for how in ("amin", "amax")
    )
    corner = low if num_samples == 1 else low.index_select(0, sample)
    step = torch.maximum(pos.abs(), corner.abs())
    step.view(torch.int64).bitwise_and_(EXPONENT)  # the power of two at or below it
    return pos - corner, step.mul_(eps), (high - low).amax(dim=1)


def _cells_of_size(pos: Tensor, sample: Tensor, size: float, bits: int) -> tuple[Tensor, Tensor]:
    """Finest cell of each point, and levels below the root of each sample."""
    place, step, side = _corners(pos.detach().double(), sample, torch.finfo(pos.dtype).eps)
    cell = _floor(place.div_(size), step.div_(size))
    last = torch.zeros_like(side).scatter_reduce_(0, sample, cell.amax(dim=1), "amax")
    if not (last < 2**bits).all():
        raise ValueError(
            f"Expected 'size' to give at most 2^{bits} cells along each of {pos.shape[1]} axes, "
            f"over a length of {float(side.max()):g} (got {size})"
        )
    _, depth = torch.frexp(last)  # the number of binary digits of an integer
    return cell.long(), depth.long()


def _cells_of_cube(pos: Tensor, sample: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Finest cell of each point, and levels below the root of each sample."""
    # A quarter of each coordinate has finite differences.
    place, step, side = _corners(pos.detach().double() / 4, sample, torch.finfo(pos.dtype).eps)
    side = torch.where(side == 0, 1, side)
    sides = side if side.numel() == 1 else side[sample].unsqueeze(1)
    cell = _floor(place.div_(sides).mul_(2**levels), step.div_(sides).mul_(2**levels))
    return cell.long().clamp(max=2**levels - 1), torch.full(side.shape, levels, device=pos.device)


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


def _parent(code: Tensor, depth: Tensor, sample: Tensor, dim: int) -> Tensor:
    """Parent vector of the cells, which are the prefixes of the codes."""
    order = code.argsort(stable=True)
    order = order[sample[order].argsort(stable=True)]
    leaf_level = depth[sample]
    code, sample = code[order], sample[order]
    opens = _opens(code, sample)
    finest = torch.empty_like(order)
    finest[order] = opens.cumsum(0) - 1

    # One row for each finest cell, for as long as its sample has further levels.
    code, sample = code[opens], sample[opens]
    below = depth[sample]
    rows = torch.arange(code.numel(), device=code.device)
    node = torch.empty_like(code)  # of the cell around the finest cell, within its level
    ups: list[Tensor] = []
    for level in range(int(depth.max()) + 1):
        if level > 0:
            going = below >= level
            rows, code, sample, below = (v[going] for v in (rows, code, sample, below))
        opens = _opens(code >> (dim * (below - level)), sample)
        ups.append(node[rows[opens]])
        node[rows] = opens.cumsum(0) - 1
    return parent_of_levels(ups, leaf_level, node[finest])


def _opens(code: Tensor, sample: Tensor) -> Tensor:
    """Where another cell begins."""
    opens = torch.ones_like(code, dtype=torch.bool)
    opens[1:] = (code[1:] != code[:-1]) | (sample[1:] != sample[:-1])
    return opens
