import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose, NormalizeScale

from hsa_geometric import Hierarchy
from hsa_geometric.builders.mesh import from_mesh
from hsa_geometric.builders.points import from_points
from hsa_geometric.builders.voxels import from_voxels
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import assert_isolated
from hsa_geometric.transforms.mesh import MeshHierarchy
from hsa_geometric.transforms.points import PointHierarchy
from hsa_geometric.transforms.voxels import VoxelHierarchy

TRANSFORMS = [
    PointHierarchy("ball", branching=3),
    VoxelHierarchy(size=0.25),
    VoxelHierarchy(levels=2),
    MeshHierarchy(branching=3),
]


def samples():
    generator = torch.Generator().manual_seed(0)
    out = []
    for n in (12, 3, 30):
        first = torch.arange(n - 2)
        out.append(
            Data(
                x=torch.rand(n, 4, generator=generator),
                pos=torch.rand(n, 3, generator=generator),
                face=torch.stack([first, first + 1, first + 2]),
                y=torch.tensor([[1.0, 2.0]]),
                size=torch.tensor([n]),  # the name of an option, too
                name=f"strip of {n}",
            )
        )
    return out


def built(transform, data):
    if isinstance(transform, PointHierarchy):
        return from_points(data.pos, method="ball", branching=3)
    if isinstance(transform, VoxelHierarchy):
        return from_voxels(data.pos, size=transform.size, levels=transform.levels)
    return from_mesh(data, branching=3)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_all_is_kept_and_the_given_data_is_not_changed(transform):
    for data in samples():
        keys, given = data.keys(), dict(data.to_dict())
        h = transform(data)
        assert isinstance(h, Hierarchy) and h.validate()
        assert data.keys() == keys and all(data[key] is given[key] for key in keys)
        assert all(h[key] is given[key] for key in keys)
        assert torch.equal(h.parent, built(transform, data).parent)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_samples_batch_in_a_data_loader(transform):
    data = [transform(d) for d in samples()]
    batch = next(iter(DataLoader(data, batch_size=3)))
    assert batch.validate() and batch.num_trees == 3 and batch.num_nodes == 45
    assert batch.y.shape == (3, 2) and batch["size"].tolist() == [12, 3, 30]
    for d, h in zip(batch.to_data_list(), data, strict=True):
        assert torch.equal(d.parent, h.parent)

    q, k, v = torch.randn(3, 45, 1, 4, generator=torch.Generator().manual_seed(1)).double()
    mass = batch.mass.double() if "mass" in batch else None
    assert_isolated(
        lambda *qkv: hierarchical_attention(*qkv, batch.tree, mass=mass), batch.tree, q, k, v
    )


@pytest.mark.parametrize("transform", TRANSFORMS[:3], ids=repr)
def test_a_batch_of_points_gets_a_tree_for_each_sample(transform):
    data = samples()
    batch = Batch.from_data_list(data)
    h = transform(batch)
    assert h.validate() and h.num_trees == 3 and torch.equal(h.batch, batch.batch)
    for b, d in enumerate(data):
        assert torch.equal(h.subgraph(batch.batch == b).parent, built(transform, d).parent)


def test_a_batch_of_meshes_is_refused():
    with pytest.raises(ValueError, match=r"'mesh' to be one mesh \(got a batch"):
        MeshHierarchy()(Batch.from_data_list(samples()))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_an_earlier_tree_is_replaced(transform):
    data = samples()[0]
    first = from_points(data.pos, x=data.x, face=data.face, tree_kind=torch.zeros(16), branching=4)
    h = transform(first)
    assert torch.equal(h.parent, transform(data).parent) and "tree_kind" not in h
    assert first.tree_kind.numel() == first.num_tree_nodes == 16


def test_edges_of_a_mesh_are_added_where_there_are_none():
    data = samples()[1]
    assert MeshHierarchy()(data).edge_index.tolist() == [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    data.edge_index = torch.tensor([[0], [1]])
    assert MeshHierarchy()(data).edge_index is data.edge_index
    assert "mass" not in MeshHierarchy(mass=None)(data)


def test_transforms_compose():
    h = Compose([NormalizeScale(), PointHierarchy()])(samples()[0])
    assert h.pos.abs().max() < 1 and h.num_nodes == 12


def test_their_options_are_shown():
    assert repr(PointHierarchy()) == "PointHierarchy('kd', branching=8, leaf_size=8)"
    assert repr(VoxelHierarchy(size=0.5)) == "VoxelHierarchy(size=0.5)"
    assert repr(VoxelHierarchy(levels=3)) == "VoxelHierarchy(levels=3)"
    assert repr(MeshHierarchy(leaf_size=4, mass=None)) == (
        "MeshHierarchy('pca', branching=8, leaf_size=4, split_components=True, mass=None)"
    )


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: PointHierarchy("x"), ValueError, r"'method' to be one of \['kd', 'pca', 'ball'\]"),
        (lambda: PointHierarchy(branching=1), ValueError, "'branching' to be at least 2"),
        (lambda: VoxelHierarchy(), ValueError, r"one of 'size' and 'levels' \(got none\)"),
        (lambda: VoxelHierarchy(levels=-1), ValueError, "'levels' to be at least 0"),
        (lambda: MeshHierarchy(mass="volume"), ValueError, r"'mass' to be one of \['area', None\]"),
        (lambda: MeshHierarchy(leaf_size=1.5), TypeError, "'leaf_size' to be an integer"),
        (lambda: PointHierarchy()(Data(x=torch.rand(3, 1))), ValueError, r"'data' to have 'pos'"),
        (lambda: VoxelHierarchy(levels=1)(Data()), ValueError, r"'data' to have 'pos' \(got \[\]"),
        (lambda: MeshHierarchy()(Data(pos=torch.rand(3, 3))), ValueError, "to have 'face'"),
        (lambda: MeshHierarchy()(torch.rand(3, 3)), TypeError, r"a Data \(got Tensor\)"),
    ],
)
def test_wrong_options_and_data_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
