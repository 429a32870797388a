"""A SMILES string, with PyG's features and the hierarchy of its groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hsa_geometric.builders.molecules._features import featurize
from hsa_geometric.builders.molecules._rdkit import import_chem, parse_smiles
from hsa_geometric.builders.molecules.from_molecule import build
from hsa_geometric.builders.molecules.levels import check_levels
from hsa_geometric.data.hierarchy import Hierarchy


def from_smiles(
    smiles: str,
    *,
    levels: Iterable[str] = ("brics", "rings"),
    with_hydrogen: bool = False,
    kekulize: bool = False,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build the hierarchy of a SMILES: :func:`torch_geometric.utils.from_smiles` with a tree.

    :obj:`x`, :obj:`edge_index`, :obj:`edge_attr` and :obj:`smiles` are PyG's own, the leaves are
    its nodes in its order, and the tree is that of
    :func:`~hsa_geometric.builders.molecules.from_molecule`. Where PyG takes a SMILES that RDKit
    cannot read for a molecule without atoms, this raises.

    Args:
        smiles: the SMILES.
        levels: as for :func:`~hsa_geometric.builders.molecules.from_molecule`.
        with_hydrogen: make every hydrogen a leaf, after all other atoms.
        kekulize: give aromatic bonds as single and double ones in :obj:`edge_attr`; the tree
            stays the same.
        **leaf_data: as for :func:`~hsa_geometric.builders.molecules.from_molecule`.

    Raises:
        ImportError: if RDKit is not installed.
        TypeError: if :obj:`smiles` is no string or :obj:`levels` no list.
        ValueError: if :obj:`smiles` is empty or cannot be read, with RDKit's reason where it has
            one (its log stays silent meanwhile); if PyG's features have no number for an atom or a
            bond, and no :obj:`x` or :obj:`edge_attr` is given to have instead; or for what is wrong
            with :obj:`levels`.

    Cost: as :func:`~hsa_geometric.builders.molecules.from_molecule`.

    Example:
        >>> h = from_smiles("CC(=O)Oc1ccccc1C(=O)O", levels=["functional_groups", "rings"])
        >>> h.parent  # CH3 | ester | benzene | acid
        tensor([16, 14, 14, 14, 13, 13, 13, 13, 13, 13, 15, 15, 15, 16, 16, 16, 16])
        >>> from hsa_geometric.builders.molecules import KINDS
        >>> [KINDS[kind] for kind in h.tree_kind[13:].tolist()]
        ['ring', 'functional_group', 'functional_group', 'molecule']
    """
    names = check_levels(levels)
    Chem = import_chem("from_smiles")
    mol = parse_smiles(smiles, Chem)
    if with_hydrogen:
        mol = Chem.AddHs(mol)
    if kekulize:
        Chem.Kekulize(mol)
    data = featurize(mol, leaf_data, repr(smiles))
    data.smiles = smiles
    return build(mol, data, names, leaf_data)
