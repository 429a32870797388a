import csv
import math

import pytest
import torch
from helpers import load_example
from torch_geometric.data import Batch

molecules = load_example("molecules")

CYCLIC = "N1(CCCC12)C(=O)C(C)NC(=O)CN(C)C2=O"  # a ring of proline, alanine and sarcosine


def table(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_main_compares_equal_models_and_saves_a_picture(tmp_path, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / "new" / "molecules.png"
    results = molecules.main(seeds=2, epochs=1, limit=40, out=out, progress=False)
    assert torch.get_num_threads() == threads
    assert out.stat().st_size > 10_000 and results["picture"] == str(out)
    counts = [results[name]["parameters"] for name in molecules.VARIANTS]
    assert max(counts) <= 1.01 * min(counts)
    for name in molecules.VARIANTS:
        assert len(results[name]["rmse"]) == 2
        assert math.isfinite(results[name]["std"]) and 0 < results[name]["mean"] < 20
    printed = capsys.readouterr().out
    assert "| hydration free energy | test RMSE [kcal/mol] | parameters |" in printed
    assert "40 molecules, 2 random 80/10/10 splits, 1 epochs" in printed


def test_training_learns():
    _, data = molecules.load(molecules.FREESOLV, 120, progress=False)
    train, *rest = molecules.split(data, 0, "random")
    batch, val, test = (Batch.from_data_list([data[i] for i in p]) for p in (train, *rest))
    torch.manual_seed(0)
    model = molecules.make_model(data[0], molecules.BOTH)
    bar = molecules.progress_bar(disable=True)
    run = molecules.train(model, [[batch]], val, test, molecules.Clock(60), bar)
    assert run["rmse"] < 0.8 * float((test.y - batch.y.mean()).square().mean().sqrt())
    assert run["predicted"].shape == test.y.shape


@pytest.mark.parametrize(
    ("columns", "name", "unit"),
    [
        (["CycPeptMPDB_ID", "SMILES", "PAMPA"], "permeability", "log cm/s"),
        (["CMPD_CHEMBLID", "smiles", "exp"], "lipophilicity", "log D"),
        (
            ["Compound ID", "smiles", "measured log solubility in mols per litre"],
            "solubility",
            "log mol/L",
        ),
    ],
    ids=["CycPeptMPDB", "lipophilicity", "ESOL"],
)
def test_the_usual_tables_are_known_by_their_columns(tmp_path, columns, name, unit):
    rows = [["a", "CCO", "-5.5"], ["b", CYCLIC, "-10"], ["c", "C", ""]]
    task, found = molecules.read(table(tmp_path / "x.csv", columns, rows), None)
    assert (task.name, task.unit) == (name, unit)
    lowest = -8.0 if name == "permeability" else -10.0
    assert found == [("CCO", -5.5), (CYCLIC, lowest)]  # no row without a value


def test_an_unknown_table_is_refused(tmp_path):
    path = table(tmp_path / "x.csv", ["smiles", "p_np"], [["C", "1"]])
    with pytest.raises(ValueError, match="Expected --data to have the columns 'smiles' and one of"):
        molecules.read(path, None)


def test_peptides_stand_on_their_residues(tmp_path):
    path = table(tmp_path / "x.csv", ["smiles", "pampa"], [[CYCLIC, -5], ["CC(=O)NC", -6]])
    _, (peptide, amide) = molecules.load(path, None, progress=False)
    assert peptide.num_tree_nodes == 17 + 5 and amide.num_tree_nodes == 5 + 3
    assert peptide.x.shape[1] == amide.x.shape[1] and peptide.y.tolist() == [-5.0]


def test_features_are_finite_and_columns_that_never_vary_are_left_out():
    task, data = molecules.load(molecules.FREESOLV, 30, progress=False)
    assert task.name == "hydration free energy" and len(data) == 30
    for key in ("x", "edge_attr"):
        rows = torch.cat([h[key] for h in data])
        assert rows.isfinite().all() and (rows.max(0).values > rows.min(0).values).all()


def test_attention_of_an_atom_sums_to_one():
    _, data = molecules.load(molecules.FREESOLV, 10, progress=False)
    model = molecules.make_model(data[0], "+ HSA").eval()
    weights = molecules.attention_from(model, data[0], 0)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("how", ["random", "scaffold"])
def test_splits_are_disjoint_and_cover_everything(how):
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    _, found = molecules.read(molecules.FREESOLV, None)
    data = [molecules.Hierarchy(parent=torch.tensor([0]), smiles=smiles) for smiles, _ in found]
    parts = molecules.split(data, 3, how)
    assert torch.cat(parts).sort().values.equal(torch.arange(642))
    assert [part.numel() for part in parts] == [514, 64, 64]
    assert torch.equal(parts[2], molecules.split(data, 3, how)[2])
    assert not torch.equal(parts[2], molecules.split(data, 4, how)[2])
    if how == "scaffold":
        train, val, test = (
            {MurckoScaffoldSmiles(data[i].smiles) for i in part.tolist()} for part in parts
        )
        assert train.isdisjoint(val) and train.isdisjoint(test) and val.isdisjoint(test)


def test_main_refuses_zero_seeds_and_epochs():
    with pytest.raises(ValueError, match="at least 1 seed and 1 epoch"):
        molecules.main(seeds=0, limit=10, progress=False)
    with pytest.raises(ValueError, match="at least 1 seed and 1 epoch"):
        molecules.main(epochs=0, limit=10, progress=False)
