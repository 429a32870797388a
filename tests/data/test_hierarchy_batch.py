import copy
import pickle

import pytest
import torch
from helpers import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, InMemoryDataset
from torch_geometric.loader import DataLoader

from hsa_geometric.data import Hierarchy

PARENTS = [
    [3, 3, 4, 4, 4],  # ragged
    [0],  # one node
    [1, 2, 2],  # chain
    [4, 4, 4, 4, 4],  # star
    [0, 0, 1, 1, 0],  # ids not leaves first
]


@st.composite
def parents(draw):
    """A random forest, parents after their children."""
    n = draw(st.integers(1, 8))
    return torch.tensor([draw(st.integers(i, n - 1)) for i in range(n)])


def sample(parent, seed=0, sizes=True):
    g = torch.Generator().manual_seed(seed)
    parent = torch.as_tensor(parent)
    h = Hierarchy(parent=parent)
    n, t = h.num_nodes, h.num_tree_nodes
    if sizes:
        h.x = torch.rand(n, 2, generator=g)
        h.mass = torch.rand(n, generator=g)
        h.edge_index = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
        h.y = torch.rand(1, generator=g)
        h.tree_pos = torch.rand(t, 2, generator=g)
        h.tree_kind = torch.randint(3, (t,), generator=g)
        h.inner_x = torch.rand(t - n, 3, generator=g)
        h.tree_index = torch.randint(3, (t,), generator=g)  # no index in PyG's sense
    return h


def samples(sizes=True):
    return [sample(parent, i, sizes) for i, parent in enumerate(PARENTS)]


def assert_is_batch_of(batch, data_list):
    offset = rows = 0
    assert isinstance(batch, Hierarchy)
    assert batch.num_graphs == batch.num_trees == len(data_list)
    assert batch.num_nodes == sum(h.num_nodes for h in data_list)
    assert batch.depth == max(h.depth for h in data_list)
    assert batch.validate()
    for i, h in enumerate(data_list):
        t, n = h.num_tree_nodes, h.num_nodes
        assert torch.equal(batch.parent[offset : offset + t], h.parent + offset)
        assert torch.equal(batch.tree.leaf_ids[rows : rows + n], h.tree.leaf_ids + offset)
        assert torch.equal(batch.tree.level[offset : offset + t], h.tree.level)
        assert (batch.batch[rows : rows + n] == i).all()
        offset, rows = offset + t, rows + n


def test_batch_by_hand():
    batch = Batch.from_data_list([sample(PARENTS[0]), sample(PARENTS[1])])
    assert batch.parent.tolist() == [3, 3, 4, 4, 4, 5]
    assert batch.tree.leaf_ids.tolist() == [0, 1, 2, 5]
    assert batch.batch.tolist() == [0, 0, 0, 1]
    assert batch.edge_index.tolist() == [[0, 1], [1, 2]]
    assert batch.parent_edge_index.tolist() == [[0, 1, 2, 3], [3, 3, 4, 4]]
    assert repr(batch).startswith("HierarchyBatch(leaves=4, nodes=6, trees=2, depth=2, x=[4, 2]")


@pytest.mark.parametrize("sizes", [True, False])
def test_batched_is_one_by_one(sizes, recwarn):
    data_list = samples(sizes)
    batch = Batch.from_data_list(data_list)
    assert_is_batch_of(batch, data_list)
    for one, other in zip(data_list, batch.to_data_list(), strict=True):
        assert_same(one, other)
    assert_same(batch.get_example(2), data_list[2])
    assert not [w for w in recwarn if "num_nodes" in str(w.message)]


@given(st.lists(parents(), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_forests_batch_and_come_back(parent_list):
    data_list = [sample(p, i) for i, p in enumerate(parent_list)]
    batch = Batch.from_data_list(data_list)
    assert batch.validate()
    assert batch.num_trees == sum(h.num_trees for h in data_list)
    for one, other in zip(data_list, batch.to_data_list(), strict=True):
        assert_same(one, other)


def test_a_remembered_tree_does_not_disturb_batching():
    data_list = samples()
    plain = Batch.from_data_list(samples())
    for h in data_list:
        assert h.tree is not None
    batch = Batch.from_data_list(data_list)
    assert_same(batch, plain)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_a_batch_is_copied_whole(how):
    data_list = samples()
    batch = Batch.from_data_list(data_list)
    assert batch.depth == 2
    out = how(batch)
    assert_is_batch_of(out, data_list)
    assert_same(out.get_example(3), data_list[3])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_data_loader_yields_whole_trees(num_workers):
    data_list = samples() * 2
    loader = DataLoader(data_list, batch_size=4, num_workers=num_workers)
    seen = 0
    for batch in loader:
        chunk = data_list[seen : seen + batch.num_graphs]
        assert_is_batch_of(batch, chunk)
        for one, other in zip(chunk, batch.to_data_list(), strict=True):
            assert_same(one, other)
        seen += len(chunk)
    assert seen == len(data_list)


def test_follow_batch_works_for_tree_keys():
    data_list = samples()
    batch = Batch.from_data_list(data_list, follow_batch=["parent", "tree_pos", "mass"])
    t = torch.tensor([h.num_tree_nodes for h in data_list])
    expected = torch.arange(len(t)).repeat_interleave(t)
    assert torch.equal(batch.parent_batch, expected)
    assert torch.equal(batch.tree_pos_batch, expected)
    assert torch.equal(batch.mass_batch, batch.batch)
    assert batch.validate()
    for one, other in zip(data_list, batch.to_data_list(), strict=True):
        assert_same(one, other)


def test_exclude_keys_works():
    batch = Batch.from_data_list(samples(), exclude_keys=["tree_pos", "x"])
    assert "tree_pos" not in batch and "x" not in batch
    assert batch.num_trees == len(PARENTS) and batch.validate()
    assert Batch.from_data_list(samples(), exclude_keys=["parent"]).num_nodes == 12


def test_a_batch_of_forests_is_a_forest():
    forest = Hierarchy(parent=torch.tensor([2, 3, 2, 3]))
    batch = Batch.from_data_list([forest, forest])
    assert batch.num_graphs == 2 and batch.num_trees == 4


def test_collapsing_a_batch_collapses_every_sample():
    data_list = samples()
    for h in data_list:
        h.num_nodes = h.num_nodes  # written down, as some data sets do
    batch = Batch.from_data_list(data_list, follow_batch=["parent"])
    kept = batch.parent.clone()
    out = batch.collapse_chains()
    alone = [h.collapse_chains() for h in data_list]
    expected = Batch.from_data_list(alone, follow_batch=["parent"])
    assert_same(out, expected)
    for one, other in zip(alone, out.to_data_list(), strict=True):
        assert_same(one, other)
    assert torch.equal(batch.parent, kept)  # the old batch still splits
    assert_same(batch.get_example(2), data_list[2])


def test_a_subgraph_of_a_batch_is_valid_and_says_that_it_cannot_be_split():
    batch = Batch.from_data_list(samples())
    mask = torch.arange(batch.num_nodes) % 2 == 0
    out = batch.subgraph(mask)
    assert out.validate()
    assert torch.equal(out.batch, batch.batch[mask])
    counts = torch.bincount(out.batch, minlength=len(PARENTS))
    assert torch.equal(out.ptr.diff(), counts)
    with pytest.raises(RuntimeError, match="Cannot reconstruct"):
        out.get_example(0)
    assert_same(batch.get_example(0), samples()[0])


def test_batches_of_batches_increment_twice():
    pair = Batch.from_data_list(samples()[:2])
    both = Batch.from_data_list([pair, pair])
    flat = Batch.from_data_list(samples()[:2] * 2)
    assert torch.equal(both.parent, flat.parent)
    assert torch.equal(both.batch, flat.batch)


def test_an_in_memory_dataset_returns_its_samples(tmp_path):
    class Trees(InMemoryDataset):
        def __init__(self, root):
            super().__init__(root)
            self.load(self.processed_paths[0], data_cls=Hierarchy)

        @property
        def processed_file_names(self):
            return "data.pt"

        def process(self):
            self.save(samples(), self.processed_paths[0])

    dataset = Trees(str(tmp_path))
    assert len(dataset) == len(PARENTS)
    for one, other in zip(samples(), dataset, strict=True):
        assert_same(one, other)


def test_samples_on_different_devices_keep_batching_after_to():
    data_list = [h.to("cpu") for h in samples()]
    batch = Batch.from_data_list(data_list).to("cpu")
    assert_is_batch_of(batch, data_list)
