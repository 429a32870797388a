import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from hsa_geometric.builders import from_networkx, from_parent, to_networkx
from hsa_geometric.builders.json_tree import from_json, to_json
from hsa_geometric.testing import forests

FLARE = {
    "name": "flare",
    "children": [
        {
            "name": "analytics",
            "weight": 9.0,
            "children": [{"name": "graph", "value": 3, "x": [1.5]}],
        },
        {"name": "scale", "value": 4, "x": [2.5], "note": {"deep": [1]}},
        {"name": "data", "children": [{"value": 5, "x": [3.5]}, {"value": 6, "x": [4.5]}]},
    ],
}


def test_by_hand():
    before = copy.deepcopy(FLARE)
    h = from_json(FLARE)
    assert h.parent.tolist() == [5, 4, 6, 6, 4, 4, 4]
    assert h.value.tolist() == [3, 4, 5, 6] and h.x.tolist() == [[1.5], [2.5], [3.5], [4.5]]
    assert [attrs.get("name") for attrs in h.tree_names.attrs] == [
        *("graph", "scale", None, None),
        *("flare", "analytics", "data"),
    ]
    assert h.tree_names.attrs[1] == {"name": "scale", "note": {"deep": [1]}}
    assert before == FLARE
    assert to_json(h) == FLARE


@pytest.mark.parametrize("text", [json.dumps(FLARE), json.dumps(FLARE).encode()])
def test_texts_are_read(text):
    assert to_json(from_json(text)) == FLARE


def test_a_list_of_roots_is_a_forest():
    trees = [FLARE, {"children": [{"value": 1, "x": [0.5]}]}, {"value": 2, "x": [0.25]}]
    h = from_json(json.dumps(trees))
    assert h.num_trees == 3 and h.num_nodes == 6
    assert to_json(h) == trees
    assert to_json(from_json([FLARE])) == FLARE


def test_the_key_of_the_children_is_free_and_an_empty_list_is_a_leaf():
    tree = {"parts": [{"children": 1, "parts": []}, {"children": 2, "parts": None}]}
    h = from_json(tree, children="parts")
    assert h.parent.tolist() == [2, 2, 2] and h.children.tolist() == [1, 2]
    assert to_json(h, children="parts") == {"parts": [{"children": 1}, {"children": 2}]}
    assert from_json({}).parent.tolist() == [0]


def test_node_attrs_chooses_what_becomes_a_tensor():
    h = from_json(FLARE, node_attrs=["x"])
    assert "value" not in h and to_json(h) == FLARE
    with pytest.raises(ValueError, match="numeric 'name'"):
        from_json(FLARE, node_attrs=["name"])


def test_given_what_is_missing_every_tree_has_the_same_keys():
    trees = [
        {"x": [1.0, 2.0], "value": 3},
        {"children": [{"x": [3.0, 4.0]}, {"value": 5, "name": "b", "more": 1.0}]},
        {"value": 7, "children": [{"x": [5.0, 6.0], "more": 2}]},
        {},
    ]
    before = copy.deepcopy(trees)
    fill = {"x": [math.nan, math.nan], "value": -1, "tree_kind": 0}
    for samples in (trees, trees[::-1]):
        built = [from_json(tree, node_attrs=fill) for tree in samples]
        batch = Batch.from_data_list(built)
        for key in ("x", "inner_x", "value", "inner_value", "tree_kind"):
            expected = torch.cat([h[key] for h in built])
            torch.testing.assert_close(batch[key], expected, equal_nan=True)
        assert len({tuple(sorted(h.keys())) for h in built}) == 1
    assert trees == before
    _, two, three, none = [from_json(tree, node_attrs=fill) for tree in trees]
    assert two.value.tolist() == [-1, 5] and two.inner_value.tolist() == [-1]
    assert three.inner_value.tolist() == [7] and three.inner_x.isnan().tolist() == [[True, True]]
    assert none.inner_x.shape == (0, 2) and none.x.isnan().all()
    assert two.tree_names.attrs[1] == {"name": "b", "more": 1.0}
    for internal in ("leaf", "drop"):
        keys = [set(from_json(t, node_attrs=fill, internal=internal).keys()) for t in trees]
        assert keys == [{"parent", "tree_names", *fill}] * 4
    own = from_json(trees[2], node_attrs=fill, internal="leaf")
    assert own.value.tolist() == [7, -1] and own.x[:, 0].isnan().tolist() == [True, False]


def test_a_byte_order_mark_is_skipped():
    for text in ("\ufeff" + json.dumps(FLARE), json.dumps(FLARE).encode("utf-8-sig")):
        assert to_json(from_json(text)) == FLARE


def test_thousands_of_keys_are_kept_by_node():
    leaves = [{f"key {i}": i, "x": float(i)} for i in range(6000)]
    tree = {"children": [{"children": leaves[:9], "own": 1}, *leaves[9:]]}
    h = from_json(tree)
    assert set(h.keys()) == {"parent", "x", "tree_names"} and h.x.tolist() == list(range(6000))
    assert h.tree_names.attrs[5999] == {"key 5999": 5999}
    assert to_json(h) == tree


ATTRS = st.dictionaries(
    st.sampled_from(["name", "value", "size", "parent", "tree_kind"]),
    st.one_of(st.integers(-9, 9), st.text(max_size=3), st.lists(st.integers(0, 3), max_size=2)),
    max_size=4,
)
TREES = st.recursive(
    ATTRS,
    lambda below: st.builds(
        lambda attrs, children: {**attrs, "children": children},
        ATTRS,
        st.lists(below, min_size=1, max_size=3),
    ),
    max_leaves=10,
)


@given(TREES)
@settings(max_examples=80, deadline=None)
def test_there_and_back_is_the_same_tree(tree):
    h = from_json(tree)
    assert h.validate() and h.num_trees == 1
    assert torch.equal(h.tree.leaf_ids, torch.arange(h.num_nodes))
    assert to_json(h) == tree
    assert to_json(from_json(json.dumps(tree))) == tree


@given(forests())
@settings(max_examples=50, deadline=None)
def test_hierarchies_become_dicts_that_become_the_same_dicts(parent):
    h = from_parent(parent)
    h.x = torch.rand(h.num_nodes, 2)
    tree = to_json(h)
    again = from_json(tree)
    assert to_json(again) == tree
    assert (again.num_nodes, again.num_tree_nodes) == (h.num_nodes, h.num_tree_nodes)
    assert (again.num_trees, again.depth) == (h.num_trees, h.depth)
    torch.testing.assert_close(again.x.sort(0).values, h.x.sort(0).values)


def test_names_that_are_strings_are_written():
    import networkx as nx

    G = nx.DiGraph([("r", "a"), ("r", "b")])
    G.nodes["b"]["name"] = "B"
    assert to_json(from_networkx(G)) == {"name": "r", "children": [{"name": "a"}, {"name": "B"}]}


def test_json_trees_batch():
    batch = next(iter(DataLoader([from_json(FLARE), from_json(FLARE)], batch_size=2)))
    assert batch.validate() and batch.num_trees == 2 and batch.x.shape == (8, 1)
    assert to_json(batch.get_example(1)) == FLARE
    assert to_json(batch) == [FLARE, FLARE]


def test_very_deep_dicts_need_no_recursion():
    tree = {"x": 1.0}
    for _ in range(20_000):
        tree = {"children": [tree, {"x": 2.0}]}
    h = from_json(tree)
    assert (h.depth, h.num_nodes) == (20_000, 20_001)
    back = to_json(h)
    for _ in range(20_000):
        back, leaf = back["children"]
        assert leaf == {"x": 2.0}
    assert back == {"x": 1.0}


def test_one_dict_may_stand_in_two_places():
    twice = {"x": 1.0}
    assert from_json({"children": [twice, {"children": [twice]}]}).x.tolist() == [1.0, 1.0]


def endless():
    tree = {"children": [{}]}
    tree["children"][0]["children"] = [{}, tree]
    return tree


@pytest.mark.parametrize(
    ("tree", "error", "match"),
    [
        ([], ValueError, r"'tree' to hold at least one node \(got an empty list\)"),
        (3, TypeError, r"every node to be a dict \(got int at tree\)"),
        ('"a"', TypeError, r"every node to be a dict \(got str at tree\)"),
        ([{}, 3], TypeError, r"every node to be a dict \(got int at tree\[1\]\)"),
        (
            {"children": [{}, {"children": [{}, None]}]},
            TypeError,
            r"dict \(got NoneType at tree\['children'\]\[1\]\['children'\]\[1\]\)",
        ),
        (
            {"children": [{"children": {"a": 1}}]},
            TypeError,
            r"'children' to be a list \(got dict at tree\['children'\]\[0\]\)",
        ),
        ({"children": 0}, TypeError, r"'children' to be a list \(got int at tree\)"),
        (endless(), ValueError, r"hold itself \(got tree\['children'\]\[0\]\['children'\]\[1\]\)"),
        ("{'a'}", ValueError, "'tree' to be a JSON text .*line 1 column 2"),
        ('{"children": [{"a": 1, "b": 2, "a": 3}]}', ValueError, r"got key 'a' more than once"),
        ("[" * 100_000, ValueError, "that Python can read .*nested too deep; pass dicts"),
        ({"children": [{"x": 1.0}, {}]}, ValueError, r"numeric 'x' .* \(got none at node 1\)"),
    ],
)
def test_what_is_no_tree_is_named(tree, error, match):
    with pytest.raises(error, match=match):
        from_json(tree)


def test_an_attribute_named_like_the_children_is_named():
    h = from_json({"parts": [{"children": 5}]}, children="parts")
    with pytest.raises(ValueError, match=r"'children' to be no attribute .* which node 0 has"):
        to_json(h)
    assert set(to_networkx(h).nodes[0]) == {"children"}
