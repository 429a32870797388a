import copy

import networkx as nx
import pytest
import torch
from helpers import assert_same, rows_below
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from hsa_geometric.builders import from_networkx, from_parent, to_networkx
from hsa_geometric.surgery import rebalance
from hsa_geometric.testing import (
    ZOO,
    balanced,
    caterpillar,
    chain,
    forests,
    random_parent,
    star,
    zoo,
)


def ancestors(parent):
    parent, out = parent.tolist(), []
    for node in range(len(parent)):
        out.append([])
        while parent[node] != node:
            node = parent[node]
            out[-1].append(node)
    return out


def tree_order(parent):
    """Leaf rows left to right: siblings in the order of their first leaves, by plain recursion."""
    sets, above = rows_below(parent), parent.tolist()

    def walk(node):
        below = [a for a, p in enumerate(above) if p == node != a]
        below.sort(key=lambda a: min(sets[a]))
        return [row for a in below for row in walk(a)] if below else sorted(sets[node])

    roots = [a for a, p in enumerate(above) if a == p]
    return [row for root in sorted(roots, key=lambda a: min(sets[a])) for row in walk(root)]


def named(parent):
    return from_parent(parent, tree_kind=torch.arange(len(parent)))


def widest(h):
    return int(h.tree.family_ptr.diff().max()) if h.depth else 0


def leaves_of_largest_tree(h):
    return int(h.tree.count[h.tree.root].max())


def test_a_wide_family_by_hand():
    h = from_parent([7] * 8, x=torch.arange(7.0), tree_kind=torch.tensor([0] * 7 + [5]))
    out = rebalance(h, max_branching=3)
    # Runs of 3, 2 and 2 leaves.
    assert out.parent.tolist() == [8, 8, 8, 9, 9, 10, 10, 7, 7, 7, 7]
    assert out.tree_kind.tolist() == [0] * 7 + [5] * 4  # new nodes are parts of the old one
    assert out.x is h.x
    out = rebalance(h, max_branching=2)
    # 4 + 3 leaves, then 2 + 2 and 2 + 1: the run of one is the leaf itself.
    assert out.parent.tolist() == [10, 10, 11, 11, 12, 12, 9, 7, 7, 7, 8, 8, 9]
    assert out.depth == 3


def test_a_deep_path_by_hand():
    # Spine 7 - 6 - 5 - 4 - {0, 1}, with leaves 2, 3 beside 4's and 5's places, then none at 7.
    h = from_parent([4, 4, 5, 6, 5, 6, 6], inner_x=torch.tensor([40.0, 50.0, 60.0]))
    out = rebalance(h, max_depth=2)
    assert out.parent.tolist() == [4, 4, 5, 5, 5, 5]  # 5, with 3 of 4 leaves, is dissolved
    assert out.inner_x.tolist() == [40.0, 60.0]
    assert rebalance(h, max_depth=1).parent.tolist() == [4] * 5
    out = rebalance(h, max_depth=2, max_branching=2)
    assert out.parent.tolist() == [4, 4, 6, 6, 5, 5, 5]
    assert out.inner_x.tolist() == [40.0, 60.0, 60.0]


def test_runs_follow_the_leaves_not_the_ids_of_inner_nodes():
    # Family of root 9: inner 7 (leaf rows 0, 1), leaf row 2, inner 8 (rows 3, 4), leaves 5, 6.
    parent = torch.tensor([7, 7, 9, 8, 8, 9, 9, 9, 9, 9])
    out = rebalance(from_parent(parent), max_branching=2)
    sets = rows_below(out.parent)
    assert [sorted(s) for s in sets[10:]] == [[0, 1, 2, 3, 4], [5, 6], [0, 1, 2]]


@given(forests(max_nodes=30), st.integers(2, 5), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_both_bounds_hold_and_nothing_is_mixed_up(parent, branching, depth):
    h = named(parent)
    if leaves_of_largest_tree(h) > branching**depth:
        with pytest.raises(ValueError, match="'max_branching' \\*\\* 'max_depth' to be at least"):
            rebalance(h, max_branching=branching, max_depth=depth)
        return
    before = parent.clone()
    out = rebalance(h, max_branching=branching, max_depth=depth)
    assert out.validate() and torch.equal(h.parent, before)
    assert out.depth <= depth and widest(out) <= branching
    assert_invariants(h, out)


@given(forests(max_nodes=30), st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_without_a_width_nodes_only_go(parent, depth):
    h = named(parent)
    out = rebalance(h, max_depth=depth)
    assert out.validate() and out.depth <= depth
    assert out.tree_kind.unique().numel() == out.num_tree_nodes <= h.num_tree_nodes
    assert_invariants(h, out)


@given(forests(max_nodes=40), st.integers(2, 5))
@settings(max_examples=80, deadline=None)
def test_without_a_depth_nodes_only_come(parent, branching):
    h = named(parent)
    out = rebalance(h, max_branching=branching)
    assert out.validate() and widest(out) <= branching
    assert torch.equal(out.tree_kind[: h.num_tree_nodes], h.tree_kind)
    assert_invariants(h, out)


def assert_invariants(h, out):
    old, new = rows_below(h.parent), rows_below(out.parent)
    assert [sets for sets in new if len(sets) == 0] == []
    kind = out.tree_kind.tolist()
    kept = {k: i for i, k in reversed(list(enumerate(kind)))}  # the first of each kind
    for k, i in kept.items():
        assert new[i] == old[k]
    above_old, above_new = ancestors(h.parent), ancestors(out.parent)
    names = set(kept)
    for k, i in kept.items():
        expected = [a for a in above_old[k] if a in names]
        assert [kind[a] for a in above_new[i] if kept[kind[a]] == a] == expected
    place = {row: i for i, row in enumerate(tree_order(h.parent))}
    for i in set(range(len(kind))) - set(kept.values()):  # new nodes
        places = sorted(place[row] for row in new[i])
        assert places == list(range(places[0], places[0] + len(places)))
        assert new[i] < old[kind[i]] and len(new[i]) > 1
    assert out.num_trees == h.num_trees


@given(forests(max_nodes=30))
@settings(max_examples=60, deadline=None)
def test_a_tree_within_the_bounds_stays(parent):
    h = named(parent)
    out = rebalance(h, max_branching=max(2, widest(h)), max_depth=max(1, h.depth))
    assert torch.equal(out.parent, h.parent)


@pytest.mark.parametrize("name", ZOO)
def test_rebalancing_twice_changes_nothing_more(name):
    once = rebalance(from_parent(zoo(name)), max_branching=2, max_depth=5)
    assert torch.equal(rebalance(once, max_branching=2, max_depth=5).parent, once.parent)


def test_only_trees_beyond_the_bounds_change():
    batch = Batch.from_data_list([named(star(9)), named(balanced(2, 3)), named(caterpillar(6))])
    out = rebalance(batch, max_branching=3, max_depth=4)
    assert torch.equal(out.get_example(1).parent, balanced(2, 3))


@pytest.mark.parametrize(
    ("parent", "branching", "depth", "mean_depth"),
    [
        (caterpillar(2999), 8, 12, 5.0),
        (caterpillar(2999), 8, 4, 4.0),  # 8 ** 4 = 4,096
        (caterpillar(4095), 8, 4, 4.0),  # no room to spare
        (caterpillar(2999), 2, 12, 12.0),
        (star(5000), 8, 5, 5.0),
        (random_parent(6000, reach=2, seed=1), 4, 9, 8.0),
        (chain(3000), 2, 3, 3.0),
    ],
)
def test_deep_and_wide_trees_become_shallow(parent, branching, depth, mean_depth):
    h = from_parent(parent)
    out = rebalance(h, max_branching=branching, max_depth=depth)
    assert out.validate() and out.num_nodes == h.num_nodes
    assert out.depth <= depth and widest(out) <= branching
    assert out.tree.level[out.tree.leaf_ids].double().mean() <= mean_depth


def test_a_bound_may_be_as_large_as_one_likes():
    out = rebalance(from_parent(star(9)), max_branching=3, max_depth=10**12)
    assert torch.equal(out.parent, rebalance(from_parent(star(9)), max_branching=3).parent)


def test_a_caterpillar_keeps_a_spine_node_for_each_halving():
    h = rebalance(from_parent(caterpillar(4095)), max_depth=12)
    count = h.tree.count[h.tree.family_parent]
    assert sorted(count.tolist()) == [2**i for i in range(1, 13)]


# Data #########################################################################################


def sample(parent, seed=0):
    g = torch.Generator().manual_seed(seed)
    h = from_parent(parent)
    leaves, nodes = h.num_nodes, h.num_tree_nodes
    h.x = torch.rand(leaves, 2, generator=g)
    h.y = torch.rand(1, generator=g)
    h.edge_index = torch.randint(leaves, (2, 3), generator=g)
    h.tree_kind = torch.randint(9, (nodes,), generator=g)
    h.inner_x = torch.rand(nodes - leaves, 2, generator=g)
    return h


@pytest.mark.parametrize("bounds", [{"max_branching": 2}, {"max_depth": 2}, {}])
def test_a_batch_is_rebalanced_one_by_one_and_still_splits(bounds):
    bounds = bounds or {"max_branching": 3, "max_depth": 3}
    parents = [zoo(name) for name in ("star", "caterpillar", "one_node", "deep", "ragged")]
    data_list = [sample(parent, i) for i, parent in enumerate(parents)]
    alone = [rebalance(h, **bounds) for h in data_list]
    follow = ["parent", "inner_x"]
    batch = next(iter(DataLoader(data_list, batch_size=5, follow_batch=follow)))
    before = copy.deepcopy(batch)
    out = rebalance(batch, **bounds)
    assert_same(out, Batch.from_data_list(alone, follow_batch=follow))
    for one, other in zip(alone, out.to_data_list(), strict=True):
        assert_same(one, other)
    assert_same(batch, before)


def test_a_batch_that_cannot_be_split_is_rebalanced_too():
    batch = Batch.from_data_list([sample(star(9), 0), sample(star(5), 1)])
    part = batch.subgraph(torch.arange(14) != 3)
    out = rebalance(part, max_branching=3)
    assert out.validate() and widest(out) == 3 and torch.equal(out.batch, part.batch)


def test_positions_within_families_are_not_left_wrong():
    h = from_parent(star(4), tree_pos=torch.rand(5, 1))
    with pytest.raises(ValueError, match="no 'tree_pos' in 'h'"):
        rebalance(h, max_branching=2)
    assert rebalance(h, max_branching=4).tree_pos is h.tree_pos


def test_what_has_no_row_for_a_new_node_is_named():
    h = from_parent([4, 4, 4, 4, 4])
    h.tree_label = ["a", "b", "c", "d", "r"]
    with pytest.raises(ValueError, match=r"'tree_label' to be a tensor.*del h\['tree_label'\]"):
        rebalance(h, max_branching=2)


def test_new_nodes_of_a_named_tree_get_names_of_their_own():
    h = from_networkx(nx.DiGraph([("r", "a"), ("a", "b"), ("b", "c"), ("b", "d")]))
    assert rebalance(h, max_depth=1).tree_names.names == ["c", "d", "r"]
    G = nx.DiGraph([("r", "abcdefgh"[i]) for i in range(8)], title="star")
    once = rebalance(from_networkx(G), max_branching=4)
    assert once.tree_names.names == [*"abcdefgh", "r", *(("r", i) for i in range(1, 5))]
    twice = rebalance(once, max_branching=2)
    assert twice.validate() and twice.tree_names.names[:13] == once.tree_names.names
    H = to_networkx(twice)
    assert len(H) == twice.num_tree_nodes == 15 and H.graph == {"title": "star"}
    assert [v for v in H if H.out_degree(v) == 0] == [*"abcdefgh"]

    batch = Batch.from_data_list([from_networkx(G), h])
    out = rebalance(batch, max_branching=4)
    assert [r.names for r in out.tree_names] == [once.tree_names.names, h.tree_names.names]
    assert out.get_example(0).tree_names == once.tree_names


@pytest.mark.parametrize(
    ("bounds", "error", "match"),
    [
        ({}, ValueError, "'max_branching' or 'max_depth'"),
        ({"max_branching": 1}, ValueError, r"'max_branching' to be at least 2 \(got 1\)"),
        ({"max_depth": 0}, ValueError, r"'max_depth' to be at least 1 \(got 0\)"),
        ({"max_depth": 2.0}, TypeError, r"'max_depth' to be an integer \(got float\)"),
        ({"max_branching": True}, TypeError, r"'max_branching' to be an integer \(got bool\)"),
        (
            {"max_branching": 2, "max_depth": 2},
            ValueError,
            r"'max_branching' \*\* 'max_depth' to be at least 7, .* \(got 2 \*\* 2 = 4\)",
        ),
    ],
)
def test_bad_bounds_are_named(bounds, error, match):
    with pytest.raises(error, match=match):
        rebalance(from_parent(star(7)), **bounds)


def test_only_hierarchies_are_taken():
    with pytest.raises(TypeError, match=r"'h' to be a Hierarchy \(got Tensor\)"):
        rebalance(star(3), max_depth=1)
