"""Parent vectors: of clusters of clusters, of some of the nodes, and of a tree for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hsa_geometric.builders._ids import first


def stack(levels: Sequence[Tensor], num_leaves: int, device: torch.device) -> Tensor:
    """Forest of cluster vectors, each over the clusters of the one before."""
    parents, offset = [], num_leaves
    for level in levels:
        parents.append(level + offset)
        offset += int(level.max()) + 1
    num_roots = int(levels[-1].max()) + 1 if levels else num_leaves
    return torch.cat([*parents, torch.arange(offset - num_roots, offset, device=device)])


def lift(
    label: Tensor,
    cluster: Tensor,
    default: Tensor,
    expected: str,
    got: str,
    names: Tensor | None = None,
) -> Tensor:
    """Label of each cluster from those of its members, which must agree."""
    low, high = (
        default.scatter_reduce(0, cluster, label, how, include_self=False)
        for how in ("amin", "amax")
    )
    if (i := first(low != high)) is not None:
        name = i if names is None else int(names[i])
        raise ValueError(
            f"Expected {expected} (got {got} {name} in both {int(low[i])} and {int(high[i])})"
        )
    return low


def above(parent: Tensor, keep: Tensor) -> Tensor:
    """Nearest ancestor that stays, by pointer doubling; roots must."""
    while (lost := ~keep[parent]).any():
        parent = torch.where(lost, parent[parent], parent)
    return parent


def keep_nodes(parent: Tensor, keep: Tensor) -> Tensor:
    """The tree of some of the nodes, each below the nearest of them above."""
    return (keep.cumsum(0) - 1)[above(parent, keep)[keep]]


def join(parent: Tensor, sample: Tensor) -> Tensor:
    """Hang the trees of each sample from one root, and take out one-child nodes.

    Roots come last, in the order of the samples, so that tree ``b`` is sample ``b``. For the sake
    of that order a sample of one leaf keeps its root, unless it is alone.
    """
    num_leaves, num_nodes = sample.numel(), parent.numel()
    if num_leaves == 1:
        return parent.new_zeros(1)
    ids = torch.arange(num_nodes + int(sample.max()) + 1, device=parent.device)
    is_root = parent == ids[:num_nodes]
    sample_of = torch.zeros_like(parent)
    sample_of[above(parent, is_root)[:num_leaves]] = sample
    parent = torch.where(is_root, num_nodes + sample_of, parent)
    parent = torch.cat([parent, ids[num_nodes:]])
    children = torch.bincount(parent[:num_nodes], minlength=ids.numel())
    inner = (ids >= num_leaves) & (ids < num_nodes)

    keep = ~(inner & (children == 1))
    up = above(parent, keep)
    keep &= ~(inner & (up >= num_nodes) & (children[up] == 1))  # a sample's only tree
    return keep_nodes(parent, keep)
