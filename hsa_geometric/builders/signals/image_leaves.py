"""Images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders.grids import from_grid
from hsa_geometric.builders.signals._leaves import LeafType, Leaves, family, ranks
from hsa_geometric.functional.options import check_integer


@dataclass(frozen=True)
class ImageLeaves(LeafType):
    r"""An image ``[channels, H, W]``: each patch is a leaf, rows of patches one after the other.

    Args:
        channels: number of channels :math:`C`.
        size: side :math:`p` of a patch, of which :math:`H` and :math:`W` are multiples; a leaf has
            the width :math:`C p^2`.
        branching: group so many patches along each axis, again and again, as
            :func:`~hsa_geometric.builders.from_grid` does; 2 makes a quadtree. (default: all
            patches are one family)
        dtype: type of the image. (default: ``float32``)

    Raises:
        TypeError, ValueError: if a number is no integer, or too small.

    Example:
        >>> image = torch.arange(32.0).view(1, 4, 8)
        >>> leaves = ImageLeaves(1, size=2).encode(image)
        >>> leaves.rows.shape, leaves.rows[1], leaves.place[5]
        (torch.Size([8, 4]), tensor([ 2.,  3., 10., 11.]), tensor([1., 1.]))
    """

    channels: int
    size: int
    branching: int | None = None
    dtype: torch.dtype = torch.float32

    domain = "grid"
    columns = 2
    takes_type = Tensor

    def __post_init__(self) -> None:
        check_integer(self.channels, "channels", 1)
        check_integer(self.size, "size", 1)
        if self.branching is not None:
            check_integer(self.branching, "branching", 2)
        object.__setattr__(self, "width", self.channels * self.size**2)
        expects = (
            f"an image [{self.channels}, H, W] of {self.dtype}, sides multiples of {self.size}"
        )
        object.__setattr__(self, "expects", expects)

    def takes(self, value: Any) -> bool:
        """Whether it has the channels, the type, and whole patches."""
        if not isinstance(value, Tensor) or value.dim() != 3 or value.dtype != self.dtype:
            return False
        if value.device.type != "cpu":
            return False
        sides = value.shape[1:]
        return value.shape[0] == self.channels and all(s > 0 and s % self.size == 0 for s in sides)

    def encode(self, value: Tensor) -> Leaves:
        """A leaf for each patch."""
        p, (rows, cols) = self.size, (side // self.size for side in value.shape[1:])
        patches = value.reshape(-1, rows, p, cols, p).permute(1, 3, 0, 2, 4)
        n = rows * cols
        parent = family(n)
        if self.branching is not None:
            parent = from_grid((rows, cols), branching=self.branching).parent
        places = [ranks(parent, axis) for axis in (torch.arange(n) // cols, torch.arange(n) % cols)]
        return Leaves(patches.reshape(n, -1), parent, torch.stack(places, 1).float(), (rows, cols))

    def decode(self, leaves: Leaves) -> Tensor:
        """The image."""
        p, (rows, cols) = self.size, leaves.kept
        patches: Tensor = leaves.rows.view(rows, cols, -1, p, p).permute(2, 0, 3, 1, 4)
        return patches.reshape(-1, rows * p, cols * p)
