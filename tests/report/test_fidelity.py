"""How near attention along lists is to softmax, exactly and as predicted; the cheapest lists."""

import pytest
import torch

from hsa_geometric import from_parent, from_points
from hsa_geometric.functional import attention_matrix
from hsa_geometric.interactions import between, causal, heaviest, near, siblings
from hsa_geometric.report import choose_lists, evidence_gap, fidelity
from hsa_geometric.testing import balanced, forest, random_lists, random_parent


def waves(count, heads=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(count, 2, generator=generator)
    wave = torch.einsum("nd,hdc->nhc", 6 * pos, torch.randn(heads, 2, 8, generator=generator))
    return pos, torch.cat([wave.cos(), wave.sin()], -1).double()


def dense(h, q, k, lists):
    """Divergence and total variation from the dense matrices, over what a leaf may see."""
    mass = torch.ones(len(q)).double() if h.mass is None else h.mass.double()
    theta = attention_matrix(q, k, h.tree, lists=lists, mass=h.mass)
    s = q.shape[-1] ** -0.5 * torch.einsum("ihd,jhd->hij", q, k) + mass.log()
    s = torch.where(theta > 0, s, -torch.inf)
    soft = s.softmax(-1)
    kl = torch.where(theta > 0, theta * (theta.log() - soft.log()), 0).sum(-1)
    share = mass / mass.sum()
    return (share * kl).sum(-1), (share * (theta - soft).abs().sum(-1) / 2).sum(-1)


@pytest.mark.parametrize("kind", ["random", "causal", "siblings"])
@pytest.mark.parametrize("masses", [False, True])
def test_the_divergence_is_that_of_the_dense_matrices(masses, kind):
    parent = forest(random_parent(25, seed=1), balanced(2, 3))
    h = from_parent(parent)
    q, k = torch.randn(2, h.num_nodes, 2, 3, dtype=torch.float64, generator=torch.Generator())
    if masses:
        h.mass = torch.linspace(0.1, 2, h.num_nodes).double()
    lists = {
        "random": random_lists(h.tree, opened=0.5),
        "causal": causal(h.tree, window=2),
        "siblings": siblings(h.tree),
    }[kind]
    found = fidelity(h, q, k, lists)
    gap, variation = dense(h, q, k, lists)
    torch.testing.assert_close(found.gap, gap)
    torch.testing.assert_close(found.total_variation, variation)
    assert torch.equal(found.error, torch.zeros(2).double())
    if kind == "siblings" and not masses:
        torch.testing.assert_close(found.gap, evidence_gap(h, q, k).mean)


@pytest.mark.parametrize("seed", range(3))
def test_the_prediction_is_within_15_percent_where_the_gap_is_small(seed):
    pos, q = waves(250, heads=2, seed=seed)
    h = from_points(pos, branching=2)
    for lists in (near(h.tree, pos, angle=0.8), heaviest(h.tree, q, q, budget=10)):
        found = fidelity(h, q, q, lists)
        assert (found.gap < 0.15).all()
        torch.testing.assert_close(found.predicted, found.gap, rtol=0.15, atol=0)


def test_the_prediction_is_exact_to_second_order_with_masses_and_two_trees():
    h = from_parent(random_parent(40, seed=3))
    h.mass = torch.linspace(0.2, 3, h.num_nodes).double()
    q, k = torch.randn(2, h.num_nodes, 1, 3, dtype=torch.float64, generator=torch.Generator())
    for lists in (random_lists(h.tree, opened=0.5), causal(h.tree, window=2)):
        found = fidelity(h, 0.05 * q, 0.05 * k, lists)  # small logits leave no other order
        torch.testing.assert_close(found.predicted, found.gap, rtol=2e-2, atol=1e-12)
        assert found.gap > 0


def test_sampled_rows_are_right_within_their_error():
    pos, q = waves(250)
    h = from_points(pos, branching=2)
    lists = near(h.tree, pos, angle=1.0)
    exact, sampled = fidelity(h, q, q, lists), fidelity(h, q, q, lists, sample=100)
    assert 0 < sampled.error < 0.2 * exact.gap
    assert (sampled.gap - exact.gap).abs() < 3 * sampled.error
    assert "standard error" in str(sampled) and "standard error" not in str(exact)


def test_the_largest_blocks_are_those_whose_logits_vary_most():
    h = from_parent([4, 4, 5, 5, 6, 6, 6])
    q = k = torch.tensor([0.0, 0, 3, -3]).view(4, 1, 1)
    found = fidelity(h, torch.ones_like(q), k, siblings(h.tree), largest=1)
    assert found.blocks.tolist() == [[4], [5]]
    assert found.block_error > 0
    assert fidelity(h, q, k, between(h.tree, h.tree, levels=None)).gap.abs() < 1e-12


def test_the_cheapest_lists_within_the_tolerance_are_chosen():
    pos, q = waves(120)
    h = from_points(pos, branching=2)
    choice = choose_lists(h, q, q, tolerance=0.05)
    assert choice.predicted.mean() <= 0.05
    assert fidelity(h, q, q, choice.lists).gap <= 0.05 / 0.85
    cheaper = [gap for _, cost, gap in choice.tried if cost < choice.lists.logits_per_leaf]
    assert cheaper and min(cheaper) > 0.05
    assert str(choice).count("chosen") == 1 and choice.name in str(choice)


def test_siblings_are_chosen_where_they_do_and_everything_where_nothing_else_does():
    pos, q = waves(60)
    h = from_points(pos, branching=2)
    assert choose_lists(h, q, q, tolerance=10.0).lists.are_siblings
    h = from_parent([4, 4, 5, 5, 6, 6, 6])
    q = torch.randn(4, 1, 2, generator=torch.Generator())
    assert choose_lists(h, 9 * q, 9 * q, tolerance=1e-9).lists.num_logits == 16


def test_what_does_not_fit_is_refused():
    h = from_parent([2, 2, 2])
    q, other = torch.zeros(2, 1, 3), from_parent([3, 3, 3, 3])
    with pytest.raises(ValueError, match="'lists' to be of 'tree'"):
        fidelity(h, q, q, siblings(other.tree))
    with pytest.raises(ValueError, match="'q' to be finite"):
        fidelity(h, q + torch.nan, q, siblings(h.tree))
    with pytest.raises(ValueError, match="'sample' to be at least 2"):
        fidelity(h, q, q, siblings(h.tree), sample=1)
    with pytest.raises(TypeError, match="'lists' to be InteractionLists"):
        fidelity(h, q, q, h.tree)
    with pytest.raises(ValueError, match="'tolerance' to be positive"):
        choose_lists(h, q, q, tolerance=0)
