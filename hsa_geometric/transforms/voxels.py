"""Points with a tree of voxels: :class:`VoxelHierarchy`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch_geometric.data import Data

from hsa_geometric.builders._attach import attach, attribute
from hsa_geometric.builders.voxels import check_options, from_voxels
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_bool
from hsa_geometric.transforms._base import HierarchyTransform


@dataclass(repr=False, eq=False)
class VoxelHierarchy(HierarchyTransform):
    r"""Give points the tree of the voxels they lie in: a quadtree or octree.

    Attributes are kept and :obj:`parent` is added; an earlier tree is replaced, with all that
    belongs to its nodes. A batch of samples becomes one hierarchy with a tree for each. See
    :func:`~hsa_geometric.builders.from_voxels`.

    Args:
        size: side of the finest cells; give it or :obj:`levels`.
        levels: how often the bounding cube is halved.
        progress: whether each sample shows a bar on stderr.

    Raises:
        TypeError, ValueError: here, for wrong options; on a Data, if it lacks :obj:`pos`, and what
            :func:`~hsa_geometric.builders.from_voxels` raises.

    Example:
        >>> import torch
        >>> transform = VoxelHierarchy(levels=2)
        >>> transform(Data(pos=torch.tensor([[0.1, 0.1], [0.9, 0.2], [3.5, 3.5]])))
        Hierarchy(leaves=3, nodes=8, depth=3, pos=[3, 2])
    """

    _: KW_ONLY
    size: float | None = None
    levels: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        check_bool(self.progress, "progress")
        check_options(self.size, self.levels)

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        tree = from_voxels(attribute(data, "pos"), batch=data.get("batch"), **vars(self))
        return attach(data, tree)
