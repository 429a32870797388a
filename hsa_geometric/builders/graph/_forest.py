"""Parent vectors as the methods build them: one tree for each component, then one a sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack(levels: Sequence[Tensor], num_leaves: int, device: torch.device) -> Tensor:
    """Forest of cluster vectors, each over the clusters of the one before."""
    parents, offset = [], num_leaves
    for level in levels:
        parents.append(level + offset)
        offset += int(level.max()) + 1
    num_roots = int(levels[-1].max()) + 1 if levels else num_leaves
    return torch.cat([*parents, torch.arange(offset - num_roots, offset, device=device)])


def join(parent: Tensor, sample: Tensor) -> Tensor:
    """Hang the trees of each sample from one root, and take out one-child nodes.

    Roots come last, in the order of the samples, so that tree ``b`` is sample ``b``. For the sake
    of that order a sample of one leaf keeps its root, unless it is alone.
    """
    num_leaves, num_nodes = sample.numel(), parent.numel()
    if num_leaves == 1:
        return parent.new_zeros(1)
    num_samples = int(sample.max()) + 1
    root = parent
    while not torch.equal(root, further := root[root]):
        root = further
    sample_of = torch.zeros_like(parent)
    sample_of[root[:num_leaves]] = sample

    ids = torch.arange(num_nodes + num_samples, device=parent.device)
    parent = torch.where(parent == ids[:num_nodes], num_nodes + sample_of, parent)
    parent = torch.cat([parent, ids[num_nodes:]])
    children = torch.bincount(parent[:num_nodes], minlength=ids.numel())
    inner = (ids >= num_leaves) & (ids < num_nodes)

    drop = inner & (children == 1)
    up = _above(parent, drop)
    drop |= inner & (up >= num_nodes) & (children[up] == 1)  # the sample's only tree: its root goes
    up = _above(parent, drop)
    keep = ~drop
    new_id = keep.cumsum(0) - 1
    return new_id[up[keep]]


def _above(parent: Tensor, drop: Tensor) -> Tensor:
    """Nearest ancestor that stays, by pointer doubling."""
    while (lost := drop[parent]).any():
        parent = torch.where(lost, parent[parent], parent)
    return parent
