"""The compiled builder of the index gives what the tensor code gives."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsa_geometric import TreeIndex, tree
from hsa_geometric.native import library
from hsa_geometric.native.index import index
from hsa_geometric.testing import (
    ZOO,
    balanced,
    caterpillar,
    chain,
    forest,
    forests,
    random_parent,
    shuffled,
    star,
    zoo,
)

pytestmark = pytest.mark.skipif(library() is None, reason="the kernel is not built")


def built(parent, by_kernel):
    """All tensors but the key; or the error."""
    with pytest.MonkeyPatch.context() as patch:
        if not by_kernel:
            patch.setattr(tree, "index", lambda parent: None)
        try:
            return TreeIndex.from_parent(parent).tensors[:-1]
        except ValueError as error:
            return str(error)


def check_same(parent):
    assert index(parent) is not None
    found, expected = built(parent, True), built(parent, False)
    assert len(found) == len(tree.FIELDS) - 1
    for name, x, y in zip(tree.FIELDS, found, expected, strict=False):
        assert x.dtype == y.dtype and torch.equal(x, y), name


@pytest.mark.parametrize("name", ZOO)
def test_both_builders_give_the_same_index_of_the_zoo(name):
    check_same(zoo(name))


@given(forests(max_nodes=60))
@settings(deadline=None)
def test_both_builders_give_the_same_index_of_random_forests(parent):
    check_same(parent)


@pytest.mark.parametrize(
    "parent",
    [
        shuffled(random_parent(20_000, num_trees=30, seed=1)),
        shuffled(forest(caterpillar(900), balanced(5, 5), star(3000), chain(200))),
        torch.arange(1000),
    ],
    ids=["random", "mixed", "lone leaves"],
)
def test_both_builders_give_the_same_index_of_large_forests(parent):
    check_same(parent)


@given(st.lists(st.integers(-3, 12), min_size=1, max_size=12))
@settings(deadline=None, max_examples=300)
def test_any_list_of_numbers_gives_the_same_index_or_the_same_error(numbers):
    parent = torch.tensor(numbers)
    found, expected = built(parent, True), built(parent, False)
    if isinstance(expected, str):
        assert found == expected and index(parent) is None
    else:
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    "parent, message",
    [
        ([1, 2, 0], "got a cycle above node"),
        ([0, 1, 7], re.escape("got parent[2] = 7")),
        ([0, -1], re.escape("got parent[1] = -1")),
        ([2**40, 1], re.escape(f"got parent[0] = {2**40}")),
        ([-(2**63), 1], re.escape(f"got parent[0] = {-(2**63)}")),
    ],
)
def test_what_is_no_forest_is_left_to_the_tensor_code_to_name(parent, message):
    assert index(torch.tensor(parent)) is None
    with pytest.raises(ValueError, match=message):
        TreeIndex.from_parent(torch.tensor(parent))
