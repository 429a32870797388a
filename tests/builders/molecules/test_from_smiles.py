import sys

import pytest
import torch
from helpers import freesolv
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from torch_geometric.loader import DataLoader
from torch_geometric.utils import from_smiles as pyg_from_smiles

from hsa_geometric.builders.molecules import from_molecule, from_smiles
from hsa_geometric.nn import HierarchicalAttentionConv

FREESOLV = freesolv()
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@given(
    st.lists(st.sampled_from(FREESOLV), min_size=1, max_size=3).map(".".join),
    st.permutations(["scaffold", "brics", "functional_groups", "rings"]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_trees_are_valid_and_leaves_bonds_and_features_are_pygs(smiles, levels, with_hydrogen):
    levels = levels[: levels.index("rings") + 1]
    h = from_smiles(smiles, levels=levels, with_hydrogen=with_hydrogen)
    pyg = pyg_from_smiles(smiles, with_hydrogen=with_hydrogen)
    assert h.validate() and h.num_trees == 1
    assert torch.equal(h.tree.leaf_ids, torch.arange(pyg.num_nodes))
    assert h.smiles == smiles and all(
        torch.equal(h[key], pyg[key]) for key in ("x", "edge_index", "edge_attr")
    )


def test_hydrogens_are_leaves_after_all_others():
    h, pyg = from_smiles("OCc1ccccc1", with_hydrogen=True), pyg_from_smiles("OCc1ccccc1", True)
    assert torch.equal(h.x, pyg.x) and h.x[8:, 0].tolist() == [1] * 8
    assert torch.equal(h.parent, from_molecule(Chem.AddHs(Chem.MolFromSmiles("OCc1ccccc1"))).parent)
    # ring and its hydrogens | O-H | CH2
    alcohol, carbon, ring = h.parent[:3].tolist()
    assert h.parent[8:16].tolist() == [alcohol, carbon, carbon, *[ring] * 5]


def test_kekulized_bonds_change_features_only():
    h, same = from_smiles(ASPIRIN), from_smiles(ASPIRIN, kekulize=True)
    assert torch.equal(same.edge_attr, pyg_from_smiles(ASPIRIN, kekulize=True).edge_attr)
    assert not torch.equal(h.edge_attr, same.edge_attr)
    assert torch.equal(h.parent, same.parent)


def test_options_reach_the_tree():
    h = from_smiles(ASPIRIN, levels=[], y=torch.tensor([0.5]))
    assert h.parent.tolist() == [13] * 14 and h.y.item() == 0.5


def test_molecules_batch_and_attend_only_to_themselves():
    smiles = [ASPIRIN, "C", "[Na+].[Cl-]", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"]
    samples = [from_smiles(s, y=torch.tensor([float(i)])) for i, s in enumerate(smiles)]
    torch.manual_seed(0)
    conv = HierarchicalAttentionConv(9, 4, heads=2)
    (batch,) = DataLoader(samples, batch_size=4)
    assert batch.smiles == smiles and batch.y.tolist() == [0, 1, 2, 3] and batch.num_trees == 4
    out = conv(batch.x.float(), batch.tree)
    for i, h in enumerate(samples):
        torch.testing.assert_close(out[batch.batch == i], conv(h.x.float(), h.tree))


@pytest.mark.parametrize(
    ("smiles", "error", "match"),
    [
        ("C1CC", ValueError, r"RDKit can read \(got 'C1CC': its syntax is wrong\)"),
        ("CF(C)C", ValueError, r"\(got 'CF\(C\)C': Explicit valence for atom # 1 F"),
        ("c1cccc1", ValueError, r"\(got 'c1cccc1': Can't kekulize mol"),
        ("", ValueError, r"'smiles' to hold at least one atom \(got ''\)"),
        (None, TypeError, r"'smiles' to be a string \(got NoneType\)"),
        (["C"], TypeError, r"'smiles' to be a string \(got list\)"),
    ],
)
def test_what_is_no_smiles_is_named(smiles, error, match, capfd):
    with pytest.raises(error, match=match):
        from_smiles(smiles)
    assert capfd.readouterr().err == ""  # RDKit itself says nothing


PLATINUM, OSMIUM = "C[Pt@SP1](F)(Cl)Br", "[Os+8]"
LANTHANUM = "[La](F)(F)(F)(F)(F)(F)(F)(F)(F)(F)(F)F"  # twelve neighbours


@pytest.mark.parametrize(
    ("smiles", "match"),
    [
        (PLATINUM, r"atom 1 \(Pt\) of 'C\[Pt@SP1\].*' to have a hybridization .* \(got SP2D\)"),
        (OSMIUM, r"atom 0 \(Os\) of .* a formal_charge that .* number, -5 to 6 \(got 8\)"),
        (LANTHANUM, r"atom 0 \(La\) of .* a degree that .* number, 0 to 10 \(got 12\)"),
        ("[LaH12]", r"atom 0 \(La\) of '\[LaH12\]' to have a degree .* \(got 12\)"),
        ("O=[Fe-6]", r"atom 1 \(Fe\) of .* a formal_charge .* \(got -6\)"),
    ],
)
def test_an_atom_without_a_feature_of_pyg_is_named_with_the_remedy(smiles, match):
    with pytest.raises(ValueError, match=match + "; give features of your own as 'x'"):
        from_smiles(smiles)


def test_own_features_stand_in_for_those_pyg_cannot_number():
    x = torch.rand(5, 2)
    h = from_smiles(PLATINUM, x=x)
    assert torch.equal(h.x, x) and h.parent.tolist() == [5] * 6
    same = pyg_from_smiles("CC(F)(Cl)Br")  # bonds alike, of atoms that have numbers
    assert torch.equal(h.edge_index, same.edge_index) and torch.equal(h.edge_attr, same.edge_attr)
    h = from_smiles(OSMIUM, x=torch.rand(1, 2))
    assert h.parent.tolist() == [0] and h.edge_index.shape == (2, 0)
    assert from_smiles(LANTHANUM, x=torch.rand(13, 1)).num_nodes == 13


def test_a_bond_without_a_feature_of_pyg_is_named_with_the_remedy():
    mol = Chem.MolFromSmiles("CC1=CC=CC(I)=C1N1C(C)=CC=C1Br")
    bond = next(b for b in mol.GetBonds() if b.GetBeginAtom().GetSymbol() == "C" and
                b.GetEndAtom().GetSymbol() == "N" and not b.IsInRing())  # fmt: skip
    bond.SetStereo(Chem.BondStereo.STEREOATROPCW)
    where = f"{bond.GetBeginAtomIdx()}-{bond.GetEndAtomIdx()}"
    match = (
        rf"the bond {where} of 'molecule' to have a stereo .* \(got STEREOATROPCW\).*'edge_attr'"
    )
    with pytest.raises(ValueError, match=match):
        from_molecule(mol)
    edge_attr = torch.rand(2 * mol.GetNumBonds(), 1)
    h = from_molecule(mol, edge_attr=edge_attr)
    bond.SetStereo(Chem.BondStereo.STEREONONE)
    plain = from_molecule(mol)
    assert torch.equal(h.edge_attr, edge_attr) and torch.equal(h.x, plain.x)
    assert torch.equal(h.edge_index, plain.edge_index) and torch.equal(h.parent, plain.parent)


def test_a_smiles_is_read_once(monkeypatch):
    read, count = Chem.MolFromSmiles, []
    monkeypatch.setattr(Chem, "MolFromSmiles", lambda *args: count.append(args) or read(*args))
    from_smiles(ASPIRIN, with_hydrogen=True)
    assert len(count) == 1


def test_bad_levels_are_named():
    with pytest.raises(ValueError, match=r"'levels' to be among .* \(got 'ring'\)"):
        from_smiles("C", levels=["ring"])


def test_a_missing_rdkit_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"from_smiles needs RDKit.*hsa_geometric\[molecules\]"):
        from_smiles("CCO")
