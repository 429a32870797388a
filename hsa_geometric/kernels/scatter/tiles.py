"""Families as padded tiles: a few dense tensors, however many sizes there are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...tree import TreeIndex

WIDTHS = sorted(m << k for m in (2, 3) for k in range(40))  # 2, 3, 4, 6, 8, 12, 16, ...


class Tiles(NamedTuple):
    """The families of two and more, tile after tile; each tile's families have slots alike.

    Attributes:
        shapes: families and width of each tile.
        member: position of the node in each slot. A family smaller than its tile repeats its last
            member, so that nothing, NaN neither, comes in from another family.
        seen: whether the slot is the node's own, and not a repetition.
        slot: ``[T]`` slot of each node; the number of slots for those without siblings.
    """

    shapes: list[tuple[int, int]]
    member: Tensor
    seen: Tensor
    slot: Tensor


def tiles(tree: TreeIndex) -> Tiles:
    """Worked out once for a tree."""
    return tree.once("tiles", lambda: _tiles(tree))


def _tiles(tree: TreeIndex) -> Tiles:
    first, size = tree.family_ptr[:-1], tree.family_ptr.diff()
    first, size = first[size > 1].unsqueeze(1), size[size > 1].unsqueeze(1)
    kind = torch.searchsorted(torch.tensor(WIDTHS).to(tree.device), size.squeeze(1))
    shapes, members, seen = [], [first.new_empty(0)], [first.new_empty(0, dtype=torch.bool)]
    for which in kind.unique().tolist():
        f, b = first[kind == which], size[kind == which]
        place = torch.arange(int(b.max()), device=tree.device)
        shapes.append((len(f), len(place)))
        members.append((f + place.minimum(b - 1)).flatten())
        seen.append((place < b).flatten())
    member, real = torch.cat(members), torch.cat(seen)
    slot = member.new_full((tree.num_nodes,), len(member))
    slot[member[real]] = real.nonzero().squeeze(1)
    return Tiles(shapes, member, real, slot)
