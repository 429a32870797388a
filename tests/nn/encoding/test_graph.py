import pytest
import torch
from helpers import rows_below
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.nn.encoding import GraphEncoding, Where, random_walk_positions, sibling_edges
from hsa_geometric.testing import ZOO, forest, star, zoo


def edges_of(tree, seed=0):
    """Random edges between the leaves, some between trees, some from a leaf to itself."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tree.num_leaves, (2, 3 * tree.num_leaves), generator=generator)


def joined(parent, edge_index):
    """Pairs of siblings that an edge joins, by a walk."""
    rows, above = rows_below(parent), parent.tolist()
    pairs = set()
    for u, v in edge_index.T.tolist():
        for a, p in enumerate(above):
            for b, q in enumerate(above):
                if a != b and p == q and a != p and b != q and u in rows[a] and v in rows[b]:
                    pairs.add((a, b))
    return sorted(pairs)


@pytest.mark.parametrize("name", ZOO)
def test_each_edge_joins_the_siblings_where_its_paths_meet(name):
    tree = TreeIndex.from_parent(zoo(name))
    edge_index = edges_of(tree)
    out = sibling_edges(tree, edge_index)
    assert [tuple(pair) for pair in out.T.tolist()] == joined(zoo(name), edge_index)


@pytest.mark.parametrize("name", ZOO)
def test_random_walks_return_as_powers_of_a_dense_matrix_say(name):
    parent, steps = zoo(name), 5
    tree = TreeIndex.from_parent(parent)
    edge_index = edges_of(tree, seed=1)
    pairs = joined(parent, torch.cat([edge_index, edge_index.flip(0)], 1))
    expected = torch.zeros(len(parent), steps)
    for up in range(len(parent)):
        family = [a for a, p in enumerate(parent.tolist()) if p == up != a]
        dense = torch.zeros(len(family), len(family))
        for i, a in enumerate(family):
            for j, b in enumerate(family):
                dense[i, j] = (a, b) in pairs
        dense = dense / dense.sum(1, keepdim=True).clamp(min=1)
        for step in range(steps):
            expected[family, step] = torch.linalg.matrix_power(dense, step + 1).diagonal()
    assert_close(random_walk_positions(tree, edge_index, steps), expected)


def test_a_path_of_three_by_hand():
    edge_index = torch.tensor([[0, 1], [1, 2]])
    out = random_walk_positions(TreeIndex.from_parent(star(3)), edge_index, 4)
    assert_close(out, torch.tensor([[0, 0.5, 0, 0.5], [0, 1, 0, 1], [0, 0.5, 0, 0.5], [0] * 4]))


def test_without_edges_nobody_moves():
    tree, none = TreeIndex.from_parent(zoo("two_levels")), torch.empty(2, 0, dtype=torch.long)
    assert sibling_edges(tree, none).shape == (2, 0)
    assert not random_walk_positions(tree, none, 3).any()


def test_direction_and_number_of_edges_make_no_difference():
    tree = TreeIndex.from_parent(zoo("two_levels"))
    one = edges_of(tree)
    other = torch.cat([one.flip(0), one, one], 1)
    assert_close(random_walk_positions(tree, other, 4), random_walk_positions(tree, one, 4))


def test_no_tree_of_a_batch_notices_the_others():
    names = ["two_levels", "star", "ragged"]
    trees = [TreeIndex.from_parent(zoo(name)) for name in names]
    edges = [edges_of(tree, seed) for seed, tree in enumerate(trees)]
    alone = [random_walk_positions(t, e, 4) for t, e in zip(trees, edges, strict=True)]
    shift = torch.tensor([0, *(t.num_leaves for t in trees)]).cumsum(0)
    together = torch.cat([e + s for e, s in zip(edges, shift, strict=False)], 1)
    tree = TreeIndex.from_parent(forest(*(zoo(name) for name in names)))
    assert_close(random_walk_positions(tree, together, 4), torch.cat(alone))


def test_features_are_the_positions_or_those_given():
    tree = TreeIndex.from_parent(zoo("two_levels"))
    edge_index, node = edges_of(tree), torch.tensor([8, 1])
    encoding = GraphEncoding(3)
    expected = random_walk_positions(tree, edge_index, 3)
    assert torch.equal(encoding(Where(tree, edge_index=edge_index)), expected)
    assert torch.equal(encoding(Where(tree, node, edge_index=edge_index)), expected[node])
    given = torch.randn(13, 4)
    assert torch.equal(encoding(Where(tree, tree_pos=given)), given[:, :3])
    both = encoding(Where(tree, tree_pos=given, edge_index=edge_index))
    assert torch.equal(both, expected)


def test_what_it_refuses_is_named():
    tree = TreeIndex.from_parent(star(3))
    with pytest.raises(ValueError, match="'tree_pos' or 'edge_index' for the domain 'graph'"):
        GraphEncoding()(Where(tree))
    with pytest.raises(ValueError, match=r"node ids in \[0, 2\] \(got edge 0 between 0 and 3\)"):
        GraphEncoding()(Where(tree, edge_index=torch.tensor([[0], [3]])))
    with pytest.raises(TypeError, match=r"'edge_index' to hold integers \(got torch.float32\)"):
        GraphEncoding()(Where(tree, edge_index=torch.ones(2, 1)))
    with pytest.raises(ValueError, match=r"'out_channels' to be at least 1 \(got 0\)"):
        GraphEncoding(0)
