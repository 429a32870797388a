"""The ball around each node's leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.sweeps import aggregate
from ..tree import TreeIndex


def balls(pos: Tensor, tree: TreeIndex) -> tuple[Tensor, Tensor]:
    """By position: mean ``[T, D]`` of the leaves below each node, and the farthest leaf from it.

    Each level is one pass over the leaves that lie below it.
    """
    pos = pos.detach().double()
    center = (aggregate(pos, tree) / tree.count[tree.position].unsqueeze(1))[tree.order]
    radius = torch.zeros_like(center[:, 0])
    node, trees = tree.leaf, tree.num_trees
    for _ in range(tree.depth):
        below = node >= trees  # roots are the first positions
        node, pos = tree.up[node[below]], pos[below]
        far = (pos - center[node]).square().sum(1)
        radius = radius.scatter_reduce(0, node, far, "amax")
    return center, radius.sqrt()
