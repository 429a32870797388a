"""The tree's index by the compiled library."""

from __future__ import annotations

import torch
from torch import Tensor

from . import library


def index(parent: Tensor) -> list[Tensor] | None:
    """Tensors of a :class:`~hsa_geometric.TreeIndex` from ``parent [T]``, int64 on the CPU.

    These are order, position, up, root, starts, leaf, count, family_parent and family_ptr. None
    where there is no library, and for a vector that is no forest, so that other code may say why.
    """
    lib, nodes = library(), parent.shape[0]
    if lib is None or nodes >= 2**31:
        return None
    order, position, up, count = [torch.empty_like(parent) for _ in range(4)]
    # How long the others are is known in the end.
    room = parent.new_empty(4 * nodes + 5)
    at = room.data_ptr()
    reached = lib.hsa_index(
        parent.data_ptr(), nodes, order.data_ptr(), position.data_ptr(), up.data_ptr(),
        at, at + 8 * nodes, count.data_ptr(), at + 16 * nodes, at + 24 * nodes,
        at + 8 * (4 * nodes + 1),
    )  # fmt: skip
    if reached != nodes:
        return None
    trees, leaves, inner, depth = room[-4:].tolist()
    parts = ((0, depth), (nodes, leaves), (2 * nodes, inner), (3 * nodes, inner + 1))
    starts, leaf, family_parent, family_ptr = [room.narrow(0, *part).clone() for part in parts]
    return [
        order, position, up, torch.arange(trees), starts, leaf, count, family_parent, family_ptr,
    ]  # fmt: skip
