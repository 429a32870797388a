"""Deep, thin trees: few passes, against the recursions and the oracle."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import aggregate, distribute, hierarchical_attention
from hsa_geometric.kernels.eager.sweeps import scan_down, scan_up
from hsa_geometric.passes import FEWEST_LEVELS, THINNEST_LEVEL
from hsa_geometric.testing import (
    assert_adjoint,
    assert_backends_agree,
    assert_isolated,
    attention_inputs,
    caterpillar,
    chain,
    forest,
    random_parent,
    shuffled,
)


def bushy_path(depth: int, extra: int, seed: int = 0):
    """A path with small random trees hanging from it."""
    generator = torch.Generator().manual_seed(seed)
    spine = (torch.arange(depth) - 1).clamp(min=0)
    draw = torch.rand(extra, generator=generator)
    hung = (draw * (depth + torch.arange(extra))).long()
    return shuffled(torch.cat([spine, hung]), seed=seed)


TREES = {
    "chain": chain(200),
    "caterpillar": caterpillar(150),
    "power of two": caterpillar(128),
    "one level more": caterpillar(129),
    "bushy": bushy_path(130, 100),
    "random": random_parent(400, reach=4, seed=1),
    "forest": forest(bushy_path(80, 60, seed=1), caterpillar(30), chain(0), bushy_path(100, 30)),
}


@pytest.fixture(params=TREES)
def tree(request):
    tree = TreeIndex.from_parent(TREES[request.param])
    assert tree.layout.passes.table.shape[0] > 0
    return tree


def rand(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_number_of_passes_is_logarithmic_and_their_work_linear():
    for depth in (100, 1000, 3000):
        tree = TreeIndex.from_parent(caterpillar(depth))
        assert tree.layout.passes.table.shape[0] <= 2 * depth.bit_length()
        assert tree.layout.passes.child.numel() <= 2 * tree.num_nodes


def test_shallow_trees_and_deep_trees_of_wide_levels_are_swept_by_level():
    assert TreeIndex.from_parent(chain(FEWEST_LEVELS)).layout.passes.table.shape[0] == 0
    wide = torch.cat([chain(100), torch.full((101 * THINNEST_LEVEL,), 50)])
    assert TreeIndex.from_parent(wide).layout.passes.table.shape[0] == 0


def test_scans_follow_their_recursions(tree):
    x, weight = rand(tree.num_nodes, 2, seed=0), rand(tree.num_nodes, 2, seed=1)
    above = tree.up.tolist()
    up, down = x.clone(), x.clone()
    for node in reversed(range(tree.num_trees, tree.num_nodes)):
        up[above[node]] += weight[node] * up[node]
    for node in range(tree.num_trees, tree.num_nodes):
        down[node] += weight[node] * down[above[node]]
    assert_close(scan_up(x, weight, tree.tensors), up)
    assert_close(scan_down(x, weight, tree.tensors), down)


def test_sweeps_are_adjoint(tree):
    assert_adjoint(
        lambda x: aggregate(x, tree),
        lambda z: distribute(z, tree),
        rand(tree.num_leaves, 3, seed=0),
        rand(tree.num_nodes, 3, seed=1),
    )


def test_attention_and_its_gradients_equal_the_oracle(tree):
    assert_backends_agree(tree=tree, **attention_inputs(tree))


def test_attention_is_differentiated_twice():
    tree = TreeIndex.from_parent(bushy_path(66, 8))
    q, k, v = (rand(tree.num_leaves, 1, 2, seed=i).requires_grad_() for i in range(3))

    def f(q, k, v):
        return hierarchical_attention(q, k, v, tree)

    assert gradcheck(f, (q, k, v))
    assert torch.autograd.gradgradcheck(f, (q, k, v))


def test_float32_sums_are_accurate(tree):
    x = rand(tree.num_leaves, 5, seed=0, dtype=torch.float32)
    assert_close(aggregate(x, tree).double(), aggregate(x.double(), tree), rtol=1e-5, atol=1e-5)


def test_trees_of_a_deep_forest_never_touch():
    tree = TreeIndex.from_parent(TREES["forest"])
    x = rand(tree.num_leaves, 4, seed=0)
    assert_isolated(lambda x: aggregate_and_back(x, tree), tree, x)


def aggregate_and_back(x, tree):
    return hierarchical_attention(*(x.unsqueeze(1),) * 3, tree).flatten(1)
