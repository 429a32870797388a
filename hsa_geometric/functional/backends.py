"""Which backend computes a call."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..kernels.call import Call
from ..kernels.operator import BACKENDS, has_no_numbers, in_transform, load

CHOICES = ("auto", *BACKENDS)
# Names of old, and those that took their place.
RENAMED = {"torch": "scatter"}


def resolve(backend: str, call: Call) -> str:
    """The name of the backend that computes it; an error if one is named and cannot."""
    if backend in RENAMED:
        new = RENAMED[backend]
        message = f"backend='{backend}' is now called '{new}'"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        backend = new
    if backend not in CHOICES:
        raise ValueError(f"Expected 'backend' to be one of {list(CHOICES)} (got '{backend}')")
    if backend == "scatter" or backend == "reference":
        return backend
    transformed = is_transformed(call)
    if backend == "auto":  # triton only when its kernels have run on a GPU
        fast = call.q.device.type == "cpu" and not transformed and has_cpu_kernel()
        fast = fast and (call.lists is None or takes_lists("cpu"))
        return "cpu" if fast else "scatter"
    if call.lists is not None and not takes_lists(backend):
        raise ValueError(
            f"Expected no 'lists' with backend='{backend}' (got some; use 'scatter' or 'auto')"
        )
    if transformed:
        raise ValueError(
            f"Expected no torch.func transform and no forward-mode derivative with "
            f"backend='{backend}' (use 'scatter' or 'auto' there)"
        )
    if not has_no_numbers(call.q):
        load(backend).check(call.q.device)
    return backend


@torch.compiler.assume_constant_result
def takes_lists(backend: str) -> bool:
    """Whether its kernels know of pairs of nodes other than siblings."""
    return getattr(load(backend), "LISTS", False)


@torch.compiler.assume_constant_result
def has_cpu_kernel() -> bool:
    """Whether the compiled kernel is there."""
    from ..native import library

    return library() is not None


def is_transformed(call: Call) -> bool:
    """Whether a derivative is being computed, or a batch, that kernels know nothing of."""
    if torch.compiler.is_compiling():
        return False
    if in_transform():
        return True
    level = forward_ad._current_level  # without one there are no tangents
    return level >= 0 and any(map(has_tangent, call.learned))


def has_tangent(x: Tensor | None) -> bool:
    """Whether a forward-mode derivative goes along with the tensor."""
    return x is not None and forward_ad.unpack_dual(x).tangent is not None
