"""Triton kernels, imported at their first launch.

Kernels stand in files named ``*_kernels.py``, which import Triton at the top and which nothing
imports but :func:`load`: so this package can be imported where Triton is not installed.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch


@cache
def load(name: str) -> ModuleType:
    """The file of kernels :obj:`name` of this package.

    Raises:
        ImportError: if Triton is not installed.
    """
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "backend='triton' needs Triton: pip install 'hsa_geometric[triton]'"
        ) from error
    return import_module(f".{name}", __package__)


def launch(
    kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **meta: Any
) -> None:
    """Launch a kernel on the current stream of :obj:`device`; an empty grid is nothing to do."""
    if 0 in grid:
        return
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[grid](*args, **meta)
    else:  # the interpreter
        kernel[grid](*args, **meta)


def cover(n: int, step: int) -> int:
    """How many steps cover ``n``."""
    return -(-n // step)


def power_of_two(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()
