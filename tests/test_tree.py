import copy
import gc
import pickle
import re
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from hsa_geometric import TreeIndex
from hsa_geometric.testing import ZOO, balanced, chain, forests, random_parent, star, zoo
from hsa_geometric.tree import FIELDS


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

    # Levels below the roots are slices.
    bounds = [*tree.starts.tolist(), num_nodes]
    for level, (a, b) in enumerate(pairwise(bounds), start=1):
        assert {true.level[node] for node in order[a:b]} == {level}
    assert len(bounds) == tree.depth + 1 and bounds[0] == len(true.roots)


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
    assert tree.starts.tolist() == [1, 4, 5]
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


def assert_same_content(one, other):
    """Equal in all but the key."""
    for x, y in zip(one.tensors[:-1], other.tensors[:-1], strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_any_integer_dtype_gives_the_same_index(dtype):
    expected = TreeIndex.from_parent(zoo("ragged"))
    assert_same_content(TreeIndex.from_parent(zoo("ragged").to(dtype)), expected)


def test_a_non_contiguous_parent_vector_gives_the_same_index():
    parent = torch.stack([zoo("ragged"), zoo("ragged") * 0], dim=1)[:, 0]
    assert not parent.is_contiguous()
    expected = TreeIndex.from_parent(zoo("ragged"))
    assert_same_content(TreeIndex.from_parent(parent), expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_nothing_is_shared_with_the_parent_vector_it_was_built_from(dtype):
    given = zoo("ragged").to(dtype)
    tree = TreeIndex.from_parent(given)
    before = [x.clone() for x in tree.tensors]
    given.zero_()
    for x, y in zip(tree.tensors, before, strict=True):
        assert torch.equal(x, y)
    given = zoo("ragged").to(dtype)
    TreeIndex.from_parent(given).parent.zero_()
    assert torch.equal(given, zoo("ragged").to(dtype))


def test_tensors_share_no_memory_with_each_other():
    tree = TreeIndex.from_parent(zoo("forest"))
    assert len({x.untyped_storage().data_ptr() for x in tree.tensors}) == len(tree.tensors)


def test_to_moves_all_but_the_key():
    tree = TreeIndex.from_parent(zoo("forest"))
    moved = tree.to("meta")
    assert moved.device.type == "meta" and tree.device.type == "cpu"
    *tensors, key = moved.tensors
    assert all(x.is_meta for x in tensors) and torch.equal(key, tree.key)
    assert key.device.type == "cpu"
    assert_same_content(tree.to("cpu"), tree)


def by_pytree(tree):
    leaves, spec = pytree.tree_flatten(tree)
    return pytree.tree_unflatten(leaves, spec)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda tree: pickle.loads(pickle.dumps(tree)),
    "tensors": lambda tree: TreeIndex(*tree.tensors),
    "pytree": by_pytree,
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_hold_the_same(name):
    tree = TreeIndex.from_parent(zoo("forest"))
    tree.once("something", lambda: "large")
    other = COPIES[name](tree)
    assert_same_content(other, tree)
    assert torch.equal(other.key, tree.key)
    assert vars(other).keys() - {"_found"} == {*FIELDS}
    held = sum(x.numel() for x in tree.tensors)
    assert len(pickle.dumps(tree)) < 8 * held + 20_000


# --- what is worked out once ---------------------------------------------------------------------


def test_once_makes_it_once_by_name():
    tree, made = TreeIndex.from_parent(star(3)), []

    def make():
        made.append(None)
        return object()

    assert tree.once("a", make) is tree.once("a", make)
    assert len(made) == 1
    assert tree.once("b", make) is not tree.once("a", make)
    assert TreeIndex.from_parent(star(3)).once("a", make) is not tree.once("a", make)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_finds_what_its_original_has_and_the_other_way_round(name):
    tree = TreeIndex.from_parent(star(3))
    other = COPIES[name](tree)
    mine, yours = object(), object()
    assert tree.once("a", lambda: mine) is other.once("a", lambda: yours) is mine
    assert other.once("b", lambda: yours) is tree.once("b", lambda: mine) is yours


def test_what_is_found_on_one_device_is_not_taken_for_another():
    tree = TreeIndex.from_parent(star(3))
    tree.once("device", lambda: "cpu")
    assert tree.to("meta").once("device", lambda: "meta") == "meta"


def test_what_is_found_goes_with_the_last_copy():
    class Large:
        pass

    tree = TreeIndex.from_parent(star(3))
    there = weakref.ref(tree.once("a", Large))
    other = copy.copy(tree)
    del tree
    gc.collect()
    assert there() is not None
    del other
    gc.collect()
    assert there() is None


def test_threads_that_ask_at_once_get_one_result():
    tree, start = TreeIndex.from_parent(star(3)), threading.Barrier(8)

    def make():
        time.sleep(0.01)
        return object()

    def ask(_):
        start.wait()
        return tree.once("a", make)

    with ThreadPoolExecutor(8) as pool:
        assert len({*map(id, pool.map(ask, range(8)))}) == 1


def test_what_may_be_made_of_it_needs_another_of_it():
    tree = TreeIndex.from_parent(star(3))
    assert tree.once("a", lambda: tree.once("b", lambda: 1) + 1) == 2


def test_nothing_of_inference_mode_stays_in_an_index_or_what_it_found():
    with torch.inference_mode():
        tree = TreeIndex.from_parent(zoo("ragged").clone())
        made = tree.once("a", lambda: tree.count * 1.0)
    assert not any(x.is_inference() for x in (*tree.tensors, made))


def test_random_numbers_of_torch_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    TreeIndex.from_parent(star(3))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(TreeIndex.from_parent(star(3)).key, TreeIndex.from_parent(star(3)).key)


# --- fake tensors --------------------------------------------------------------------------------


def test_a_real_parent_vector_gives_a_real_index_under_fake_tensor_mode():
    parent = zoo("ragged")
    with FakeTensorMode():
        tree = TreeIndex.from_parent(parent)
        found = tree.once("a", lambda: tree.count + 1)
    assert_same_content(tree, TreeIndex.from_parent(parent))
    assert torch.equal(found, tree.count + 1)


def test_a_parent_vector_without_numbers_is_refused():
    with pytest.raises(ValueError, match=r"Expected 'parent' to hold numbers \(got one on meta"):
        TreeIndex.from_parent(star(3).to("meta"))


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
    assert tree.family_ptr.diff().unique().tolist() == [100]
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
