"""The arguments of the kernel as C has them: ``native/src/call.h``, field by field."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from ..call import Call
from .walk import Walk

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# Sizes, nine tensors of leaf rows, addresses and switches; scale and dropout. The rest is C's own.
NUM_SIZES, NUM_ROWS, NUM_ADDRESSES = 14, 9, 35
PACKED = Struct(f"={NUM_SIZES + 3 * NUM_ROWS + NUM_ADDRESSES}q2d24x")
NO_ROWS = (0, 0, 0)
Half = tuple[int, int, int, int]
BOTH: Half = (0, 0, 0, 0)  # ways, of trees that hang below no others
NOTHING: list[Tensor | None] = [None] * 4


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


def node_values(call: Call, dtype: torch.dtype) -> list[Tensor | None]:
    """pos_q, pos_k, temperature and bias as the kernel reads them."""
    given = (call.pos_q, call.pos_k, call.temperature, call.bias)
    if given == (None,) * 4:
        return NOTHING
    return [None if x is None else x.detach().to(dtype).contiguous() for x in given]


def like(found: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients in the dtypes of what they are of."""
    return [
        None if x is None or y is None else x.to(y.dtype) for x, y in zip(found, given, strict=True)
    ]


def pack(
    call: Call,
    walk: Walk,
    mass: Tensor,
    given: list[Tensor | None],
    leaves: list[tuple[int, int, int]],
    learned: list[Tensor | None],
    addresses: tuple[int, ...],
    save: bool,
    threads: int | None = None,
    half: Half = BOTH,
) -> bytes:
    """What the kernel is given; the order of everything here is that of ``call.h``."""
    (_, heads, width), values = call.q.shape, call.v.shape[2]
    weight, dropout = mass.data_ptr(), call.dropout_p
    if threads is None:
        threads = walk.threads(heads, 2 * width + values)
    return PACKED.pack(
        *walk.head, heads, width, values, 0 if given[0] is None else given[0].shape[2],
        *chain.from_iterable(leaves),
        *map(address, given), *map(address, learned),
        weight, weight + mass.nbytes // 2,
        *addresses, *half,
        call.mass is not None, call.self_loop, save,
        int(call.seed) if call.seed is not None and dropout > 0 else 0,
        threads, mass.dtype == torch.float64,
        call.scale, dropout,
    )  # fmt: skip


def run(function: Any, packed: bytes) -> None:
    """Call the kernel."""
    if function(packed):
        raise MemoryError("backend='cpu' found no memory for the rows of a tile")
