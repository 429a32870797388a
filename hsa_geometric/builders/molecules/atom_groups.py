"""The groups of a molecule's atoms as labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders.molecules._rdkit import import_chem
from hsa_geometric.builders.molecules.from_molecule import check_mol
from hsa_geometric.builders.molecules.levels import check_levels, find_levels


def atom_groups(molecule: Any, *, levels: Iterable[str] = ("brics", "rings")) -> Tensor:
    r"""Label each atom with its group at each level.

    These are the groups of which :func:`~hsa_geometric.builders.molecules.from_molecule` makes a
    tree, before nodes of one child are left out: good for colouring a drawing, for pooling, or for
    a tree in which every atom has a node at every level (see the example).

    Args:
        molecule: an RDKit molecule, sanitized.
        levels: as for :func:`~hsa_geometric.builders.molecules.from_molecule`.

    Shapes:
        returns ``[len(levels), N]`` int64; the groups of a level are ``0 .. K-1`` in the order of
        their first atoms, and each nests in a group of the row before.

    Raises:
        ImportError, TypeError, ValueError: as
            :func:`~hsa_geometric.builders.molecules.from_molecule`.

    Cost: see there.

    Example:
        >>> from rdkit import Chem
        >>> groups = atom_groups(Chem.MolFromSmiles("CC(=O)Nc1ccccc1"))
        >>> groups
        tensor([[0, 0, 0, 1, 2, 2, 2, 2, 2, 2],
                [0, 1, 2, 3, 4, 4, 4, 4, 4, 4]])
        >>> from hsa_geometric import from_clusters
        >>> from_clusters(groups.flip(0), per_leaf=True)
        Hierarchy(leaves=10, nodes=19, depth=3)
    """
    names = check_levels(levels)
    check_mol(molecule, import_chem("atom_groups"))
    labels = torch.empty(len(names), molecule.GetNumAtoms(), dtype=torch.long)
    for row, level in zip(labels, find_levels(molecule, names), strict=True):
        size = torch.tensor([len(piece) for piece in level.partition])
        atoms = torch.tensor([atom for piece in level.partition for atom in piece])
        row[atoms] = torch.arange(size.numel()).repeat_interleave(size)
    return labels
