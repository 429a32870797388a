import sys

import networkx as nx
import numpy as np
import pytest
import torch
from helpers import leaf_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from hsa_geometric.builders.graph import from_graph
from hsa_geometric.builders.graph.from_graph import METHODS
from hsa_geometric.functional import clusters_at

EMPTY = torch.empty(2, 0, dtype=torch.long)


@st.composite
def graphs(draw, max_nodes=14):
    """Any graph: disconnected, with isolated nodes, loops and parallel edges, or without edges."""
    num_nodes = draw(st.integers(1, max_nodes))
    node = st.integers(0, num_nodes - 1)
    pairs = draw(st.lists(st.tuples(node, node), max_size=2 * num_nodes))
    weight = draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=len(pairs), max_size=len(pairs))
    )
    edge_index = torch.tensor(pairs, dtype=torch.long).view(-1, 2).t()
    x = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=num_nodes, max_size=num_nodes)))
    return Data(x=x.float().view(-1, 1), edge_index=edge_index, edge_weight=torch.tensor(weight))


def components(data):
    G = nx.Graph()
    G.add_nodes_from(range(data.num_nodes))
    weight = data.edge_weight.tolist()
    G.add_edges_from(e for e, w in zip(data.edge_index.t().tolist(), weight, strict=True) if w > 0)
    return {frozenset(c) for c in nx.connected_components(G)}


@pytest.mark.parametrize("method", METHODS)
@given(data=graphs())
@settings(max_examples=25, deadline=None)
def test_every_graph_becomes_one_tree_with_its_components_below_the_root(method, data):
    h = from_graph(data, method=method)
    n = data.num_nodes
    assert h.validate() and h.num_trees == 1
    assert torch.equal(h.tree.leaf_ids, torch.arange(n))
    assert torch.equal(h.x, data.x) and torch.equal(h.edge_index, data.edge_index)
    children = torch.bincount(h.parent[h.parent != torch.arange(h.num_tree_nodes)])
    assert not (children == 1).any()
    found = components(data)
    if len(found) > 1:
        cluster = clusters_at(h.tree, 1).cluster
        top = {frozenset((cluster == c).nonzero().view(-1).tolist()) for c in cluster.unique()}
        assert top == found
    if method == "components":
        assert set(leaf_sets(h)) == {c for c in found if len(c) > 1} | (
            {frozenset(range(n))} if n > 1 else set()
        )


@pytest.mark.parametrize("method", METHODS)
@given(samples=st.lists(graphs(8), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_a_batch_gives_what_its_samples_give_alone(method, samples):
    batch = Batch.from_data_list(samples)
    h = from_graph(batch, method=method)
    assert h.validate() and h.num_trees == len(samples)
    top = clusters_at(h.tree, 0)
    assert torch.equal(top.tree[top.cluster], batch.batch)  # tree b is sample b
    alone = [from_graph(s, method=method) for s in samples]
    expected = {
        frozenset(i + int(offset) for i in s)
        for a, offset in zip(alone, batch.ptr, strict=False)
        for s in leaf_sets(a)
        if len(s) > 1
    }
    assert {s for s in leaf_sets(h) if len(s) > 1} == expected


@pytest.mark.parametrize("method", ["metis", "spectral", "communities", "matching"])
def test_two_dense_groups_are_the_first_cut(method):
    G = nx.barbell_graph(8, 0)
    options = {"branching": 2} if method == "metis" else {}
    cluster = clusters_at(from_graph(G, method=method, **options).tree, 1).cluster
    assert cluster.tolist() == [0] * 8 + [1] * 8


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_tree(method):
    G = nx.gnm_random_graph(60, 120, seed=1)
    x = torch.rand(60, 2)
    one, two = (from_graph(G, method=method, x=x) for _ in range(2))
    assert torch.equal(one.parent, two.parent)


@pytest.mark.parametrize("method", ["matching", "metis", "communities"])
def test_another_seed_may_give_another_tree(method):
    G = nx.gnm_random_graph(60, 150, seed=1)
    trees = {tuple(from_graph(G, method=method, seed=s).parent.tolist()) for s in range(5)}
    assert len(trees) > 1


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_graphs(method):
    x = torch.zeros(3, 1)
    assert from_graph(EMPTY, method=method, x=x).parent.tolist() == [3] * 4  # no edges: a star
    assert from_graph(EMPTY, method=method, x=x[:1]).parent.tolist() == [0]  # a single leaf
    loops = torch.tensor([[0, 1, 2], [0, 1, 2]])
    assert from_graph(loops, method=method, x=x).parent.tolist() == [3] * 4
    pair = torch.tensor([[0], [1]])
    assert from_graph(pair, method=method, x=x).parent.tolist() == [3, 3, 4, 4, 4]
    # Samples of one leaf keep a root above it, so that tree b is sample b.
    h = from_graph(EMPTY, method=method, x=x, batch=[0, 1, 1])
    assert h.parent.tolist() == [3, 4, 4, 3, 4]
    assert h.batch.tolist() == [0, 1, 1]
    same = from_graph(pair, method=method, x=torch.ones(2, 1))  # duplicate features
    assert same.parent.tolist() == [2, 2, 2]


# What comes in ################################################################################


def test_direction_and_number_of_an_edge_do_not_matter_but_weights_add_up():
    path, weight = torch.tensor([[0, 1, 2], [1, 2, 3]]), [2.0, 1.0, 2.0]
    for edges, edge_weight in [
        (path, weight),
        (path.flip(0), weight),
        (torch.cat([path, path.flip(0)], 1), weight * 2),
        (torch.tensor([[0, 1, 2, 3, 2], [1, 0, 1, 2, 3]]), None),  # parallel: 2, 1 and 2
        (torch.tensor([[0, 1, 2, 1], [1, 2, 3, 1]]), [*weight, 9.0]),  # a self loop
        (torch.tensor([[0, 1, 2, 0], [1, 2, 3, 3]]), [*weight, 0.0]),  # an edge of no weight
    ]:
        h = from_graph(edges, edge_weight=edge_weight)
        assert h.parent.tolist() == [4, 4, 5, 5, 6, 6, 6]


def test_weights_come_from_the_data_unless_given():
    ends, middle = torch.tensor([5.0, 1.0, 5.0]), torch.tensor([1.0, 5.0, 1.0])

    def joins_ends(edge_weight=None, **attrs):
        data = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=4, **attrs)
        return frozenset({0, 1}) in leaf_sets(from_graph(data, edge_weight=edge_weight))

    assert joins_ends(edge_weight=ends) and not joins_ends(edge_weight=middle)
    assert joins_ends(edge_attr=ends) and not joins_ends(edge_attr=middle)
    assert joins_ends(edge_attr=ends.view(-1, 1)) and not joins_ends(edge_attr=middle.view(-1, 1))
    data = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=4, edge_weight=ends)
    assert frozenset({0, 1}) in leaf_sets(from_graph(data))
    data.edge_attr = middle
    assert frozenset({0, 1}) in leaf_sets(from_graph(data))
    assert frozenset({0, 1}) not in leaf_sets(from_graph(data, edge_weight=middle))
    del data.edge_weight
    data.edge_attr = -torch.ones(3, 2)  # several numbers an edge are no weight
    assert from_graph(data).num_nodes == 4


def test_a_data_keeps_all_it_has_and_is_not_changed():
    data = Data(
        x=torch.rand(3, 2),
        edge_index=torch.tensor([[0], [1]]),
        edge_attr=torch.rand(1, 4),
        y=torch.tensor([1.0]),
        u=torch.rand(5),  # neither one row a leaf nor one a tree
        name="graph",
        mass=torch.tensor([1.0, 2.0, 3.0]),
    )
    before = data.to_dict()
    h = from_graph(data, pos=[[0.0], [1.0], [2.0]])
    for key, value in before.items():
        assert h[key] is value
    assert h.pos.shape == (3, 1)
    assert data.to_dict().keys() == before.keys()
    replaced = from_graph(h, method="components", x=torch.zeros(3, 1), mass=[1.0, 1.0, 1.0])
    assert replaced.x.tolist() == [[0.0]] * 3 and replaced.mass.tolist() == [1.0] * 3
    assert replaced.name == "graph"


def test_networkx_nodes_are_leaves_in_their_order():
    G = nx.Graph()
    G.add_nodes_from(["d", "a", "c", "b"])
    G.add_edge("a", "b", weight=3.0)
    G.add_edge("b", "c")
    h = from_graph(G)
    assert h.edge_index.tolist() == [[1, 2, 3, 3], [3, 3, 1, 2]]  # both directions, as in PyG
    assert h.edge_weight.tolist() == [3.0, 1.0, 3.0, 1.0]
    assert set(leaf_sets(h)) == {frozenset({1, 2, 3}), frozenset(range(4))}
    h = from_graph(nx.MultiDiGraph([(0, 1), (1, 0), (1, 2), (2, 3), (2, 3)]))
    assert h.edge_index.shape == (2, 5) and "edge_weight" not in h
    assert set(leaf_sets(h)) == {frozenset({0, 1}), frozenset({2, 3}), frozenset(range(4))}


def test_number_of_nodes():
    edges = torch.tensor([[0], [1]])
    assert from_graph(edges).num_nodes == 2
    assert from_graph(edges, num_nodes=4).num_nodes == 4
    assert from_graph(edges, pos=np.zeros((3, 2))).num_nodes == 3
    assert from_graph(Data(edge_index=edges)).num_nodes == 2
    assert from_graph(Data(edge_index=edges, num_nodes=3)).num_nodes == 3


def test_int32_edges_are_kept_as_they_are():
    edges = torch.tensor([[0], [1]], dtype=torch.int32)
    assert from_graph(edges).edge_index.dtype == torch.int32


PATH = torch.tensor([[0, 1], [1, 2]])


@pytest.mark.parametrize(
    ("graph", "options", "error", "match"),
    [
        ("CCO", {}, TypeError, r"'graph' to be a PyG Data, .* \(got str\)"),
        (Data(x=torch.rand(2, 1)), {}, ValueError, "'graph' to have 'edge_index'"),
        (EMPTY, {}, ValueError, r"'graph' to hold at least one node \(got 0"),
        (Data(edge_index=EMPTY, num_nodes=0), {}, ValueError, "at least one node"),
        (nx.Graph(), {}, ValueError, "at least one node"),
        (PATH, {"num_nodes": 3.0}, TypeError, r"'num_nodes' to be an integer \(got float\)"),
        (PATH, {"num_nodes": 2}, ValueError, r"ids in \[0, 1\] \(got edge 1 between 1 and 2\)"),
        (PATH - 1, {}, ValueError, r"ids in \[0, 1\] \(got edge 0 between -1 and 0\)"),
        (PATH.float(), {}, TypeError, r"'edge_index' to hold integers \(got torch.float32\)"),
        (torch.zeros(3, 2).long(), {}, ValueError, r"to be of shape \[2, E\] \(got \[3, 2\]\)"),
        (PATH[0], {}, ValueError, r"'edge_index' to be of shape \[2, E\] \(got \[2\]\)"),
        (PATH, {"edge_weight": [1.0]}, ValueError, r"'edge_weight' .* the 2 edges .*\[1\]"),
        (PATH, {"edge_weight": [1.0, -1.0]}, ValueError, r"edge_weight\[1\] = -1.0"),
        (PATH, {"edge_weight": [float("nan"), 1.0]}, ValueError, r"edge_weight\[0\] = nan"),
        (PATH, {"edge_weight": [float("inf"), 1.0]}, ValueError, r"edge_weight\[0\] = inf"),
        (PATH, {"edge_weight": [True, False]}, TypeError, "'edge_weight' to hold real numbers"),
        (
            Data(edge_index=PATH, edge_attr=torch.tensor([1.0, -2.0]), num_nodes=3),
            {},
            ValueError,
            r"'edge_attr' .* edge_attr\[1\] = -2.0",
        ),
        (nx.Graph([(0, 1, {"weight": "x"})]), {}, TypeError, "'weight' of edges to hold numbers"),
        (PATH, {"batch": [0, 0]}, ValueError, r"ids in \[0, 1\]"),
        (PATH, {"batch": [0, 0, 2]}, ValueError, "'batch' .* no member of sample 1"),
        (
            PATH,
            {"batch": [0, 0, 1]},
            ValueError,
            r"one sample \(got edge 1 between node 1 of sample 0 and node 2 of sample 1\)",
        ),
        (PATH, {"x": torch.rand(4, 1), "num_nodes": 3}, ValueError, r"'x' .* 3 leaves \(got 4"),
        (PATH, {"method": "kmeans"}, ValueError, r"'method' to be one of \['matching', 'metis'"),
        (
            PATH,
            {"method": "metis", "two_hop": True},
            ValueError,
            r"method='metis' takes, of \['branching', 'leaf_size', 'seed'\] \(got 'two_hop'\)",
        ),
        (PATH, {"method": "components", "seed": 1}, ValueError, "method='components'.*'seed'"),
        (PATH, {"seed": 0.5}, TypeError, r"'seed' to be an integer \(got float\)"),
        (PATH, {"seed": -1}, ValueError, r"'seed' to be at least 0 \(got -1\)"),
        (PATH, {"two_hop": 1}, TypeError, r"'two_hop' to be True or False \(got int\)"),
        (PATH, {"method": "metis", "branching": 1}, ValueError, "'branching' to be at least 2"),
        (PATH, {"method": "metis", "leaf_size": 0}, ValueError, "'leaf_size' to be at least 2"),
        (PATH, {"method": "spectral", "leaf_size": 0}, ValueError, "'leaf_size' to be at least 2"),
        (
            PATH,
            {"method": "communities", "algorithm": "leiden"},
            ValueError,
            r"'algorithm' to be one of \['louvain', 'greedy_modularity'\] \(got 'leiden'\)",
        ),
        (
            PATH,
            {"method": "communities", "resolution": 0},
            ValueError,
            "'resolution' to be positive",
        ),
        (
            PATH,
            {"method": "communities", "resolution": "1"},
            TypeError,
            r"'resolution' to be a number \(got str\)",
        ),
        (
            PATH,
            {"method": "agglomerative", "linkage": "median", "x": torch.rand(3, 1)},
            ValueError,
            "'linkage' to be one of .*'median'",
        ),
        (PATH, {"method": "agglomerative"}, ValueError, "'x' or 'pos' for method='agglomerative'"),
        (
            PATH,
            {"method": "agglomerative", "features": "z"},
            ValueError,
            "'features' to name an attribute of the nodes .*'z'",
        ),
        (
            PATH,
            {"method": "agglomerative", "x": torch.rand(4, 1), "num_nodes": 3},
            ValueError,
            r"'x' to have features for each of the 3 nodes \(got shape \[4, 1\]\)",
        ),
        (
            PATH,
            {"method": "agglomerative", "x": torch.tensor([0.0, float("nan"), 1.0])},
            ValueError,
            r"'x' to be finite \(got node 1 otherwise\)",
        ),
    ],
)
def test_bad_graphs_and_options_are_named(graph, options, error, match):
    with pytest.raises(error, match=match):
        from_graph(graph, **options)


@pytest.mark.parametrize(
    ("method", "module", "match"),
    [
        ("metis", "pymetis", r"needs pymetis: pip install 'hsa_geometric\[clusters\]'"),
        ("agglomerative", "sklearn.cluster", "needs scikit-learn"),
        ("components", "scipy.sparse", "needs SciPy"),
    ],
)
def test_a_missing_library_names_its_extra(method, module, match, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=match):
        from_graph(PATH, method=method, x=torch.rand(3, 1))
    assert from_graph(PATH).validate()  # matching needs none of them
