"""Leaves attend to the past and to nothing else."""

import pytest
import torch

from hsa_geometric import TreeIndex, from_sequence
from hsa_geometric.functional import attention_matrix, hierarchical_attention
from hsa_geometric.interactions import causal
from hsa_geometric.testing import attention_inputs, balanced, forest, random_parent, star

OPTIONS = [{}, {"window": 3}, {"angle": 0.4}, {"self_loop": False}, {"window": 2, "angle": 0.7}]
FOREST = forest(balanced(2, 3), torch.tensor([0]), random_parent(20, seed=1), star(3))


def order_of(tree):
    """Tree and row of each leaf."""
    up = tree.up
    for _ in range(tree.depth):
        up = up[up]
    return up[tree.leaf], torch.arange(tree.num_leaves)


@pytest.mark.parametrize("options", OPTIONS)
def test_each_leaf_attends_to_the_whole_past_and_only_to_it(options):
    tree = TreeIndex.from_parent(FOREST)
    args = attention_inputs(tree)
    theta = attention_matrix(args["q"], args["k"], tree, lists=causal(tree, **options))
    number, row = order_of(tree)
    past = (row.unsqueeze(1) > row) | ((row.unsqueeze(1) == row) & options.get("self_loop", True))
    past &= number.unsqueeze(1) == number
    assert torch.equal(theta > 0, past.expand_as(theta))
    total = theta.sum(-1)
    torch.testing.assert_close(total, past.any(1).to(total).expand_as(total))


@pytest.mark.parametrize("backend", ["auto", "scatter"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_later_token_changes_no_bit_before_it(options, backend):
    tree = TreeIndex.from_parent(FOREST)
    lists = causal(tree, **options)
    args = {n: x.float() for n, x in attention_inputs(tree, mass="random").items()}

    def run(t):
        moved = {n: x.clone().requires_grad_(n != "mass") for n, x in args.items()}
        with torch.no_grad():
            for x in moved.values():
                x[t] = 7.0 * x[t]
        return hierarchical_attention(**moved, tree=tree, lists=lists, backend=backend)

    before = hierarchical_attention(**args, tree=tree, lists=lists, backend=backend)
    for t in (3, 11, 13, tree.num_leaves - 1):
        after = run(t)
        assert torch.equal(after[:t], before[:t])
        assert not torch.equal(after[t], before[t])


@pytest.mark.parametrize("window", [1, 4, 16])
def test_the_last_leaves_are_seen_one_by_one_and_others_by_the_largest_subtrees(window):
    tree = from_sequence(64, branching=2).tree
    lists = causal(tree, window=window)
    size, query = lists.key_tree.count[lists.blocks[1]], lists.query_tree.order[lists.blocks[0]]
    seen = torch.zeros(64).long().index_add(0, query, size)
    assert torch.equal(seen, torch.arange(1, 65))
    alone = torch.zeros(64).long().index_add(0, query, (size == 1).long())
    assert (alone >= torch.arange(1, 65).clamp(max=window)).all()
    assert lists.ptr.diff().max() <= window + 2 * 6


def test_in_a_star_it_is_causal_softmax():
    tree = TreeIndex.from_parent(star(9))
    args = attention_inputs(tree)
    out = hierarchical_attention(**args, tree=tree, lists=causal(tree))
    q, k, v = (args[n].transpose(0, 1) for n in "qkv")
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(out, theirs.transpose(0, 1))


@pytest.mark.parametrize("options", OPTIONS)
def test_batched_is_one_by_one(options):
    parents = [balanced(2, 3), torch.tensor([0]), random_parent(20, seed=1)]
    tree = TreeIndex.from_parent(forest(*parents))
    args = attention_inputs(tree)
    out = hierarchical_attention(**args, tree=tree, lists=causal(tree, **options))
    start = 0
    for parent in parents:
        one = TreeIndex.from_parent(parent)
        part = {n: x[start : start + one.num_leaves] for n, x in args.items()}
        alone = hierarchical_attention(**part, tree=one, lists=causal(one, **options))
        torch.testing.assert_close(out[start : start + one.num_leaves], alone)
        start += one.num_leaves


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"window": 0}, ValueError, "'window' to be at least 1"),
        ({"window": 1.5}, TypeError, "'window' to be an integer"),
        ({"angle": -1.0}, ValueError, "'angle' to be positive"),
        ({"self_loop": 1}, TypeError, "'self_loop' to be True or False"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        causal(star(3), **options)
