import pytest
import torch
from torch_geometric.data import Data

from hsa_geometric.builders.mesh import from_mesh
from hsa_geometric.builders.points import from_points
from hsa_geometric.builders.voxels import from_voxels
from hsa_geometric.transforms.mesh import MeshHierarchy
from hsa_geometric.transforms.points import PointHierarchy
from hsa_geometric.transforms.voxels import VoxelHierarchy

POS = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
STRIP = torch.stack([torch.arange(28) + i for i in range(3)])


@pytest.mark.parametrize(
    ("transform", "build"),
    [
        (
            PointHierarchy("ball", branching=3, leaf_size=5),
            lambda data: from_points(data.pos, method="ball", branching=3, leaf_size=5),
        ),
        (VoxelHierarchy(size=0.25), lambda data: from_voxels(data.pos, size=0.25)),
        (VoxelHierarchy(levels=2), lambda data: from_voxels(data.pos, levels=2)),
        (
            MeshHierarchy("kd", branching=3, leaf_size=5, split_components=False, mass=None),
            lambda data: from_mesh(
                data, method="kd", branching=3, leaf_size=5, split_components=False, mass=None
            ),
        ),
    ],
    ids=["points", "voxel size", "voxel levels", "mesh"],
)
def test_all_options_reach_the_builder(transform, build):
    data = Data(pos=POS, face=STRIP)
    assert torch.equal(transform(data).parent, build(data).parent)


def test_edges_and_masses_of_a_mesh_are_added_where_there_are_none():
    data = Data(pos=POS[:3], face=STRIP[:, :1])
    h = MeshHierarchy()(data)
    assert h.edge_index.tolist() == [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    assert h.mass.shape == (3,) and "mass" not in MeshHierarchy(mass=None)(data)
    data.edge_index = torch.tensor([[0], [1]])
    assert MeshHierarchy()(data).edge_index is data.edge_index


def test_their_options_are_shown():
    assert repr(PointHierarchy()) == "PointHierarchy()"
    assert repr(MeshHierarchy("kd", mass=None)) == "MeshHierarchy(method='kd', mass=None)"


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
