"""Rows of the leaves of one type, whatever is done with the tree."""

import copy
import pickle

import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from hsa_geometric import NestedSignal, NumberLeaves, TensorLeaves, coarsen, from_parent
from hsa_geometric.surgery import permute_leaves, subtree

SIGNAL = NestedSignal({"number": NumberLeaves(), "row": TensorLeaves(2)})


def sample(start=0):
    """Leaves that alternate between the types; each row holds the number of its leaf."""
    rows = torch.arange(start, start + 6.0)[:, None]
    return SIGNAL.to_hierarchy(
        [rows[0].item(), rows[1:3].repeat(1, 2), rows[3].item(), [rows[4:].repeat(1, 2)]]
    )


def numbers(h):
    """The number of each leaf, put together from the rows of both types."""
    out = torch.empty(h.num_nodes)
    for key in ("x_number", "x_row"):
        out[h.leaves_of_type(key)] = h[key][:, 0]
    return out.tolist()


def test_each_leaf_has_the_row_of_its_type():
    h = sample()
    assert h.leaf_type.tolist() == [0, 1, 1, 0, 1, 1] and numbers(h) == [0, 1, 2, 3, 4, 5]
    assert h.rows_of("x_row") == "typed" and h.rows_of("leaf_type") == "leaf"
    assert not h.is_node_attr("x_row") and not h.is_edge_attr("x_row")


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h))]
)
def test_copies_know_it_too(copied):
    assert numbers(copied(sample())) == [0, 1, 2, 3, 4, 5]


def test_part_of_the_leaves_keep_their_rows():
    h = sample()
    assert numbers(h.subgraph(torch.tensor([0, 2, 5]))) == [0, 2, 5]
    assert numbers(subtree(h, int(h.parent[1]))) == [1, 2]
    batch = Batch.from_data_list([h, sample(10)], follow_batch=["x_row"])
    part = batch.subgraph(torch.tensor([1, 3, 6, 7, 11]))
    assert part.validate() and numbers(part) == [1, 3, 10, 11, 15]
    assert part.x_row_batch.tolist() == [0, 1, 1] and part.x_row_ptr.tolist() == [0, 1, 3]


def test_another_order_of_the_leaves_takes_the_rows_along():
    perm = [5, 3, 0, 1, 4, 2]
    assert numbers(permute_leaves(sample(), perm)) == perm
    batch = Batch.from_data_list([sample(), sample(10)])
    out = permute_leaves(batch, perm + [i + 6 for i in perm])
    assert numbers(out) == perm + [i + 10 for i in perm]
    assert numbers(out.to_data_list()[1]) == [i + 10 for i in perm]


def test_a_loader_batches_them_by_concatenation():
    samples = [sample(), SIGNAL.to_hierarchy(10.0), sample(20)]
    batch = next(iter(DataLoader(samples, batch_size=3)))
    assert batch.validate() and numbers(batch) == [0, 1, 2, 3, 4, 5, 10, *range(20, 26)]


def test_collapsed_chains_take_position_and_domain_of_the_place():
    h = SIGNAL.to_hierarchy([1.0, {"a": 2.0}]).collapse_chains()
    assert h.tree_kind.tolist() == [1, 1, 0] and h.tree_pos[:, 0].tolist() == [0, 1, 0]
    assert numbers(h) == [1, 2]


def test_a_wrong_number_of_rows_is_named():
    h = sample()
    h.x_row = h.x_row[:2]
    with pytest.raises(ValueError, match=r"'x_row' .* the 4 leaves of type 1 \(got 2 rows\)"):
        h.validate()
    del h["leaf_type"]
    with pytest.raises(ValueError, match="Expected 'leaf_type'"):
        h.validate()
    with pytest.raises(ValueError, match=r"rows of leaves of one type \(got 'tree_pos'\)"):
        h.leaves_of_type("tree_pos")


def test_means_over_types_are_refused():
    with pytest.raises(ValueError, match=r"leaves of one type.*'x_number'"):
        coarsen(sample(), 1)
    h = sample()
    h.x = torch.rand(6, 3)
    del h["x_row"], h["x_number"]
    assert coarsen(h, 1).x.shape == (4, 3)


def test_samples_of_other_types_do_not_batch():
    other = NestedSignal({"row": TensorLeaves(2), "number": NumberLeaves()})
    with pytest.raises(ValueError, match=r"got rows of leaves of type 0 in sample 0, rows of leav"):
        Batch.from_data_list([sample(), other.to_hierarchy(1.0)])
    bare = from_parent([1, 1])
    for key, value in sample().to_dict().items():
        if key not in ("parent", "_record"):
            bare[key] = value
    with pytest.raises(ValueError, match=r"set after it was built in sample 1"):
        Batch.from_data_list([sample(), bare])
