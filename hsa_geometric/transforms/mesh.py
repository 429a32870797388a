"""Meshes with the tree of their shells and pieces: :class:`MeshHierarchy`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch_geometric.data import Data

from hsa_geometric.builders._attach import check_sample
from hsa_geometric.builders.mesh import check_options, from_mesh
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_bool
from hsa_geometric.transforms._base import HierarchyTransform


@dataclass(repr=False, eq=False)
class MeshHierarchy(HierarchyTransform):
    r"""Give the vertices of a mesh their areas and the tree of shells and pieces.

    For a Data with :obj:`pos` and :obj:`face`. Attributes are kept, :obj:`parent` and :obj:`mass`
    are added, and so is :obj:`edge_index` if there is none; an earlier tree is replaced, with all
    that belongs to its nodes. See :func:`~hsa_geometric.builders.from_mesh`.

    Args:
        method: ``'kd'``, ``'pca'`` or ``'ball'``.
        branching: the most children of an inner node above the lowest ones.
        leaf_size: the most leaves below one of the lowest inner nodes. (default: :obj:`branching`)
        split_components: whether connected components are kept apart.
        mass: ``'area'``, or :obj:`None` for no masses, or those that the Data has.
        progress: whether each sample shows a bar on stderr.

    Raises:
        TypeError, ValueError: here, for wrong options; on a Data, what
            :func:`~hsa_geometric.builders.from_mesh` raises.

    Example:
        >>> import torch
        >>> face = torch.tensor([[0, 0], [1, 2], [2, 3]])
        >>> MeshHierarchy()(Data(pos=torch.rand(4, 3), face=face))
        Hierarchy(leaves=4, nodes=5, depth=1, pos=[4, 3], face=[3, 2], edge_index=[2, 10], mass=[4])
    """

    method: str = "pca"
    _: KW_ONLY
    branching: int = 8
    leaf_size: int | None = None
    split_components: bool = True
    mass: str | None = "area"
    progress: bool = False

    def __post_init__(self) -> None:
        check_bool(self.progress, "progress")
        check_options(self.method, self.branching, self.leaf_size, self.mass)

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        check_sample(data)
        return from_mesh(data, **vars(self))
