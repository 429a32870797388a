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
    """A vector of integers as int64; what is no tensor is copied."""
    got = f"got {type(value).__name__}: "
    ids = as_integers(value, name, f"Expected '{name}' to be a vector of integers ({got}")
    if ids.dim() != 1:
        raise ValueError(f"Expected '{name}' to be one-dimensional (got {ids.dim()} dimensions)")
    if ids.numel() == 0:
        raise ValueError(f"Expected '{name}' to hold at least one entry (got an empty vector)")
    return ids.long()


def as_integers(value: Any, name: str, wrong: str) -> Tensor:
    """Integers of any shape; ``wrong`` begins the error of what makes no array."""
    if isinstance(value, Tensor):
        ids = value.detach()
    else:
        try:
            array = np.array(value)
            if array.size == 0 or array.dtype.kind == "u":  # an empty list has no dtype of its own
                array = array.astype(np.int64)
            ids = torch.from_numpy(array)
        except (TypeError, ValueError) as error:  # ragged, or objects
            raise TypeError(f"{wrong}{error})") from error
    check_integers(ids, name)
    return ids


def as_batch(batch: Ids, num_leaves: int) -> Tensor:
    """``[N]`` sample of each leaf, ``0 .. B-1``, each there."""
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
    if (i := first(ids < 0)) is not None:
        raise ValueError(
            f"Expected '{name}' to hold non-negative ids (got {name}[{i}] = {int(ids[i])})"
        )


def check_all_used(ids: Tensor, name: str, what: str) -> None:
    """Ids ``0 .. n-1``, each there."""
    # n members use at most n ids, so if the largest is beyond that one of the first n + 1 is free.
    highest = int(ids.max())
    used = torch.zeros(min(highest, ids.numel()) + 1, dtype=torch.bool, device=ids.device)
    used[ids[ids < used.numel()]] = True
    if (free := first(~used)) is not None:
        raise ValueError(
            f"Expected '{name}' to use every id in [0, {highest}] (got no member of {what} {free})"
        )


def first(found: Tensor) -> int | None:
    """Place of the first entry that is set, if there is one."""
    return int(found.nonzero()[0]) if found.any() else None


def places(group: Tensor) -> Tensor:
    """How many entries of the same group come before each."""
    order = group.argsort(stable=True)
    sizes = torch.bincount(group)
    start = sizes.cumsum(0) - sizes
    place = torch.empty_like(group)
    place[order] = torch.arange(group.numel(), device=group.device) - start[group[order]]
    return place
