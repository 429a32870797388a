import re
import subprocess
import sys

import pytest
import torch
from hypothesis import find, given, settings

from hsa_geometric import TreeIndex
from hsa_geometric.testing import (
    ZOO,
    attention_inputs,
    balanced,
    caterpillar,
    chain,
    collapse_chains,
    forest,
    forests,
    random_parent,
    renumber,
    shuffled,
    star,
    zoo,
)


def shape(parent):
    """Leaves, nodes, trees and depth."""
    tree = TreeIndex.from_parent(parent)
    return tree.num_leaves, tree.num_nodes, tree.num_trees, tree.depth


def outline(parent):
    """What of a forest does not depend on ids: nested tuples, sorted."""
    above = parent.tolist()

    def below(node):
        return tuple(sorted(below(c) for c, p in enumerate(above) if p == node != c))

    return sorted(below(a) for a, p in enumerate(above) if a == p)


@pytest.mark.parametrize(
    "parent, expected",
    [
        (star(1), (1, 2, 1, 1)),
        (star(6), (6, 7, 1, 1)),
        (chain(1), (1, 2, 1, 1)),
        (chain(5), (1, 6, 1, 5)),
        (caterpillar(1), (2, 3, 1, 1)),
        (caterpillar(4), (5, 9, 1, 4)),
        (balanced(2, 3), (8, 15, 1, 3)),
        (balanced(5, 1), (5, 6, 1, 1)),
        (balanced(1, 4), (1, 5, 1, 4)),
        (forest(star(3), chain(2), caterpillar(2)), (7, 12, 3, 2)),
    ],
)
def test_builders_build_what_they_say(parent, expected):
    assert shape(parent) == expected


def test_names_are_unknown_or_trees():
    for name in ZOO:
        TreeIndex.from_parent(zoo(name))
    with pytest.raises(ValueError, match=re.escape("Expected 'name' to be one of ['one_node',")):
        zoo("oak")


def test_each_call_gives_a_tree_of_its_own():
    zoo("star")[0] = 99
    assert zoo("star").tolist() == [7] * 8


def test_the_zoo_holds_every_shape_that_is_worth_a_test():
    trees = [TreeIndex.from_parent(zoo(name)) for name in ZOO]
    families = [tree.family_ptr.diff() for tree in trees]
    assert any(tree.num_nodes == 1 for tree in trees)
    assert any(tree.num_trees > 1 and tree.depth == 0 for tree in trees)
    assert any(tree.num_leaves == 1 and tree.depth > 2 for tree in trees)
    assert any((f == 1).any() and (f > 1).any() for f in families)
    mixed = [f.diff() for f in families]
    assert any((d > 0).any() and (d < 0).any() for d in mixed)  # sizes in no order
    above = [tree.family_parent.diff() for tree in trees]
    assert any((d > 1).any() for d in above)  # parents not consecutive
    assert any((d < 0).any() for d in above)  # parents not ascending
    assert any(tree.level[tree.leaf_ids].unique().numel() > 2 for tree in trees)
    assert any((tree.leaf_ids.diff() > 1).any() for tree in trees)  # ids of leaves with gaps
    assert any(tree.num_trees > 1 and tree.depth > 2 for tree in trees)


@pytest.mark.parametrize("num_trees", [1, 3, 40])
@pytest.mark.parametrize("reach", [None, 1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_random_parents_are_forests_of_that_size(num_trees, reach, shuffle):
    for seed in range(5):
        parent = random_parent(40, num_trees=num_trees, reach=reach, shuffle=shuffle, seed=seed)
        _, nodes, trees, depth = shape(parent)
        assert (nodes, trees) == (40, num_trees)
        assert reach != 1 or depth == 40 - num_trees
        assert torch.equal(
            parent,
            random_parent(40, num_trees=num_trees, reach=reach, shuffle=shuffle, seed=seed),
        )


def test_seeds_give_different_trees():
    assert len({tuple(random_parent(20, seed=seed).tolist()) for seed in range(20)}) == 20


@pytest.mark.parametrize("num_trees", [0, 6])
def test_fewer_nodes_than_trees_are_refused(num_trees):
    with pytest.raises(ValueError, match=re.escape("Expected 'num_trees' to be in [1, 5]")):
        random_parent(5, num_trees=num_trees)


@pytest.mark.parametrize("name", ZOO)
def test_renumbering_keeps_the_tree_and_moves_the_rows(name):
    parent = zoo(name)
    new_id = torch.randperm(parent.numel(), generator=torch.Generator().manual_seed(4))
    renumbered, row = renumber(parent, new_id)
    assert outline(renumbered) == outline(parent) == outline(shuffled(parent, seed=1))
    before, after = TreeIndex.from_parent(parent), TreeIndex.from_parent(renumbered)
    assert torch.equal(after.leaf_ids[row], new_id[before.leaf_ids])


@pytest.mark.parametrize("name", ZOO)
def test_collapsing_leaves_no_one_child_node_and_every_leaf(name):
    parent = zoo(name)
    before, after = (TreeIndex.from_parent(p) for p in (parent, collapse_chains(parent)))
    assert (after.family_ptr.diff() > 1).all()
    assert (after.num_leaves, after.num_trees) == (before.num_leaves, before.num_trees)
    assert torch.equal(collapse_chains(after.parent), after.parent)


@settings(deadline=None, max_examples=50)
@given(forests(min_nodes=2, max_nodes=9, max_trees=2))
def test_the_strategy_draws_forests_within_its_bounds(parent):
    _, nodes, trees, _ = shape(parent)
    assert 2 <= nodes <= 9 and 1 <= trees <= 2


@settings(deadline=None, max_examples=30)
@given(forests(shuffle=False))
def test_without_shuffling_parents_come_first(parent):
    assert (parent <= torch.arange(parent.numel())).all()


@pytest.mark.parametrize(
    "condition",
    [
        lambda p: shape(p)[3] >= 4,  # deep
        lambda p: shape(p)[2] >= 3,  # a forest
        lambda p: p.numel() > 3 and shape(p)[0] == p.numel() - 1,  # a star
        lambda p: (p > torch.arange(p.numel())).any() and (p < torch.arange(p.numel())).any(),
    ],
    ids=["deep", "many trees", "star", "shuffled"],
)
def test_the_strategy_reaches_every_kind_of_tree(condition):
    find(forests(), condition, settings=settings(database=None, max_examples=5000, deadline=None))


def test_importing_the_package_does_not_import_hypothesis():
    script = "import sys, hsa_geometric.testing; sys.exit('hypothesis' in sys.modules)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


@pytest.mark.parametrize("mass", [None, "random", "zeros"])
def test_inputs_fit_their_tree_and_the_seed_fixes_them(mass):
    tree = TreeIndex.from_parent(zoo("forest"))
    options = {"pos_channels": 2, "node_scalars": True, "mass": mass}
    inputs = attention_inputs(tree, **options, dtype=torch.float32)
    for name, x in inputs.items():
        leaf = name in ("q", "k", "v", "mass")
        assert x.shape[0] == (tree.num_leaves if leaf else tree.num_nodes), name
        assert x.dtype == torch.float32
        assert torch.equal(x, attention_inputs(tree, **options, dtype=torch.float32)[name])
    assert ("mass" in inputs) == (mass is not None)
    if mass is not None:
        assert bool((inputs["mass"] == 0).any()) == (mass == "zeros")
        assert (inputs["mass"][-1] == 0) == (mass == "zeros")  # the last tree has none


def test_unknown_masses_are_refused():
    with pytest.raises(ValueError, match=re.escape("Expected 'mass' to be one of [None, 'random'")):
        attention_inputs(TreeIndex.from_parent(star(2)), mass="ones")
