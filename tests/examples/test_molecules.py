import math

import pytest
import torch
from helpers import load_example
from torch_geometric.data import Batch

molecules = load_example("molecules")

PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"
SMILES = ["C", "[Na+].[Cl-]", PARACETAMOL, "c1ccc2ccccc2c1", "CN(C)CCOC(c1ccccc1)c2ccccc2"]


def molecule(smiles):
    from rdkit import Chem

    return Chem.MolFromSmiles(smiles)


@pytest.mark.parametrize("smiles", SMILES)
def test_fragments_partition_the_atoms_and_ring_systems_nest_in_them(smiles):
    mol = molecule(smiles)
    rings, frags = molecules.fragments(mol)
    for part in (rings, frags):
        assert part.shape == (mol.GetNumAtoms(),)
        assert part.unique().tolist() == list(range(int(part.max()) + 1))
    for ring in rings.unique():
        assert frags[rings == ring].unique().numel() == 1


def test_brics_cuts_paracetamol_at_the_amide_and_keeps_its_ring_whole():
    rings, frags = molecules.fragments(molecule(PARACETAMOL))
    assert frags.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2]
    ring = torch.tensor([4, 5, 6, 7, 9, 10])  # atom 8 is the hydroxyl oxygen
    assert rings[ring].unique().numel() == 1
    assert rings.unique().numel() == 6


def test_fragment_tree_has_the_atoms_as_leaves_in_order():
    parent = molecules.fragment_tree(molecule(PARACETAMOL))
    data = molecules.Hierarchy(x=torch.zeros(11, 1), parent=parent)
    assert data.validate()
    assert (data.num_tree_nodes, data.num_trees) == (11 + 6 + 3 + 1, 1)
    assert parent[-1] == parent.numel() - 1


def test_features_are_finite_and_bonds_run_both_ways():
    for smiles in SMILES:
        mol = molecule(smiles)
        x, (edge_index, edge_attr) = molecules.atom_features(mol), molecules.bond_features(mol)
        assert x.isfinite().all() and x.size(0) == mol.GetNumAtoms()
        assert edge_index.shape == (2, 2 * mol.GetNumBonds())
        assert edge_attr.size(0) == edge_index.size(1)


def test_on_the_star_tree_the_layer_is_softmax_attention():
    smiles, data = molecules.load_molecules(limit=6)
    batch = Batch.from_data_list(data["star"])
    torch.manual_seed(0)
    conv = molecules.HierarchicalAttentionConv(batch.x.size(1), 8, heads=2)
    out = conv(batch.x, batch.tree)
    for i in range(len(smiles)):
        x = data["star"][i].x
        q, k, v = (
            lin(x).view(1, -1, 2, 8).transpose(1, 2)
            for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
        )
        flat = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        expected = flat[0].transpose(0, 1).flatten(1) + conv.bias
        torch.testing.assert_close(out[batch.batch == i], expected, rtol=1e-4, atol=1e-5)


def test_splits_are_disjoint_and_cover_everything():
    parts = molecules.split(642, seed=3)
    assert [p.numel() for p in parts] == [514, 64, 64]
    assert torch.cat(parts).sort().values.equal(torch.arange(642))
    assert torch.equal(parts[2], molecules.split(642, seed=3)[2])


def test_main_compares_equal_models_and_saves_a_picture(tmp_path, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / "new" / "molecules.png"
    results = molecules.main(seeds=1, epochs=2, limit=40, out=out, progress=False)
    assert torch.get_num_threads() == threads
    assert out.stat().st_size > 10_000
    assert results["picture"] == str(out)
    counts = [results[name]["parameters"] for name in molecules.VARIANTS]
    assert max(counts) <= 1.02 * min(counts)
    for name in molecules.VARIANTS:
        assert len(results[name]["rmse"]) == 1
        assert math.isfinite(results[name]["mean"]) and 0 < results[name]["mean"] < 20
    printed = capsys.readouterr().out
    assert "| attention | test RMSE [kcal/mol] | parameters | seconds per run |" in printed
    assert f"picture: {out}" in printed


def test_training_learns(tmp_path):
    _, data = molecules.load_molecules(limit=80)
    bar = molecules.progress_bar(disable=True)
    run = molecules.train(data["fragments"], seed=0, attend=True, epochs=15, bar=bar)
    measured = run["measured"]
    assert run["rmse"] < float((measured - measured.mean()).square().mean().sqrt())


def test_a_missing_package_names_the_extra():
    with pytest.raises(ImportError, match=r"hsa_geometric\[examples\]"):
        molecules._require("no_such_package")


def test_main_refuses_zero_seeds():
    with pytest.raises(ValueError, match="at least 1 seed and 1 epoch"):
        molecules.main(seeds=0)
