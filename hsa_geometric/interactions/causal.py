"""Leaves attend to the past."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional.checks import as_tree
from ..functional.layout import over_subtrees, root_of
from ..functional.options import check_bool, check_integer, check_positive
from ..lists import InteractionLists
from ..tree import TreeIndex
from ._descend import descend


def causal(
    tree: TreeIndex | Tensor,
    *,
    window: int = 1,
    angle: float = math.inf,
    self_loop: bool = True,
) -> InteractionLists:
    r"""Each leaf attends to the leaves before it and to itself, the order being that of their rows.

    Queries are single leaves: their tree is a star over the same leaves, so that no mean of queries
    holds what comes later. Keys are the maximal subtrees wholly in the past, before a window of the
    last leaves, which are seen one by one; so nothing of the future is in any mean. A row's
    results do not depend on later rows in any bit.

    Args:
        tree: the tree of the keys, a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        window: how many of the last leaves, itself included, each leaf sees one by one.
        angle: also open subtrees that are large for their distance in rows, as :func:`near` does
            for positions ``0, 1, ...``: half the width over the distance of the middle.
            (default: none)
        self_loop: whether a leaf attends to itself. Without, the first leaf of a tree attends to
            nothing, and gets 0.

    Raises:
        TypeError: if :obj:`tree` is none or an option has the wrong type.
        ValueError: if :obj:`window` is less than 1 or :obj:`angle` not positive.

    Cost: :math:`O(N b \log N)` pairs in a balanced tree with families of :math:`b`, and
    :obj:`window` more for each leaf.

    Example:
        >>> lists = causal(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> lists.block_ids  # leaf 3 sees the first two as one
        tensor([[0, 1, 1, 2, 2, 3, 3, 3],
                [0, 0, 1, 4, 2, 4, 2, 3]])
        >>> lists.query_tree
        TreeIndex(leaves=4, nodes=5, trees=1, depth=1)
    """
    tree = as_tree(tree)
    check_integer(window, "window", 1)
    check_bool(self_loop, "self_loop")
    if angle != math.inf:
        check_positive(angle, "angle")
    rows = torch.arange(tree.num_leaves, device=tree.device)
    trees = tree.position[root_of(tree)]
    roots = tree.num_leaves + torch.arange(tree.num_trees, device=tree.device)
    flat = TreeIndex.from_parent(torch.cat([tree.num_leaves + trees[tree.leaf_ids], roots]))
    first, last = torch.full_like(tree.parent, tree.num_leaves), torch.full_like(tree.parent, -1)
    first[tree.leaf_ids], last[tree.leaf_ids] = rows, rows
    first = over_subtrees(first, tree.parent, "amin")[tree.order]
    last = over_subtrees(last, tree.parent, "amax")[tree.order]

    # An id of the star is a row, but for the roots, which are opened anyway.
    def choose(query: Tensor, key: Tensor) -> Tensor:
        row, start, end = flat.order[query], first[key], last[key]
        meets = (start <= row) & (end > row - window)
        large = (end - start).double() > angle * (2 * row - start - end).double()
        return meets | (large & (end <= row))

    def hide(query: Tensor, key: Tensor) -> Tensor:
        row = flat.order[query]
        return first[key] > (row if self_loop else row - 1)

    return descend(flat, tree, choose, hide)
