import re

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GATConv, GCNConv, global_mean_pool

from hsa_geometric.builders import from_clusters, from_networkx, from_parent
from hsa_geometric.data import Hierarchy
from hsa_geometric.data.coarsen import coarsen
from hsa_geometric.functional import clusters_at, hierarchical_attention
from hsa_geometric.nn import HierarchicalAttentionConv
from hsa_geometric.testing import ZOO, forests, zoo

# Leaves 0 and 1 below node 6, 2 to 4 below node 7, leaf 5 beside these below the root 8.
PARENT = torch.tensor([6, 6, 7, 7, 7, 8, 8, 8, 8])
LEVELS = [0, 1, 2, -1, -2, -3]


def sample(parent=PARENT, seed=0):
    g = torch.Generator().manual_seed(seed)
    h = Hierarchy(parent=parent)
    n, t = h.num_nodes, h.num_tree_nodes
    h.x, h.pos = torch.randn(n, 3, generator=g), torch.randn(n, 2, generator=g)
    h.mass = torch.rand(n, generator=g)
    h.edge_index = torch.randint(n, (2, 3 * n), generator=g)
    h.edge_weight = torch.rand(3 * n, generator=g)
    h.edge_attr = torch.randn(3 * n, 2, generator=g)
    h.tree_pos, h.tree_kind = torch.randn(t, 2, generator=g), torch.arange(t)
    is_inner = torch.ones(t, dtype=torch.bool)
    is_inner[h.tree.leaf_ids] = False
    h.inner_kind = h.tree_kind[is_inner]
    h.field, h.z = torch.randn(n, 1, generator=g), torch.arange(n)
    h.face = torch.randint(n, (3, 4), generator=g)
    h.y, h.name = torch.rand(1, 4, generator=g), f"sample {seed}"
    return h


def samples():
    return [sample(zoo(name), i) for i, name in enumerate(ZOO)]


def assert_same(one, other):
    assert set(one.keys()) == set(other.keys())
    for key in one.keys():  # noqa: SIM118
        if isinstance(one[key], torch.Tensor):
            assert one[key].dtype == other[key].dtype, key
            assert_close(one[key], other[key], rtol=1e-6, atol=1e-6, msg=lambda m, k=key: k + m)
        else:
            assert one[key] == other[key], key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_far_from_the_origin_are_as_good_as_near_it(dtype):
    generator = torch.Generator().manual_seed(0)
    near = torch.randint(0, 200, (10_000, 3), generator=generator).double() / 2
    shift = torch.tensor([441_871.0, 6_329_700.0, 0.0], dtype=torch.float64)
    far = (near + shift).to(dtype)  # without rounding
    h = from_clusters([torch.arange(10_000) % 3], x=far, pos=far, field=far)
    coarse = coarsen(h, level=1)
    for key in ("x", "pos", "field"):
        expected = torch.stack([near[i::3].mean(0) for i in range(3)]) + shift
        step = torch.finfo(dtype).eps * (expected.abs() + 1)
        assert coarse[key].dtype == dtype
        assert ((coarse[key] - expected).abs() <= step).all()


def test_means_about_what_is_seen_leave_the_rest_as_it_was():
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([[1.0, inf], [3.0, 2.0], [nan, 5.0], [nan, inf], [7.0, -inf], [9.0, nan]])
    mass = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 3.0])
    h = from_clusters([[0, 0, 0, 1, 2, 2]], x=x, mass=mass)
    expected = torch.tensor([[2.0, inf], [0.0, 0.0], [8.5, nan]])
    assert_close(coarsen(h, level=1).x, expected, equal_nan=True)
    half = from_clusters([[0, 0, 0]], x=torch.tensor([[0.1], [0.2], [60_000.0]]).half())
    assert_close(coarsen(half, level=0).x, half.x.float().mean(0, keepdim=True).half())


def test_gradients_of_means_are_shares():
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    mass = torch.tensor([1.0, 3.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    coarsen(from_clusters([[0, 0, 0, 1, 1]], x=x, mass=mass), level=1).x.sum().backward()
    assert_close(x.grad[:, 0], torch.tensor([0.25, 0.75, 0.0, 0.5, 0.5], dtype=torch.float64))


def test_by_hand():
    h = from_parent(
        PARENT,
        x=torch.tensor([[1.0], [2.0], [3.0], [4.0], [8.0], [9.0]]),
        pos=torch.eye(6)[:, :2],
        mass=torch.tensor([3.0, 1.0, 1.0, 1.0, 2.0, 0.5]),
        edge_index=torch.tensor([[0, 0, 1, 2, 5, 5], [1, 2, 3, 4, 5, 0]]),
        edge_attr=torch.tensor([[0.0], [1.0], [3.0], [0.0], [0.0], [7.0]]),
        tree_kind=torch.arange(9),
        inner_x=torch.tensor([60.0, 70.0, 80.0]),
        y=torch.tensor([5.0]),
        face=torch.zeros(3, 1, dtype=torch.long),
    )
    coarse = coarsen(h, 1)
    assert coarse.validate() and type(coarse) is Hierarchy
    assert coarse.parent.tolist() == [3, 3, 3, 3]
    assert coarse.x.view(-1).tolist() == [5 / 4, 23 / 4, 9.0]
    assert coarse.pos.tolist() == [[0.75, 0.25], [0.0, 0.0], [0.0, 0.0]]
    assert coarse.mass.tolist() == [4.0, 4.0, 0.5]
    assert coarse.edge_index.tolist() == [[0, 2], [1, 0]]
    assert coarse.edge_weight.tolist() == [2.0, 1.0]
    assert coarse.edge_attr.tolist() == [[2.0], [7.0]]
    assert coarse.tree_kind.tolist() == [6, 7, 5, 8]
    assert coarse.inner_x.tolist() == [80.0]  # 6 and 7 are leaves now
    assert coarse.y.tolist() == [5.0]
    assert "face" not in coarse and "batch" not in coarse
    assert h.num_nodes == 6 and "face" in h and "edge_weight" not in h  # not changed


def test_reductions_of_features_and_edges():
    h = sample()
    cluster = clusters_at(PARENT, 1).cluster
    x = coarsen(h, 1, reduce="max").x
    assert all(torch.equal(x[k], h.x[cluster == k].amax(0)) for k in range(3))
    x = coarsen(h, 1, reduce="sum").x
    assert_close(x[0], (h.mass[:2, None] * h.x[:2]).sum(0))
    total, mean, count = (
        coarsen(h, 1, edge_reduce=how).edge_weight for how in ("sum", "mean", "count")
    )
    assert_close(mean * count, total)
    assert torch.equal(count, count.round()) and count.max() > 1


@pytest.mark.parametrize("level", [*LEVELS, 7, -7])
@pytest.mark.parametrize("name", ZOO)
def test_the_result_is_a_valid_hierarchy_of_the_clusters(name, level):
    h = sample(zoo(name))
    coarse = coarsen(h, level)
    clusters = clusters_at(h.parent, level)
    assert coarse.validate()
    assert coarse.num_nodes == clusters.num_clusters and coarse.num_trees == h.num_trees
    assert torch.equal(coarse.tree_kind[: coarse.num_nodes], clusters.node)
    assert torch.equal(coarse.tree_kind[coarse.parent], h.parent[coarse.tree_kind])
    assert_close(coarse.mass.sum(), h.mass.sum())
    assert_close(coarse.mass @ coarse.x, h.mass @ h.x)
    assert torch.equal(coarse.inner_kind, coarse.tree_kind[coarse.num_nodes :])


@pytest.mark.parametrize("levels", [(-2, -3), (2, 1), (-3, -4)])
@pytest.mark.parametrize("name", ["ragged", "unequal_depths", "shuffled_forest", "deep"])
def test_coarsening_in_two_steps_is_coarsening_in_one(name, levels):
    h = sample(zoo(name))
    del h.edge_attr  # a mean of means
    fine, coarse = levels
    relative = coarse if coarse >= 0 else coarse - fine - 1
    twice = coarsen(coarsen(h, fine), relative)
    assert_same(twice, coarsen(h, coarse))


@pytest.mark.parametrize("level", LEVELS)
def test_a_coarsened_batch_is_the_batch_of_the_coarsened_samples(level):
    data_list = samples()
    batch = Batch.from_data_list(data_list)
    one_by_one = [coarsen(h, level) for h in data_list]
    expected = Batch.from_data_list(one_by_one)
    coarse = coarsen(batch, level)
    assert type(coarse) is type(expected) and coarse.validate()
    assert coarse.num_graphs == len(data_list)
    assert_same(coarse, expected)
    for one, other in zip(coarse.to_data_list(), one_by_one, strict=True):
        assert_same(one, other)


@given(st.lists(forests(max_nodes=12), min_size=1, max_size=4), st.integers(-4, 4))
@settings(max_examples=40, deadline=None)
def test_batches_of_any_forests(parents, level):
    data_list = [from_parent(p) for p in parents]
    for i, h in enumerate(data_list):
        h.edge_index = sample(h.parent, i).edge_index
        h.pos = sample(h.parent, i).pos
    coarse = coarsen(Batch.from_data_list(data_list), level)
    assert coarse.validate()
    expected = Batch.from_data_list([coarsen(h, level) for h in data_list])
    assert_same(coarse, expected)
    assert coarse.batch.diff().ge(0).all()  # the trees of one sample stay together


@pytest.mark.parametrize("level", [1, -2])
def test_follow_batch(level):
    keys = ["x", "tree_pos", "inner_kind", "edge_index", "edge_attr", "y", "face", "z"]
    data_list = samples()
    batch = next(iter(DataLoader(data_list, batch_size=len(data_list), follow_batch=keys)))
    coarse = coarsen(batch, level)
    one_by_one = [coarsen(h, level) for h in data_list]
    expected = Batch.from_data_list(one_by_one, follow_batch=keys)
    assert_same(coarse, expected)
    assert torch.equal(coarse.x_batch, coarse.batch)
    assert "face_batch" not in coarse and "z_ptr" not in coarse
    for one, other in zip(coarse.to_data_list(), one_by_one, strict=True):
        assert_same(one, other)


def test_a_loader_may_coarsen_as_it_loads():
    data_list = samples()
    coarse = [coarsen(h, -2) for h in data_list]
    loaded = next(iter(DataLoader(coarse, batch_size=len(coarse))))
    assert_same(loaded, coarsen(Batch.from_data_list(data_list), -2))


def test_a_batch_vector_without_ptr_may_be_in_any_order():
    h = from_clusters([[0, 1, 2, 0, 1]], batch=[0, 1, 0, 0, 1], x=torch.arange(5.0).view(5, 1))
    coarse = coarsen(h, 1)  # below the roots, which are the samples
    assert coarse.batch.tolist() == [0, 1, 0] and "ptr" not in coarse
    assert coarse.x.view(-1).tolist() == [1.5, 2.5, 2.0] and coarse.validate()
    assert coarse.parent.tolist() == [3, 4, 3, 3, 4]
    roots = coarsen(h, 0)
    assert roots.batch.tolist() == [0, 1]
    assert_close(roots.x.view(-1), torch.tensor([5 / 3, 2.5]))


def test_a_given_number_of_nodes_is_forgotten():
    h = sample()
    h.num_nodes = 6
    batch = coarsen(Batch.from_data_list([h, h]), 1)
    assert batch.num_nodes == 6 and "num_nodes" not in batch
    assert all(one.num_nodes == 3 and one.validate() for one in batch.to_data_list())


def test_labels_of_samples_of_one_leaf_are_no_leaf_data():
    h = from_parent([0], y=torch.tensor([3]))
    assert coarsen(h, 0).y.tolist() == [3]
    assert coarsen(Batch.from_data_list([h, h]), 0).y.tolist() == [3, 3]


def test_masses_count_the_leaves_where_there_were_none():
    coarse = coarsen(from_parent(PARENT), 1)
    assert coarse.mass.tolist() == [2.0, 3.0, 1.0] and coarse.mass.dtype == torch.float32
    assert set(coarse.keys()) == {"parent", "mass"}


def test_a_cluster_of_mass_zero_is_zero():
    h = from_parent(PARENT, x=torch.ones(6, 1), mass=[0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    coarse = coarsen(h, 1)
    assert coarse.mass.tolist() == [0.0, 3.0, 1.0]
    assert coarse.x.view(-1).tolist() == [0.0, 1.0, 1.0]


def test_what_has_no_mean_is_dropped_and_what_is_of_the_sample_stays():
    h = from_parent(
        PARENT,
        z=torch.arange(6),
        train_mask=torch.ones(6, dtype=torch.bool),
        load=torch.ones(6, 2),
        y=torch.tensor([[1.0, 2.0]]),
        smiles="CCO",
    )
    h.adj_t = torch.eye(6).to_sparse()
    coarse = coarsen(h, 1)
    assert set(coarse.keys()) == {"parent", "mass", "load", "y", "smiles"}
    assert coarse.load.shape == (3, 2) and coarse.smiles == "CCO"
    assert torch.equal(coarse.y, h.y)


def test_names_of_networkx_nodes_are_dropped():
    tree = nx.balanced_tree(2, 2, create_using=nx.DiGraph)
    h = from_networkx(nx.relabel_nodes(tree, str))
    assert "tree_names" in h and "tree_names" not in coarsen(h, 1)
    batch = Batch.from_data_list([h, h])
    assert "tree_names" not in coarsen(batch, 1).to_data_list()[0]


def test_any_pyg_layer_and_attention_take_a_coarse_batch():
    torch.manual_seed(0)
    batch = coarsen(Batch.from_data_list(samples()), -2)
    out = GCNConv(3, 8)(batch.x, batch.edge_index, batch.edge_weight).relu()
    out = GATConv(8, 4, heads=2, edge_dim=2)(out, batch.edge_index, batch.edge_attr)
    out = HierarchicalAttentionConv(8, 4, heads=2)(out, batch.tree, mass=batch.mass)
    assert out.shape == (batch.num_nodes, 8) and out.isfinite().all()
    assert global_mean_pool(out, batch.batch).shape == (len(ZOO), 8)


def test_attention_sees_a_cluster_as_it_sees_its_leaves_from_outside():
    # All leaves of a cluster alike: the row of a lone leaf is the same before and after.
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    h = from_parent(PARENT, x=x[clusters_at(PARENT, 1).cluster])
    coarse = coarsen(h, 1)
    fine_out, coarse_out = (
        hierarchical_attention(*3 * [d.x.unsqueeze(1)], d.tree, mass=d.mass) for d in (h, coarse)
    )
    assert_close(coarse_out[2], fine_out[5])


def test_gradients_reach_the_leaves():
    h = sample()
    h.x.requires_grad_()
    coarsen(h, 1).x.sum().backward()
    share = h.mass / coarsen(h, 1).mass[clusters_at(PARENT, 1).cluster]
    assert_close(h.x.grad, share.unsqueeze(1).expand(6, 3))


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"level": 1.5}, TypeError, "Expected 'level' to be an integer (got float)"),
        (
            {},
            {"reduce": "attention"},
            ValueError,
            "Expected 'reduce' to be one of ['mean', 'sum', 'max'] (got 'attention')",
        ),
        (
            {},
            {"edge_reduce": "max"},
            ValueError,
            "Expected 'edge_reduce' to be one of ['sum', 'mean', 'count'] (got 'max')",
        ),
        (
            {"x": torch.ones(6, 2).long()},
            {},
            TypeError,
            "Expected 'x' to hold floating-point numbers (got torch.int64)",
        ),
        (
            {"edge_attr": torch.ones(18, 2).long()},
            {},
            TypeError,
            "Expected 'edge_attr' to hold floating-point numbers (got torch.int64)",
        ),
        (
            {"edge_attr": torch.ones(3, 2)},
            {},
            ValueError,
            "Expected 'edge_attr' to have one row for each of the 18 edges (got 3 rows)",
        ),
        (
            {"x": torch.ones(5, 2)},
            {},
            ValueError,
            "Expected 'x' to have one row for each of the 6 leaves (got 5 rows)",
        ),
        ({"edge_index": torch.full((2, 18), 6)}, {}, ValueError, "'edge_index' contains larger"),
        (
            {"batch": torch.tensor([0, 0, 0, 1, 1, 1])},
            {"level": 0},
            ValueError,
            "Expected each tree to lie in one sample of 'batch'",
        ),
    ],
)
def test_bad_input_is_named(change, options, error, message):
    h = Hierarchy.from_dict(sample().to_dict() | change)
    with pytest.raises(error, match=re.escape(message)):
        coarsen(h, **({"level": 1} | options))


def test_plain_data_is_refused():
    with pytest.raises(TypeError, match=r"'data' to be a Hierarchy \(got Data\)"):
        coarsen(Data(x=torch.ones(3, 1)), 1)
