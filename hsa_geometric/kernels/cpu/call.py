"""The arguments of the kernel as C has them: ``native/src/call.h``, field by field."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# Sizes, nine tensors of leaf rows, addresses and switches; scale and dropout. The rest is C's own.
NUM_SIZES, NUM_ROWS, NUM_ADDRESSES = 14, 9, 31
PACKED = Struct(f"={NUM_SIZES + 3 * NUM_ROWS + NUM_ADDRESSES}q2d24x")
NO_ROWS = (0, 0, 0)


def rows(x: Tensor) -> tuple[int, int, int]:
    """Address, bytes from row to row and dtype of ``x [N, H, n]`` as :func:`beside` returns it."""
    return x.data_ptr(), x.stride(0) * x.element_size(), DTYPES[x.dtype]


def beside(x: Tensor) -> Tensor:
    """``x [N, H, n]``, copied if the heads of a row do not stand beside each other."""
    if x.is_contiguous():
        return x
    (_, heads, n), stride = x.shape, x.stride()
    if (stride[2] == 1 or n == 1) and (stride[1] == n or heads == 1):
        return x
    return x.contiguous()


def address(x: Tensor | None) -> int:
    """Where a tensor is; 0 for none."""
    return 0 if x is None else x.data_ptr()
