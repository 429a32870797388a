"""What was passed as data of leaves is that, whatever its name and whatever its length."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from hsa_geometric import Hierarchy, coarsen, from_networkx, from_parent, from_points, to_networkx
from hsa_geometric.data.rows import EDGE_KEYS, OTHER, REFERENCES
from hsa_geometric.surgery import cut, merge, permute_leaves, rebalance, subtree
from hsa_geometric.transforms import PointHierarchy

PARENT = [6, 6, 6, 7, 7, 8, 8, 8, 8]  # 6 leaves in 2 families and one beside them
RING = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])  # as many edges as leaves
ODD = [
    "surface_area", "face_area", "vertex_index", "index", "edge_length", "hedge", "adjacency",
    "adj_x", "mini_batch", "x_batch", "edge", "time", "node_type", "y", "norm", "batch_index",
    "keys",
]  # fmt: skip
RESERVED = {*EDGE_KEYS, *REFERENCES, *OTHER, "x", "pos", "z", "mass", "batch", "parent", "internal"}

words = st.sampled_from(
    ["edge", "index", "face", "adj", "batch", "ptr", "node", "tree", "x", "t", "_", "-", " ", "é"]
)
names = st.one_of(
    st.sampled_from(ODD),
    st.lists(words, min_size=1, max_size=4).map("".join),
    st.lists(words, min_size=1, max_size=3).map("_".join),
    st.text(max_size=8),
)
free_names = names.filter(
    lambda name: (
        name not in RESERVED
        and not name.startswith(("_", "tree_", "inner_"))
        and name not in ("tree", "depth", "num_trees")
    )
)


def hierarchy(name, value=None, edges=True, **more):
    value = torch.arange(6.0) if value is None else value
    edges = {"edge_index": RING, "edge_attr": torch.arange(6.0)} if edges else {}
    return from_parent(PARENT, **{name: value}, x=torch.arange(6.0).view(6, 1), **edges, **more)


def assert_follows(h, name):
    """The named rows are those of ``x``, one for each leaf."""
    assert h.validate() and h.rows_of(name) == "leaf"
    assert torch.equal(h[name], h.x.view(-1))


@given(free_names, st.booleans())
@settings(max_examples=80, deadline=None)
def test_rows_follow_their_leaves_under_any_name(name, edges):
    h = hierarchy(name, edges=edges)
    assert_follows(h, name)
    assert h.is_node_attr(name) and not h.is_edge_attr(name)
    assert h.num_edges == (6 if edges else 0)
    assert_follows(permute_leaves(h, [5, 3, 4, 0, 2, 1]), name)
    assert permute_leaves(h, [5, 3, 4, 0, 2, 1])[name].tolist() == [5, 3, 4, 0, 2, 1]
    mask = torch.tensor([True, False, True, True, False, False])
    assert h.subgraph(mask)[name].tolist() == [0, 2, 3]
    assert_follows(h.subgraph(mask), name)
    assert subtree(h, 7)[name].tolist() == [3, 4]
    assert_follows(subtree(h, 7), name)
    assert coarsen(h, 1)[name].tolist() == [1.0, 3.5, 5.0]
    for same in (cut(h, level=0), rebalance(h, max_branching=2), h.collapse_chains()):
        assert_follows(same, name)


@given(free_names, st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_batches_keep_rows_as_they_are_and_give_them_back(name, sizes):
    samples = [from_parent([n] * (n + 1), **{name: torch.arange(n) + 7}) for n in sizes]
    batch = Batch.from_data_list(samples)
    assert batch[name].tolist() == [i + 7 for n in sizes for i in range(n)]
    assert batch.validate() and batch.num_edges == 0
    for same in (batch, pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), batch.to("cpu")):
        for one, h in zip(same.to_data_list(), samples, strict=True):
            assert torch.equal(one[name], h[name]) and torch.equal(one.parent, h.parent)
            assert one.rows_of(name) == "leaf"
    assert merge(samples)[name].tolist() == batch[name].tolist()


@given(free_names, st.integers(0, 12))
@settings(max_examples=80, deadline=None)
def test_rows_of_any_other_length_are_refused_by_name(name, rows):
    if rows in (1, 6):  # of the sample, of the leaves
        assert hierarchy(name, torch.zeros(rows)).rows_of(name) == (
            "leaf" if rows == 6 else "sample"
        )
    else:
        with pytest.raises(ValueError) as caught:
            hierarchy(name, torch.zeros(rows))
        assert f"'{name}'" in str(caught.value) and f"{rows} rows" in str(caught.value)


@given(names, st.integers(2, 12))
@settings(max_examples=80, deadline=None)
def test_validate_finds_rows_of_leaves_that_were_lost(name, rows):
    """Behind the store's back, as some transform might."""
    try:
        h = hierarchy(name, edges=False)
    except (TypeError, ValueError, AttributeError):
        return  # refused at once
    if h.rows_of(name) == "leaf" and rows != 6:
        h._store._mapping[name] = torch.zeros(rows)
        with pytest.raises(ValueError, match="one row for each of the 6 leaves"):
            h.validate()


@pytest.mark.parametrize("name", ["_area", "ptr", "num_edges", "tree_x_batch", "inner_x_ptr"])
def test_names_that_pyg_keeps_for_itself_are_refused(name):
    with pytest.raises(ValueError, match=rf"does not keep for itself \(got '{name}'"):
        hierarchy(name)


@pytest.mark.parametrize("name", ["edge_attr", "edge_weight", "edge_type", "e_id"])
def test_data_of_edges_needs_its_edges(name):
    with pytest.raises(ValueError, match=rf"'{name}' .* each of the 0 edges \(got 6 rows\)"):
        from_parent(PARENT, **{name: torch.zeros(6)})
    with pytest.raises(ValueError, match=rf"'{name}' .* each of the 6 edges \(got 9 rows\)"):
        from_parent(PARENT, edge_index=RING, **{name: torch.zeros(9)})


def test_faces_name_leaves():
    with pytest.raises(ValueError, match=r"'face' to hold leaf rows in \[0, 5\] \(got 0 to 6\)"):
        from_parent(PARENT, face=torch.tensor([[0], [1], [6]]))


def test_lists_and_arrays_of_leaves_follow_in_batches_too():
    samples = [
        from_parent([3] * 4, face_name=["a", "b", "c"], index_name=np.array(["a", "b", "c"])),
        from_parent([2] * 3, face_name=["d", "e"], index_name=np.array(["d", "e"])),
    ]
    assert permute_leaves(samples[0], [2, 0, 1]).face_name == ["c", "a", "b"]
    batch = Batch.from_data_list(samples)
    out = permute_leaves(batch, [2, 0, 1, 4, 3])
    assert out.face_name == [["c", "a", "b"], ["e", "d"]]
    assert [part.tolist() for part in out.index_name] == [["c", "a", "b"], ["e", "d"]]
    out = batch.subgraph(torch.tensor([True, False, True, False, True]))
    assert out.face_name == [["a", "c"], ["e"]]


def test_data_of_a_sample_is_never_taken_for_rows():
    """A number under the name of an index is not counted up, nor rows of one edge sorted."""
    samples = [
        from_parent([2, 2, 2], graph_index=5, edge_count=torch.tensor([n]), y=torch.tensor([[1.0]]))
        for n in (3, 4)
    ]
    for h in samples:
        h.edge_index = torch.tensor([[0], [1]])  # one edge
        assert h.rows_of("y") == h.rows_of("graph_index") == h.rows_of("edge_count") == "sample"
        assert not any(map(h.is_edge_attr, ("y", "graph_index", "edge_count")))
    batch = Batch.from_data_list(samples)
    assert batch.graph_index.tolist() == [5, 5] and batch.edge_count.tolist() == [3, 4]
    assert batch.rows_of("y") == "sample"


def test_a_sample_of_one_leaf_may_go_with_others():
    leaf, tree = (from_parent(p, y=torch.tensor([1.0])) for p in ([0], [2, 2, 2]))
    for samples in ([leaf, tree], [tree, leaf]):
        assert Batch.from_data_list(samples).rows_of("y") == "sample"
    tree = from_parent([2, 2, 2], y=torch.tensor([1.0, 2.0]))
    for samples in ([leaf, tree], [tree, leaf]):
        assert Batch.from_data_list(samples).rows_of("y") == "leaf"


def test_what_is_set_afterwards_follows_the_rules_of_pyg():
    h = hierarchy("y")
    h.train_index = torch.tensor([0, 5])
    h.edge_time = torch.arange(6)
    h.train_mask = torch.arange(6) > 2
    assert [h.rows_of(k) for k in ("train_index", "edge_time", "train_mask")] == [
        "reference",
        "edge",  # as many leaves as edges: the name decides
        "leaf",
    ]
    batch = Batch.from_data_list([h, h])
    assert batch.train_index.tolist() == [0, 5, 6, 11]
    del h["train_index"]
    out = h.subgraph(torch.tensor([3, 4, 5]))
    assert out.edge_time.tolist() == [3, 4] and out.train_mask.all()


def test_a_value_that_is_replaced_stays_what_it_is_or_becomes_one_of_the_sample():
    h = hierarchy("vertex_index", y=torch.arange(6))
    h.vertex_index = h.vertex_index + 1
    assert h.rows_of("vertex_index") == "leaf"
    h.y = h.y.sum()
    assert h.rows_of("y") == "sample"
    h.y = torch.arange(6)
    assert h.rows_of("y") == "leaf"
    del h.vertex_index
    h.vertex_index = torch.arange(6)  # set by hand: a pointer, as PyG has it
    assert h.rows_of("vertex_index") == "reference"


@pytest.mark.parametrize("name", ["x", "surface_area"])
def test_leaves_do_not_come_or_go_without_their_tree(name):
    h = hierarchy("surface_area")
    with pytest.raises(
        ValueError, match=rf"'{name}' .* the 6 leaves \(got 4 rows\).*'parent' first"
    ):
        h[name] = h[name][:4]
    h.parent = torch.tensor([4] * 5)
    h.x, h.surface_area = h.x[:4], h.surface_area[:4]
    h.edge_index, h.edge_attr = RING[:, :3], h.edge_attr[:3]
    assert_follows(h, "surface_area")


def test_dictionaries_remember():
    h = hierarchy("vertex_index")
    assert_follows(Hierarchy.from_dict(h.to_dict()), "vertex_index")
    other = Hierarchy()
    for key, value in h.to_dict().items():
        other[key] = value
    assert_follows(other, "vertex_index")
    assert_follows(Hierarchy().update(h.to_dict()), "vertex_index")
    assert set(other.keys()) == set(h.keys())


def test_a_dataset_on_disk_remembers(tmp_path):
    class Points(InMemoryDataset):
        def __init__(self, root):
            super().__init__(root)
            self.load(self.processed_paths[0], data_cls=Hierarchy)

        @property
        def processed_file_names(self):
            return "data.pt"

        def process(self):
            self.save([hierarchy("vertex_index") for _ in range(3)], self.processed_paths[0])

    dataset = Points(str(tmp_path))
    assert_follows(dataset[2], "vertex_index")
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch.vertex_index.tolist() == list(range(6)) * 3
    assert batch.rows_of("vertex_index") == "leaf"


def test_worker_processes_remember():
    loader = DataLoader([hierarchy("vertex_index")] * 4, batch_size=2, num_workers=1)
    for batch in loader:
        assert batch.vertex_index.tolist() == list(range(6)) * 2
        assert batch[1].rows_of("vertex_index") == "leaf"


def test_networkx_keeps_leaf_data_under_any_name_both_ways():
    for name in ("surface_area", "vertex_index", "edge_length", "adjacency"):
        graph = to_networkx(hierarchy(name, edges=False))
        assert [graph.nodes[i][name] for i in range(6)] == [0, 1, 2, 3, 4, 5]
        again = from_networkx(graph)
        assert_follows(again, name)


def test_a_transform_keeps_what_an_earlier_builder_recorded():
    h = from_points(torch.rand(6, 2), vertex_index=torch.arange(6) + 10)
    again = PointHierarchy(branching=2)(h)
    assert again.rows_of("vertex_index") == "leaf"
    data = Data(pos=torch.rand(6, 2), vertex_index=torch.arange(6))  # PyG's: a pointer
    assert PointHierarchy()(data).rows_of("vertex_index") == "reference"


def test_subgraphs_keep_whole_faces_and_refuse_other_pointers():
    h = from_parent(PARENT, face=torch.tensor([[0, 2], [1, 3], [2, 4]]), x=torch.rand(6, 1))
    out = h.subgraph(torch.tensor([2, 3, 4]))
    assert out.face.tolist() == [[0], [1], [2]]
    h.train_index = torch.tensor([0, 5])
    with pytest.raises(ValueError, match=r"names leaves by row .* 'train_index'"):
        h.subgraph(torch.tensor([2, 3, 4]))
