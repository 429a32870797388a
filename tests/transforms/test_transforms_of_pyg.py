"""Every transform of PyG leaves the tree as it is, takes it along, or is refused at once."""

import copy

import pytest
import torch
import torch_geometric.transforms as T
from helpers import assert_same
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from hsa_geometric import Hierarchy, from_parent
from hsa_geometric.surgery import merge, permute_leaves

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # of torch, where PyG takes such tensors

# Number of tree nodes T, of edges E and of leaves N = 6: any two may happen to be the same.
TREE = [6, 6, 6, 7, 7, 8, 8, 8, 8]
SIZES = {
    "T=E": (TREE, 9),
    "N=E": (TREE, 6),
    "N=T": ([0, 1, 2, 3, 4, 5], 4),
    "N=T=E": ([0, 1, 2, 3, 4, 5], 6),
    "none": (TREE, 8),
}
NODES = torch.tensor([True, True, True, True, False, False])

KEEP = {
    "AddLaplacianEigenvectorPE": T.AddLaplacianEigenvectorPE(2, attr_name=None),
    "AddRandomWalkPE": T.AddRandomWalkPE(2, attr_name=None),
    "AddRemainingSelfLoops": T.AddRemainingSelfLoops(),
    "AddSelfLoops": T.AddSelfLoops(),
    "Cartesian": T.Cartesian(),
    "Center": T.Center(),
    "Compose": T.Compose([T.ToUndirected(), T.AddSelfLoops()]),
    "Constant": T.Constant(),
    "Delaunay": T.Delaunay(),
    "Distance": T.Distance(),
    "FaceToEdge": T.FaceToEdge(),
    "FeaturePropagation": T.FeaturePropagation(torch.zeros(6, 3, dtype=torch.bool)),
    "GCNNorm": T.GCNNorm(),
    "GDC": T.GDC(),
    "GenerateMeshNormals": T.GenerateMeshNormals(),
    "IndexToMask": T.IndexToMask(attrs="train_index", sizes=6),
    "LaplacianLambdaMax": T.LaplacianLambdaMax(),
    "LinearTransformation": T.LinearTransformation(torch.eye(3)),
    "LocalCartesian": T.LocalCartesian(),
    "LocalDegreeProfile": T.LocalDegreeProfile(),
    "MaskToIndex": T.MaskToIndex(attrs="train_mask"),
    "NodePropertySplit": T.NodePropertySplit("popularity", [0.3, 0.1, 0.1, 0.2, 0.3]),
    "NormalizeFeatures": T.NormalizeFeatures(),
    "NormalizeRotation": T.NormalizeRotation(),
    "NormalizeScale": T.NormalizeScale(),
    "OneHotDegree": T.OneHotDegree(12),
    "PointPairFeatures": T.PointPairFeatures(),
    "Polar": T.Polar(),
    "RandomFlip": T.RandomFlip(0, p=1.0),
    "RandomJitter": T.RandomJitter(0.1),
    "RandomLinkSplit": T.RandomLinkSplit(0.3, 0.3),
    "RandomNodeSplit": T.RandomNodeSplit(num_val=1, num_test=1),
    "RandomRotate": T.RandomRotate(90),
    "RandomScale": T.RandomScale((0.5, 2.0)),
    "RandomShear": T.RandomShear(0.1),
    "RemoveDuplicatedEdges": T.RemoveDuplicatedEdges(),
    "RemoveSelfLoops": T.RemoveSelfLoops(),
    "RemoveTrainingClasses": T.RemoveTrainingClasses([0]),
    "SIGN": T.SIGN(2),
    "SVDFeatureReduction": T.SVDFeatureReduction(2),
    "Spherical": T.Spherical(),
    "TargetIndegree": T.TargetIndegree(),
    "ToDense": T.ToDense(),
    "ToDevice": T.ToDevice("cpu"),
    "ToSparseTensor": T.ToSparseTensor(),
    "ToUndirected": T.ToUndirected(),
    "TwoHop": T.TwoHop(),
}
REFUSED = {
    "AddMetaPaths": T.AddMetaPaths([[("a", "b"), ("b", "a")]]),
    "AddRandomMetaPaths": T.AddRandomMetaPaths([[("a", "b"), ("b", "a")]]),
    "FixedPoints": T.FixedPoints(6, replace=False),  # just as many, in another order
    "GridSampling": T.GridSampling(0.1),
    "HalfHop": T.HalfHop(),
    "LineGraph": T.LineGraph(),
    "Pad": T.Pad(12),
    "RemoveIsolatedNodes": T.RemoveIsolatedNodes(),
    "RootedEgoNets": T.RootedEgoNets(1),
    "RootedRWSubgraph": T.RootedRWSubgraph(2),
    "SamplePoints": T.SamplePoints(6),
    "VirtualNode": T.VirtualNode(),
}
FOLLOWED = {"LargestConnectedComponents": T.LargestConnectedComponents()}
NOT_RUN = {
    "BaseTransform": "is abstract",
    "ComposeFilters": "is a question, no transform",
    "AddGPSE": "needs a model from the network",
    "ToSLIC": "is for images",
    "KNNGraph": "needs pyg-lib",
    "RadiusGraph": "needs pyg-lib",
}
# Edges anew, and their attributes as they were: PyG leaves these to the caller.
NO_ATTR = {
    "AddSelfLoops",
    "AddRemainingSelfLoops",
    "Compose",
    "FaceToEdge",
    "FeaturePropagation",
    "GCNNorm",
    "GDC",
}
FACES = {"FaceToEdge", "GenerateMeshNormals", "SamplePoints"}

sizes = pytest.mark.parametrize("size", SIZES)
OWN = ("tree_pos", "tree_kind", "inner_x", "mass", "surface_area", "vertex_index", "edge_length")


def sample(size, without=()):
    parent, edges = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    nodes, at = len(parent), torch.arange(edges)
    data = {
        "x": torch.rand(6, 3, generator=generator),
        "pos": torch.rand(6, 3, generator=generator),
        "edge_index": torch.stack([at % 5, (1 + at + at // 5) % 6]),
        "edge_attr": torch.rand(edges, 2, generator=generator),
        "tree_pos": torch.rand(nodes, 2, generator=generator),
        "tree_kind": torch.randint(3, (nodes,), generator=generator),
        "inner_x": torch.rand(nodes - 6, 2, generator=generator),
        "mass": torch.rand(6, generator=generator),
        "surface_area": torch.rand(6, generator=generator),
        "vertex_index": torch.randint(50, (6,), generator=generator),
        "edge_length": torch.rand(6, generator=generator),
        "y": torch.randint(2, (6,), generator=generator),
        "norm": torch.nn.functional.normalize(torch.rand(6, 3, generator=generator), dim=1),
        "train_mask": torch.arange(6) < 3,
        "graph_index": torch.tensor([3]),
    }
    return from_parent(parent, **{key: data[key] for key in data if key not in without})


def prepared(name, size):
    h = sample(size, {"edge_attr"} if name in NO_ATTR | {"HalfHop"} else ())
    if name in FACES:
        h.face = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 5]])
    if name == "Polar":
        h.pos = h.pos[:, :2]
    if name == "IndexToMask":
        h.train_index = torch.tensor([0, 5])
    return h


def test_there_are_no_others():
    assert {*KEEP, *REFUSED, *FOLLOWED, *NOT_RUN} >= set(T.__all__)


@sizes
@pytest.mark.parametrize("name", KEEP)
def test_the_tree_and_all_rows_of_nodes_and_leaves_stay(name, size):
    h = prepared(name, size)
    before = copy.deepcopy(h)
    torch.manual_seed(0)
    out = KEEP[name](h)
    for one in out if isinstance(out, (tuple, list)) else [out]:
        assert type(one) is Hierarchy and one.validate()
        assert torch.equal(one.parent, before.parent)
        for key in (*OWN, "y", "graph_index"):
            torch.testing.assert_close(one[key], before[key], rtol=0, atol=0)
            assert one.rows_of(key) == before.rows_of(key)
    assert_same(h, before)


@sizes
@pytest.mark.parametrize("name", REFUSED)
def test_what_adds_or_removes_nodes_is_refused_with_the_remedy(name, size):
    h = prepared(name, size)
    before = copy.deepcopy(h)
    with pytest.raises(ValueError, match=r"before its hierarchy is built|h\.subgraph"):
        REFUSED[name](h)
    assert_same(h, before)


@sizes
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_takes_a_subgraph_takes_the_tree_along(name, size):
    h = sample(size)
    kept = (h.edge_index < 4).all(dim=0)
    h.edge_index, h.edge_attr = h.edge_index[:, kept], h.edge_attr[kept]
    assert_same(FOLLOWED[name](h), h.subgraph(NODES))


@sizes
def test_edge_attributes_are_doubled_with_their_edges(size):
    h = sample(size)
    plain = Data(edge_index=h.edge_index, edge_attr=h.edge_attr, num_nodes=6)
    out, expected = T.ToUndirected()(h), T.ToUndirected()(plain)
    assert torch.equal(out.edge_index, expected.edge_index)
    assert torch.equal(out.edge_attr, expected.edge_attr)


@sizes
def test_edges_that_are_sorted_coalesced_or_chosen_leave_the_tree_alone(size):
    h = sample(size)
    chosen = h.edge_index[0] > 1
    for out in (h.sort(), h.coalesce(), h.edge_subgraph(chosen)):
        assert out.validate() and torch.equal(out.parent, h.parent)
        for key in (*OWN, "y", "graph_index", "x"):
            assert torch.equal(out[key], h[key])
    assert torch.equal(h.edge_subgraph(chosen).edge_attr, h.edge_attr[chosen])
    order = h.edge_index[0] * 6 + h.edge_index[1]
    assert torch.equal(h.sort().edge_attr, h.edge_attr[order.argsort()])


@sizes
def test_batches_are_transformed_like_samples(size):
    h = sample(size)
    batch = Batch.from_data_list([h, h])
    out = T.ToUndirected()(batch)
    assert out.validate() and torch.equal(out.parent, batch.parent)
    assert torch.equal(out.vertex_index, batch.vertex_index)
    for refused in (T.VirtualNode(), T.FixedPoints(12)):
        with pytest.raises(ValueError, match="a transform that keeps the leaves"):
            refused(batch)


def test_a_compose_and_a_subclass_are_refused_too():
    class Mine(T.FixedPoints):
        pass

    for transform in (T.Compose([T.Center(), T.FixedPoints(6)]), Mine(3)):
        with pytest.raises(ValueError, match="a transform that keeps the leaves"):
            transform(sample("T=E"))


def test_transforms_of_others_cannot_drop_nodes_either():
    class DropNodes(BaseTransform):
        def forward(self, data):
            data.surface_area = data.surface_area[:3]
            return data

    with pytest.raises(ValueError, match=r"'surface_area' .* the 6 leaves \(got 3 rows\)"):
        DropNodes()(sample("N=E"))


# Methods of Data ##############################################################################


def test_joining_and_splitting_by_type_say_what_to_take():
    h = sample("T=E")
    with pytest.raises(ValueError, match=r"Batch.from_data_list.* or surgery.merge"):
        h.concat(h)
    assert merge([sample("T=E", OWN), sample("T=E", OWN)]).num_nodes == 12
    with pytest.raises(ValueError, match=r"nodes of one type.*Data.from_dict"):
        h.to_heterogeneous()


def test_connected_components_take_their_trees_along():
    h = sample("T=E")
    kept = (h.edge_index < 4).all(dim=0)
    h.edge_index, h.edge_attr = h.edge_index[:, kept], h.edge_attr[kept]
    parts = h.connected_components()
    assert [part.num_nodes for part in parts] == [4, 1, 1]
    assert_same(parts[0], h.subgraph(NODES))
    ring = torch.arange(50)
    h = from_parent([50] * 51, edge_index=torch.stack([ring, ring.roll(7)]))
    assert [part.num_nodes for part in h.connected_components()] == [50]


def test_leaves_are_taken_by_time_with_their_tree_and_not_sorted_without_it():
    h = from_parent(TREE, time=torch.tensor([3, 1, 2, 5, 4, 0]), x=torch.arange(6))
    assert_same(h.snapshot(2, 4), h.subgraph(torch.tensor([0, 2, 4])))
    assert_same(h.up_to(2), h.subgraph(torch.tensor([1, 2, 5])))
    with pytest.raises(ValueError, match=r"take surgery.permute_leaves\(h, h.time.argsort\(\)\)"):
        h.sort_by_time()
    h = permute_leaves(h, h.time.argsort())
    assert h.sort_by_time().x.tolist() == [5, 1, 2, 0, 4, 3]


def test_edges_are_sorted_and_taken_by_time():
    h = sample("T=E")
    h.time = torch.arange(9).flip(0)
    assert torch.equal(h.sort_by_time().edge_index, h.edge_index.flip(1))
    out = h.up_to(3)
    assert torch.equal(out.edge_attr, h.edge_attr[5:]) and torch.equal(out.parent, h.parent)
