"""The tree's index by the compiled library."""

from __future__ import annotations

import torch
from torch import Tensor

from . import library


def index(parent: Tensor) -> list[Tensor] | None:
    """Tensors of a :class:`~hsa_geometric.TreeIndex` from ``parent [T]`` int64, contiguous, on the CPU.

    These are order, position, up, root, starts, leaf, count, family_parent and family_ptr: parts of
    one buffer. None where there is no library, and for a vector that is no forest, so that other
    code may say why.
    """
    lib, nodes = library(), parent.shape[0]
    if lib is None or nodes >= 2**31:
        return None
    buffer = torch.empty(8 * nodes + 5, dtype=torch.long)
    at, step = buffer.data_ptr(), 8 * nodes
    # order, position, up, starts, leaf, count, family_parent; family_ptr is one longer
    if (
        lib.hsa_index(
            parent.data_ptr(), nodes, *(at + i * step for i in range(8)), at + 8 * step + 8
        )
        != nodes
    ):
        return None
    trees, leaves, inner, depth = buffer[-4:].tolist()
    order, position, up, starts, leaf, count, family_parent = buffer[: 7 * nodes].view(7, nodes)
    family_ptr = buffer[7 * nodes : 7 * nodes + inner + 1]
    return [
        order, position, up, torch.arange(trees), starts[:depth], leaf[:leaves], count,
        family_parent[:inner], family_ptr,
    ]  # fmt: skip
