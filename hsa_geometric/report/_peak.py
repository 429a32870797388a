"""Peak memory of a call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch


def peak(call: Callable[[], Any], device: str = "cpu") -> int:
    """Extra bytes at the peak of the second of two calls; its output counts.

    The first one loads what is needed. On CUDA the allocator knows. On the CPU free memory is
    handed back, Linux's record of the peak is reset, and the second call is read off.

    Raises:
        OSError: on the CPU, if the system is not Linux or keeps the record from us.
    """
    call()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM, the highest resident size, starts again from here
    before = status("VmRSS")
    call()
    return max(0, status("VmHWM") - before)


def status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field + ":"))
