"""Inner nodes that carry features of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from hsa_geometric.tree import TreeIndex


def own_leaves(tree: TreeIndex) -> tuple[Tensor, Tensor]:
    """Give each inner node a leaf of its own as its child.

    Returns:
        The new parent vector ``[T + M]`` for ``M`` inner nodes, and the old node that each new one
        stands for. The leaf of old node ``a``, be it that node or its own leaf, is new node ``a``,
        so the leaf rows are the old nodes; inner nodes follow in ascending old id.
    """
    parent = tree.parent
    inner = torch.ones_like(parent, dtype=torch.bool)
    inner[tree.leaf_ids] = False
    old = inner.nonzero().view(-1)
    new_id = torch.arange(parent.numel(), device=parent.device)
    source = torch.cat([new_id, old])
    new_id[old] = parent.numel() + torch.arange(old.numel(), device=parent.device)
    leaf_parent = torch.where(inner, new_id, new_id[parent])
    return torch.cat([leaf_parent, new_id[parent[old]]]), source
