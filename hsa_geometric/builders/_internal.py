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
    ids = torch.arange(tree.num_nodes, device=tree.device)
    inner = torch.ones_like(ids, dtype=torch.bool)
    inner[tree.leaf_ids] = False
    new_id = torch.where(inner, tree.num_nodes - 1 + inner.cumsum(0), ids)
    above = new_id[tree.parent]
    parent = torch.cat([torch.where(inner, new_id, above), above[inner]])
    return parent, torch.cat([ids, ids[inner]])
