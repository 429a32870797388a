import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from hsa_geometric.builders import from_parent
from hsa_geometric.data import Hierarchy
from hsa_geometric.testing import forests

PARENT = [3, 3, 4, 4, 4]


@pytest.mark.parametrize(
    "parent",
    [
        PARENT,
        tuple(PARENT),
        torch.tensor(PARENT),
        torch.tensor(PARENT, dtype=torch.int32),
        np.array(PARENT),
        np.array(PARENT, dtype=np.uint32),
        np.array(PARENT)[::-1][::-1],
    ],
)
def test_any_vector_of_integers_is_a_parent_vector(parent):
    h = from_parent(parent)
    assert isinstance(h, Hierarchy)
    assert h.parent.dtype == torch.int64
    assert h.parent.tolist() == PARENT


def test_minus_one_marks_a_root_and_does_not_survive():
    parent = torch.tensor([2, 3, -1, -1])
    h = from_parent(parent)
    assert h.parent.tolist() == [2, 3, 2, 3]
    assert h.num_trees == 2
    assert parent.tolist() == [2, 3, -1, -1]
    assert Batch.from_data_list([h, h]).num_trees == 4


def test_the_numbering_stays_where_leaves_do_not_come_first():
    h = from_parent([0, 0, 0, 2, 2], x=torch.tensor([[1.0], [3.0], [4.0]]))
    assert h.parent.tolist() == [0, 0, 0, 2, 2]
    assert h.tree.leaf_ids.tolist() == [1, 3, 4]


def test_arrays_are_copied():
    parent, x = np.array(PARENT), np.ones((3, 2))
    h = from_parent(parent, x=x)
    parent[:] = 0
    x[:] = 0
    assert h.parent.tolist() == PARENT
    assert h.x.sum() == 6


def test_leaf_data_of_every_sort_is_taken():
    h = from_parent(
        PARENT,
        x=[[1.0], [2.0], [3.0]],
        mass=[1, 2, 0],
        pos=np.zeros((3, 2)),
        y=[0.5],
        z=torch.arange(3),
        charge=torch.rand(3),
        glob=torch.rand(1, 7),
        number=torch.tensor(4),
        name="aspirin",
        edge_index=torch.tensor([[0], [1]]),
        edge_attr=torch.rand(1, 2),
        tree_pos=torch.rand(5, 1),
        tree_kind=[0, 0, 0, 1, 2],
        inner_area=[1.0, 2.0],
    )
    assert h.validate()
    assert h.x.shape == (3, 1) and h.y.tolist() == [0.5] and h.name == "aspirin"
    assert from_parent([2, 3, 2, 3], y=torch.rand(2, 1)).num_trees == 2


@given(forests(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_forest_is_valid_whatever_its_ids_and_the_mark_of_its_roots(parent, marked):
    roots = parent == torch.arange(parent.numel())
    given_parent = torch.where(roots, -1, parent) if marked else parent
    leaves = torch.bincount(parent[~roots], minlength=parent.numel()) == 0
    h = from_parent(given_parent, x=leaves.nonzero().view(-1))
    assert h.validate() and torch.equal(h.parent, parent)
    assert h.num_trees == roots.sum() and torch.equal(h.tree.leaf_ids, h.x)


@pytest.mark.parametrize(
    ("parent", "error", "match"),
    [
        ([], ValueError, "'parent' to hold at least one entry"),
        ([[0, 1]], ValueError, r"'parent' to be one-dimensional \(got 2 dimensions\)"),
        ([0.0, 1.0], TypeError, "'parent' to hold integers"),
        ([True], TypeError, "'parent' to hold integers"),
        (torch.rand(3), TypeError, "'parent' to hold integers"),
        ([[0], [1, 2]], TypeError, "'parent' to be a vector of integers"),
        (["a"], TypeError, "'parent' to be a vector of integers"),
        (None, TypeError, "'parent' to be a vector of integers"),
        ([1, 2, 5], ValueError, r"parent\[2\] = 5"),
        ([1, -2], ValueError, r"parent\[1\] = -2"),
        ([1, 0], ValueError, "cycle above node 0"),
        ([0, 0, 3, 2], ValueError, "cycle above node 2"),
    ],
)
def test_a_bad_parent_vector_is_named(parent, error, match):
    with pytest.raises(error, match=match):
        from_parent(parent)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        ({"x": torch.rand(5, 2)}, ValueError, r"'x' .* the 3 leaves \(got 5 rows\)"),
        ({"pos": torch.rand(2, 2)}, ValueError, r"'pos' .* the 3 leaves \(got 2 rows\)"),
        ({"mass": [1.0, -1.0, 0.0]}, ValueError, r"mass\[1\] = -1.0"),
        ({"mass": [1.0, float("nan"), 0.0]}, ValueError, r"mass\[1\] = nan"),
        ({"y": torch.rand(2)}, ValueError, r"'y' .* 3 leaves or .* 1 trees \(got 2 rows\)"),
        ({"charge": torch.rand(5)}, ValueError, r"'charge' .* \(got 5 rows\)"),
        ({"tree_kind": [1, 2]}, ValueError, r"'tree_kind' .* the 5 nodes \(got 2 rows\)"),
        ({"edge_index": torch.tensor([[0], [3]])}, ValueError, "'edge_index'"),
        ({"x": [[1.0], [1.0, 2.0]]}, TypeError, "'x' to hold numbers of one shape"),
        ({"tree": 1}, AttributeError, "Cannot set 'tree'"),
    ],
)
def test_bad_leaf_data_is_named(data, error, match):
    with pytest.raises(error, match=match):
        from_parent(PARENT, **data)
