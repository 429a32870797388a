"""Hierarchies from molecules: RDKit molecules, SMILES, and PyG's graphs of them."""

from hsa_geometric.builders.molecules.atom_groups import atom_groups
from hsa_geometric.builders.molecules.from_molecule import from_molecule
from hsa_geometric.builders.molecules.from_smiles import from_smiles
from hsa_geometric.builders.molecules.levels import KINDS

__all__ = ["KINDS", "atom_groups", "from_molecule", "from_smiles"]
