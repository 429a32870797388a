"""From the nodes of each level, found top-down, to a parent vector."""

from __future__ import annotations

import torch
from torch import Tensor


def parent_of_levels(ups: list[Tensor], leaf_level: Tensor, leaf_node: Tensor) -> Tensor:
    """Number the nodes and write down the parent of each.

    Leaves come first, then the deepest level, and so on: the roots come last, in their order.

    Args:
        ups: for each level from the roots down, ``[nodes]`` the parent of each node as a number
            within the level above; for the roots only their number counts.
        leaf_level: ``[N]`` level of the node that each leaf hangs from.
        leaf_node: ``[N]`` number of that node within its level.
    """
    counts = [up.numel() for up in ups]
    starts = [leaf_node.numel() + sum(counts[level + 1 :]) for level in range(len(counts))]
    parents = [torch.tensor(starts, device=leaf_node.device)[leaf_level] + leaf_node]
    for level in range(len(ups) - 1, 0, -1):
        parents.append(ups[level] + starts[level - 1])
    roots = torch.arange(starts[0], starts[0] + counts[0], device=leaf_node.device)
    return torch.cat([*parents, roots])
