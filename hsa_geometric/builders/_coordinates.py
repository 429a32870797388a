"""Coordinates at the door of the builders."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Coordinates: TypeAlias = "Tensor | np.ndarray[Any, Any]"


def as_coordinates(pos: Coordinates, name: str = "pos", row: str = "point") -> Tensor:
    """Check ``[N, D]`` coordinates; an array is copied, a tensor is not.

    Raises:
        TypeError: naming the argument, if it is no tensor or array of floating-point numbers.
        ValueError: naming the argument and the point: another number of dimensions, no points, no
            coordinates, one that is not finite.
    """
    if isinstance(pos, np.ndarray) and pos.dtype.kind in "biuf":
        pos = torch.from_numpy(pos.copy())
    if not isinstance(pos, Tensor):
        raise TypeError(f"Expected '{name}' to be a tensor or an array (got {type(pos).__name__})")
    if not pos.is_floating_point():
        raise TypeError(f"Expected '{name}' to hold floating-point numbers (got {pos.dtype})")
    if pos.dim() != 2:
        raise ValueError(f"Expected '{name}' to be two-dimensional (got {pos.dim()} dimensions)")
    if 0 in pos.shape:
        raise ValueError(
            f"Expected '{name}' to hold at least one {row} and one coordinate "
            f"(got shape {list(pos.shape)})"
        )
    if not torch.isfinite(pos.detach().abs().max()):
        first = int((~torch.isfinite(pos)).any(dim=1).nonzero()[0])
        raise ValueError(
            f"Expected '{name}' to be finite (got {name}[{first}] = {pos[first].tolist()})"
        )
    return pos
