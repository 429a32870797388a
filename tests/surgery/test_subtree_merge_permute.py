import copy

import networkx as nx
import pytest
import torch
from helpers import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from hsa_geometric.builders import from_clusters, from_networkx, from_parent, to_networkx
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.surgery import collapse_chains, merge, permute_leaves, subtree
from hsa_geometric.testing import attention_inputs, forests, zoo


def sample(parent, seed=0):
    g = torch.Generator().manual_seed(seed)
    h = from_parent(parent)
    leaves, nodes = h.num_nodes, h.num_tree_nodes
    h.x = torch.arange(leaves * 2.0).view(-1, 2) + 100 * seed
    h.mass = torch.rand(leaves, generator=g)
    h.y = torch.tensor([[float(seed)]])
    h.edge_index = torch.randint(leaves, (2, 6), generator=g)
    h.edge_attr = torch.arange(6.0)
    h.tree_kind = torch.arange(nodes)
    h.inner_x = torch.arange(nodes - leaves) + 100
    return h


def below(parent, node):
    """Ids of the node and all below it, by walking up from each."""
    out = []
    for start in range(len(parent)):
        at = start
        while at != node and parent[at] != at:
            at = int(parent[at])
        if at == node:
            out.append(start)
    return out


def test_collapse_chains_is_the_method():
    h = sample(zoo("one_child_nodes"))
    assert_same(collapse_chains(h), h.collapse_chains())
    with pytest.raises(TypeError, match=r"'h' to be a Hierarchy \(got Data\)"):
        collapse_chains(Data())


# Subtrees #####################################################################################


def test_a_subtree_by_hand():
    # 8 (root) - {7 - {5 - {0, 1}, 6 - {2, 3}}, 4}
    h = from_parent(
        [5, 5, 6, 6, 8, 7, 7, 8, 8],
        x=torch.tensor([10, 11, 12, 13, 14]),
        edge_index=torch.tensor([[2, 3, 0, 4], [3, 0, 1, 2]]),
        edge_attr=torch.tensor([23, 30, 1, 42]),
        face=torch.tensor([[1, 2], [2, 3], [3, 4]]),
        inner_x=torch.tensor([5, 6, 7, 8]),
        y=torch.tensor([7.0]),
    )
    out = subtree(h, 7)
    assert out.parent.tolist() == [4, 4, 5, 5, 6, 6, 6]
    assert out.x.tolist() == [10, 11, 12, 13]
    assert out.edge_index.tolist() == [[2, 3, 0], [3, 0, 1]]
    assert out.edge_attr.tolist() == [23, 30, 1]
    assert out.face.tolist() == [[1], [2], [3]]
    assert out.inner_x.tolist() == [5, 6, 7]
    assert out.y.tolist() == [7.0]
    out = subtree(h, 6)
    assert out.parent.tolist() == [2, 2, 2] and out.edge_index.tolist() == [[0], [1]]
    assert out.face.shape == (3, 0)
    assert subtree(h, 4).parent.tolist() == [0] and subtree(h, 4).x.tolist() == [14]
    assert_same(subtree(h, 8), h)


@given(forests(max_nodes=20), st.data())
@settings(max_examples=80, deadline=None)
def test_a_subtree_is_the_node_and_all_below(parent, data):
    node = data.draw(st.integers(0, len(parent) - 1))
    h = sample(parent)
    before = copy.deepcopy(h)
    out = subtree(h, node)
    ids = below(parent, node)
    assert out.validate() and out.num_trees == 1
    assert out.tree_kind.tolist() == ids
    expected = [node if i == node else int(parent[i]) for i in ids]
    assert out.tree_kind[out.parent].tolist() == expected
    rows = [i for i, leaf in enumerate(h.tree.leaf_ids.tolist()) if leaf in ids]
    assert torch.equal(out.x, h.x[rows]) and torch.equal(out.mass, h.mass[rows])
    inside = [e for e in range(6) if all(i in rows for i in h.edge_index[:, e].tolist())]
    assert out.edge_attr.tolist() == inside
    assert torch.equal(torch.tensor(rows)[out.edge_index], h.edge_index[:, inside])
    assert_same(h, before)


def test_a_subtree_of_a_batch_is_that_of_the_sample():
    data_list = [sample(zoo(name), i) for i, name in enumerate(("binary", "chain", "ragged"))]
    batch = Batch.from_data_list(data_list, follow_batch=["x"])
    offset = data_list[0].num_tree_nodes + data_list[1].num_tree_nodes
    for node in (0, 1, 5):
        assert_same(subtree(batch, offset + node), subtree(data_list[2], node))
    out = subtree(batch, data_list[0].num_tree_nodes - 1)
    assert_same(out, subtree(data_list[0], data_list[0].num_tree_nodes - 1))
    assert type(out) is type(data_list[0])
    with pytest.raises(ValueError, match="'h' to be a sample, or a batch that can still be split"):
        subtree(batch.subgraph(torch.tensor([0, 1])), 0)


def test_a_subtree_of_a_forest_takes_the_row_of_its_tree():
    h = from_clusters([[0, 0, 1, 1, 1]], batch=[0, 0, 1, 1, 1], y=torch.tensor([3.0, 4.0]))
    out = subtree(h, 6)
    assert out.y.tolist() == [4.0] and "batch" not in out and out.num_nodes == 3


def test_a_subtree_keeps_the_names_of_its_nodes():
    h = from_networkx(nx.DiGraph([("r", "a"), ("r", "b"), ("a", "c"), ("a", "d")]))
    assert subtree(h, h.tree_names.names.index("a")).tree_names.names == ["c", "d", "a"]


@pytest.mark.parametrize(
    ("node", "error", "match"),
    [
        (15, ValueError, r"'node' to be the id of one of the 15 tree nodes \(got 15\)"),
        (-1, ValueError, r"'node' to be at least 0 \(got -1\)"),
        (1.0, TypeError, r"'node' to be an integer \(got float\)"),
    ],
)
def test_bad_nodes_are_named(node, error, match):
    with pytest.raises(error, match=match):
        subtree(from_parent(zoo("binary")), node)


@pytest.mark.parametrize("key", ["train_index", "edge_label_index", "adj_t"])
def test_rows_named_elsewhere_are_not_left_wrong(key):
    h = from_parent(zoo("binary"))
    h[key] = torch.zeros(2, 3, dtype=torch.long)
    for act in (lambda: subtree(h, 8), lambda: permute_leaves(h, range(8))):
        with pytest.raises(ValueError, match=rf"names leaves by row but .* \(got '{key}'"):
            act()


# Merging ######################################################################################


def test_merge_by_hand():
    a = from_parent([2, 2, 2], x=torch.tensor([10, 11]), edge_index=torch.tensor([[0], [1]]))
    b = from_parent([0], x=torch.tensor([20]), edge_index=torch.tensor([[0], [0]]))
    out = merge([a, b, a])
    assert out.parent.tolist() == [5, 5, 7, 6, 6, 7, 7, 7]  # leaves first, the root last
    assert out.x.tolist() == [10, 11, 20, 10, 11]
    assert out.edge_index.tolist() == [[0, 2, 3], [1, 2, 4]]
    assert type(out) is type(a) and "batch" not in out and "ptr" not in out
    assert out.validate() and out.num_trees == 1


@given(st.lists(forests(max_nodes=8), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_every_merged_tree_is_found_again(parents):
    samples = [sample(parent, i) for i, parent in enumerate(parents)]
    out = merge(samples, root={"tree_kind": -1, "inner_x": -2})
    assert out.validate() and out.num_trees == 1
    assert torch.equal(out.x, torch.cat([h.x for h in samples]))
    assert out.tree.leaf_ids.tolist() == list(range(out.num_nodes))
    assert out.tree_kind[-1] == -1 and out.inner_x[-1] == -2
    root = out.num_tree_nodes - 1
    tops = [i for i in range(root) if int(out.parent[i]) == root]
    roots = [(h, int(r)) for h in samples for r in h.tree.leaf_ids.new_tensor(below_roots(h))]
    assert len(tops) == len(roots)
    # The old roots, leaves first, then inner ones, are the new root's family.
    found = {key(subtree(out, i)) for i in tops}
    assert found == {key(subtree(h, r)) for h, r in roots}


def below_roots(h):
    return [a for a, p in enumerate(h.parent.tolist()) if a == p]


def key(h):
    """A tree as nested tuples of rows of x: independent of its ids."""
    tops = below_roots(h)
    rows = {leaf: tuple(h.x[i].tolist()) for i, leaf in enumerate(h.tree.leaf_ids.tolist())}

    def walk(node):
        if node in rows:
            return rows[node]
        family = [a for a, p in enumerate(h.parent.tolist()) if p == node != a]
        return tuple(sorted((walk(a) for a in family), key=repr))

    return tuple(walk(node) for node in tops)


def test_merging_connects_what_a_batch_keeps_apart():
    h = from_parent([2, 2, 2])
    out = merge([h, h])
    inputs = attention_inputs(out.tree)
    far = hierarchical_attention(**inputs, tree=out.tree)
    inputs["v"][3] += 1
    assert (hierarchical_attention(**inputs, tree=out.tree) != far).all()


@pytest.mark.parametrize(
    ("others", "root", "error", "match"),
    [
        ([], None, ValueError, r"'hierarchies' to hold at least one hierarchy"),
        ({"x": torch.rand(2, 3)}, None, ValueError, r"\(got \['mass'\] in only one\)"),
        (
            {"x": torch.rand(2, 4), "mass": torch.rand(2)},
            None,
            ValueError,
            r"'x' of 'hierarchies\[1\]' to be like .* \[2, 4\] and torch.float32 \[2, 3\]",
        ),
        (
            {"x": torch.rand(2, 3).double(), "mass": torch.rand(2)},
            None,
            ValueError,
            r"'x' of 'hierarchies\[1\]' to be like .*float64",
        ),
        (
            {"x": torch.rand(2, 3), "mass": torch.rand(2)},
            {"tree_kind": 0},
            ValueError,
            r"'root' to hold the new root's row of \[\] \(got \['tree_kind'\]\)",
        ),
    ],
)
def test_what_cannot_be_merged_is_named(others, root, error, match):
    first = from_parent([2, 2, 2], x=torch.rand(2, 3), mass=torch.rand(2))
    data = [first, from_parent([2, 2, 2], **others)] if others else []
    with pytest.raises(error, match=match):
        merge(data, root=root)


def test_samples_are_merged_not_batches():
    h = from_parent([2, 2, 2])
    batch = Batch.from_data_list([h, h])
    with pytest.raises(ValueError, match=r"'hierarchies\[0\]' to be a sample \(got a batch"):
        merge([batch])
    with pytest.raises(TypeError, match=r"'hierarchies' to be a list"):
        merge(batch)
    with pytest.raises(TypeError, match=r"'hierarchies\[1\]' to be a Hierarchy \(got Data\)"):
        merge([h, Data()])
    assert merge(batch.to_data_list()).num_trees == 1


def test_the_new_root_needs_its_rows():
    h = sample(zoo("star"))
    with pytest.raises(ValueError, match=r"row of \['inner_x', 'tree_kind'\] \(got \[\]\)"):
        merge([h, h])
    with pytest.raises(ValueError, match=r"'inner_x' in 'root' to have shape \[\] \(got \[2\]\)"):
        merge([h, h], root={"inner_x": [1, 2], "tree_kind": 0})
    h = from_parent([1, 1])
    h.tree_label = ["a", "r"]
    with pytest.raises(ValueError, match="'tree_label' to be a tensor"):
        merge([h, h])


def test_named_trees_merge_and_keep_their_names():
    one = from_networkx(nx.DiGraph([("r", "a"), ("r", "b")]))
    other = from_networkx(nx.DiGraph([("r", "a")]))
    h = merge([one, other], root={"tree_names": "top"})
    assert set(to_networkx(h).edges) == {
        ((0, "r"), (0, "a")),
        ((0, "r"), (0, "b")),
        ((1, "r"), (1, "a")),
        ("top", (0, "r")),
        ("top", (1, "r")),
    }
    with pytest.raises(ValueError, match=r"row of \['tree_names'\] \(got \[\]\)"):
        merge([one, other])


def test_names_follow_permuted_leaves_also_in_a_batch():
    G = nx.DiGraph([("r", "a"), ("r", "s"), ("s", "b"), ("s", "c")])
    h = from_networkx(G)
    out = permute_leaves(h, [2, 0, 1])
    assert out.tree_names.names == ["c", "a", "b", "r", "s"]
    assert set(to_networkx(out).edges) == set(G.edges)
    batch = permute_leaves(Batch.from_data_list([h, h]), [0, 1, 2, 5, 3, 4])
    assert batch.get_example(0).tree_names == h.tree_names
    assert batch.get_example(1).tree_names == out.tree_names


# Permuting ####################################################################################


def test_permute_by_hand():
    h = from_parent(
        [3, 3, 4, 4, 4],
        x=torch.tensor([10, 11, 12]),
        edge_index=torch.tensor([[0, 1], [1, 2]]),
        face=torch.tensor([[0], [1], [2]]),
        tree_kind=torch.tensor([0, 1, 2, 3, 4]),
        inner_x=torch.tensor([30, 40]),
        name=["a", "b", "c"],
        y=torch.tensor([5.0]),
    )
    out = permute_leaves(h, torch.tensor([2, 0, 1]))
    assert out.parent.tolist() == [4, 3, 3, 4, 4]
    assert out.x.tolist() == [12, 10, 11] and out.name == ["c", "a", "b"]
    assert out.edge_index.tolist() == [[1, 2], [2, 0]]
    assert out.face.tolist() == [[1], [2], [0]]
    assert out.tree_kind.tolist() == [2, 0, 1, 3, 4] and out.inner_x is h.inner_x
    assert out.y is h.y
    assert h.x.tolist() == [10, 11, 12] and h.parent.tolist() == [3, 3, 4, 4, 4]


@given(forests(max_nodes=20), st.data())
@settings(max_examples=60, deadline=None)
def test_attention_is_equivariant_and_the_way_back_exact(parent, data):
    h = sample(parent)
    perm = torch.tensor(data.draw(st.permutations(range(h.num_nodes))))
    out = permute_leaves(h, perm)
    assert out.validate()
    inputs = attention_inputs(h.tree)
    moved = {name: value[perm] for name, value in inputs.items()}
    expected = hierarchical_attention(**inputs, tree=h.tree)[perm]
    torch.testing.assert_close(hierarchical_attention(**moved, tree=out.tree), expected)
    assert torch.equal(out.x[out.edge_index], h.x[h.edge_index])  # the same edges
    assert_same(permute_leaves(out, perm.argsort()), h)


def test_a_batch_is_permuted_sample_by_sample():
    data_list = [sample(zoo("ragged"), 0), sample(zoo("one_node"), 1), sample(zoo("binary"), 2)]
    perms = [torch.randperm(h.num_nodes) for h in data_list]
    alone = [permute_leaves(h, perm) for h, perm in zip(data_list, perms, strict=True)]
    batch = Batch.from_data_list(data_list, follow_batch=["x"])
    starts = batch.ptr.tolist()
    perm = torch.cat([p + s for p, s in zip(perms, starts, strict=False)])
    out = permute_leaves(batch, perm)
    assert_same(out, Batch.from_data_list(alone, follow_batch=["x"]))
    for one, other in zip(alone, out.to_data_list(), strict=True):
        assert_same(one, other)
    with pytest.raises(ValueError, match=r"'perm' to keep leaves in their sample .* 2 to 0"):
        permute_leaves(batch, torch.arange(batch.num_nodes).flip(0))


@pytest.mark.parametrize(
    ("perm", "error", "match"),
    [
        ([0, 1], ValueError, r"for each of the 3 leaves \(got shape \[2\]\)"),
        ([0, 1, 1], ValueError, r"each row in \[0, 2\] once \(got \[0, 1, 1\]\)"),
        ([0, 1, 3], ValueError, r"each row in \[0, 2\] once"),
        ([0, -1, 2], ValueError, r"each row in \[0, 2\] once"),
        ([0.0, 1.0, 2.0], TypeError, r"'perm' to hold integers \(got torch.float32\)"),
        ([True, False, True], TypeError, r"'perm' to hold integers \(got torch.bool\)"),
    ],
)
def test_bad_permutations_are_named(perm, error, match):
    with pytest.raises(error, match=match):
        permute_leaves(from_parent([3, 3, 4, 4, 4]), perm)
