import torch
from rdkit import Chem

from hsa_geometric.builders.molecules import atom_groups

SALT = Chem.MolFromSmiles("[Na+].OC(=O)c1ccccc1")


def test_by_hand():
    groups = atom_groups(SALT, levels=["components", "brics", "rings"])
    assert groups.tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 2, 2, 2, 2, 2, 2],
        [0, 1, 2, 3, 4, 4, 4, 4, 4, 4],
    ]
    assert groups.dtype == torch.long


def test_groups_are_numbered_by_their_first_atoms():
    mol = Chem.RenumberAtoms(SALT, [5, 1, 0, *range(2, 5), *range(6, 10)])
    for labels in atom_groups(mol, levels=["components", "scaffold", "functional_groups"]):
        first = [labels.tolist().index(label) for label in labels.unique().tolist()]
        assert first == sorted(first) and labels.unique().tolist() == list(range(len(first)))


def test_fragments_and_ring_systems_are_the_default():
    assert torch.equal(atom_groups(SALT), atom_groups(SALT, levels=["brics", "rings"]))


def test_without_levels_there_are_no_rows():
    assert atom_groups(SALT, levels=[]).shape == (0, 10)
