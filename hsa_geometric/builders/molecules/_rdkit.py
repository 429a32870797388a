"""RDKit at the door: the import, and SMILES that cannot be read."""

from __future__ import annotations

from typing import Any

from hsa_geometric.builders._extra import extra


def import_chem(caller: str) -> Any:
    """Return ``rdkit.Chem``."""
    with extra("molecules", f"{caller} needs RDKit"):
        from rdkit import Chem
    return Chem


def parse_smiles(smiles: str, Chem: Any) -> Any:
    """Read a SMILES as PyG does. RDKit's log is silent meanwhile: its complaint is in the error."""
    from rdkit import rdBase

    if not isinstance(smiles, str):
        raise TypeError(f"Expected 'smiles' to be a string (got {type(smiles).__name__})")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise ValueError(
                f"Expected 'smiles' to be a molecule RDKit can read "
                f"(got {smiles!r}: {_complaint(smiles, Chem)})"
            )
    if mol.GetNumAtoms() == 0:
        raise ValueError(f"Expected 'smiles' to hold at least one atom (got {smiles!r})")
    return mol


def _complaint(smiles: str, Chem: Any) -> str:
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is not None:
        try:
            Chem.SanitizeMol(mol)
        except Chem.MolSanitizeException as error:
            return str(error).strip()
    return "its syntax is wrong"
