import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.utils import is_undirected, to_undirected

from hsa_geometric import TreeIndex
from hsa_geometric.functional import clusters_at
from hsa_geometric.functional.coarse_edges import coarse_edges
from hsa_geometric.functional.coarse_tree import coarse_tree
from hsa_geometric.functional.lift import lift
from hsa_geometric.functional.pool import pool
from hsa_geometric.testing import (
    ZOO,
    assert_adjoint,
    assert_isolated,
    caterpillar,
    forest,
    forests,
    star,
    zoo,
)

REDUCTIONS = ["mean", "sum", "max", "attention"]
# Leaves 0 and 1 below node 6, 2 to 4 below node 7, leaf 5 beside these below the root 8.
TREE = torch.tensor([6, 6, 7, 7, 7, 8, 8, 8, 8])


def values(tree, *shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rows = tree if isinstance(tree, int) else TreeIndex.from_parent(tree).num_leaves
    return torch.randn(rows, *shape, generator=generator, dtype=torch.float64).to(dtype)


# --- pool ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.5, 5.0, 9.0]),
        ({"reduce": "sum"}, [3.0, 15.0, 9.0]),
        ({"reduce": "max"}, [2.0, 8.0, 9.0]),
        ({"reduce": "attention", "score": [0.0] * 6}, [1.5, 5.0, 9.0]),
        ({"reduce": "attention", "score": [0.0, 1e4, -1e4, -1e4, -1e4, 7.0]}, [2.0, 5.0, 9.0]),
        # Leaf 1 is padding, and so is all of leaf 5's cluster.
        ({"mass": [3, 0, 1, 1, 2, 0]}, [1.0, 23 / 4, 0.0]),
        ({"mass": [3, 0, 1, 1, 2, 0], "reduce": "sum"}, [3.0, 23.0, 0.0]),
        ({"mass": [3, 0, 1, 1, 0, 0], "reduce": "max"}, [1.0, 4.0, 0.0]),
        (
            {"mass": [3, 0, 1, 1, 2, 0], "reduce": "attention", "score": [0.0] * 6},
            [1.0, 23 / 4, 0.0],
        ),
    ],
)
def test_pool_by_hand(options, expected):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 8.0, 9.0])
    options = {k: torch.tensor(v).float() if k != "reduce" else v for k, v in options.items()}
    out = pool(x, TREE, 1, **options)
    assert_close(out, torch.tensor(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", [1, -2, -3])
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("name", ZOO)
def test_every_cluster_is_reduced_by_itself(name, reduce, level):
    tree = zoo(name)
    x = values(tree, 2, 3)
    mass = values(tree, seed=1).abs()
    mass[::3] = 0
    score = values(tree, 2, seed=2)
    clusters = clusters_at(tree, level)
    options = {"score": score} if reduce == "attention" else {}
    out = pool(x, tree, level, reduce=reduce, mass=mass, **options)
    for k in range(clusters.num_clusters):
        mine = (clusters.cluster == k) & (mass > 0)
        m, rows = mass[mine].view(-1, 1, 1), x[mine]
        if not mine.any():
            expected = torch.zeros(2, 3, dtype=x.dtype)
        elif reduce == "mean":
            expected = (m * rows).sum(0) / m.sum()
        elif reduce == "sum":
            expected = (m * rows).sum(0)
        elif reduce == "max":
            expected = rows.amax(0)
        else:
            expected = ((score[mine].unsqueeze(-1) + m.log()).softmax(0) * rows).sum(0)
        assert_close(out[k], expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_a_leaf_of_mass_two_equals_two_leaves(reduce):
    one, two = torch.tensor([2, 2, 2]), torch.tensor([3, 3, 3, 3])
    x, score = values(2, 3), values(2, seed=1)
    twice = torch.tensor([0, 0, 1])
    options = [{"score": s} if reduce == "attention" else {} for s in (score, score[twice])]
    heavy = pool(x, one, 0, reduce=reduce, mass=torch.tensor([2.0, 1.0]), **options[0])
    assert_close(heavy, pool(x[twice], two, 0, reduce=reduce, **options[1]))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_whatever_padding_holds_is_not_seen(reduce):
    x, score, mass = values(TREE, 2), values(TREE, seed=1), torch.ones(6)
    mass[[1, 5]] = 0
    options = {"score": score} if reduce == "attention" else {}
    expected = pool(x, TREE, 1, reduce=reduce, mass=mass, **options)
    x[1], score[1] = torch.nan, torch.inf
    x.requires_grad_()
    out = pool(x, TREE, 1, reduce=reduce, mass=mass, **options)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert x.grad.isfinite().all() and not x.grad[[1, 5]].any()


@pytest.mark.parametrize("levels", [(-2, -3), (2, 1), (3, 0), (-2, -2), (-1, -4)])
@pytest.mark.parametrize("name", ["ragged", "unequal_depths", "shuffled_forest", "deep"])
def test_pooling_in_two_steps_is_pooling_in_one(name, levels):
    tree, (fine, coarse) = zoo(name), levels
    x, mass = values(tree, 3), values(tree, seed=1).abs()
    fine_mass = pool(mass, tree, fine, reduce="sum")

    def twice(first, second, **options):
        middle = pool(x, tree, fine, reduce=first, mass=mass)
        return pool(middle, tree, coarse, from_level=fine, reduce=second, **options)

    for reduce, options in (("mean", {"mass": fine_mass}), ("max", {}), ("sum", {})):
        expected = pool(x, tree, coarse, reduce=reduce, mass=mass)
        assert_close(twice(reduce, reduce, **options), expected)
    assert_close(
        twice("mean", "sum", mass=fine_mass), pool(x, tree, coarse, reduce="sum", mass=mass)
    )


def test_attention_pools_heads_and_any_number_of_trailing_dimensions():
    x, score = values(TREE, 2, 3, 4), values(TREE, 2, seed=1)
    out = pool(x, TREE, 1, reduce="attention", score=score)
    assert out.shape == (3, 2, 3, 4)
    for h in range(2):
        one = pool(x[:, h], TREE, 1, reduce="attention", score=score[:, h])
        assert_close(out[:, h], one)
    assert_close(
        pool(x, TREE, 1, reduce="attention", score=score + 50.0),  # a shift changes nothing
        out,
    )


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradients_of_pool(reduce):
    tree = zoo("forest")
    x, mass = values(tree, 2, 2).requires_grad_(), values(tree, seed=1).abs()
    mass[::3] = 0
    mass[:2] = 0
    score = values(tree, 2, seed=2).requires_grad_() if reduce == "attention" else None
    for m in (None, mass):
        torch.autograd.gradcheck(
            lambda x, s, m=m: pool(x, tree, -2, reduce=reduce, mass=m, score=s), (x, score)
        )


# --- lift ----------------------------------------------------------------------------------------


def test_lift_by_hand():
    x = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    assert lift(x, TREE, 1)[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 3.0]
    assert lift(x[:1], TREE, 0, to_level=1).tolist() == [[1.0, 10.0]] * 3


@pytest.mark.parametrize("levels", [(1, -1), (-2, -1), (-3, -2), (1, 2), (0, 3)])
@pytest.mark.parametrize("name", ZOO)
def test_lift_is_the_transpose_of_sum_and_undone_by_mean(name, levels):
    tree, (level, finer) = zoo(name), levels
    x = values(clusters_at(tree, finer).num_clusters, 2)
    y = values(clusters_at(tree, level).num_clusters, 2, seed=1)
    assert_adjoint(
        lambda x: pool(x, tree, level, from_level=finer, reduce="sum"),
        lambda y: lift(y, tree, level, to_level=finer),
        x,
        y,
    )
    lifted = lift(y, tree, level, to_level=finer)
    for reduce in ("mean", "max"):
        assert_close(pool(lifted, tree, level, from_level=finer, reduce=reduce), y)


@given(forests(), st.integers(-4, 4), st.integers(-4, 4))
@settings(max_examples=100, deadline=None)
def test_levels_nest_or_are_refused(tree, level, finer):
    fine, coarse = clusters_at(tree, finer), clusters_at(tree, level)
    nested = all(
        coarse.cluster[fine.cluster == k].unique().numel() == 1 for k in range(fine.num_clusters)
    )
    x, y = values(fine.num_clusters), values(coarse.num_clusters)
    if nested:
        assert lift(y, tree, level, to_level=finer).shape == x.shape
        assert pool(x, tree, level, from_level=finer).shape == y.shape
    else:
        with pytest.raises(ValueError, match=r"'from_level' .* to lie within those of 'level'"):
            pool(x, tree, level, from_level=finer)
        with pytest.raises(ValueError, match=r"'to_level' .* to lie within those of 'level'"):
            lift(y, tree, level, to_level=finer)
    assert nested or (level < 0) != (finer < 0) or level > finer


def test_levels_of_different_signs_may_cross():
    # One tree is a star, the other 3 deep: level 1 are leaves of the one and deep in the other.
    tree = forest(star(3), caterpillar(3))
    with pytest.raises(ValueError, match=r"clusters of 'from_level' -2 .* 'level' 1 .* in tree 0"):
        pool(values(3), tree, 1, from_level=-2)
    with pytest.raises(ValueError, match=r"clusters of 'to_level' 1 .* 'level' -2 .* in tree 1"):
        lift(values(1 + 3), tree, -2, to_level=1)


# --- both ----------------------------------------------------------------------------------------


def test_no_sample_of_a_batch_notices_the_others():
    tree = TreeIndex.from_parent(zoo("forest"))

    def there_and_back(x):
        score = x.sum(-1)
        return lift(pool(x, tree, -2, reduce="attention", score=score), tree, -2)

    assert_isolated(there_and_back, tree, values(tree.num_leaves, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    tree = star(3000)
    x = torch.ones(3000, 1, dtype=dtype).requires_grad_()
    for reduce, expected in (("mean", 1.0), ("sum", 3000.0), ("max", 1.0)):
        out = pool(x, tree, 0, reduce=reduce)
        assert out.dtype == dtype and out.item() == torch.tensor(expected, dtype=dtype).item()
    out = pool(x, tree, 0, reduce="attention", score=torch.zeros(3000, dtype=dtype))
    assert out.dtype == dtype and out.item() == 1.0
    up = torch.ones(1, dtype=dtype).requires_grad_()
    lift(up, tree, 0).sum().backward()
    assert up.grad.dtype == dtype and up.grad.item() == torch.tensor(3000.0, dtype=dtype).item()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "Expected 'x' to be a tensor (got list)"),
        (
            {"x": torch.ones(6).long()},
            TypeError,
            "Expected 'x' to hold floating-point numbers (got torch.int64)",
        ),
        (
            {"x": torch.ones(5)},
            ValueError,
            "Expected 'x' to have one row for each of the 6 leaves (got 5 rows)",
        ),
        (
            {"from_level": -2, "level": 0},
            ValueError,
            "Expected 'x' to have one row for each of the 3 clusters at level -2 (got 6 rows)",
        ),
        (
            {"reduce": "min"},
            ValueError,
            "Expected 'reduce' to be one of ['mean', 'sum', 'max', 'attention'] (got 'min')",
        ),
        ({"level": 1.0}, TypeError, "Expected 'level' to be an integer (got float)"),
        (
            {"mass": torch.ones(3)},
            ValueError,
            "Expected 'mass' to have one row for each of the 6 leaves (got 3 rows)",
        ),
        ({"mass": torch.ones(6, 1)}, ValueError, "Expected 'mass' to have 1 dimensions (got 2"),
        (
            {"mass": torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, 1.0])},
            ValueError,
            "Expected 'mass' to be finite and not negative (got mass[1] = -1.0)",
        ),
        (
            {"mass": torch.ones(6, requires_grad=True)},
            ValueError,
            "Expected 'mass' to be data without gradient",
        ),
        (
            {"reduce": "attention"},
            ValueError,
            "Expected a 'score' for reduce='attention' (got None)",
        ),
        (
            {"score": torch.ones(6)},
            ValueError,
            "Expected no 'score' for reduce='mean' (got a tensor)",
        ),
        (
            {"reduce": "attention", "score": torch.ones(6, 2)},
            ValueError,
            "Expected 'score' to have the leading shape of 'x', [6] (got [6, 2])",
        ),
        (
            {"reduce": "attention", "score": torch.ones(6).long()},
            TypeError,
            "Expected 'score' to hold floating-point numbers (got torch.int64)",
        ),
        ({"tree": [0]}, TypeError, "Expected 'tree' to be a TreeIndex or a parent vector"),
    ],
)
def test_pool_names_bad_input(options, error, message):
    arguments = {"x": torch.ones(6), "tree": TREE, "level": 1} | options
    with pytest.raises(error, match=re.escape(message)):
        pool(**arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": torch.ones(3).int()}, TypeError, "Expected 'x' to hold floating-point numbers"),
        (
            {"x": torch.ones(6)},
            ValueError,
            "Expected 'x' to have one row for each of the 3 clusters at level 1 (got 6 rows)",
        ),
        ({"x": torch.tensor(1.0)}, ValueError, "(got 0 rows)"),
        ({"to_level": "leaves"}, TypeError, "to be an integer (got str)"),
    ],
)
def test_lift_names_bad_input(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        lift(**({"x": torch.ones(3), "tree": TREE, "level": 1} | options))


# --- the coarse tree and the coarse edges --------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 2, 9, -1, -2, -3, -9])
@pytest.mark.parametrize("name", ZOO)
def test_the_coarse_tree_keeps_the_clusters_and_their_ancestors(name, level):
    tree = zoo(name)
    coarse, clusters, node = coarse_tree(tree, level)
    assert torch.equal(node[: clusters.num_clusters], clusters.node)
    assert torch.equal(coarse.leaf_ids, torch.arange(clusters.num_clusters))
    kept = set()
    for a in clusters.node.tolist():
        kept.add(a)
        while tree[a] != a:
            a = int(tree[a])
            kept.add(a)
    assert set(node.tolist()) == kept
    assert node[clusters.num_clusters :].diff().gt(0).all()
    assert torch.equal(node[coarse.parent], tree[node])
    assert coarse.num_trees == TreeIndex.from_parent(tree).num_trees


def test_coarse_edges_by_hand():
    cluster = torch.tensor([0, 0, 1, 1, 2])
    edge_index = torch.tensor([[0, 1, 0, 2, 3, 4, 4], [1, 2, 3, 0, 4, 3, 4]])
    weight = torch.tensor([9.0, 1.0, 2.0, 4.0, 8.0, 16.0, 9.0])
    attr = torch.stack([weight, -weight], 1)
    expected = {"sum": [3.0, 4.0, 8.0, 16.0], "mean": [1.5, 4.0, 8.0, 16.0], "count": [2, 1, 1, 1]}
    for reduce, weights in expected.items():
        edges = coarse_edges(edge_index, cluster, edge_weight=weight, edge_attr=attr, reduce=reduce)
        assert edges.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
        assert edges.edge_weight.tolist() == weights
        assert edges.edge_attr.tolist() == [[1.5, -1.5], [4.0, -4.0], [8.0, -8.0], [16.0, -16.0]]
    edges = coarse_edges(edge_index, cluster)
    assert edges.edge_weight.tolist() == [2.0, 1.0, 1.0, 1.0] and edges.edge_attr is None


def test_coarse_edges_of_an_undirected_graph_are_undirected():
    edge_index = to_undirected(torch.randint(12, (2, 30), generator=torch.manual_seed(0)))
    edges = coarse_edges(edge_index, torch.arange(12) // 3)
    assert is_undirected(edges.edge_index, edges.edge_weight)
    wrapped = EdgeIndex(edge_index, sparse_size=(12, 12))
    assert torch.equal(coarse_edges(wrapped, torch.arange(12) // 3)[0], edges.edge_index)


def test_no_edges_stay_no_edges():
    none = torch.empty(2, 0, dtype=torch.long)
    cluster = torch.tensor([0, 0, 1])
    edges = coarse_edges(none, cluster, edge_attr=torch.empty(0, 3))
    assert edges.edge_index.shape == (2, 0) and edges.edge_weight.shape == (0,)
    assert edges.edge_attr.shape == (0, 3)
    within = coarse_edges(torch.tensor([[0, 1], [1, 0]]), cluster)
    assert within.edge_index.shape == (2, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduce": "max"}, ValueError, "'reduce' to be one of ['sum', 'mean', 'count']"),
        ({"edge_index": [[0], [1]]}, TypeError, "'edge_index' to be a tensor (got list)"),
        ({"edge_index": torch.ones(2, 1)}, TypeError, "'edge_index' to hold integers"),
        ({"edge_index": torch.zeros(3, 1).long()}, ValueError, "shape [2, E] (got [3, 1])"),
        ({"edge_index": torch.tensor([[0], [3]])}, ValueError, "(got edge 0 between 0 and 3)"),
        ({"edge_index": torch.tensor([[0], [-1]])}, ValueError, "(got edge 0 between 0 and -1)"),
        ({"edge_weight": torch.ones(2)}, ValueError, "'edge_weight' .* the 1 edges (got 2 rows)"),
        ({"edge_weight": torch.ones(1).long()}, TypeError, "'edge_weight' to hold floating-point"),
        ({"edge_attr": torch.ones(1, 2).long()}, TypeError, "'edge_attr' to hold floating-point"),
    ],
)
def test_coarse_edges_name_bad_input(options, error, message):
    arguments = {"edge_index": torch.tensor([[0], [2]]), "cluster": torch.tensor([0, 0, 1])}
    with pytest.raises(error, match=re.escape(message).replace(r"\.\*", ".*")):
        coarse_edges(**(arguments | options))
