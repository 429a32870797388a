"""The leaves of one tree meet those of another, for cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.checks import as_tree
from ..functional.edges import check_edge_index
from ..functional.layout import root_of
from ..functional.options import check_integer
from ..lists import InteractionLists
from ..tree import TreeIndex
from ._above import opened_above
from ._descend import descend


def between(
    query_tree: TreeIndex | Tensor,
    key_tree: TreeIndex | Tensor,
    *,
    levels: int | None = 1,
    pairs: Tensor | None = None,
) -> InteractionLists:
    r"""Open all pairs of the first levels of two trees, and those above given pairs of leaves.

    Two nodes of one level meet, or a leaf and a node of a deeper one. Where both trees have
    positions in one space, :func:`near` opens fewer pairs to more effect.

    Args:
        query_tree: the tree of the queries, a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        key_tree: the tree of the keys; its tree number :math:`r` is met by number :math:`r` of the
            other.
        levels: how many levels to open from the roots, at least 1. With ``None`` all are opened,
            which is softmax attention.
        pairs: ``[2, E]`` rows of query leaves and of key leaves that meet one by one.

    Raises:
        TypeError: if a tree is none, :obj:`levels` no integer or :obj:`pairs` no integer tensor.
        ValueError: if :obj:`levels` is less than 1, rows of :obj:`pairs` are out of range or of
            different samples, or the forests have different numbers of trees.

    Cost: a few times what there are pairs that meet, level by level.

    Example:
        >>> star, tree = torch.tensor([3, 3, 3, 3]), torch.tensor([4, 4, 5, 5, 6, 6, 6])
        >>> between(star, tree)
        InteractionLists(opened=1, blocks=6, hidden=0, logits per leaf=2)
        >>> between(star, tree, pairs=torch.tensor([[0], [3]])).block_ids
        tensor([[0, 0, 0, 1, 1, 2, 2],
                [4, 2, 3, 4, 5, 4, 5]])
        >>> between(star, tree, levels=None).num_logits
        12
    """
    query_tree, key_tree = as_tree(query_tree), as_tree(key_tree)
    if levels is not None:
        check_integer(levels, "levels", 1)
    if query_tree.num_trees != key_tree.num_trees:
        raise ValueError(
            f"Expected 'key_tree' to have the {query_tree.num_trees} trees of 'query_tree' "
            f"(got {key_tree.num_trees})"
        )
    done = 0

    def choose(query: Tensor, key: Tensor) -> Tensor:
        nonlocal done
        done += 1
        return torch.full_like(query, levels is None or done < levels, dtype=torch.bool)

    lists = descend(query_tree, key_tree, choose)
    if pairs is None:
        return lists
    pairs = check_edge_index(pairs, "pairs")
    samples = []
    for rows, tree, name in zip(pairs, (query_tree, key_tree), ("query", "key"), strict=True):
        outside = (rows < 0) | (rows >= tree.num_leaves)
        if outside.any():
            raise ValueError(
                f"Expected 'pairs' to hold rows of {name} leaves in [0, {tree.num_leaves - 1}] "
                f"(got {int(rows[outside][0])})"
            )
        samples.append(tree.position[root_of(tree)][tree.leaf_ids][rows])
    apart = samples[0] != samples[1]
    if apart.any():
        raise ValueError(
            f"Expected 'pairs' to hold leaves of one sample "
            f"(got the pair {tuple(pairs[:, apart][:, 0].tolist())})"
        )
    return opened_above(query_tree, key_tree, pairs, lists.opened)
