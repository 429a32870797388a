import copy
import pickle
import re
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.testing import ZOO, balanced, chain, forests, random_parent, star, zoo


def naive(parent):
    """What a tree is, with plain loops."""
    parent = parent.tolist()
    nodes = range(len(parent))
    children = [[c for c in nodes if parent[c] == a and c != a] for a in nodes]
    level, leaves_below = [], []
    for node in nodes:
        at, up = 0, node
        while parent[up] != up:
            at, up = at + 1, parent[up]
        level.append(at)
    for node in nodes:
        stack, found = [node], []
        while stack:
            a = stack.pop()
            stack += children[a]
            if not children[a]:
                found.append(a)
        leaves_below.append(len(found))
    return SimpleNamespace(
        parent=parent,
        children=children,
        level=level,
        leaves_below=leaves_below,
        leaves=[a for a in nodes if not children[a]],
        roots=[a for a in nodes if parent[a] == a],
    )


def check_invariants(parent):
    """Every promise in the docstring of TreeIndex, against plain loops."""
    tree, true = TreeIndex.from_parent(parent), naive(parent)
    num_nodes = len(true.parent)
    order, position = tree.order.tolist(), tree.position.tolist()

    assert tree.num_nodes == num_nodes
    assert tree.num_leaves == len(true.leaves)
    assert tree.num_trees == len(true.roots)
    assert tree.depth == max(true.level)
    for tensor in (*tree.tensors, tree.parent, tree.order, tree.root, tree.count):
        assert tensor.dtype == torch.long

    # A permutation and its inverse.
    assert sorted(order) == list(range(num_nodes))
    assert [order[p] for p in position] == list(range(num_nodes))
    assert tree.parent.tolist() == true.parent
    assert [order[p] for p in tree.up.tolist()] == [true.parent[a] for a in order]

    # Levels ascend, roots first; roots and leaves stay in ascending id.
    assert [true.level[a] for a in order] == sorted(true.level)
    assert tree.root.tolist() == list(range(len(true.roots)))
    assert [order[p] for p in tree.root.tolist()] == true.roots
    assert [order[p] for p in tree.leaf.tolist()] == true.leaves
    assert tree.leaf_ids.tolist() == true.leaves
    assert tree.level.tolist() == true.level
    assert tree.count.tolist() == [true.leaves_below[a] for a in order]

    # Families: CSR over positions, siblings in ascending id.
    ptr = tree.family_ptr.tolist()
    families = [order[a:b] for a, b in pairwise(ptr)]
    owners = [order[p] for p in tree.family_parent.tolist()]
    assert [true.children[a] for a in owners] == families
    assert sorted(owners) == [a for a in range(num_nodes) if true.children[a]]
    assert ptr[0] == len(true.roots) and ptr[-1] == num_nodes

    # Levels below the roots, as slices of families and of nodes.
    assert tree.layout.levels.shape == (tree.depth, 8) and not tree.layout.levels.is_cuda
    node, family = len(true.roots), 0
    for level, (f0, f1, n0, n1, p0, size, i0, i1) in enumerate(
        tree.layout.levels.tolist(), start=1
    ):
        assert tree.layout.inner.tolist()[i0:i1] == [
            p for p in sorted(tree.family_parent.tolist()) if n0 <= p < n1
        ]
        assert (f0, n0) == (family, node)
        assert {true.level[a] for a in order[n0:n1]} == {level}
        assert (ptr[f0], ptr[f1]) == (n0, n1)
        above = tree.family_parent[f0:f1].tolist()
        consecutive = above == list(range(above[0], above[0] + len(above)))
        assert p0 == (above[0] if consecutive else -1)
        sizes = {len(f) for f in families[f0:f1]}
        assert size == (sizes.pop() if len(sizes) == 1 else 0)
        node, family = n1, f1
    assert (node, family) == (num_nodes, len(families))

    # Families by size, each root a family of one.
    by_size = [tuple(x) for x in tree.layout.by_size.T.tolist()]
    expected = [(r, 1) for r in range(tree.num_trees)] + [(a, b - a) for a, b in pairwise(ptr)]
    assert sorted(by_size) == sorted(expected)
    end = 0
    for size, g0, g1, start in tree.layout.sizes.tolist():
        firsts = [first for first, _ in by_size[g0:g1]]
        apart = {b - a for a, b in pairwise(firsts)} - {size}
        assert start == (-1 if apart else firsts[0])
        assert g0 == end and g1 > g0
        assert {s for _, s in by_size[g0:g1]} == {size}
        end = g1
    assert end == len(by_size)
    assert tree.layout.sizes[:, 0].tolist() == sorted({size for _, size in expected})

    # Inner nodes.
    inner = sorted(set(tree.family_parent.tolist()))
    assert tree.layout.inner.tolist() == inner
    assert tree.layout.inner[tree.layout.family_inner].tolist() == tree.family_parent.tolist()
    above = [inner.index(p) for p in tree.up.tolist()[len(true.roots) :]]
    assert tree.layout.above.tolist() == [len(inner)] * len(true.roots) + above
    bounds = tree.layout.inner_ptr.tolist()
    for f, (a, b) in enumerate(pairwise(ptr)):
        assert inner[bounds[f] : bounds[f + 1]] == [p for p in inner if a <= p < b]


def test_layout_of_a_small_tree_done_by_hand():
    #        5
    #      / | \
    #     4  0  1        leaves 0, 1, 2, 3; 4 and 6 group
    #     |
    #     6
    #    / \
    #   2   3
    tree = TreeIndex.from_parent(torch.tensor([5, 5, 6, 6, 5, 5, 4]))
    assert tree.order.tolist() == [5, 0, 1, 4, 6, 2, 3]
    assert tree.position.tolist() == [1, 2, 5, 6, 3, 0, 4]
    assert tree.up.tolist() == [0, 0, 0, 0, 3, 4, 4]
    assert tree.root.tolist() == [0]
    assert tree.leaf.tolist() == [1, 2, 5, 6]
    assert tree.count.tolist() == [4, 1, 1, 2, 2, 1, 1]
    assert tree.family_parent.tolist() == [0, 3, 4]
    assert tree.family_ptr.tolist() == [1, 4, 5, 7]
    assert tree.layout.by_size.tolist() == [[0, 4, 5, 1], [1, 1, 2, 3]]
    assert tree.layout.inner.tolist() == [0, 3, 4]
    assert tree.layout.inner_ptr.tolist() == [1, 2, 3, 3]
    assert tree.layout.family_inner.tolist() == [0, 1, 2]
    assert tree.layout.passes.table.tolist() == []
    assert tree.layout.levels.tolist() == [
        [0, 1, 1, 4, 0, 3, 1, 2],
        [1, 2, 4, 5, 3, 1, 2, 3],
        [2, 3, 5, 7, 4, 2, 3, 3],
    ]
    assert tree.layout.above.tolist() == [3, 0, 0, 0, 1, 2, 2]
    assert tree.layout.sizes.tolist() == [[1, 0, 2, -1], [2, 2, 3, 5], [3, 3, 4, 1]]
    assert tree.level.tolist() == [1, 1, 3, 3, 1, 0, 2]
    assert repr(tree) == "TreeIndex(leaves=4, nodes=7, trees=1, depth=3)"


@pytest.mark.parametrize("name", ZOO)
def test_every_invariant_holds_over_the_zoo(name):
    check_invariants(zoo(name))


@settings(deadline=None, max_examples=60)
@given(forests())
def test_every_invariant_holds_for_random_forests(parent):
    check_invariants(parent)


def test_every_invariant_holds_where_levels_and_families_are_many():
    check_invariants(random_parent(300, num_trees=5, seed=1))
    check_invariants(random_parent(300, num_trees=2, reach=4, seed=2))


@pytest.mark.parametrize("name", ZOO)
def test_the_parent_vector_is_not_changed_in_place(name):
    parent = zoo(name)
    before, version = parent.clone(), parent._version
    TreeIndex.from_parent(parent)
    assert torch.equal(parent, before) and parent._version == version


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_any_integer_dtype_gives_the_same_index(dtype):
    expected = TreeIndex.from_parent(zoo("ragged"))
    tree = TreeIndex.from_parent(zoo("ragged").to(dtype))
    for x, y in zip(tree.tensors, expected.tensors, strict=True):
        assert torch.equal(x, y)


def test_a_non_contiguous_parent_vector_gives_the_same_index():
    parent = torch.stack([zoo("ragged"), zoo("ragged") * 0], dim=1)[:, 0]
    assert not parent.is_contiguous()
    expected = TreeIndex.from_parent(zoo("ragged"))
    for x, y in zip(TreeIndex.from_parent(parent).tensors, expected.tensors, strict=True):
        assert torch.equal(x, y)


def everything(tree):
    """Every tensor of an index by name, those of its layout too."""
    layout = tree.layout._asdict()
    found = {**vars(tree), **layout, **layout.pop("passes")._asdict()}
    return {k: x for k, x in found.items() if isinstance(x, torch.Tensor)}


@pytest.mark.parametrize("parent", [zoo("forest"), chain(100)], ids=["forest", "deep"])
def test_to_moves_all_but_the_host_tables(parent):
    tree = TreeIndex.from_parent(parent)
    moved = tree.to("meta")
    assert moved.device.type == "meta" and tree.device.type == "cpu"
    assert [x.device.type for x in moved.tensors] == ["meta", "meta", "meta", "cpu"]
    for name, tensor in everything(moved).items():
        host = name in ("numbers", "levels", "sizes", "table")
        assert tensor.device.type == ("cpu" if host else "meta"), name
    for x, y in zip(tree.to("cpu").tensors, tree.tensors, strict=True):
        assert_close(x, y)


@pytest.mark.parametrize("parent", [zoo("forest"), chain(100)], ids=["forest", "deep"])
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_hold_the_same_once(parent, copied):
    tree = TreeIndex.from_parent(parent)
    other = copied(tree)
    expected = everything(tree)
    for name, x in everything(other).items():
        assert torch.equal(x, expected[name]), name
    assert other.layout.above.untyped_storage().data_ptr() == other.packed.data_ptr()
    held = sum(x.numel() for x in (tree.parent, tree.order, tree.position, tree.root, tree.count))
    held += sum(x.numel() for x in tree.tensors)
    assert len(pickle.dumps(tree)) < 8 * held + 20_000


def test_the_index_is_frozen():
    tree = TreeIndex.from_parent(star(2))
    with pytest.raises(AttributeError, match="cannot assign to field 'parent'"):
        tree.parent = tree.parent


def test_a_chain_3000_deep_is_indexed():
    tree = TreeIndex.from_parent(chain(3000))
    assert (tree.depth, tree.num_leaves) == (3000, 1)
    assert tree.level.tolist() == list(range(3000, -1, -1))
    assert tree.count.unique().tolist() == [1]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33])
def test_levels_and_counts_are_right_around_powers_of_two(depth):
    check_invariants(chain(depth))


def test_a_tree_of_1_000_000_leaves_is_indexed():
    tree = TreeIndex.from_parent(balanced(100, 3))
    assert (tree.num_leaves, tree.num_nodes, tree.depth) == (1_000_000, 1_010_101, 3)
    assert tree.layout.levels[:, 5].tolist() == [100, 100, 100]
    assert tree.count[:102].tolist() == [1_000_000] + [10_000] * 100 + [100]


@pytest.mark.parametrize(
    "parent, error, message",
    [
        ([0, 1], TypeError, "Expected 'parent' to be a tensor (got list)"),
        (None, TypeError, "Expected 'parent' to be a tensor (got NoneType)"),
        (torch.zeros(3), TypeError, "Expected 'parent' to hold integers (got torch.float32)"),
        (torch.zeros(3).bool(), TypeError, "Expected 'parent' to hold integers (got torch.bool)"),
        (
            torch.zeros(2, 2).long(),
            ValueError,
            "Expected 'parent' to be one-dimensional (got 2 dimensions)",
        ),
        (
            torch.tensor(0),
            ValueError,
            "Expected 'parent' to be one-dimensional (got 0 dimensions)",
        ),
        (
            torch.empty(0).long(),
            ValueError,
            "Expected 'parent' to hold at least one node (got an empty tree)",
        ),
        (
            torch.tensor([2, 2, 3]),
            ValueError,
            "Expected 'parent' to hold node ids in [0, 2] (got parent[2] = 3)",
        ),
        (
            torch.tensor([1, 1, -1]),
            ValueError,
            "Expected 'parent' to hold node ids in [0, 2] (got parent[2] = -1)",
        ),
    ],
)
def test_bad_parent_vectors_are_named(parent, error, message):
    with pytest.raises(error, match=re.escape(message)):
        TreeIndex.from_parent(parent)


@pytest.mark.parametrize(
    "parent, nodes",
    [
        ([1, 0], {0, 1}),  # nothing but a cycle
        ([1, 2, 0, 3], {0, 1, 2}),  # a cycle beside a tree
        ([4, 4, 3, 2, 4, 2, 5], {2, 3, 5, 6}),  # nodes below a cycle count as lost too
        ([1, 2, 3, 4, 5, 6, 7, 0], set(range(8))),
        ([*range(1, 1000), 0, 1000], set(range(1000))),
    ],
)
def test_a_cycle_names_a_node_below_it(parent, nodes):
    with pytest.raises(ValueError, match=r"got a cycle above node \d+") as error:
        TreeIndex.from_parent(torch.tensor(parent))
    assert int(re.search(r"node (\d+)\)", str(error.value))[1]) in nodes


@settings(deadline=None, max_examples=40)
@given(forests(min_nodes=2))
def test_any_tree_bent_into_a_cycle_is_refused(parent):
    node = int((parent != torch.arange(parent.numel())).long().argmax())
    root = node
    while parent[root] != root:
        root = int(parent[root])
    if root == node:  # single nodes only
        return
    parent[root] = node
    with pytest.raises(ValueError, match="got a cycle above node"):
        TreeIndex.from_parent(parent)
