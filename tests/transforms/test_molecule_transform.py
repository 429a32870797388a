import pytest
import torch
from torch_geometric.data import Batch, InMemoryDataset
from torch_geometric.loader import DataLoader
from torch_geometric.utils import from_smiles

from hsa_geometric.builders.molecules import from_molecule
from hsa_geometric.transforms.molecules import MoleculeHierarchy

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "C", "[Na+].[Cl-]"]
LEVELS = ["scaffold", "rings"]


def graphs():
    out = [from_smiles(smiles) for smiles in SMILES]
    for i, data in enumerate(out):
        data.y, data.fingerprint = torch.tensor([[float(i)]]), torch.full((1, 5), i)
    return out


class Molecules(InMemoryDataset):
    processed_file_names = "data.pt"

    def __init__(self, root, **transforms):
        super().__init__(root, log=False, **transforms)
        self.load(self.processed_paths[0])

    def process(self):
        data = graphs()
        if self.pre_transform is not None:
            data = [self.pre_transform(graph) for graph in data]
        self.save(data, self.processed_paths[0])


@pytest.mark.parametrize("when", ["transform", "pre_transform"])
def test_a_dataset_of_molecules_loads_in_batches(tmp_path, when):
    dataset = Molecules(tmp_path, **{when: MoleculeHierarchy()})
    (batch,) = DataLoader(dataset, batch_size=3)
    expected = Batch.from_data_list([from_molecule(data) for data in graphs()])
    assert batch.validate() and batch.num_trees == 3 and batch.smiles == SMILES
    for key in ("parent", "tree_kind", "x", "edge_index", "edge_attr", "y", "fingerprint"):
        assert torch.equal(batch[key], expected[key])


def test_it_shows_its_levels():
    assert repr(MoleculeHierarchy()) == "MoleculeHierarchy()"
    assert repr(MoleculeHierarchy(LEVELS)) == "MoleculeHierarchy(levels=('scaffold', 'rings'))"


def test_bad_levels_are_named_at_once():
    with pytest.raises(ValueError, match=r"'levels' to be among .* \(got 'ring'\)"):
        MoleculeHierarchy(["ring"])
