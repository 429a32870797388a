import pytest
import torch

from hsa_geometric import TreeIndex
from hsa_geometric.functional import clusters_at
from hsa_geometric.testing import ZOO, forest, zoo


def by_hand(parent: list[int], level: int) -> list[int]:
    """Node of each leaf's cluster, by walking up."""
    inner = {p for a, p in enumerate(parent) if p != a}
    paths = []
    for leaf in (a for a in range(len(parent)) if a not in inner):
        path = [leaf]
        while parent[path[-1]] != path[-1]:
            path.append(parent[path[-1]])
        paths.append(path[::-1])
    deepest: dict[int, int] = {}
    for path in paths:
        deepest[path[0]] = max(deepest.get(path[0], 0), len(path) - 1)
    nodes = []
    for path in paths:
        target = level if level >= 0 else max(0, deepest[path[0]] + 1 + level)
        nodes.append(path[min(target, len(path) - 1)])
    return nodes


@pytest.mark.parametrize("level", [0, 1, 2, 5, 99, -1, -2, -3, -99])
@pytest.mark.parametrize("name", ZOO)
def test_clusters_are_the_ancestors_at_the_level(name, level):
    parent = zoo(name)
    found = clusters_at(TreeIndex.from_parent(parent), level)
    assert found.node[found.cluster].tolist() == by_hand(parent.tolist(), level)
    assert found.node.unique().numel() == found.num_clusters


@pytest.mark.parametrize("level", [0, 1, -1, -2])
def test_clusters_are_numbered_by_their_first_leaf(level):
    cluster = clusters_at(zoo("ragged"), level).cluster
    opened = [int(c) for i, c in enumerate(cluster) if c not in cluster[:i]]
    assert opened == list(range(len(opened)))


@pytest.mark.parametrize("level", [1, -2])
def test_a_forest_clusters_as_its_trees_one_by_one(level):
    parts = [zoo("ragged"), zoo("star"), zoo("caterpillar")]
    together = clusters_at(forest(*parts), level)
    clusters, trees, offset = [], [], 0
    for i, part in enumerate(parts):
        one = clusters_at(part, level)
        clusters.append(one.cluster + offset)
        trees += [i] * one.num_clusters
        offset += one.num_clusters
    torch.testing.assert_close(together.cluster, torch.cat(clusters))
    assert together.tree.tolist() == trees


@pytest.mark.parametrize("level", [1.0, True, None])
def test_a_level_is_an_integer(level):
    with pytest.raises(TypeError, match="'level' to be an integer"):
        clusters_at(zoo("star"), level)
