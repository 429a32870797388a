"""Id vectors at the door of the builders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Ids: TypeAlias = "Tensor | Sequence[int] | np.ndarray[Any, Any]"


def as_ids(value: Ids, name: str) -> Tensor:
    """Turn a vector of integers into int64; what is no tensor is copied.

    Raises:
        TypeError: naming the argument, if it holds no integers.
        ValueError: naming the argument, if it is empty or not one-dimensional.
    """
    if isinstance(value, Tensor):
        ids = value.detach()
    else:
        try:
            array = np.array(value)
            if array.size == 0:  # an empty list has no dtype of its own
                array = array.astype(np.int64)
            ids = torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" else array)
        except (TypeError, ValueError) as error:  # ragged, or objects
            raise TypeError(
                f"Expected '{name}' to be a vector of integers (got {type(value).__name__}: "
                f"{error})"
            ) from error
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TypeError(f"Expected '{name}' to hold integers (got {ids.dtype})")
    if ids.dim() != 1:
        raise ValueError(f"Expected '{name}' to be one-dimensional (got {ids.dim()} dimensions)")
    if ids.numel() == 0:
        raise ValueError(f"Expected '{name}' to hold at least one entry (got an empty vector)")
    return ids.long()
