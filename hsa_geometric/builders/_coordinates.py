"""Coordinates at the door of the builders."""

from __future__ import annotations

import mmap
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 2**24  # bytes

Coordinates: TypeAlias = "Tensor | np.ndarray[Any, Any]"


def copied(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of its own of an array; a memory map is read piece by piece, and let go of."""
    file = getattr(array, "_mmap", None)  # what is computed of a map has its class and no file
    if file is None or array.ndim == 0:
        return torch.from_numpy(np.array(array))
    out = np.empty(array.shape, array.dtype)
    rows = max(AT_ONCE // max(array[:1].nbytes, 1), 1)
    for at in range(0, len(array), rows):
        out[at : at + rows] = array[at : at + rows]
        # Pages of "c" hold what was changed and is not in the file.
        if array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):  # type: ignore[attr-defined]
            file.madvise(mmap.MADV_DONTNEED)
    return torch.from_numpy(out)


def as_coordinates(pos: Coordinates, name: str = "pos", row: str = "point") -> Tensor:
    """Check ``[N, D]`` coordinates; an array is copied, a tensor is not.

    Raises:
        TypeError: naming the argument, if it is no tensor or array of floating-point numbers.
        ValueError: naming the argument and the point: another number of dimensions, no points, no
            coordinates, one that is not finite.
    """
    if isinstance(pos, np.ndarray) and pos.dtype.kind in "biuf":
        pos = copied(pos)
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
    if not all(torch.isfinite(end) for end in pos.detach().aminmax()):
        first = int((~torch.isfinite(pos)).any(dim=1).nonzero()[0])
        raise ValueError(
            f"Expected '{name}' to be finite (got {name}[{first}] = {pos[first].tolist()})"
        )
    return pos
