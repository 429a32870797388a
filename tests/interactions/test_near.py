"""Nodes near each other meet."""

import pytest
import torch

from hsa_geometric import TreeIndex, from_points, from_sequence
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.interactions import near, siblings
from hsa_geometric.testing import balanced, forest, random_parent, star

GENERATOR = torch.Generator().manual_seed(0)


def below(tree, node):
    parent, rows = tree.parent.tolist(), []
    for row, leaf in enumerate(tree.leaf_ids.tolist()):
        while leaf != node and parent[leaf] != leaf:
            leaf = parent[leaf]
        rows += [row] if leaf == node else []
    return rows


@pytest.mark.parametrize("two", [False, True])
def test_what_is_opened_is_large_for_its_distance(two):
    tree = TreeIndex.from_parent(forest(random_parent(20, seed=1), balanced(2, 3)))
    key = TreeIndex.from_parent(forest(star(3), random_parent(15, seed=2))) if two else tree
    pos = torch.rand(tree.num_leaves, 2, generator=GENERATOR)
    key_pos = torch.rand(key.num_leaves, 2, generator=GENERATOR) if two else pos
    more = {"key_tree": key, "key_pos": key_pos} if two else {}
    lists = near(tree, pos, angle=0.9, **more)
    roots = [x.parent[x.parent == torch.arange(x.num_nodes)].tolist() for x in (tree, key)]

    def large(a, b):
        x, y = pos[below(tree, a)].double(), key_pos[below(key, b)].double()
        r = sum((z - z.mean(0)).norm(dim=1).max() for z in (x, y))
        return r > 0.9 * (x.mean(0) - y.mean(0)).norm() or (not two and a == b)

    opened = set(map(tuple, lists.opened.t().tolist()))
    assert opened >= set(zip(*roots, strict=True))
    assert all(large(a, b) or (a in roots[0] and b in roots[1]) for a, b in opened)
    leaves = set(tree.leaf_ids.tolist()), set(key.leaf_ids.tolist())
    for a, b in lists.block_ids.t().tolist():
        assert not large(a, b) or (a in leaves[0] and b in leaves[1])


def test_a_huge_angle_lets_siblings_meet_and_a_tiny_one_everybody():
    h = from_points(torch.rand(60, 3, generator=GENERATOR), branching=3)
    assert near(h.tree, h.pos, angle=float("inf")).are_siblings
    assert near(h.tree, h.pos, angle=1e-9).num_logits == 60 * 60


def test_of_a_sequence_windows_are_exact_and_far_ones_coarse():
    tree = from_sequence(256, branching=2).tree
    lists = near(tree, torch.arange(256.0), angle=0.4)
    query, key = lists.blocks
    size = (lists.query_tree.count[query] + lists.key_tree.count[key]) / 2
    middle = [torch.tensor([float(sum(below(tree, n))) / len(below(tree, n)) for n in x.tolist()])
              for x in lists.block_ids[:, :2000]]  # fmt: skip
    apart = (middle[0] - middle[1]).abs()
    assert (size[:2000][apart <= 2] == 1).all()
    assert size.max() >= 32 and lists.logits_per_leaf < 30


def test_points_at_one_place_do_not_meet_one_by_one():
    h = from_points(torch.zeros(128, 2), branching=2)
    assert near(h.tree, h.pos, angle=0.1).are_siblings


def test_places_far_from_the_origin_change_nothing():
    h = from_points(torch.randint(0, 64, (200, 2), generator=GENERATOR).double(), branching=2)
    far = near(h.tree, h.pos + 2.0**40, angle=0.7)
    assert torch.equal(far.blocks, near(h.tree, h.pos, angle=0.7).blocks)


@pytest.mark.parametrize("sizes", [(1024, 16384)])
def test_logits_per_leaf_hardly_grow(sizes):
    few, many = (
        near(h.tree, h.pos, angle=0.7).logits_per_leaf
        for h in (from_points(torch.rand(n, 2, generator=GENERATOR), branching=2) for n in sizes)
    )
    assert many <= 1.3 * few


def test_at_equal_cost_near_pairs_are_nearer_to_softmax_than_siblings():
    pos = torch.rand(300, 2, generator=GENERATOR)
    wave = 6 * pos @ torch.randn(2, 16, generator=GENERATOR)
    q = torch.cat([wave.cos(), wave.sin()], 1).unsqueeze(1).double()

    def evidence(tree, **options):
        return hierarchical_attention(q, q, q, tree, return_evidence=True, **options)[1]

    fine, coarse = from_points(pos, branching=2).tree, from_points(pos, branching=8).tree
    lists = near(fine, pos, angle=1.1)
    assert lists.num_logits < siblings(coarse).num_logits
    assert evidence(fine, lists=lists) > evidence(coarse)


TREE = TreeIndex.from_parent(balanced(2, 2))


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"pos": torch.rand(3, 2)}, ValueError, "'pos' to have one row for each of the 4"),
        ({"pos": torch.rand(4, 2, 1)}, ValueError, "'pos' to have 1 or 2 dimensions"),
        ({"pos": torch.full((4, 1), torch.nan)}, ValueError, "'pos' to be finite"),
        ({"pos": torch.arange(4)}, TypeError, "'pos' to hold floating-point"),
        ({"angle": 0.0}, ValueError, "'angle' to be positive"),
        ({"angle": "wide"}, TypeError, "'angle' to be a number"),
        ({"key_tree": TREE}, ValueError, "'key_pos' beside 'key_tree'"),
        ({"key_pos": torch.rand(4, 2)}, ValueError, "'key_tree' beside 'key_pos'"),
        ({"key_tree": TREE, "key_pos": torch.rand(4, 3)}, ValueError, "the 2 columns of 'pos'"),
        ({"key_tree": star(2), "key_pos": torch.rand(3, 2)}, ValueError, "'key_pos' to have one"),
        ({"tree": None}, TypeError, "'tree' to be a TreeIndex"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, match):
    with pytest.raises(error, match=match):
        near(**{"tree": TREE, "pos": torch.rand(4, 2)} | change)
