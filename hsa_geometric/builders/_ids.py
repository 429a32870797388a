"""Id vectors at the door of the builders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.functional.options import check_integers

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
    check_integers(ids, name)
    if ids.dim() != 1:
        raise ValueError(f"Expected '{name}' to be one-dimensional (got {ids.dim()} dimensions)")
    if ids.numel() == 0:
        raise ValueError(f"Expected '{name}' to hold at least one entry (got an empty vector)")
    return ids.long()


def as_batch(batch: Ids, num_leaves: int) -> Tensor:
    """``[N]`` sample of each leaf.

    Raises:
        TypeError: if it holds no integers.
        ValueError: if it has another length, a negative id, or a sample without leaves.
    """
    ids = as_ids(batch, "batch")
    if ids.numel() != num_leaves:
        raise ValueError(
            f"Expected 'batch' to have one entry for each of the {num_leaves} leaves "
            f"(got {ids.numel()})"
        )
    check_not_negative(ids, "batch")
    check_all_used(ids, "batch", "sample")
    return ids


def check_not_negative(ids: Tensor, name: str) -> None:
    """No id below 0."""
    negative = ids < 0
    if negative.any():
        first = int(negative.nonzero()[0])
        raise ValueError(
            f"Expected '{name}' to hold non-negative ids (got {name}[{first}] = {int(ids[first])})"
        )


def check_all_used(ids: Tensor, name: str, what: str) -> None:
    """Ids ``0 .. n-1``, each there."""
    # n members use at most n ids, so if the largest is beyond that one of the first n + 1 is free.
    highest = int(ids.max())
    used = torch.zeros(min(highest, ids.numel()) + 1, dtype=torch.bool, device=ids.device)
    used[ids[ids < used.numel()]] = True
    if not used.all():
        free = int((~used).nonzero()[0])
        raise ValueError(
            f"Expected '{name}' to use every id in [0, {highest}] (got no member of {what} {free})"
        )
