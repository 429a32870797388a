"""Points with a balanced tree: :class:`PointHierarchy`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch_geometric.data import Data

from hsa_geometric.builders._attach import attach, attribute
from hsa_geometric.builders._bisection import check_options
from hsa_geometric.builders.points import from_points
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_bool
from hsa_geometric.transforms._base import HierarchyTransform


@dataclass(repr=False, eq=False)
class PointHierarchy(HierarchyTransform):
    r"""Give points the tree of their balanced bisection.

    Attributes are kept and :obj:`parent` is added; an earlier tree is replaced, with all that
    belongs to its nodes. A batch of samples becomes one hierarchy with a tree for each. See
    :func:`~hsa_geometric.builders.from_points`.

    Args:
        method: ``'kd'``, ``'pca'`` or ``'ball'``.
        branching: the most children of an inner node above the lowest ones.
        leaf_size: the most leaves below one of the lowest inner nodes. (default: :obj:`branching`)
        progress: whether each sample shows a bar on stderr.

    Raises:
        TypeError, ValueError: here, for wrong options; on a Data, if it lacks :obj:`pos`, and what
            :func:`~hsa_geometric.builders.from_points` raises.

    Example:
        >>> import torch
        >>> transform = PointHierarchy("pca", branching=4)
        >>> transform(Data(x=torch.rand(100, 8), pos=torch.rand(100, 3)))
        Hierarchy(leaves=100, nodes=153, depth=4, x=[100, 8], pos=[100, 3])
    """

    method: str = "kd"
    _: KW_ONLY
    branching: int = 8
    leaf_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        check_bool(self.progress, "progress")
        check_options(self.method, self.branching, self.leaf_size)

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        tree = from_points(attribute(data, "pos"), batch=data.get("batch"), **vars(self))
        return attach(data, tree)
