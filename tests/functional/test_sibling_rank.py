import pytest
import torch
from helpers import rows_below
from hypothesis import given, settings

from hsa_geometric import TreeIndex
from hsa_geometric.builders import from_sequence
from hsa_geometric.functional import sibling_rank
from hsa_geometric.testing import ZOO, forest, forests, renumber, zoo


def by_walk(parent):
    """The rank of each node, by sorting its siblings by their first leaves."""
    rows, above = rows_below(parent), parent.tolist()
    rank = []
    for node, up in enumerate(above):
        family = [a for a, p in enumerate(above) if p == up and a != p]
        family.sort(key=lambda a: min(rows[a]))
        rank.append(0 if node == up else family.index(node))
    return torch.tensor(rank)


def test_a_tree_by_hand():
    # 9 is the root of 8, 6 and leaf 5; 8 of 7 and leaf 2; 7 of leaves 3, 4; 6 of leaves 0, 1.
    parent = torch.tensor([6, 6, 8, 7, 7, 9, 9, 8, 9, 9])
    #                      leaves 0 .. 5     6  7  8  9
    expected = torch.tensor([0, 1, 0, 0, 1, 2, 0, 1, 1, 0])
    assert torch.equal(sibling_rank(parent), expected)


@pytest.mark.parametrize("name", ZOO)
def test_it_counts_siblings_by_their_first_leaf(name):
    assert torch.equal(sibling_rank(zoo(name)), by_walk(zoo(name)))


@settings(max_examples=60, deadline=None)
@given(forests())
def test_it_counts_siblings_of_any_forest(parent):
    assert torch.equal(sibling_rank(parent), by_walk(parent))


@pytest.mark.parametrize("name", ["unequal_depths", "ragged", "forest"])
def test_other_ids_of_inner_nodes_change_nothing(name):
    parent = zoo(name)
    leaf = TreeIndex.from_parent(parent).leaf_ids
    inner = torch.ones(len(parent), dtype=torch.bool).index_fill(0, leaf, False).nonzero().view(-1)
    new_id = torch.arange(len(parent))
    new_id[inner] = inner.flip(0)
    other, row = renumber(parent, new_id)
    assert torch.equal(row, torch.arange(len(leaf)))
    assert torch.equal(sibling_rank(other)[new_id], sibling_rank(parent))


def test_trees_of_a_forest_count_as_they_would_alone():
    parents = [zoo(name) for name in ZOO]
    alone = torch.cat([sibling_rank(parent) for parent in parents])
    assert torch.equal(sibling_rank(forest(*parents)), alone)


def test_windows_of_a_sequence_are_counted_in_reading_order():
    h = from_sequence(12, windows=(3,))
    assert sibling_rank(h.tree)[:12].tolist() == [0, 1, 2] * 4
    assert sibling_rank(h.tree)[12:16].tolist() == [0, 1, 2, 3]


def test_it_is_worked_out_once_for_a_tree():
    tree = TreeIndex.from_parent(zoo("ragged"))
    assert sibling_rank(tree) is sibling_rank(tree)


def test_a_tree_of_no_tensor_is_refused():
    with pytest.raises(TypeError, match="Expected 'tree' to be a TreeIndex or a parent vector"):
        sibling_rank([2, 2, 2])
