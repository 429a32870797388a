"""Sorting of long vectors with little memory beside them."""

from __future__ import annotations

import torch
from torch import Tensor

AT_ONCE = 2**21
SAMPLE = 2**14


def argsort(key: Tensor) -> Tensor:
    """Stable order of integers; the values between two of a sample are sorted apart from others.

    Cost: beside the result 24 to 36 bytes for each of :data:`AT_ONCE` numbers.
    """
    if key.numel() <= AT_ONCE:
        return key.argsort(stable=True)
    sample = key[:: max(key.numel() // SAMPLE, 1)].sort().values
    stride = max(sample.numel() * AT_ONCE // (2 * key.numel()), 1)
    bounds = sample[stride::stride].unique().tolist()
    order = torch.empty_like(key, dtype=torch.int32 if key.numel() < 2**31 else torch.int64)
    start = 0

    def write(rows: Tensor) -> int:
        order[start : start + rows.numel()] = rows
        return start + rows.numel()

    below = None
    for bound in [*bounds, None]:
        between = torch.ones_like(key, dtype=torch.bool) if below is None else key > below
        if bound is not None:
            between &= key < bound
        rows = between.nonzero().view(-1)
        start = write(rows[key[rows].argsort(stable=True)])
        if bound is not None:
            start = write((key == bound).nonzero().view(-1))
        below = bound
    return order
