"""An assertion is worth something only if it fails where it should."""

import pytest
import torch

from hsa_geometric import TreeIndex
from hsa_geometric.functional import attention_matrix, hierarchical_attention
from hsa_geometric.kernels import operator
from hsa_geometric.testing import (
    assert_adjoint,
    assert_backends_agree,
    assert_block_constant,
    assert_isolated,
    assert_rows_sum_to_one,
    attention_inputs,
    forest,
    random_parent,
    star,
    tree_of_leaf,
    zoo,
)


@pytest.fixture
def tree():
    return TreeIndex.from_parent(forest(star(3), zoo("unequal_depths")))


@pytest.fixture
def theta(tree):
    inputs = attention_inputs(tree)
    return attention_matrix(inputs["q"], inputs["k"], tree)


def test_leaves_are_told_their_trees():
    parent = torch.tensor([5, 1, 5, 1, 1, 5])
    assert tree_of_leaf(TreeIndex.from_parent(parent)).tolist() == [1, 1, 0, 0]
    large = TreeIndex.from_parent(random_parent(100, num_trees=7, reach=2, seed=1))
    for row, leaf in enumerate(large.leaf_ids.tolist()):
        while large.parent[leaf] != leaf:
            leaf = int(large.parent[leaf])
        roots = large.order[large.root].tolist()
        assert roots.index(leaf) == tree_of_leaf(large)[row]


def test_right_matrices_pass(tree, theta):
    assert_rows_sum_to_one(theta, tree)
    assert_block_constant(theta, tree)


def test_rows_that_do_not_sum_to_one_are_found(tree, theta):
    with pytest.raises(AssertionError, match="Rows of theta do not sum to one"):
        assert_rows_sum_to_one(1.01 * theta, tree)


def test_attention_to_another_tree_is_found(tree, theta):
    theta[0, 0, -1] = 0.1
    with pytest.raises(AssertionError, match="Expected no attention to unseen leaves"):
        assert_rows_sum_to_one(theta, tree)


def test_attention_to_oneself_is_found_where_there_is_no_self_loop(tree, theta):
    with pytest.raises(AssertionError, match="Expected no attention to unseen leaves"):
        assert_rows_sum_to_one(theta, tree, self_loop=False)


def test_attention_to_padding_is_found(tree, theta):
    mass = torch.ones(tree.num_leaves)
    mass[0] = 0
    with pytest.raises(AssertionError, match="Expected no attention to unseen leaves"):
        assert_rows_sum_to_one(theta, tree, mass=mass)


@pytest.mark.parametrize(
    "value, message", [(-0.5, "no negative attention"), (float("nan"), "to be finite")]
)
def test_negative_and_missing_weights_are_found(tree, theta, value, message):
    theta[0, 0, 0] = value
    with pytest.raises(AssertionError, match=message):
        assert_rows_sum_to_one(theta, tree)


def test_a_block_of_two_values_is_found(tree):
    inputs = attention_inputs(tree)
    flat = torch.einsum("ihd,jhd->hij", inputs["q"], inputs["k"]).softmax(-1)
    with pytest.raises(AssertionError, match=r"Block of siblings \d+ and \d+ is not constant"):
        assert_block_constant(flat, tree)


def test_a_backend_that_differs_is_found(tree, monkeypatch):
    true = operator.attention

    def wrong(call, backend):
        out, evidence = true(call, backend)
        return out + (backend != "reference") * 1e-6 * out.detach(), evidence

    assert_backends_agree(**attention_inputs(tree), tree=tree)
    monkeypatch.setattr(operator, "attention", wrong)
    with pytest.raises(AssertionError, match="Backend 'auto' differs in its output"):
        assert_backends_agree(**attention_inputs(tree), tree=tree)


def test_a_wrong_gradient_is_found(tree, monkeypatch):
    true = operator.attention

    def wrong(call, backend):
        if backend != "reference":
            call = call._replace(k=0.9 * call.k + 0.1 * call.k.detach())
        return true(call, backend)

    monkeypatch.setattr(operator, "attention", wrong)
    with pytest.raises(AssertionError, match="Backend 'auto' differs in its gradient of k"):
        assert_backends_agree(**attention_inputs(tree), tree=tree)


def test_a_function_that_sees_the_whole_batch_is_found(tree):
    x = torch.randn(tree.num_leaves, 4)
    with pytest.raises(AssertionError, match="Changing tree 0 changed the output of another tree"):
        assert_isolated(lambda x: x - x.mean(0), tree, x)


def test_a_dummy_root_over_the_batch_is_found(tree):
    # How the paper batches: all roots below one more, so that samples attend to each other.
    root = tree.num_nodes
    parent = torch.cat([tree.parent, torch.tensor([root])])
    parent[tree.order[tree.root]] = root
    joined = TreeIndex.from_parent(parent)
    x = torch.randn(tree.num_leaves, 1, 4)
    with pytest.raises(AssertionError, match="Changing tree 0 changed the output"):
        assert_isolated(lambda x: hierarchical_attention(x, x, x, joined), tree, x)


def test_a_gradient_that_leaks_is_found(tree):
    class Leak(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad + 1e-3 * grad.sum()

    x = torch.randn(tree.num_leaves, 4)
    with pytest.raises(AssertionError, match="changed the gradient of input 0 of another tree"):
        assert_isolated(Leak.apply, tree, x)


def test_maps_that_are_not_adjoint_are_found():
    matrix = torch.randn(3, 5, dtype=torch.float64)
    x, y = torch.randn(5, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert_adjoint(lambda x: matrix @ x, lambda y: matrix.T @ y, x, y)
    with pytest.raises(AssertionError, match="not close"):
        assert_adjoint(lambda x: matrix @ x, lambda y: 2 * matrix.T @ y, x, y)
