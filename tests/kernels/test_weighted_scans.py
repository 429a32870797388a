"""The two sweeps with differentiable weights, against their recursions."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.kernels.eager.sweeps import scan_down, scan_up
from hsa_geometric.testing import ZOO, assert_adjoint, zoo


def rand(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ZOO)
def test_they_follow_their_recursions(name):
    tree = TreeIndex.from_parent(zoo(name))
    x, weight = rand(tree.num_nodes, 2, seed=0), rand(tree.num_nodes, 2, seed=1)
    above = tree.up.tolist()
    up, down = x.clone(), x.clone()
    for node in reversed(range(tree.num_trees, tree.num_nodes)):  # storage order: parents first
        up[above[node]] += weight[node] * up[node]
    for node in range(tree.num_trees, tree.num_nodes):
        down[node] += weight[node] * down[above[node]]
    assert_close(scan_up(x, weight, tree.tensors), up)
    assert_close(scan_down(x, weight, tree.tensors), down)


@pytest.mark.parametrize("name", ZOO)
def test_they_are_adjoint(name):
    tree = TreeIndex.from_parent(zoo(name))
    weight = rand(tree.num_nodes, 2, seed=1)
    assert_adjoint(
        lambda x: scan_up(x, weight, tree.tensors),
        lambda x: scan_down(x, weight, tree.tensors),
        rand(tree.num_nodes, 2, seed=2),
        rand(tree.num_nodes, 2, seed=3),
    )


@pytest.mark.parametrize("scan", [scan_up, scan_down])
@pytest.mark.parametrize("name", ["one_node", "one_child_nodes", "unequal_depths", "single_nodes"])
def test_values_and_weights_are_differentiated_and_a_root_has_no_edge(scan, name):
    tree = TreeIndex.from_parent(zoo(name))
    x = rand(tree.num_nodes, 1, seed=0).requires_grad_()
    weight = rand(tree.num_nodes, 1, seed=1).requires_grad_()

    def function(x, weight):
        return scan(x, weight, tree.tensors)

    assert gradcheck(function, (x, weight))
    assert gradgradcheck(function, (x, weight))
    (grad,) = torch.autograd.grad(function(x, weight).sum(), weight)
    assert not grad[tree.root].any()
