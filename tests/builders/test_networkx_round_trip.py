import copy
import pickle

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, InMemoryDataset
from torch_geometric.loader import DataLoader

from hsa_geometric.builders import from_networkx, from_parent, to_networkx


def book():
    """Inner node first, attributes of all sorts."""
    G = nx.DiGraph(title="on trees")
    G.add_node("book", x=9.5, note="the root")
    G.add_node("ch1", x=8.5)
    G.add_node(("a", 1), x=0.5, pos=[0.0, 1.0], word="ash", tag=[1])
    G.add_node("ch2", x=1.5, pos=[1.0, 1.0], word="elm", flag=True)
    G.add_node("b", x=2.5, pos=[2.0, 1.0], word="oak", tag=[1, 2])
    G.add_edge("book", "ch1", weight=0.25)
    G.add_edge("book", "ch2")
    G.add_edge("ch1", ("a", 1), kind="first")
    G.add_edge("ch1", "b")
    for i, name in enumerate(G):
        G.nodes[name]["tree_kind"] = i
    return G


def assert_equal(G, H):
    assert type(G) is type(H)
    assert nx.utils.graphs_equal(G, H), (dict(G.nodes(data=True)), dict(H.nodes(data=True)))


def test_by_hand():
    G = book()
    before = copy.deepcopy(G)
    h = from_networkx(G)
    assert h.tree_names.names == [("a", 1), "ch2", "b", "book", "ch1"]
    assert h.parent.tolist() == [4, 3, 4, 3, 3]
    assert h.x.tolist() == [0.5, 1.5, 2.5]
    assert h.pos.tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]
    assert h.inner_x.tolist() == [9.5, 8.5]
    assert h.tree_kind.tolist() == [2, 3, 4, 0, 1] and h.tree_kind.dtype == torch.int64
    assert "inner_pos" not in h and "flag" not in h and "tag" not in h and "word" not in h
    assert_equal(G, before)


@pytest.mark.parametrize(
    "travel",
    [
        lambda h: h,
        copy.copy,
        copy.deepcopy,
        lambda h: h.to("cpu"),
        lambda h: h.clone(),
        lambda h: pickle.loads(pickle.dumps(h)),
        lambda h: Batch.from_data_list([h, h]).to("cpu").get_example(1),
        lambda h: next(iter(DataLoader([h, h], batch_size=2, num_workers=1))).get_example(1),
    ],
)
def test_there_and_back_keeps_names_and_attributes_however_it_travels(travel):
    assert_equal(to_networkx(travel(from_networkx(book()))), book())


@given(st.integers(1, 20), st.integers(0, 999), st.booleans())
@settings(max_examples=50, deadline=None)
def test_random_forests_come_back(n, seed, directed):
    rng = np.random.default_rng(seed)
    names = [f"n{i}" for i in rng.permutation(n)]
    G = nx.DiGraph() if directed else nx.Graph()
    G.add_nodes_from(rng.permutation(names).tolist())
    roots = []
    for i, name in enumerate(names):
        p = int(rng.integers(0, i + 1))
        roots += [name] if p == i else []
        if p != i:
            G.add_edge(names[p], name, length=i / 4)
        G.nodes[name].update(x=[i / 2, 1.0], y=i)
        if rng.random() < 0.5:
            G.nodes[name]["label"] = f"l{i}"
    h = from_networkx(G, roots)
    assert h.validate() and h.num_trees == len(roots)
    back = to_networkx(h)
    assert_equal(back, G)
    again = from_networkx(back, roots)
    assert torch.equal(again.parent, h.parent) and torch.equal(again.x, h.x)
    assert again.tree_names == h.tree_names


def test_undirected_and_directed_agree():
    G = book()
    h, u = from_networkx(G), from_networkx(nx.Graph(G), root="book")
    assert torch.equal(h.parent, u.parent) and torch.equal(h.x, u.x)
    assert_equal(to_networkx(u), nx.Graph(G))
    assert_equal(to_networkx(u, undirected=False), G)
    assert_equal(to_networkx(h, undirected=True), nx.Graph(G))


def test_the_root_decides_what_is_a_leaf():
    G = nx.path_graph(3)
    assert from_networkx(G, root=0).tree_names.names == [2, 0, 1]
    assert from_networkx(G, root=1).tree_names.names == [0, 2, 1]
    assert from_networkx(G, root=1).depth == 1


def test_a_tuple_is_one_name_and_a_list_is_many():
    G = nx.Graph([((0, 0), (0, 1)), ((5, 5), (5, 6))])
    h = from_networkx(G, root=[(0, 0), (5, 5)])
    assert h.num_trees == 2
    assert_equal(to_networkx(h), G)
    with pytest.raises(ValueError, match=r"connected to the root \(got \(5, 5\)\)"):
        from_networkx(G, root=(0, 0))


def test_a_single_node_is_a_tree():
    G = nx.DiGraph()
    G.add_node("only", x=1.0)
    h = from_networkx(G)
    assert h.parent.tolist() == [0] and h.x.tolist() == [1.0]
    assert_equal(to_networkx(h), G)


def test_deep_chains_need_no_recursion():
    G = nx.path_graph(5000, create_using=nx.DiGraph)
    assert from_networkx(G).depth == 4999
    assert from_networkx(nx.Graph(G), root=0).depth == 4999


def test_a_parent_vector_becomes_a_graph_of_ids_and_comes_back():
    h = from_parent(
        [0, 0, 0, 2, 2],
        x=torch.rand(3, 2),
        mass=[1.0, 2.0, 3.0],
        tree_pos=torch.rand(5, 2),
        inner_area=torch.rand(2),
        y=torch.rand(1),
        edge_index=torch.tensor([[0], [1]]),
    )
    G = to_networkx(h)
    assert sorted(G.edges) == [(0, 1), (0, 2), (2, 3), (2, 4)]
    assert set(G.nodes[1]) == {"x", "mass", "tree_pos"} and set(G.nodes[2]) == {"tree_pos", "area"}
    back = from_networkx(G)
    order = torch.tensor(back.tree_names.names)
    assert order.tolist() == [1, 3, 4, 0, 2]
    for key in ("x", "mass", "inner_area"):
        torch.testing.assert_close(back[key], h[key])
    torch.testing.assert_close(back.tree_pos, h.tree_pos[order])
    assert torch.equal(order[back.parent], h.parent[order])


def test_a_batch_becomes_one_graph_with_the_sample_in_the_name():
    one, two = book(), nx.DiGraph([("book", "end")])
    for name in two:
        two.nodes[name].update(x=1.0, pos=[0.0, 0.0], tree_kind=0)
    del two.nodes["book"]["pos"]
    batch = Batch.from_data_list([from_networkx(one), from_networkx(two)])
    G = to_networkx(batch)
    assert G.number_of_nodes() == 7
    assert G.has_edge((0, "book"), (0, "ch1")) and G.has_edge((1, "book"), (1, "end"))
    assert G.nodes[0, "book"]["note"] == "the root"
    assert to_networkx(Batch.from_data_list([from_parent([1, 1])] * 2)).number_of_edges() == 2


def test_collapsing_and_cutting_keep_the_names_of_what_stays():
    G = nx.DiGraph([("r", "s"), ("s", "a"), ("s", "t"), ("t", "b")])
    nx.set_node_attributes(G, {name: name.upper() for name in G}, "label")
    h = from_networkx(G)
    H = to_networkx(h.collapse_chains())
    assert set(H.edges) == {("s", "a"), ("s", "b")} and set(H) == {"s", "a", "b"}
    assert all(H.nodes[name]["label"] == name.upper() for name in H)
    batch = Batch.from_data_list([h, h]).collapse_chains()
    assert_equal(to_networkx(batch.get_example(1)), H)
    row = h.tree_names.names.index("b")
    cut = h.subgraph(torch.tensor([row]))
    assert set(to_networkx(cut).edges) == {("r", "s"), ("s", "t"), ("t", "b")}


def test_a_saved_data_set_keeps_its_names(tmp_path):
    graphs = [nx.DiGraph([("r", ("a", 1)), ("r", 2)], title="all sorts"), nx.DiGraph([("r", "a")])]
    InMemoryDataset.save([from_networkx(G) for G in graphs], tmp_path / "trees.pt")
    record = torch.load(tmp_path / "trees.pt", weights_only=True)[0]["tree_names"][0]
    assert record == from_networkx(graphs[0]).tree_names
    dataset = InMemoryDataset()
    dataset.load(tmp_path / "trees.pt")
    for h, G in zip(dataset, graphs, strict=True):
        assert_equal(to_networkx(h), G)


@pytest.mark.parametrize(
    "key", ["parent", "tree", "size", "batch", "edge_weight", "inner_z", "_k", 7]
)
def test_attributes_whose_name_is_taken_travel_outside_the_tensors(key):
    G = nx.DiGraph([("r", "a"), ("r", "b")])
    nx.set_node_attributes(G, 1.5, key)
    h = from_networkx(G)
    assert h.depth == 1 and set(h.keys()) == {"parent", "tree_names"}
    assert_equal(to_networkx(h), G)


def test_numbers_of_every_sort_become_tensors():
    G = nx.DiGraph([("r", "a"), ("r", "b")])
    for i, name in enumerate("ab"):
        G.nodes[name].update(
            i=i,
            f=i / 2,
            b=bool(i),
            mixed=[1, 0.5][i],
            n=np.float64(i),
            v=np.arange(2),
            t=torch.ones(2),
        )
    h = from_networkx(G)
    assert h.i.dtype == torch.int64 and h.f.dtype == torch.float32 and h.b.dtype == torch.bool
    assert h.mixed.tolist() == [1.0, 0.5] and h.n.tolist() == [0.0, 1.0]
    assert h.v.shape == (2, 2) and h.t.shape == (2, 2)


def test_node_attrs_chooses_what_becomes_a_tensor():
    h = from_networkx(book(), node_attrs=["x"])
    assert set(h.keys()) == {"parent", "x", "inner_x", "tree_names"}
    assert_equal(to_networkx(h), book())
    assert set(from_networkx(book(), node_attrs=[]).keys()) == {"parent", "tree_names"}


def test_given_what_is_missing_every_graph_has_the_same_keys():
    lone, some, root_only = nx.empty_graph(1, nx.DiGraph), edges("ra", "rb"), edges("ra")
    some.nodes["a"].update(x=[1.0, 2.0], other=3)
    root_only.nodes["r"].update(x=[5.0, 6.0], tree_kind=4)
    before = copy.deepcopy((lone, some, root_only))
    graphs, fill = (lone, some, root_only), {"x": [-1.0, -2.0], "tree_kind": 0}
    built = [from_networkx(G, node_attrs=fill) for G in graphs]
    assert [h.x.tolist() for h in built] == [[[-1, -2]], [[1, 2], [-1, -2]], [[-1, -2]]]
    assert [h.inner_x.tolist() for h in built] == [[], [[-1, -2]], [[5, 6]]]
    assert [h.tree_kind.tolist() for h in built] == [[0], [0, 0, 0], [0, 4]]
    assert built[1].tree_names.attrs[0] == {"other": 3}
    for samples in (built, built[::-1]):
        batch = Batch.from_data_list(samples)
        assert batch.validate() and batch.inner_x.shape == (2, 2) and batch.x.shape == (4, 2)
    for G, H in zip(graphs, before, strict=True):
        assert_equal(G, H)
    for internal, rows in (("leaf", [1, 2, 2]), ("drop", [1, 2, 1])):
        built = [from_networkx(G, node_attrs=fill, internal=internal) for G in graphs]
        assert [set(h.keys()) for h in built] == [{"parent", "tree_names", *fill}] * 3
        assert [h.num_nodes for h in built] == rows
        Batch.from_data_list(built)


def test_graphs_that_carry_different_things_are_refused_as_a_batch():
    carries = with_attr("x", {"a": 1.0, "b": 2.0, "c": 3.0})
    samples = [from_networkx(carries), from_networkx(edges("ra"))]
    with pytest.raises(ValueError, match=r"'x' in sample 0, but not in sample 1.* del h\['x'\]"):
        Batch.from_data_list(samples)


def edges(*pairs, cls=nx.DiGraph):
    return cls(pairs)


def with_attr(key, values):
    G = nx.DiGraph([("r", "a"), ("r", "b"), ("r", "c")])
    nx.set_node_attributes(G, values, key)
    return G


UNDIRECTED = {"cls": nx.Graph}


@pytest.mark.parametrize(
    ("G", "options", "error", "match"),
    [
        ([("a", "b")], {}, TypeError, r"'G' to be a networkx graph \(got list\)"),
        (nx.DiGraph(), {}, ValueError, "'G' .* empty graph"),
        (
            edges("ra", "rb", "ac", "bc"),
            {},
            ValueError,
            "node 'c' with two: 'a' and 'b'",
        ),
        (edges("ra", "bc", "cb"), {}, ValueError, "cycle through node '[bc]'"),
        (edges("ra", "bc", "cb", "cd"), {}, ValueError, "cycle through node '[bc]'"),
        (edges("ab", "ba"), {}, ValueError, "cycle through node '[ab]'"),
        (edges("ra", "bb"), {}, ValueError, "node 'b' joins itself"),
        (edges("ra", "sb"), {"root": "r"}, ValueError, r"connected to the root \(got 's'\)"),
        (edges("ra"), {"root": "a"}, ValueError, "'root' to have no parent .*'a' below 'r'"),
        (edges("ra"), {"root": "z"}, ValueError, r"'root' to be a node of 'G' \(got 'z'\)"),
        (edges("ra"), {"root": []}, ValueError, "'root' to name at least one node"),
        (edges("ra"), {"root": ["r", "r"]}, ValueError, r"'root' .* once \(got 'r' twice\)"),
        (edges("ra", **UNDIRECTED), {}, ValueError, "'root' to name the root of an undirected"),
        (edges("ra", **UNDIRECTED), {"root": "z"}, ValueError, r"'root' .* \(got 'z'\)"),
        (edges("ra", "ab", "br", **UNDIRECTED), {"root": "r"}, ValueError, "cycle through node"),
        (edges("ra", "bc", **UNDIRECTED), {"root": "r"}, ValueError, r"connected .*\(got 'b'\)"),
        (
            edges("ra", "as", **UNDIRECTED),
            {"root": ["r", "s"]},
            ValueError,
            "roots in different trees .*'[rs]' and '[rs]' joined at node",
        ),
        (
            edges("ra", "ra", cls=nx.MultiGraph),
            {"root": "r"},
            ValueError,
            "two edges from 'r' to 'a'",
        ),
        (edges("ra", "ra", cls=nx.MultiDiGraph), {}, ValueError, "node 'a' with two: 'r' and 'r'"),
        (with_attr("x", {"a": 1.0, "b": 2.0}), {}, ValueError, r"'x' .* \(got none at node 'c'\)"),
        (
            with_attr("pos", {"a": [1.0], "b": [1.0, 2.0], "c": [1.0]}),
            {},
            ValueError,
            r"'pos' of one shape \(got \[1.0, 2.0\] at node 'b'\)",
        ),
        (with_attr("mass", {"a": 1.0, "b": -2.0, "c": 1.0}), {}, ValueError, r"mass\[1\] = -2.0"),
        (with_attr("mass", {"a": 1, "b": "q", "c": 1}), {}, ValueError, "'mass' .*'q' at node 'b'"),
        (with_attr("w", {"a": 1}), {"node_attrs": ["w"]}, ValueError, "'w' .*none at node 'b'"),
        (edges("ra"), {"node_attrs": ["w"]}, ValueError, "every leaf .*'w' .*none at node 'a'"),
        (
            with_attr("tree_pos", {"a": 1}),
            {"node_attrs": ["tree_pos"]},
            ValueError,
            "every node .*'tree_pos' .*none at node 'b'",
        ),
        (edges("ra"), {"node_attrs": ["parent"]}, ValueError, "'node_attrs' to leave out 'parent'"),
        (edges("ra"), {"node_attrs": "x"}, TypeError, "'node_attrs' to be a list of names"),
    ],
)
def test_a_graph_that_is_no_tree_is_named(G, options, error, match):
    with pytest.raises(error, match=match):
        from_networkx(G, **options)


def test_multigraph_trees_are_read():
    G = nx.MultiDiGraph([("r", "a", {"w": 1.5}), ("r", "b")])
    assert to_networkx(from_networkx(G)).edges["r", "a"] == {"w": 1.5}


def test_to_networkx_checks_what_it_is_given():
    h = from_parent([2, 2, 2])
    h.parent = torch.tensor([1, 0, 2])
    with pytest.raises(ValueError, match="cycle above node 0"):
        to_networkx(h)
