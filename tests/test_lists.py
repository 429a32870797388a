"""InteractionLists: which pairs are blocks, and what is refused."""

import copy
import pickle

import pytest
import torch
from helpers import rows_below
from hypothesis import given, settings
from hypothesis import strategies as st

from hsa_geometric import InteractionLists, TreeIndex
from hsa_geometric.testing import ZOO, forest, forests, random_lists, star, zoo

TREE = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))


def pairs(*which):
    return torch.tensor(which).t()


def times_seen(lists):
    """How often each query row is in a block, or a hidden pair, with each key row."""
    below = [rows_below(tree.parent) for tree in (lists.query_tree, lists.key_tree)]
    seen = torch.zeros(lists.query_tree.num_leaves, lists.key_tree.num_leaves)
    for a, b in torch.cat([lists.block_ids, lists.hidden], 1).t().tolist():
        for i in below[0][a]:
            seen[i, list(below[1][b])] += 1
    return seen


def tree_of_row(tree):
    parent = tree.parent
    while not torch.equal(parent, parent[parent]):
        parent = parent[parent]
    return torch.searchsorted(parent.unique(), parent[tree.leaf_ids])


def assert_seen_once(lists):
    one, other = map(tree_of_row, (lists.query_tree, lists.key_tree))
    torch.testing.assert_close(times_seen(lists), (one.unsqueeze(1) == other).float())


@pytest.mark.parametrize("opened", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ZOO)
def test_each_leaf_sees_each_leaf_of_its_tree_once(name, opened):
    assert_seen_once(random_lists(TreeIndex.from_parent(zoo(name)), opened=opened, hidden=0.2))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_query_sees_each_key_of_its_sample_once(data):
    query = TreeIndex.from_parent(data.draw(forests()))
    keys = [data.draw(forests(max_trees=1, max_nodes=12)) for _ in range(min(query.num_trees, 4))]
    keys += [star(1)] * (query.num_trees - len(keys))
    key = TreeIndex.from_parent(forest(*keys))
    chance = data.draw(st.floats(0, 1))
    lists = random_lists(query, key, opened=chance, hidden=0.3, seed=data.draw(st.integers(0, 9)))
    assert_seen_once(lists)
    assert (lists.ptr.diff() == torch.bincount(lists.blocks[0], minlength=query.num_nodes)).all()
    code = lists.blocks[0] * key.num_nodes + lists.blocks[1]
    assert (code.diff() > 0).all()


def test_pairs_by_hand():
    # root and root, {0, 1} and {2, 3}, but not the other way round
    lists = InteractionLists.from_opened(TREE, pairs((4, 5), (6, 6)))
    assert lists.block_ids.t().tolist() == [
        [4, 4], [5, 4], [5, 5], [0, 2], [0, 3], [1, 2], [1, 3],
    ]  # fmt: skip
    assert lists.num_logits == 7 and lists.logits_per_leaf == 7 / 4 and not lists.are_siblings
    assert lists.opened.tolist() == [[6, 4], [6, 5]]


def test_a_leaf_stands_for_itself():
    query, key = TreeIndex.from_parent(star(2)), TREE
    lists = InteractionLists.from_opened(query, pairs((2, 6), (0, 4)), key_tree=key)
    assert lists.block_ids.t().tolist() == [[0, 5], [0, 0], [0, 1], [1, 4], [1, 5]]


def test_hidden_pairs_are_no_blocks():
    lists = InteractionLists.from_opened(TREE, pairs((6, 6)), hidden=pairs((4, 5)))
    assert lists.block_ids.t().tolist() == [[4, 4], [5, 4], [5, 5]]
    assert lists.hidden.t().tolist() == [[4, 5]]


def test_two_lone_leaves_are_a_block():
    tree = TreeIndex.from_parent(torch.arange(2))
    lists = InteractionLists.from_opened(tree, torch.empty(2, 0, dtype=torch.long))
    assert lists.block_ids.tolist() == [[0, 1], [0, 1]]
    assert lists.are_siblings


def test_siblings_are_recognised():
    inner = torch.tensor([4, 5, 6])
    assert InteractionLists.from_opened(TREE, torch.stack([inner, inner])).are_siblings
    again = TreeIndex.from_parent(TREE.parent)
    two = InteractionLists.from_opened(TREE, torch.stack([inner, inner]), key_tree=again)
    assert not two.are_siblings


def test_copies_are_of_one_tree_and_share_what_is_worked_out():
    lists = random_lists(TREE, opened=0.5)
    for twin in (pickle.loads(pickle.dumps(lists)), copy.deepcopy(lists), lists.to("cpu")):
        assert twin.of_one_tree and twin.once("same", object) is lists.once("same", object)
        for x, y in zip(twin.tensors, lists.tensors, strict=True):
            assert torch.equal(x, y)
    two = random_lists(TREE, TreeIndex.from_parent(star(3)))
    assert not pickle.loads(pickle.dumps(two)).of_one_tree
    one = InteractionLists.from_opened(
        TREE, lists.opened, key_tree=pickle.loads(pickle.dumps(TREE))
    )
    assert one.of_one_tree


BATCH = TreeIndex.from_parent(forest(star(2), TREE.parent))


@pytest.mark.parametrize(
    "tree, opened, match",
    [
        (TREE, pairs((6, 7)), r"ids of key nodes in \[0, 6\] \(got the pair \(6, 7\)\)"),
        (TREE, pairs((-1, 6)), r"ids of query nodes in \[0, 6\] \(got the pair \(-1, 6\)\)"),
        (TREE, pairs((6, 6), (4, 5), (4, 5)), r"got the pair \(4, 5\) twice"),
        (TREE, pairs((6, 6), (4, 4), (0, 1)), r"got the pair \(0, 1\), two leaves"),
        (TREE, pairs((6, 6), (4, 6)), r"pairs that meet \(got the pair \(4, 6\)"),
        (TREE, pairs((6, 6), (0, 5)), r"pairs that meet \(got the pair \(0, 5\)"),
        (TREE, pairs((4, 5)), r"pairs that meet \(got the pair \(4, 5\)"),
        (BATCH, pairs((2, 2)), r"every pair of two roots \(got none of the pair \(9, 9\)\)"),
        (BATCH, pairs((2, 2), (9, 9), (2, 9)), r"one sample of the batch \(got the pair \(2, 9\)"),
        (TREE, torch.tensor([6, 6]), r"shape \[2, P\] \(got \[2\]\)"),
    ],
)  # fmt: skip
def test_bad_pairs_are_named(tree, opened, match):
    with pytest.raises(ValueError, match=match):
        InteractionLists.from_opened(tree, opened)


@pytest.mark.parametrize(
    "hidden, match",
    [
        (pairs((6, 6)), r"not opened \(got the pair \(6, 6\)\)"),
        (pairs((0, 1)), r"'hidden' to hold pairs that meet \(got the pair \(0, 1\)"),
        (pairs((4, 5), (4, 5)), r"once in 'hidden' \(got the pair \(4, 5\) twice\)"),
    ],
)
def test_bad_hidden_pairs_are_named(hidden, match):
    with pytest.raises(ValueError, match=match):
        InteractionLists.from_opened(TREE, pairs((6, 6)), hidden=hidden)


def test_what_is_no_pairs_of_two_forests_is_refused():
    with pytest.raises(TypeError, match="'opened' to hold integers"):
        InteractionLists.from_opened(TREE, torch.zeros(2, 1))
    with pytest.raises(TypeError, match="'opened' to be a tensor"):
        InteractionLists.from_opened(TREE, [[6], [6]])
    with pytest.raises(TypeError, match="'key_tree' to be a TreeIndex"):
        InteractionLists.from_opened(TREE, pairs((6, 6)), key_tree=TREE.parent)
    with pytest.raises(ValueError, match=r"the 1 trees of 'query_tree' .got 2"):
        InteractionLists.from_opened(TREE, pairs((6, 6)), key_tree=BATCH)
