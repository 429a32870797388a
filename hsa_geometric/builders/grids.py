"""Quadtrees of images, octrees of volumes, and levels of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.sequences._nest import nest
from hsa_geometric.builders.sequences._windows import as_windows
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_integer


def from_grid(
    shape: Sequence[int],
    *,
    windows: Sequence[int | Sequence[int]] | None = None,
    branching: int | Sequence[int] | None = None,
    batch_size: int | None = None,
    collapse: bool = True,
    device: torch.device | str | None = None,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy over the cells of a regular grid: pixels, voxels, or patches of them.

    Leaves are the cells in row-major order, the last axis fastest, as ``x.view(-1, channels)``
    brings them: an image ``[C, H, W]`` comes as ``x=image.flatten(1).t()``. Cells are tree nodes
    ``0 .. N-1``; then come the windows of each level from fine to coarse, and at last the roots.

    Args:
        shape: number of cells along each axis, such as ``(H, W)`` or ``(D, H, W)``; any number of
            axes of any size.
        windows: sizes of the windows in cells from fine to coarse, each a whole multiple of the
            one before; an integer or one for each axis, such as ``[4, 16]`` or
            ``[(1, 4, 4), (2, 16, 16)]``. Windows at the far ends may be smaller.
        branching: group so many along each axis, again and again, until one window holds the grid;
            an integer, or one for each axis, where ``1`` leaves an axis alone. (default: ``2`` if
            there are no :obj:`windows`, which makes a quadtree or an octree)
        batch_size: number of grids, the cells of one behind those of the other; each becomes a tree
            of its own (tree ``b`` is grid ``b``), with ``h.batch``. (default: one grid, no batch)
        collapse: leave out nodes with a single child, which add nothing to the attention, and those
            that hold a whole grid below its root. With :obj:`False` all are kept: each cell then
            lies equally deep in the tree, and level ``-2`` of
            :func:`~hsa_geometric.functional.clusters_at` is made of the finest windows.
        device: where to build. (default: the CPU)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`. Without ``pos`` the
            hierarchy gets the grid coordinates ``[N, D]`` of the cells, in the order of
            :obj:`shape` and in torch's default type; in float64 if that cannot count so far.

    A grid of one cell is a root with one leaf.

    Raises:
        TypeError: if a size is no integer.
        ValueError: naming the argument: no axes, a size below 1, a wrong number of sizes, windows
            that do not grow by whole multiples, or windows beside a branching factor.

    Cost: :math:`\mathcal{O}(N)` for each level; no Python per node.

    Example:
        >>> image = torch.rand(3, 4, 6)
        >>> h = from_grid(image.shape[1:], x=image.flatten(1).t())
        >>> h
        Hierarchy(leaves=24, nodes=33, depth=3, x=[24, 3], pos=[24, 2])
        >>> from_grid((4, 2), windows=[2], batch_size=2).parent
        tensor([16, 16, 16, 16, 17, 17, 17, 17, 18, 18, 18, 18, 19, 19, 19, 19, 20, 20,
                21, 21, 20, 21])
    """
    sizes = as_shape(shape)
    if batch_size is not None:
        check_integer(batch_size, "batch_size", 1)
    grids = torch.arange(1 if batch_size is None else batch_size, device=device)
    batch = grids.repeat_interleave(math.prod(sizes))
    axes = [torch.arange(size, device=device) for size in sizes]
    levels = (
        _cells(axes, window, grids) for window in as_windows(windows, branching, sizes, default=2)
    )

    if "pos" not in leaf_data:
        coordinates = torch.cartesian_prod(*axes).view(-1, len(axes))
        dtype = torch.get_default_dtype()
        if max(sizes) > 2 / torch.finfo(dtype).eps + 1:  # beyond, it skips whole numbers
            dtype = torch.float64
        leaf_data["pos"] = coordinates.repeat(grids.numel(), 1).to(dtype)
    if batch_size is not None:
        leaf_data["batch"] = batch
    return from_parent(nest(levels, batch, collapse=collapse).parent, **leaf_data)


def _cells(axes: list[Tensor], window: tuple[int, ...], grids: Tensor) -> Tensor:
    """Number of the window of each cell, counted in row-major order through all grids."""
    unit = grids
    for axis, size in zip(axes, window, strict=True):
        count = -(-axis.numel() // size)
        unit = unit.unsqueeze(-1) * count + axis // size
    return unit.flatten()


def as_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The checked shape; raises what :func:`from_grid` says."""
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence):
        raise TypeError(f"Expected 'shape' to be a sequence (got {type(shape).__name__})")
    if len(shape) == 0:
        raise ValueError("Expected 'shape' to have at least one axis (got none)")
    for axis, size in enumerate(shape):
        check_integer(size, f"shape[{axis}]", 1)
    return tuple(shape)
