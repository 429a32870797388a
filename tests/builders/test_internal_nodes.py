"""Inner nodes that carry features of their own, through every door that takes ``internal``."""

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.loader import DataLoader

from hsa_geometric.builders import from_clusters, from_networkx, from_parent, to_networkx
from hsa_geometric.builders.json_tree import from_json, to_json
from hsa_geometric.builders.linkage import from_linkage
from hsa_geometric.builders.nested import from_nested, to_nested
from hsa_geometric.builders.newick import from_newick, to_newick
from hsa_geometric.testing import forests

# Parent vectors ###################################################################################


def test_words_that_govern_words_by_hand():
    x, kind, edges = torch.arange(4.0), torch.tensor([7, 8, 9, 6]), torch.tensor([[1], [3]])
    h = from_parent(
        [1, 2, -1, 2],
        internal="leaf",
        x=x,
        mass=[1.0, 2.0, 3.0, 4.0],
        charge=torch.rand(4),
        tree_kind=kind,
        inner_size=[10, 20],
        edge_index=edges,
        y=torch.rand(1),
    )
    # "dog" (1) is now leaf 1 below node 4, "barked" (2) is leaf 2 below the root 5.
    assert h.parent.tolist() == [4, 4, 5, 5, 5, 5]
    assert torch.equal(h.x, x) and torch.equal(h.edge_index, edges)
    assert h.tree_kind.tolist() == [7, 8, 9, 6, 8, 9]
    assert h.inner_size.tolist() == [10, 20]
    assert kind.tolist() == [7, 8, 9, 6]


@given(forests())
@settings(max_examples=80, deadline=None)
def test_every_node_gets_the_leaf_of_its_own_id(parent):
    size = parent.numel()
    plain = from_parent(parent)
    h = from_parent(parent, internal="leaf", x=torch.arange(size), tree_kind=torch.arange(size))
    assert h.validate() and h.num_nodes == size and h.num_trees == plain.num_trees
    assert torch.equal(h.tree.leaf_ids, torch.arange(size))
    assert torch.equal(h.x, torch.arange(size))
    inner = [a for a in range(size) if a not in plain.tree.leaf_ids.tolist()]
    assert h.num_tree_nodes == size + len(inner)
    group = {a: size + i for i, a in enumerate(inner)}
    for a, up in enumerate(parent.tolist()):
        above = group.get(up, up)
        if a in group:
            assert h.parent[a] == group[a]  # its own leaf hangs below it
            assert h.parent[group[a]] == (above if a != up else group[a])
            assert h.tree_kind[group[a]] == h.tree_kind[a] == a
        else:
            assert h.parent[a] == above


@given(forests())
@settings(max_examples=50, deadline=None)
def test_dropping_keeps_the_rows_of_the_leaves(parent):
    size, plain = parent.numel(), from_parent(parent)
    leaves = plain.tree.leaf_ids
    data = {"x": torch.arange(size), "charge": torch.rand(size), "tree_kind": torch.arange(size)}
    h = from_parent(parent, internal="drop", mass=torch.ones(len(leaves)), **data)
    assert torch.equal(h.parent, parent)
    assert torch.equal(h.x, leaves) and torch.equal(h.charge, data["charge"][leaves])
    assert torch.equal(h.tree_kind, data["tree_kind"]) and h.mass.numel() == len(leaves)
    names = from_parent(parent, internal="drop", face_name=list(range(size))).face_name
    assert names == leaves.tolist()


def test_without_data_of_their_own_nodes_get_leaves_all_the_same():
    assert from_parent([2, 2, 2], internal="leaf").parent.tolist() == [3, 3, 3, 3]
    assert from_parent([0], internal="leaf").parent.tolist() == [0]
    h = from_clusters([[0, 0, 1]], internal="leaf", x=torch.rand(6, 1))
    assert h.num_nodes == 6 and h.num_tree_nodes == 9


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (
            {"x": torch.rand(5, 2)},
            ValueError,
            r"'x' .* 3 leaves \(got 5 rows\); .*internal='leaf' .* 'drop'",
        ),
        ({"charge": torch.rand(5)}, ValueError, r"'charge' .* 3 leaves \(got 5 rows\); .*'leaf'"),
        (
            {"x": torch.rand(3), "internal": "leaf"},
            ValueError,
            r"'x' .* the 5 leaves \(got 3 rows\)",
        ),
        ({"x": torch.rand(4), "internal": "drop"}, ValueError, r"'x' .* 3 leaves \(got 4 rows\)"),
        (
            {"internal": "keep"},
            ValueError,
            r"'internal' to be one of \['error', 'leaf', 'drop'\] \(got 'keep'\)",
        ),
        ({"internal": None}, ValueError, r"'internal' .* \(got None\)"),
    ],
)
def test_rows_of_inner_nodes_are_refused_with_the_choices(data, error, match):
    with pytest.raises(error, match=match):
        from_parent([3, 3, 4, 4, 4], **data)
    with pytest.raises(ValueError, match=r"'parent' .* parent\[1\] = 7"):
        from_parent([1, 7], internal="leaf")


# networkx #########################################################################################


def sentence():
    """A syntax tree: words at the leaves, phrases with features of their own except for one."""
    G = nx.DiGraph([("S", "NP"), ("S", "VP"), ("NP", "the"), ("NP", "dog"), ("VP", "barked")])
    for i, name in enumerate(["S", "NP", "VP", "the", "dog", "barked"]):
        G.nodes[name].update(tree_kind=i, word=name.lower())
        if name != "VP":
            G.nodes[name].update(x=[float(i), 1.0])
    G.nodes["NP"]["span"] = 2
    return G


def test_syntax_tree_by_hand():
    G = sentence()
    h = from_networkx(G, internal="leaf")
    names = [("S", "own"), ("NP", "own"), "the", "dog", "barked", "S", "NP", "VP"]
    assert h.tree_names.names == names
    assert h.parent.tolist() == [5, 6, 6, 6, 7, 5, 5, 5]
    assert h.x[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert h.tree_kind.tolist() == [0, 1, 3, 4, 5, 0, 1, 2]
    assert h.tree_names.attrs[6] == {"word": "np", "span": 2} and "inner_x" not in h
    assert h.tree_names.attrs[1] == {}
    assert nx.utils.graphs_equal(G, sentence())  # nothing handed in is changed
    back = to_networkx(h)
    assert back.nodes["NP", "own"] == {"x": [1.0, 1.0], "tree_kind": 1}
    assert back.has_edge("NP", ("NP", "own"))


def test_dropping_forgets_only_what_leaves_have_too():
    h = from_networkx(sentence(), internal="drop")
    assert h.parent.tolist() == from_networkx(sentence()).parent.tolist()
    assert "inner_x" not in h and all("x" not in attrs for attrs in h.tree_names.attrs)
    assert h.tree_names.attrs[h.tree_names.names.index("NP")] == {"word": "np", "span": 2}
    assert h.tree_kind.numel() == 6


def test_keeping_is_the_default_and_loses_nothing():
    G = sentence()
    for h in (from_networkx(G), from_networkx(G, internal="keep")):
        assert nx.utils.graphs_equal(to_networkx(h), G)
    G.nodes["VP"]["x"] = [2.0, 1.0]
    assert from_networkx(G).inner_x[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("internal", ["keep", "leaf", "drop", "error"])
def test_where_inner_nodes_have_no_features_all_choices_agree(internal):
    G = sentence()
    for name in ("S", "NP"):
        del G.nodes[name]["x"]
    h, expected = from_networkx(G, internal=internal), from_networkx(G)
    assert h.tree_names == expected.tree_names and torch.equal(h.parent, expected.parent)
    assert torch.equal(h.x, expected.x) and nx.utils.graphs_equal(to_networkx(h), G)


def test_node_attrs_says_what_a_feature_is():
    G = sentence()
    nx.set_node_attributes(G, {name: i for i, name in enumerate(G)}, "number")
    with pytest.raises(ValueError, match=r"'x' .* \(got none at node \('VP', 'own'\)\)"):
        from_networkx(G, internal="leaf")  # its number is a feature, so an x is missing
    h = from_networkx(G, node_attrs=["x"], internal="leaf")
    assert h.num_nodes == 5 and "number" not in h
    h = from_networkx(G, node_attrs=iter(["number"]), internal="leaf")
    assert h.number.tolist() == [0, 1, 2, 3, 4, 5] and "x" not in h


@given(forests(min_nodes=1, max_nodes=15), st.data())
@settings(max_examples=60, deadline=None)
def test_leaves_of_a_graph_are_its_nodes_with_features_in_order(parent, data):
    G = to_networkx(from_parent(parent))
    size = parent.numel()
    order = data.draw(st.permutations(range(size)))
    H = nx.DiGraph()
    H.add_nodes_from(order)
    H.add_edges_from(G.edges)
    inner = {u for u, _ in G.edges}
    carrying = [v for v in order if v not in inner or data.draw(st.booleans())]
    nx.set_node_attributes(H, {v: float(v) for v in carrying}, "x")
    h = from_networkx(H, internal="leaf")
    assert h.validate() and h.x.tolist() == carrying
    assert h.tree_names.names[: h.num_nodes] == [(v, "own") if v in inner else v for v in carrying]
    dropped = from_networkx(H, internal="drop")
    assert dropped.x.tolist() == [v for v in order if v not in inner]
    if inner & set(carrying):
        with pytest.raises(ValueError, match="Expected only leaves to have 'x'"):
            from_networkx(H, internal="error")
    if len(carrying) == size:  # rows are the nodes, as in a parent vector
        assert h.x.numel() == size


@pytest.mark.parametrize(
    ("change", "internal", "match"),
    [
        (
            {},
            "error",
            r"only leaves to have 'x' \(got \[0.0, 1.0\] at inner node 'S'\); internal='leaf' .*"
            r"'drop' .*'keep' keeps it in 'inner_x'",
        ),
        ({}, "own", r"'internal' to be one of \['keep', 'leaf', 'drop', 'error'\] \(got 'own'\)"),
        ({"NP": {"x": [1.0]}}, "leaf", r"'x' .* \(got \[1.0\] at node \('NP', 'own'\)\)"),
        ({"NP": {"x": "?"}}, "leaf", r"'x' .* \(got '\?' at node \('NP', 'own'\)\)"),
        (
            {v: {"charge": 1.0} for v in ("the", "dog", "barked")},
            "leaf",
            r"numeric 'charge' .* \(got none at node \('S', 'own'\)\)",
        ),
    ],
)
def test_features_that_do_not_fit_are_named(change, internal, match):
    G = sentence()
    nx.set_node_attributes(G, change)
    with pytest.raises(ValueError, match=match):
        from_networkx(G, internal=internal)


def test_a_name_that_is_needed_is_named():
    G = sentence()
    G.add_node(("NP", "own"), x=[0.0, 0.0], tree_kind=0)
    with pytest.raises(ValueError, match=r"no node of 'G' to be named \('NP', 'own'\)"):
        from_networkx(G, internal="leaf")


def test_undirected_trees_get_own_leaves_too():
    h, u = (from_networkx(G, root="S", internal="leaf") for G in (sentence(), nx.Graph(sentence())))
    assert torch.equal(h.parent, u.parent) and torch.equal(h.x, u.x)
    assert to_networkx(u).has_edge(("S", "own"), "S")


# Texts ############################################################################################


def test_taxa_with_features_by_hand():
    text, x = "((wolf:1,fox:2)dogs:3,bear:4)all;", torch.arange(5.0)
    h = from_newick(text, internal="leaf", x=x, tree_kind=[0, 0, 0, 1, 2])
    assert torch.equal(h.x, x)  # wolf, fox, bear, dogs, all
    assert h.parent.tolist() == [5, 5, 6, 5, 6, 6, 6]
    assert h.tree_kind.tolist() == [0, 0, 0, 1, 2, 1, 2]
    assert to_newick(h) == "((wolf:1.0,fox:2.0,dogs:0.0)dogs:3.0,bear:4.0,all:0.0)all;"
    h = from_newick(text, internal="drop", x=x)
    assert h.x.tolist() == [0, 1, 2] and to_newick(h) == to_newick(from_newick(text))
    with pytest.raises(ValueError, match=r"'x' .* the 3 leaves \(got 5 rows\); .*internal='leaf'"):
        from_newick(text, x=x)
    assert to_newick(from_newick("a;", internal="leaf", x=x[:1])) == "a;"


def test_lists_with_features_by_hand():
    h = from_nested([["a", "b"], "c"], internal="leaf", x=torch.arange(5.0))
    assert h.parent.tolist() == [5, 5, 6, 5, 6, 6, 6] and h.x.tolist() == [0, 1, 2, 3, 4]
    assert to_nested(h) == [["a", "b", 3], "c", 4]
    assert len(to_networkx(h)) == 7
    h = from_nested([["a", "b"], "c"], internal="drop", x=torch.arange(5.0))
    assert h.x.tolist() == [0, 1, 2] and to_nested(h) == [["a", "b"], "c"]


def test_merges_with_features_by_hand():
    x = torch.arange(5.0)
    h = from_linkage([[0, 1, 1, 2], [2, 3, 2, 3]], internal="leaf", x=x)
    assert h.parent.tolist() == [5, 5, 6, 5, 6, 6, 6] and torch.equal(h.x, x)
    assert h.inner_height.tolist() == [1, 2]


def test_headings_with_features_come_before_their_text():
    tree = {"x": 0.0, "children": [{"x": 1.0, "children": [{"x": 2.0}, {"x": 3.0}]}, {"x": 4.0}]}
    h = from_json(tree, internal="leaf")
    assert h.x.tolist() == [0, 1, 2, 3, 4] and h.parent.tolist() == [5, 6, 6, 6, 5, 5, 5]
    assert to_json(h) == {
        "children": [{"x": 0.0}, {"children": [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}]}, {"x": 4.0}]
    }
    assert from_json(tree).inner_x.tolist() == [0, 1]
    assert from_json(tree, internal="drop").x.tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match=r"'x' \(got 0.0 at inner node 3\)"):
        from_json(tree, internal="error")


def test_own_leaves_batch():
    trees = [
        from_networkx(sentence(), internal="leaf"),
        from_networkx(sentence(), node_attrs=["x", "tree_kind"], internal="leaf"),
    ]
    batch = next(iter(DataLoader(trees, batch_size=2)))
    assert batch.validate() and batch.num_nodes == 10 and batch.num_trees == 2
    one = batch.get_example(1)
    assert torch.equal(one.x, trees[1].x) and one.tree_names == trees[1].tree_names
