"""The arguments of the kernel as C has them: ``native/src/call.h``, field by field."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_ROWS = ("q", "k", "v", "out", "U_leaf", "grad", "dq", "dk", "dv")
_NUMBERS = (
    "walk", "order", "T", "F", "R", "families", "tasks", "tops", "widest", "cost",
    "heads", "channels", "values", "features",
)  # fmt: skip
_ADDRESSES = (
    "pos_q", "pos_k", "temperature", "bias", "d_pos_q", "d_pos_k", "d_temperature", "d_bias",
    "weight", "log_mass", "evidence", "grad_evidence",
    "means", "U", "Z", "f", "g", "W", "S", "G", "dW", "df", "z", "mu", "parts",
    "masses", "self_loop", "save", "seed", "threads", "precise",
)  # fmt: skip


class Arguments(ctypes.Structure):
    """What one call of ``hsa_forward`` or ``hsa_backward`` is given."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_int64 * 3) for name in _ROWS),
        *((name, ctypes.c_int64) for name in _ADDRESSES),
        *((name, ctypes.c_double) for name in ("scale", "dropout")),
        ("small", ctypes.c_int * 6),
    ]


def rows(x: Tensor) -> tuple[int, int, int]:
    """Address, bytes from row to row and dtype of ``x [N, H, n]`` as :func:`beside` returns it."""
    return x.data_ptr(), x.stride(0) * x.element_size(), DTYPES[x.dtype]


def beside(x: Tensor) -> Tensor:
    """``x [N, H, n]``, copied if the heads of a row do not stand beside each other."""
    _, heads, n = x.shape
    stride = x.stride()
    if (stride[2] == 1 or n == 1) and (stride[1] == n or heads == 1):
        return x
    return x.contiguous()
