"""PyG's features of a molecule, and what to do where they have no number for an atom or a bond."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from hsa_geometric.builders.molecules.levels import bonds_of

# In the order of the columns of `x` and `edge_attr`, under the names of PyG's `x_map` and `e_map`.
_ATOM: dict[str, Callable[[Any], Any]] = {
    "atomic_num": lambda atom: atom.GetAtomicNum(),
    "chirality": lambda atom: str(atom.GetChiralTag()),
    "degree": lambda atom: atom.GetTotalDegree(),
    "formal_charge": lambda atom: atom.GetFormalCharge(),
    "num_hs": lambda atom: atom.GetTotalNumHs(),
    "num_radical_electrons": lambda atom: atom.GetNumRadicalElectrons(),
    "hybridization": lambda atom: str(atom.GetHybridization()),
    "is_aromatic": lambda atom: atom.GetIsAromatic(),
    "is_in_ring": lambda atom: atom.IsInRing(),
}
_BOND: dict[str, Callable[[Any], Any]] = {
    "bond_type": lambda bond: str(bond.GetBondType()),
    "stereo": lambda bond: str(bond.GetStereo()),
    "is_conjugated": lambda bond: bond.GetIsConjugated(),
}


def featurize(mol: Any, given: Collection[str], name: str) -> Data:
    """What :func:`torch_geometric.utils.from_rdmol` makes of a molecule.

    Where it has no number for an atom and :obj:`x` is given, the result goes without; likewise
    for bonds and :obj:`edge_attr`.
    """
    from torch_geometric.utils import from_rdmol, to_undirected
    from torch_geometric.utils.smiles import e_map, x_map

    try:
        return from_rdmol(mol)
    except ValueError:  # of `list.index`, which says neither where nor why
        pass
    data = Data()
    if "x" not in given:
        atoms = {f"atom {atom.GetIdx()} ({atom.GetSymbol()})": atom for atom in mol.GetAtoms()}
        data.x = _number(atoms, _ATOM, x_map, "x", name)
    bonds = {f"the bond {b.GetBeginAtomIdx()}-{b.GetEndAtomIdx()}": b for b in bonds_of(mol)}
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds.values()]
    edge_index = torch.tensor(ends, dtype=torch.long).view(-1, 2).t()
    data.edge_index = to_undirected(edge_index, num_nodes=mol.GetNumAtoms())
    if "edge_attr" not in given:
        attr = _number(bonds, _BOND, e_map, "edge_attr", name)
        data.edge_attr = to_undirected(edge_index, attr, mol.GetNumAtoms())[1]
    return data


def _number(
    things: Mapping[str, Any],
    features: Mapping[str, Callable[[Any], Any]],
    numbered: Mapping[str, list[Any]],
    key: str,
    molecule: str,
) -> Tensor:
    rows = []
    for where, thing in things.items():
        row = []
        for name, value in features.items():
            if (found := value(thing)) not in numbered[name]:
                known = numbered[name]
                some = f"of {known}" if isinstance(known[0], str) else f"{known[0]} to {known[-1]}"
                raise ValueError(
                    f"Expected {where} of {molecule} to have a {name} that PyG's features number, "
                    f"{some} (got {found}); give features of your own as '{key}'"
                )
            row.append(numbered[name].index(found))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.long).view(-1, len(features))
