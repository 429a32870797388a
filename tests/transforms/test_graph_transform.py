import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose, ToUndirected

from hsa_geometric.builders.graph import from_graph
from hsa_geometric.builders.graph.from_graph import METHODS
from hsa_geometric.functional import clusters_at
from hsa_geometric.transforms.graph import GraphHierarchy


def samples():
    generator = torch.Generator().manual_seed(0)
    out = []
    for n in (7, 1, 4):
        edge_index = torch.randint(0, n, (2, n), generator=generator)
        out.append(Data(x=torch.rand(n, 3, generator=generator), edge_index=edge_index, y=n))
    return out


@pytest.mark.parametrize("method", METHODS)
def test_samples_batch_in_a_loader(method):
    transform = GraphHierarchy(method)
    data = [transform(d) for d in samples()]
    batch = next(iter(DataLoader(data, batch_size=3, follow_batch=["parent"])))
    assert batch.num_trees == 3 and batch.num_nodes == 12
    assert torch.equal(batch.x, torch.cat([d.x for d in samples()]))
    assert batch.validate()
    assert torch.equal(clusters_at(batch.tree, 0).cluster, batch.batch)
    assert batch.y.tolist() == [7, 1, 4]
    for i, d in enumerate(samples()):
        assert torch.equal(batch[i].parent, from_graph(d, method=method).parent)


def test_options_reach_the_builder_and_it_composes():
    data = samples()[0]
    h = Compose([ToUndirected(), GraphHierarchy("metis", branching=2, leaf_size=2, seed=1)])(data)
    expected = from_graph(ToUndirected()(data), method="metis", branching=2, leaf_size=2, seed=1)
    assert torch.equal(h.parent, expected.parent)
    data.shade = torch.arange(7)
    h = GraphHierarchy("agglomerative", features="shade")(data)
    assert torch.equal(h.parent, from_graph(data, method="agglomerative", features="shade").parent)


def test_repr():
    assert repr(GraphHierarchy()) == "GraphHierarchy()"
    expected = "GraphHierarchy(method='metis', leaf_size=4)"
    assert repr(GraphHierarchy("metis", leaf_size=4)) == expected


@pytest.mark.parametrize(
    ("args", "options", "error", "match"),
    [
        (["kmeans"], {}, ValueError, r"'method' to be one of \['matching', .*'kmeans'"),
        (["metis"], {"leafsize": 3}, ValueError, r"method='metis' takes, of .* \(got 'leafsize'\)"),
        (["metis"], {"leaf_size": 0}, ValueError, "'leaf_size' to be at least 2"),
        ([], {"seed": "0"}, TypeError, "'seed' to be an integer"),
        (["agglomerative"], {"linkage": "median"}, ValueError, "'linkage' to be one of"),
    ],
)
def test_wrong_options_are_refused_at_once(args, options, error, match):
    with pytest.raises(error, match=match):
        GraphHierarchy(*args, **options)
