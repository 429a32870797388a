"""Quantities of subtrees and paths by pointer doubling, and the leaves in the tree's own order.

Everything is indexed by node **id**. Siblings are ordered by the first leaf row below them, so the
tree order of a text's or a sequence's leaves is their row order, whatever ids the inner nodes have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..tree import TreeIndex


class Layout(NamedTuple):
    """Where each node stands when the trees are drawn without crossings.

    Attributes:
        start: ``[T]`` place of the first leaf below each node in tree order; the leaves below a
            node are consecutive. Trees stand beside each other.
        leaves: ``[T]`` number of leaves below each node.
        tree: ``[T]`` number of the tree that each node belongs to.
    """

    start: Tensor
    leaves: Tensor
    tree: Tensor


def layout(tree: TreeIndex) -> Layout:
    """Place the leaves in tree order. Cost: :math:`O(T log T)`, no loop over nodes."""
    parent, count = tree.parent, tree.count[tree.position]
    ids = torch.arange(tree.num_nodes, device=tree.device)
    is_root = parent == ids
    first = torch.full_like(ids, tree.num_leaves)
    first[tree.leaf_ids] = torch.arange(tree.num_leaves, device=tree.device)
    first = over_subtrees(first, parent, "amin")

    # Leaves before each node within its family; the roots are a family too.
    family = torch.where(is_root, tree.num_nodes, parent)
    order = torch.argsort(family * tree.num_leaves + first)
    before = count[order].cumsum(0) - count[order]
    opens = torch.ones_like(is_root)
    opens[1:] = family[order][1:] != family[order][:-1]
    before = before - before[opens][opens.cumsum(0) - 1]
    offset = torch.empty_like(ids)
    offset[order] = before

    root = root_of(tree)
    start = over_paths(torch.where(is_root, 0, offset), tree) + offset[root]
    return Layout(start, count, tree.position[root])


def root_of(tree: TreeIndex) -> Tensor:
    """``[T]`` id of the root above each node."""
    jump = tree.parent
    for _ in range(tree.depth.bit_length()):
        jump = jump[jump]
    return jump


def over_subtrees(x: Tensor, parent: Tensor, reduce: str) -> Tensor:
    """Reduce node values ``[T]`` over every subtree, with ``'amin'`` or ``'amax'``.

    What counts a value twice, such as a sum, would be wrong here.
    """
    jump = parent
    while True:  # x[a] covers the nodes fewer than 2^k levels below a
        x = x.scatter_reduce(0, jump, x, reduce)
        further = jump[jump]
        if torch.equal(further, jump):
            return x
        jump = further


def over_paths(x: Tensor, tree: TreeIndex) -> Tensor:
    """Sum node values ``[T]`` over each node and its ancestors; roots must have value 0."""
    jump = tree.parent
    for _ in range(tree.depth.bit_length()):
        x = x + x[jump]
        jump = jump[jump]
    return x
