import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.loader import DataLoader

from hsa_geometric.builders import from_networkx, from_parent, to_networkx
from hsa_geometric.builders.nested import from_nested, to_nested
from hsa_geometric.testing import forests


def leaves(nested):
    return [leaf for x in nested for leaf in (leaves(x) if isinstance(x, list) else [x])]


def test_by_hand():
    h = from_nested([[0, "b"], [2.5, [None, {"d": 4}]]], x=torch.rand(5, 2))
    assert h.parent.tolist() == [5, 5, 7, 6, 6, 8, 7, 8, 8]
    assert [attrs["name"] for attrs in h.tree_names.attrs[:5]] == [0, "b", 2.5, None, {"d": 4}]
    assert h.tree_names.attrs[5:] == [{}] * 4
    assert to_networkx(h).nodes[1] == {"name": "b", "x": h.x[1].tolist()}


@pytest.mark.parametrize(
    ("nested", "parent"),
    [
        (["a"], [1, 1]),
        ([["a"]], [1, 2, 2]),
        (["a", ["b", "c"], "d"], [5, 4, 4, 5, 5, 5]),
        ([["a", "b"], "c"], [3, 3, 4, 4, 4]),
    ],
)
def test_small_lists_by_hand(nested, parent):
    h = from_nested(nested)
    assert h.parent.tolist() == parent
    assert to_nested(h) == nested


NESTED = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.none(), st.booleans()),
    lambda below: st.lists(below, min_size=1, max_size=4),
    max_leaves=20,
).map(lambda x: x if isinstance(x, list) else [x])


@given(NESTED)
@settings(max_examples=80, deadline=None)
def test_there_and_back_is_the_same_list(nested):
    h = from_nested(nested)
    assert h.validate() and h.num_trees == 1
    assert torch.equal(h.tree.leaf_ids, torch.arange(h.num_nodes))
    assert [attrs["name"] for attrs in h.tree_names.attrs[: h.num_nodes]] == leaves(nested)
    assert to_nested(h) == nested


@given(forests(max_trees=1, min_nodes=2))
@settings(max_examples=60, deadline=None)
def test_trees_become_lists_that_become_the_same_lists(parent):
    h = from_parent(parent)
    nested = to_nested(h)
    assert sorted(leaves(nested)) == h.tree.leaf_ids.tolist()  # named by their ids
    again = from_nested(nested)
    assert to_nested(again) == nested
    assert (again.num_nodes, again.num_tree_nodes) == (h.num_nodes, h.num_tree_nodes)
    assert again.depth == h.depth


def test_tuples_are_lists_and_one_list_may_stand_in_two_places():
    twice = ["a", "b"]
    assert to_nested(from_nested(((1, 2), [3]))) == [[1, 2], [3]]
    assert to_nested(from_nested([twice, [twice, "c"]])) == [["a", "b"], [["a", "b"], "c"]]
    assert twice == ["a", "b"]


def test_very_deep_lists_need_no_recursion():
    nested = ["end"]
    for i in range(20_000):
        nested = [nested, i]
    h = from_nested(nested)
    assert (h.depth, h.num_nodes) == (20_001, 20_001)
    back = to_nested(h)
    for i in reversed(range(20_000)):
        back, number = back
        assert number == i
    assert back == ["end"]


def test_a_tree_of_one_node_becomes_a_list_of_one():
    assert to_nested(from_parent([0])) == [0]


def test_names_of_other_doors_are_the_objects():
    assert to_nested(from_networkx(to_networkx(from_nested([["a", "b"], "c"])))) == [
        ["a", "b"],
        "c",
    ]
    numbers = from_networkx(to_networkx(from_nested([[7, 8], 9])))  # they became a tensor
    assert numbers.name.tolist() == [7, 8, 9] and to_nested(numbers) == [[7, 8], 9]
    assert to_nested(from_nested([["a", "b"], "c"]), name="word") == [[0, 1], 2]


def test_nested_lists_batch():
    batch = next(iter(DataLoader([from_nested([[1, 2], 3]), from_nested([4, 5])], batch_size=2)))
    assert batch.validate() and batch.num_trees == 2 and batch.num_nodes == 5
    assert to_nested(batch.get_example(1)) == [4, 5]


def endless():
    nested = ["a"]
    nested.append([nested])
    return nested


@pytest.mark.parametrize(
    ("nested", "options", "error", "match"),
    [
        ("ab", {}, TypeError, r"'nested' to be a list \(got str\)"),
        ({"a": 1}, {}, TypeError, r"'nested' to be a list \(got dict\)"),
        ([], {}, ValueError, r"an item in every list \(got nested = \[\]\)"),
        ([1, [2, [], 3]], {}, ValueError, r"an item in every list \(got nested\[1\]\[1\] = \[\]\)"),
        ([1, ()], {}, ValueError, r"\(got nested\[1\] = \[\]\)"),
        (endless(), {}, ValueError, r"no list that holds itself \(got nested\[1\]\[0\]\)"),
        ([1, 2], {"x": torch.rand(4, 1)}, ValueError, r"'x' .* the 2 leaves \(got 4 rows\)"),
    ],
)
def test_what_is_no_nested_list_is_named(nested, options, error, match):
    with pytest.raises(error, match=match):
        from_nested(nested, **options)


def test_a_forest_is_no_nested_list():
    with pytest.raises(ValueError, match=r"'hierarchy' to be one tree \(got 2 trees\)"):
        to_nested(from_parent([0, 1]))
