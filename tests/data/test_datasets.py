"""Hierarchies in PyG's data sets, in memory and on disk, and loaders over them."""

import copy

import pytest
import torch
from torch_geometric.data import InMemoryDataset, OnDiskDataset
from torch_geometric.loader import DataLoader

from hsa_geometric import Hierarchy, from_parent, from_points
from hsa_geometric.transforms import PointHierarchy


def samples():
    """Trees of 3 to 9 leaves with keys of all kinds of rows, one of them named as edge data are."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for n in range(3, 10):
        inner = 2 if n > 3 else 1
        parent = torch.full((n + inner,), n)
        if inner == 2:
            parent[2:n] = n + 1
            parent[n:] = n + 1
        h = from_parent(
            parent,
            x=torch.rand(n, 2, generator=generator),
            surface_area=torch.rand(n, generator=generator),
            tree_kind=torch.arange(n + inner),
            inner_x=torch.rand(inner, 3, generator=generator),
            y=torch.rand(1, generator=generator),
            name=f"sample {n}",
        )
        h.edge_index = torch.stack([torch.arange(n), torch.arange(n).roll(1)])
        out.append(h)
    return out


def check_same(a, b):
    assert type(b) is Hierarchy and set(a.keys()) == set(b.keys())
    assert a._store._recorded() == b._store._recorded() != {}
    for key, value in a._store.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(b[key], value, rtol=0, atol=0)
            assert a.rows_of(key) == b.rows_of(key)
        else:
            assert b[key] == value
    assert b.validate() and b.depth == a.depth


class InMemory(InMemoryDataset):
    def __init__(self, root, transform=None):
        super().__init__(root, transform)
        self.load(self.processed_paths[0], data_cls=Hierarchy)

    processed_file_names = "data.pt"

    def process(self):
        self.save(samples(), self.processed_paths[0])


class OnDisk(OnDiskDataset):
    def process(self):
        self.extend(samples()[:5], batch_size=2)
        for sample in samples()[5:]:
            self.append(sample)


class OnDiskOfTensors(OnDisk):
    """With a schema: keys are columns, and what rows are is known of the class of samples."""

    KEYS = ("x", "parent", "surface_area", "tree_kind", "inner_x", "y", "edge_index")

    def __init__(self, root, transform=None):
        schema = {
            "x": {"dtype": torch.float, "size": (-1, 2)},
            "parent": {"dtype": torch.long, "size": (-1,)},
            "surface_area": {"dtype": torch.float, "size": (-1,)},
            "tree_kind": {"dtype": torch.long, "size": (-1,)},
            "inner_x": {"dtype": torch.float, "size": (-1, 3)},
            "y": {"dtype": torch.float, "size": (-1,)},
            "edge_index": {"dtype": torch.long, "size": (2, -1)},
            "name": str,
        }
        super().__init__(root, transform, schema=schema)

    def serialize(self, data):
        return {key: value for key, value in data.to_dict().items() if key != "_record"}

    def deserialize(self, row):
        edge_index = row.pop("edge_index")
        h = from_parent(**row)
        h.edge_index = edge_index
        return h


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Datasets on disk are closed after the test, as Python 3.13 asks."""
    opened, init = [], OnDiskDataset.__init__

    def remember(self, *args, **kwargs):
        opened.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(OnDiskDataset, "__init__", remember)
    yield
    for dataset in opened:
        dataset.close()


@pytest.fixture(params=[InMemory, OnDisk, OnDiskOfTensors])
def dataset(request, tmp_path):
    return request.param(str(tmp_path))


def test_what_is_saved_is_read_again(dataset, tmp_path):
    again = type(dataset)(str(tmp_path))  # from what is on disk
    for data in (dataset, again):
        assert len(data) == 7
        for found, expected in zip(data, samples(), strict=True):
            check_same(expected, found)
    check_same(samples()[4], copy.copy(again)[4])


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_batch_what_is_read(dataset, workers):
    loader = DataLoader(dataset, batch_size=3, num_workers=workers)
    batches = list(loader)
    assert [batch.num_graphs for batch in batches] == [3, 3, 1]
    found = [h for batch in batches for h in batch.to_data_list()]
    for h, expected in zip(found, samples(), strict=True):
        check_same(expected, h)
    assert batches[0].tree.num_trees == 3


@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_transforms_see_a_hierarchy(kind, tmp_path):
    def heavier(h):
        h.mass = torch.ones(h.num_nodes)
        return h

    data = kind(str(tmp_path), transform=heavier)
    for h in DataLoader(data, batch_size=7):
        assert h.mass.numel() == h.num_nodes and h.validate()


def test_subsets_and_splits(dataset):
    part = dataset[torch.tensor([5, 1])]
    check_same(samples()[1], part[1])
    assert len(dataset[2:5]) == 3
    check_same(samples()[3], dataset[2:5][1])


def test_a_pre_transform_may_build_the_trees(tmp_path):
    class Clouds(InMemory):
        def process(self):
            from torch_geometric.data import Data

            clouds = [Data(pos=torch.rand(n, 3)) for n in (20, 30)]
            self.save([PointHierarchy()(d) for d in clouds], self.processed_paths[0])

    data = Clouds(str(tmp_path))
    for h in data:
        assert torch.equal(h.parent, from_points(h.pos).parent)
