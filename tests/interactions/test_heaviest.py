"""Nodes whose attention is large and uneven meet."""

import pytest
import torch

from hsa_geometric import TreeIndex, from_points
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.interactions import between, heaviest, near, siblings
from hsa_geometric.testing import attention_inputs, balanced, forest, random_parent


def evidence(q, k, lists, **masses):
    other = None if lists.of_one_tree else lists.key_tree
    return hierarchical_attention(
        q, k, k, lists.query_tree, lists=lists, key_tree=other, return_evidence=True, **masses
    )[1]


def points(count):
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(count, 2, generator=generator)
    wave = 6 * pos @ torch.randn(2, 16, generator=generator)
    return pos, torch.cat([wave.cos(), wave.sin()], 1).unsqueeze(1).double()


def test_it_spends_its_budget_better_than_who_knows_only_positions():
    pos, q = points(300)
    tree = from_points(pos, branching=2).tree
    there = near(tree, pos, angle=1.0)
    ours = heaviest(tree, q, q, budget=there.logits_per_leaf)
    assert 0.9 * there.num_logits <= ours.num_logits <= there.num_logits
    assert evidence(q, q, ours) > evidence(q, q, there)


@pytest.mark.parametrize("masses", [False, True])
def test_more_budget_is_nearer_to_softmax_until_it_is_softmax(masses):
    tree = TreeIndex.from_parent(forest(random_parent(30, seed=2), balanced(2, 3)))
    args = attention_inputs(tree, mass="random" if masses else None)
    mass = {"mass": args["mass"]} if masses else {}
    q, k = args["q"], args["k"]
    lists = [heaviest(tree, q, k, budget=b, **mass) for b in (5, 8, 1000)]
    found = [evidence(q, k, x, **mass) for x in lists]
    assert (found[0].sum() < found[1].sum()) and (found[1].sum() < found[2].sum())
    full = evidence(q, k, between(tree, tree, levels=None), **mass)
    torch.testing.assert_close(found[2], full)


def test_two_trees():
    query, key = TreeIndex.from_parent(balanced(2, 3)), TreeIndex.from_parent(balanced(3, 2))
    q, k = attention_inputs(query)["q"], attention_inputs(key)["k"]
    lists = heaviest(query, q, k, budget=5, key_tree=key, key_mass=torch.ones(9))
    assert lists.num_logits <= 40
    assert (evidence(q, k, lists) > evidence(q, k, between(query, key))).all()


def test_nothing_is_opened_where_all_logits_are_alike():
    tree = TreeIndex.from_parent(balanced(2, 3))
    q = torch.ones(8, 1, 2)
    assert heaviest(tree, q, q, budget=8).are_siblings


def test_what_does_not_fit_is_refused():
    tree = TreeIndex.from_parent(balanced(2, 3))
    q = torch.ones(8, 1, 2)
    with pytest.raises(ValueError, match=r"'budget' to be at least the 2.75 logits .*got 2"):
        heaviest(tree, q, q, budget=2)
    with pytest.raises(TypeError, match="'budget' to be a number"):
        heaviest(tree, q, q, budget="much")
    with pytest.raises(ValueError, match="'k' to have one row"):
        heaviest(tree, q, q[:3], budget=5)
    with pytest.raises(ValueError, match="no 'key_mass' for lists of one tree"):
        heaviest(tree, q, q, budget=5, key_mass=torch.ones(8))
    assert siblings(tree).logits_per_leaf == 2.75
