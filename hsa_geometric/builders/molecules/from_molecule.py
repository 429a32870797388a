"""A molecule, from RDKit or as PyG's graph of it, with the hierarchy of its groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from hsa_geometric.builders._attach import attach, attribute, device_of
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.molecules._features import featurize
from hsa_geometric.builders.molecules._rdkit import import_chem, parse_smiles
from hsa_geometric.builders.molecules.levels import (
    KINDS,
    Level,
    bonds_of,
    check_levels,
    find_levels,
)
from hsa_geometric.data.hierarchy import Hierarchy


def from_molecule(
    molecule: Any, *, levels: Iterable[str] = ("brics", "rings"), **leaf_data: Any
) -> Hierarchy:
    r"""Build a hierarchy whose leaves are the atoms and whose inner nodes are chemical groups.

    A level is a rule that cuts bonds. Its groups are what its own cuts and those of all coarser
    levels leave connected. So groups nest, each is connected, and there is nothing to overlap: a
    group that spans a cut of a coarser level is split there. Only ``'residues'`` opens rings, and
    only large ones. In the order from coarse to fine that is usual:

    * ``'components'``: disconnected parts, as in salts. Where there are several they are always the
      top level, named or not.
    * ``'scaffold'``: the Murcko scaffold of RDKit (ring systems, what links them, and atoms with a
      double bond to these) against the side chains. A molecule without rings has no scaffold and
      is not cut.
    * ``'brics'``: the fragments of BRICS (Degen et al., ChemMedChem 3, 1503, 2008), by RDKit.
    * ``'residues'``: what is between the amide bonds C(=O)–N of two carbons: the amino acids and
      caps of a peptide. Those in rings of nine atoms or more, that is of three amino acids, are cut
      too, so that a cyclic peptide opens; lactams stay whole. Ureas, carbamates and esters are not
      cut, nor is an amide at the end of a chain. Levels below find the rings that are left.
    * ``'functional_groups'``: connected atoms that Ertl's rules mark (`J. Cheminform. 9, 36, 2017
      <https://doi.org/10.1186/s13321-017-0225-z>`_: heteroatoms, carbons with a multiple bond,
      acetal carbons, oxirane-like rings) against the connected rest. Aromatic atoms are not
      marked, and a group that reaches into a ring has the whole ring system with it.
    * ``'rings'``: ring systems, that is rings that share an atom (fused, bridged and spiro). All
      other atoms stand alone.

    A hydrogen that is an atom of the graph belongs to the groups of its neighbour. A node that
    would have a single child is left out, so all groups kept are different sets of two atoms or
    more, and depths differ between molecules; for one node at every level see
    :func:`~hsa_geometric.builders.molecules.atom_groups`.

    The kinds of the nodes are kept as :obj:`tree_kind`, ids into
    :data:`~hsa_geometric.builders.molecules.KINDS`, the same for all levels and molecules: 0 atom,
    1 ring (system), 2 functional group, 3 scaffold, 4 fragment (BRICS), 5 component, 6 molecule,
    7 rest (side chain, or what is between functional groups), 8 residue. A node that is several of
    them, such as a fragment that is a ring, has the kind of the finest level; ``rest`` gives way to
    any other.

    Args:
        molecule: a sanitized RDKit molecule; leaf ``i`` is its atom ``i``, and :obj:`x`,
            :obj:`edge_index` and :obj:`edge_attr` are as :func:`torch_geometric.utils.from_rdmol`
            makes them. Or a PyG :class:`~torch_geometric.data.Data` with :obj:`smiles`, such as
            :func:`torch_geometric.utils.from_smiles` and MoleculeNet give, with or without
            hydrogens: leaf ``i`` is its node ``i``, and all its attributes are carried over, but
            for a tree it may have (:obj:`parent`, ``tree_*``, ``inner_*``).
        levels: names from the list above, coarse to fine. ``'components'`` can only be the first,
            ``'rings'`` only the last. Without any, atoms are children of their component.
        **leaf_data: more for the hierarchy to carry, or to have instead; as for
            :func:`~hsa_geometric.builders.from_parent`.

    Returns:
        A :class:`~hsa_geometric.data.Hierarchy` with one tree, on the device of the Data. A single
        atom gives a tree of one node.

    Raises:
        ImportError: if RDKit is not installed.
        TypeError: if :obj:`molecule` is neither of the two (:obj:`None`, say, which RDKit gives for
            a SMILES it cannot read) or :obj:`levels` is no list.
        ValueError: if a level is unknown, twice there or out of place; if the molecule has no atom
            or is not sanitized, or has an atom or a bond that PyG's features have no number for
            (then give :obj:`x`, or :obj:`edge_attr`, of your own); if :obj:`smiles` is missing,
            cannot be read, or does not fit the nodes and edges of the Data: their number, or a bond
            that is no edge, as where the nodes are in another order than the atoms of the SMILES.

    Cost: Python linear in atoms for each level, and one :class:`~hsa_geometric.TreeIndex`: about
    0.7 ms for a molecule of ten atoms, most of it the index; 0.1 ms an atom for large ones. Beside
    that RDKit's reading of SMILES and PyG's features, which from some 5,000 atoms on take most of
    the time, since it grows with the square of the atoms.

    Example:
        >>> from rdkit import Chem
        >>> h = from_molecule(Chem.MolFromSmiles("CC(=O)Nc1ccccc1"))  # CC(=O) | N | ring
        >>> h.x.shape, h.tree
        (torch.Size([10, 9]), TreeIndex(leaves=10, nodes=13, trees=1, depth=2))
        >>> h.parent
        tensor([11, 11, 11, 12, 10, 10, 10, 10, 10, 10, 12, 12, 12])
        >>> h.tree_kind[10:]
        tensor([1, 4, 6])
    """
    names = check_levels(levels)
    Chem = import_chem("from_molecule")
    if isinstance(molecule, Data):
        return build(mol_of(molecule, Chem), molecule, names, leaf_data)
    check_mol(molecule, Chem)
    return build(molecule, featurize(molecule, leaf_data, "'molecule'"), names, leaf_data)


def build(mol: Any, data: Data, names: tuple[str, ...], leaf_data: dict[str, Any]) -> Hierarchy:
    """The hierarchy of a molecule whose atoms are the nodes of a graph."""
    parent, kind = _tree(mol, names)
    device = device_of(data)
    # What the caller gives of edges may fit these bonds.
    edges = {} if data.edge_index is None else {"edge_index": data.edge_index}
    h = from_parent(
        torch.tensor(parent, device=device),
        tree_kind=torch.tensor(kind, device=device),
        **edges | leaf_data,
    )
    return attach(data, h, leaf_data)


def check_mol(mol: Any, Chem: Any) -> None:
    """Check that this is a molecule that rules can be applied to."""
    if not isinstance(mol, Chem.Mol):
        hint = "; RDKit gives None for what it cannot read" if mol is None else ""
        raise TypeError(
            f"Expected 'molecule' to be an RDKit molecule or a PyG Data with 'smiles' "
            f"(got {type(mol).__name__}{hint})"
        )
    if mol.GetNumAtoms() == 0:
        raise ValueError("Expected 'molecule' to have at least one atom (got none)")
    if mol.NeedsUpdatePropertyCache():
        raise ValueError(
            "Expected 'molecule' to be sanitized (got one that needs Chem.SanitizeMol)"
        )


def mol_of(data: Data, Chem: Any) -> Any:
    """The molecule of a PyG graph, its atoms in the order of the nodes."""
    smiles = attribute(data, "smiles", "molecule")
    if isinstance(smiles, list):
        raise TypeError(
            "Expected 'molecule' to be one molecule with one 'smiles' (got a list, as in a batch)"
        )
    mol = parse_smiles(smiles, Chem)
    num_heavy, num_nodes = mol.GetNumAtoms(), data.num_nodes
    if num_nodes != num_heavy:
        mol = Chem.AddHs(mol)
    if num_nodes != mol.GetNumAtoms():
        raise ValueError(
            f"Expected 'data' to have one node for each atom of 'smiles', {num_heavy}, or "
            f"{mol.GetNumAtoms()} with hydrogens (got {num_nodes} nodes for {smiles!r})"
        )
    if isinstance(data.edge_index, Tensor):
        edges = set(zip(*data.edge_index.tolist(), strict=True))
        for bond in bonds_of(mol):
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            if (i, j) not in edges and (j, i) not in edges:
                raise ValueError(
                    f"Expected 'edge_index' to hold every bond of 'smiles' (got none between "
                    f"{i} and {j} for {smiles!r}); the nodes must be in the order of its atoms"
                )
    return mol


def _tree(mol: Any, names: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Parents and kinds of atoms and groups, finer levels first and the root last."""
    from rdkit import Chem

    num_atoms = mol.GetNumAtoms()
    atoms = set(range(num_atoms))
    levels = [Level(KINDS.index("molecule"), atoms, (tuple(range(num_atoms)),))]
    if len(Chem.GetMolFrags(mol)) > 1:
        names = ("components", *names) if "components" not in names else names
    else:
        names = tuple(name for name in names if name != "components")
    levels += find_levels(mol, names)

    atom, rest = KINDS.index("atom"), KINDS.index("rest")
    parent, kind = list(range(num_atoms)), [atom] * num_atoms
    top = list(range(num_atoms))  # the highest node above each atom so far
    for level in reversed(levels):
        for piece in level.partition:
            kind_here = rest if level.groups.isdisjoint(piece) else level.kind
            members = dict.fromkeys(top[i] for i in piece)
            if len(members) == 1:
                (node,) = members
                if kind[node] == rest:
                    kind[node] = kind_here
                continue
            node = len(parent)
            parent.append(node)
            kind.append(kind_here)
            for member in members:
                parent[member] = node
            for i in piece:
                top[i] = node
    return parent, kind
