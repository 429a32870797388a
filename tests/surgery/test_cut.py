import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from hsa_geometric.builders import from_parent
from hsa_geometric.data import Hierarchy
from hsa_geometric.functional import aggregate, clusters_at, hierarchical_attention
from hsa_geometric.surgery import cut
from hsa_geometric.testing import attention_inputs, forests, zoo


def named(parent, **data):
    return from_parent(parent, tree_kind=torch.arange(len(parent)), **data)


def assert_cut_at(h, out, below):
    """The nodes whose parent is not below the cut are what is left, as they were, and all leaves.

    Compared with a plain walk over the ids; ``below`` is a mask over the nodes of ``h``.
    """
    parent, below = h.parent.tolist(), below.tolist()
    leaves = h.tree.leaf_ids.tolist()
    expected = {}
    for node, up in enumerate(parent):
        is_root = up == node
        if node not in leaves and not is_root and below[up]:
            continue
        while below[up] and parent[up] != up and below[parent[up]]:
            up = parent[up]
        expected[node] = up
    kind = out.tree_kind.tolist()
    assert out.validate()
    assert dict(zip(kind, out.tree_kind[out.parent].tolist(), strict=True)) == expected
    assert out.num_nodes == h.num_nodes and out.num_trees == h.num_trees


def test_by_hand():
    # 8 (root) - {7 - {5 - {0, 1}, 6 - {2, 3}}, 4}
    h = named(
        torch.tensor([5, 5, 6, 6, 8, 7, 7, 8, 8]),
        inner_x=torch.tensor([5, 6, 7, 8]),
        mass=[1.0, 1.0, 1.0, 1.0, 4.0],
        x=torch.rand(5, 1),
    )
    for out in (cut(h, level=1), cut(h, max_leaves=4), cut(h, fraction=0.5)):
        assert out.parent.tolist() == [5, 5, 5, 5, 6, 6, 6]
        assert out.tree_kind.tolist() == [0, 1, 2, 3, 4, 7, 8]
        assert out.inner_x.tolist() == [7, 8]
        assert out.x is h.x
    assert cut(h, max_leaves=2).parent.tolist() == h.parent.tolist()
    assert cut(h, fraction=0.25).parent.tolist() == h.parent.tolist()
    assert cut(h, fraction=1.0).parent.tolist() == [5] * 6
    assert h.num_tree_nodes == 9


@given(forests(max_nodes=30), st.integers(-4, 6))
@settings(max_examples=80, deadline=None)
def test_a_cut_at_a_level_leaves_its_clusters(parent, level):
    h = named(parent)
    out = cut(h, level=level)
    clusters = clusters_at(h.tree, level)
    at = torch.zeros(len(parent), dtype=torch.bool)
    at[clusters.node] = True
    below, jump = at.clone(), parent
    for _ in range(len(parent)):
        below |= at[jump]
        jump = parent[jump]
    assert_cut_at(h, out, below)
    # Grouped by their parents, the leaves at the cut are the clusters.
    again = clusters_at(out.tree, level) if level >= 0 else None
    if again is not None:
        assert torch.equal(again.cluster, clusters.cluster)
        assert out.depth <= level + 1


@given(forests(max_nodes=30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_cut_by_leaves_is_at_the_topmost_small_nodes(parent, max_leaves):
    h = named(parent)
    count = aggregate(torch.ones(h.num_nodes), h.tree)
    assert_cut_at(h, cut(h, max_leaves=max_leaves), count <= max_leaves)


@given(forests(max_nodes=30), st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9, 1.0]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_cut_by_fraction_is_at_the_topmost_light_nodes(parent, fraction, with_mass):
    h = named(parent)
    mass = torch.randint(0, 4, (h.num_nodes,)).double()
    if with_mass:
        h.mass = mass
    held = aggregate(mass if with_mass else torch.ones_like(mass), h.tree)
    root = parent
    for _ in range(len(parent)):
        root = parent[root]
    assert_cut_at(h, cut(h, fraction=fraction), held <= fraction * held[root] + 1e-9)


def test_a_share_that_is_met_exactly_counts_as_at_most_it():
    h = from_parent(torch.tensor([10] * 3 + [11] * 7 + [11, 11]), mass=[0.1] * 10)
    assert cut(h, fraction=0.3).num_tree_nodes == 12  # 10 holds 0.3, and is where it is cut
    out = cut(from_parent([3, 3, 4, 4, 5, 5], mass=[0.1, 0.2, 0.7]), fraction=0.3)
    assert out.parent.tolist() == [3, 3, 4, 4, 5, 5]


@given(forests(max_nodes=24, max_trees=2), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_cutting_never_lowers_the_evidence(parent, max_leaves):
    h = from_parent(parent)
    inputs = attention_inputs(h.tree)
    before = hierarchical_attention(**inputs, tree=h.tree, return_evidence=True)[1]
    out = cut(h, max_leaves=max_leaves)
    after = hierarchical_attention(**inputs, tree=out.tree, return_evidence=True)[1]
    assert (after >= before - 1e-12).all()


@pytest.mark.parametrize("how", [{"level": 1}, {"level": -3}, {"max_leaves": 3}, {"fraction": 0.4}])
def test_a_batch_is_cut_one_by_one_and_still_splits(how):
    parents = [zoo(n) for n in ("binary", "caterpillar", "one_node", "deep", "one_child_nodes")]
    data_list = [named(p, x=torch.rand(from_parent(p).num_nodes, 2)) for p in parents]
    alone = [cut(h, **how) for h in data_list]
    out = cut(Batch.from_data_list(data_list, follow_batch=["parent"]), **how)
    expected = Batch.from_data_list(alone, follow_batch=["parent"])
    for one, other in zip([expected, *alone], [out, *out.to_data_list()], strict=True):
        assert set(one.keys()) == set(other.keys())
        for key in sorted(one.keys()):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_a_tree_without_mass_becomes_a_star():
    h = from_parent(zoo("binary"), mass=torch.zeros(8))
    assert cut(h, fraction=0.1).depth == 1


def test_positions_within_families_are_not_left_wrong():
    h = from_parent(zoo("binary"), tree_pos=torch.rand(15, 1))
    with pytest.raises(ValueError, match="no 'tree_pos' in 'h'"):
        cut(h, level=1)
    assert cut(h, level=-1).tree_pos is h.tree_pos


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({}, ValueError, r"exactly one of \['level', 'max_leaves', 'fraction'\] \(got none\)"),
        ({"level": 1, "fraction": 0.5}, ValueError, r"\(got level and fraction\)"),
        ({"level": 1.5}, TypeError, r"'level' to be an integer"),
        ({"max_leaves": 0}, ValueError, r"'max_leaves' to be at least 1 \(got 0\)"),
        ({"max_leaves": "3"}, TypeError, r"'max_leaves' to be an integer \(got str\)"),
        ({"fraction": 0.0}, ValueError, r"'fraction' to be in \(0, 1\] \(got 0.0\)"),
        ({"fraction": 1.5}, ValueError, r"'fraction' to be in \(0, 1\] \(got 1.5\)"),
        ({"fraction": math.nan}, ValueError, r"'fraction' to be in \(0, 1\] \(got nan\)"),
        ({"fraction": "all"}, TypeError, r"'fraction' to be a number \(got str\)"),
    ],
)
def test_bad_cuts_are_named(how, error, match):
    with pytest.raises(error, match=match):
        cut(from_parent(zoo("binary")), **how)


def test_a_hierarchy_needs_a_tree():
    with pytest.raises(ValueError, match=r"'parent' in 'h' \(got none\)"):
        cut(Hierarchy(x=torch.rand(3, 1)), level=0)
    with pytest.raises(ValueError, match=r"'parent'.*cycle"):
        cut(Hierarchy(parent=torch.tensor([1, 0])), level=0)
