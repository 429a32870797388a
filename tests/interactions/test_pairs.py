"""Siblings, edges, and the levels of two trees."""

import pytest
import torch

from hsa_geometric import TreeIndex
from hsa_geometric.interactions import along, between, siblings
from hsa_geometric.testing import ZOO, balanced, forest, random_parent, star, zoo


@pytest.mark.parametrize("name", ZOO)
def test_siblings_meet(name):
    tree = TreeIndex.from_parent(zoo(name))
    lists, parent = siblings(tree), tree.parent.tolist()
    leaves = set(tree.leaf_ids.tolist())
    every = range(tree.num_nodes)
    expected = {
        (a, b) for a in every for b in every
        if (a != b and parent[a] == parent[b] and parent[a] != a and parent[b] != b)
        or (a == b and a in leaves)
    }  # fmt: skip
    assert set(map(tuple, lists.block_ids.t().tolist())) == expected
    assert lists.are_siblings


@pytest.mark.parametrize("seed", range(4))
def test_leaves_joined_by_an_edge_meet_one_by_one(seed):
    tree = TreeIndex.from_parent(random_parent(40, seed=seed, reach=8))
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(tree.num_leaves, (2, 12), generator=generator)
    lists = along(tree, edges)
    blocks = set(map(tuple, lists.block_ids.t().tolist()))
    ids = tree.leaf_ids.tolist()
    assert all((ids[target], ids[source]) in blocks for source, target in edges.t().tolist())
    opened = set(map(tuple, lists.opened.t().tolist()))
    assert opened >= set(map(tuple, siblings(tree).opened.t().tolist()))
    assert along(tree, edges[:, :0]).are_siblings
    # Nothing is opened but what an edge crosses.
    parent = tree.parent.tolist()

    def above(a):
        return [a] if parent[a] == a else [a, *above(parent[a])]

    crossed = {(a, b) for s, t in edges.t().tolist() for a in above(ids[t]) for b in above(ids[s])}
    assert opened <= crossed | {(a, a) for a in range(tree.num_nodes)}


def test_edges_out_of_place_are_named():
    tree = TreeIndex.from_parent(forest(star(2), star(2)))
    with pytest.raises(ValueError, match="between node 1 of sample 0 and node 2 of sample 1"):
        along(tree, torch.tensor([[1], [2]]))
    with pytest.raises(ValueError, match=r"got edge 0 between 0 and 4"):
        along(tree, torch.tensor([[0], [4]]))
    with pytest.raises(ValueError, match=r"'edge_index' to be of shape \[2, E\]"):
        along(tree, torch.zeros(3, 1).long())


def test_levels_are_opened_from_the_roots():
    query, key = TreeIndex.from_parent(balanced(2, 3)), TreeIndex.from_parent(balanced(3, 2))
    sizes = [between(query, key, levels=n).num_logits for n in (1, 2, 3, None)]
    assert sizes == [2 * 3, 4 * 9, 8 * 9, 8 * 9]


def test_given_pairs_meet_one_by_one():
    query = TreeIndex.from_parent(forest(balanced(2, 3), star(2)))
    key = TreeIndex.from_parent(forest(balanced(3, 2), torch.tensor([0])))
    pairs = torch.tensor([[0, 7, 8], [4, 0, 9]])
    lists = between(query, key, pairs=pairs)
    blocks = set(map(tuple, lists.block_ids.t().tolist()))
    for i, j in pairs.t().tolist():
        assert (int(query.leaf_ids[i]), int(key.leaf_ids[j])) in blocks


def test_what_does_not_fit_is_refused():
    tree, two = TreeIndex.from_parent(star(3)), TreeIndex.from_parent(forest(star(1), star(2)))
    with pytest.raises(ValueError, match="the 1 trees of 'query_tree'"):
        between(tree, two)
    with pytest.raises(ValueError, match="'levels' to be at least 1"):
        between(tree, tree, levels=0)
    with pytest.raises(ValueError, match=r"rows of key leaves in \[0, 2\] .got 3"):
        between(tree, tree, pairs=torch.tensor([[0], [3]]))
    with pytest.raises(ValueError, match=r"leaves of one sample .got the pair .0, 1"):
        between(two, two, pairs=torch.tensor([[0], [1]]))
    with pytest.raises(TypeError, match="'pairs' to hold integers"):
        between(tree, tree, pairs=torch.zeros(2, 1))
