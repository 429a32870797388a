"""Siblings meet."""

from __future__ import annotations

import torch

from ..functional.checks import as_tree
from ..lists import InteractionLists
from ..tree import TreeIndex


def siblings(tree: TreeIndex | torch.Tensor) -> InteractionLists:
    r"""Every node is opened with itself, so that siblings meet: attention without lists.

    The results are the same, bit for bit, as without lists.

    Args:
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.

    Raises:
        TypeError: if :obj:`tree` is neither.

    Cost: :math:`O(\sum b^2)` for families of size :math:`b`.

    Example:
        >>> siblings(torch.tensor([4, 4, 5, 5, 6, 6, 6])).block_ids
        tensor([[4, 5, 0, 0, 1, 1, 2, 2, 3, 3],
                [5, 4, 0, 1, 0, 1, 2, 3, 2, 3]])
    """
    tree = as_tree(tree)
    inner = tree.order[tree.family_parent]
    return InteractionLists.from_opened(tree, torch.stack([inner, inner]))
