"""The place of every node among its siblings."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tree import TreeIndex
from .checks import as_tree
from .layout import over_subtrees


def sibling_rank(tree: TreeIndex | Tensor) -> Tensor:
    r"""Rank of each tree node among its siblings, in the order of the first leaf below each.

    So the words of a sentence, the sentences of a paragraph and windows of a sequence are counted
    from 0 in reading order, whatever ids they have. Roots have rank 0.

    Args:
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.

    Shapes:
        - **output:** :math:`(T)`, integers by node id

    Cost: :math:`O(T \log T)`, once for each tree.

    Example:
        >>> import torch
        >>> sibling_rank(torch.tensor([3, 3, 4, 4, 4]))  # leaf 2 stands behind node 3
        tensor([0, 1, 1, 0, 0])
    """
    tree = as_tree(tree)
    if torch.compiler.is_compiling():
        return torch.ops.hsa_geometric.sibling_rank(tree.tensors)
    rank: Tensor = tree.once("sibling_rank", lambda: _rank(tree))
    return rank


# To a compiler it is one operator, as its loop depends on the tree.
torch.library.define("hsa_geometric::sibling_rank", "(Tensor[] tree) -> Tensor")


@torch.library.impl("hsa_geometric::sibling_rank", "default")
def _(tree):
    return _rank(TreeIndex(*tree))


@torch.library.register_fake("hsa_geometric::sibling_rank")
def _(tree):
    return torch.empty_like(tree[0])


def _rank(tree: TreeIndex) -> Tensor:
    ids = torch.arange(tree.num_nodes, device=tree.device)
    first = torch.full_like(ids, tree.num_leaves)
    first[tree.leaf_ids] = ids[: tree.num_leaves]
    first = over_subtrees(first, tree.parent, "amin")[tree.order]
    # By position a family is one slice, and so are its members sorted by their first leaf.
    roots, size = tree.num_trees, tree.family_ptr.diff()
    family = ids[: size.numel()].repeat_interleave(size)
    order = torch.argsort(family * tree.num_leaves + first[roots:]) + roots
    start = tree.family_ptr[family]
    rank = torch.zeros_like(ids)
    rank[order] = ids[roots:] - start
    return rank[tree.position]
