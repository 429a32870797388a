import re

import pytest
import torch
from hypothesis import given, settings
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import aggregate, distribute
from hsa_geometric.testing import (
    ZOO,
    assert_adjoint,
    balanced,
    caterpillar,
    chain,
    forests,
    star,
    zoo,
)


def rand(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def membership(parent):
    """``[T, N]``: whether a leaf lies below a node or is it, with plain loops."""
    above = parent.tolist()
    leaves = [a for a in range(len(above)) if a not in {p for c, p in enumerate(above) if c != p}]
    matrix = torch.zeros(len(above), len(leaves), dtype=torch.float64)
    for row, node in enumerate(leaves):
        matrix[node, row] = 1
        while above[node] != node:
            node = above[node]
            matrix[node, row] = 1
    return matrix


# Leaves 0, 1, 3 and 4; 2 holds 0 and 3, the root 5 holds 1, 2 and 6, and 6 holds 4 alone.
PARENT = torch.tensor([2, 5, 5, 2, 6, 5, 5])


def test_aggregate_sums_leaves_of_each_node():
    x = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert aggregate(x, PARENT).tolist() == [1, 2, 5, 4, 8, 15, 8]


def test_distribute_sums_the_ancestors_of_each_leaf():
    z = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    assert distribute(z, PARENT).tolist() == [1 + 4 + 32, 2 + 32, 8 + 4 + 32, 16 + 64 + 32]


@pytest.mark.parametrize("name", ZOO)
def test_both_equal_the_membership_matrix(name):
    parent = zoo(name)
    matrix = membership(parent)
    x, z = rand(matrix.shape[1], 3), rand(matrix.shape[0], 3, seed=1)
    assert_close(aggregate(x, parent), matrix @ x)
    assert_close(distribute(z, parent), matrix.T @ z)


@pytest.mark.parametrize("name", ZOO)
def test_they_are_adjoint_and_autograd_knows_it(name):
    tree = TreeIndex.from_parent(zoo(name))
    assert_adjoint(
        lambda x: aggregate(x, tree),
        lambda z: distribute(z, tree),
        rand(tree.num_leaves, 2, 3),
        rand(tree.num_nodes, 2, 3, seed=1),
    )


@settings(deadline=None, max_examples=30)
@given(forests(max_nodes=40))
def test_they_equal_the_membership_matrix_for_random_forests(parent):
    matrix = membership(parent)
    x, z = rand(matrix.shape[1], 2), rand(matrix.shape[0], 2, seed=1)
    assert_close(aggregate(x, parent), matrix @ x)
    assert_close(distribute(z, parent), matrix.T @ z)


@pytest.mark.parametrize("function, of", [(aggregate, "leaves"), (distribute, "nodes")])
@pytest.mark.parametrize("name", ["one_node", "one_child_nodes", "shuffled_forest"])
def test_gradients_of_first_and_second_order(function, of, name):
    tree = TreeIndex.from_parent(zoo(name))
    rows = getattr(tree, f"num_{of}")
    x = rand(rows, 2).requires_grad_()
    assert gradcheck(lambda x: function(x, tree), (x,))
    assert gradgradcheck(lambda x: function(x, tree).pow(3), (x,))


@pytest.mark.parametrize("extra", [(), (1,), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)])
@pytest.mark.parametrize("function, of", [(aggregate, "leaves"), (distribute, "nodes")])
def test_any_further_dimensions_are_carried_along(function, of, extra):
    tree = TreeIndex.from_parent(zoo("shuffled_forest"))
    rows = getattr(tree, f"num_{of}")
    x = rand(rows, *extra)
    out = function(x, tree)
    assert out.shape[1:] == x.shape[1:]
    flat = x.reshape(rows, x[0].numel())
    for column in range(flat.shape[1]):
        expected = function(flat[:, column], tree)
        assert_close(out.reshape(len(out), -1)[:, column], expected)


@pytest.mark.parametrize("function, of", [(aggregate, "leaves"), (distribute, "nodes")])
def test_a_non_contiguous_input_gives_the_same_and_is_not_changed(function, of):
    tree = TreeIndex.from_parent(zoo("ragged"))
    rows = getattr(tree, f"num_{of}")
    x = rand(3, 4, rows).permute(2, 0, 1)
    before, version = x.clone(), x._version
    assert torch.equal(function(x, tree), function(x.contiguous(), tree))
    assert torch.equal(x, before) and x._version == version


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function, of", [(aggregate, "leaves"), (distribute, "nodes")])
def test_sums_are_taken_in_float32_at_least(function, of, dtype):
    # A family of 2000 ones and a spine of 300: a running sum in bfloat16 stops at 256.
    parent = star(2000) if function is aggregate else caterpillar(1000)
    tree = TreeIndex.from_parent(parent)
    rows = getattr(tree, f"num_{of}")
    x = rand(rows, 2, dtype=dtype).abs() / 32
    x.requires_grad_()
    out = function(x, tree)
    assert out.dtype == dtype
    wide = x.detach().double().requires_grad_()
    expected = function(wide, tree)
    rounding = torch.finfo(dtype).eps
    accumulated = rows * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert_close(out.double(), expected, rtol=rounding + accumulated, atol=0.0)
    (grad,) = torch.autograd.grad(out.sum(), x)
    (expected,) = torch.autograd.grad(expected.sum(), wide)
    assert grad.dtype == dtype
    assert_close(grad.double(), expected, rtol=rounding + accumulated, atol=0.0)


def test_a_chain_3000_deep_carries_its_leaf_up_and_everything_down():
    tree = TreeIndex.from_parent(chain(3000))
    x = rand(1, 2).requires_grad_()
    up = aggregate(x, tree)
    assert_close(up, x.expand(3001, 2))
    assert_close(torch.autograd.grad(up.sum(), x)[0], torch.full_like(x, 3001))
    z = rand(3001, 2).requires_grad_()
    down = distribute(z, tree)
    assert_close(down, z.sum(0, keepdim=True))
    assert_close(torch.autograd.grad(down.sum(), z)[0], torch.ones_like(z))


def test_a_parent_vector_and_its_index_give_the_same():
    parent = balanced(3, 3)
    tree = TreeIndex.from_parent(parent)
    x, z = rand(tree.num_leaves, 2), rand(tree.num_nodes, 2)
    assert torch.equal(aggregate(x, parent), aggregate(x, tree))
    assert torch.equal(distribute(z, parent), distribute(z, tree))


@pytest.mark.parametrize(
    "x, tree, error, message",
    [
        ([1.0], star(1), TypeError, "Expected 'x' to be a tensor (got list)"),
        (
            torch.ones(2).long(),
            star(2),
            TypeError,
            "Expected 'x' to hold floating-point numbers (got torch.int64)",
        ),
        (
            torch.ones(3, 2),
            star(2),
            ValueError,
            "Expected 'x' to have one row for each of the 2 leaves (got 3 rows)",
        ),
        (
            torch.tensor(1.0),
            star(1),
            ValueError,
            "Expected 'x' to have one row for each of the 1 leaves (got 0 rows)",
        ),
        (
            torch.ones(2, device="meta"),
            star(2),
            ValueError,
            "Expected 'x' and 'tree' on one device (got meta and cpu; move the tree with",
        ),
        (
            torch.ones(2),
            [2, 2, 2],
            TypeError,
            "Expected 'tree' to be a TreeIndex or a parent vector (got list)",
        ),
        (torch.ones(2), torch.tensor([1, 0]), ValueError, "got a cycle above node 0"),
    ],
)
def test_aggregate_names_what_is_wrong(x, tree, error, message):
    with pytest.raises(error, match=re.escape(message)):
        aggregate(x, tree)


@pytest.mark.parametrize(
    "z, error, message",
    [
        (None, TypeError, "Expected 'z' to be a tensor (got NoneType)"),
        (torch.ones(3).bool(), TypeError, "Expected 'z' to hold floating-point numbers"),
        (
            torch.ones(2, 3),
            ValueError,
            "Expected 'z' to have one row for each of the 3 tree nodes (got 2 rows)",
        ),
        (
            torch.ones(3, device="meta"),
            ValueError,
            "Expected 'z' and 'tree' on one device (got meta and cpu",
        ),
    ],
)
def test_distribute_names_what_is_wrong(z, error, message):
    with pytest.raises(error, match=re.escape(message)):
        distribute(z, star(2))
