"""Quadtrees and octrees, attached to a Data: :class:`GridHierarchy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from torch_geometric.data import Data

from hsa_geometric.builders._attach import attach, check_sample, device_of
from hsa_geometric.builders.grids import as_shape, from_grid
from hsa_geometric.builders.sequences._windows import as_windows
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.transforms._base import HierarchyTransform


@dataclass(repr=False, eq=False)
class GridHierarchy(HierarchyTransform):
    r"""Put a quadtree, an octree or levels of patches above the cells of a grid.

    The nodes of the Data are the cells in row-major order. Attributes are kept, and :obj:`parent`
    is added; so is :obj:`pos` where there is none. A tree that is there already is replaced. See
    :func:`~hsa_geometric.builders.from_grid`.

    Args:
        shape: number of cells along each axis, such as ``(H, W)``, the same for all samples.
        windows: sizes of the windows in cells from fine to coarse.
        branching: group so many along each axis again and again. (default: ``2``, if there are no
            :obj:`windows`)
        collapse: leave out nodes with a single child.

    Raises:
        TypeError, ValueError: here, for wrong options; on a Data, if it is a batch or has rows for
            another number of cells.

    Example:
        >>> import torch
        >>> image = torch.rand(3, 8, 8)
        >>> GridHierarchy((8, 8))(Data(x=image.flatten(1).t()))
        Hierarchy(leaves=64, nodes=85, depth=3, x=[64, 3], pos=[64, 2])
    """

    shape: Sequence[int]
    _: KW_ONLY
    windows: Sequence[int | Sequence[int]] | None = None
    branching: int | Sequence[int] | None = None
    collapse: bool = True

    def __post_init__(self) -> None:
        self.shape = as_shape(self.shape)
        as_windows(self.windows, self.branching, self.shape, default=2)

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        check_sample(data)
        return attach(data, from_grid(**vars(self), device=device_of(data)))
