"""Molecules with the hierarchy of their groups: :class:`MoleculeHierarchy`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch_geometric.data import Data

from hsa_geometric.builders.molecules import from_molecule
from hsa_geometric.builders.molecules.levels import check_levels
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.transforms._base import HierarchyTransform


@dataclass(repr=False, eq=False)
class MoleculeHierarchy(HierarchyTransform):
    r"""Give molecules the tree of their groups: fragments, ring systems, and so on.

    For data sets of graphs with :obj:`smiles`, such as
    :class:`torch_geometric.datasets.MoleculeNet`; use it as ``pre_transform``, since a tree costs
    more than reading it. Attributes are kept and :obj:`parent` and :obj:`tree_kind` are added; see
    :func:`~hsa_geometric.builders.molecules.from_molecule` for the levels, the kinds and the
    errors.

    Args:
        levels: names of levels, coarse to fine, from ``'components'``, ``'scaffold'``, ``'brics'``,
            ``'residues'``, ``'functional_groups'`` and ``'rings'``.

    Raises:
        TypeError, ValueError: here, for wrong levels.

    Example:
        >>> from torch_geometric.utils import from_smiles
        >>> MoleculeHierarchy()(from_smiles("CC(=O)Nc1ccccc1")).parent
        tensor([11, 11, 11, 12, 10, 10, 10, 10, 10, 10, 12, 12, 12])
    """

    levels: Iterable[str] = ("brics", "rings")

    def __post_init__(self) -> None:
        self.levels = check_levels(self.levels)

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        return from_molecule(data, levels=self.levels)
