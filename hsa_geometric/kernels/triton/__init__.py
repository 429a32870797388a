"""Backend ``'triton'``: kernels of its own for CUDA devices, forward and backward.

====================  ===========================================================================
``attention``         the operator: which launches follow each other
``call``, ``places``  its arguments, and where the row of each node is
``sweeps``            rows up and down the tree
``siblings``          attention within all families of all levels at once
``scalars``           the recursions for log evidence and what follows from it
``dropout``           the kernels' dropout masks as tensors
``*_kernels``         the kernels, the only files that import Triton
====================  ===========================================================================

Importing this package does not import Triton. On the CPU the kernels run in Triton's interpreter,
which ``TRITON_INTERPRET=1`` in the environment switches on for a whole process.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

__all__ = ["INSTALLED", "check", "hierarchical_attention", "interpreted"]

_spec = importlib.util.find_spec("triton")
INSTALLED = _spec is not None and _spec.origin is not None  # and no mere folder of that name


@torch.compiler.assume_constant_result
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, as was decided when Triton was imported."""
    import triton

    return not isinstance(triton.language.sum, triton.runtime.JITFunction)


def check(device: torch.device) -> None:
    """Whether the backend can compute there.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if the kernels do not run on the device.
    """
    if not INSTALLED:
        raise ImportError("backend='triton' needs Triton: pip install 'hsa_geometric[triton]'")
    if device.type != "cuda" and not interpreted():
        raise ValueError(
            f"Expected tensors on a CUDA device for backend='triton' (got {device}; elsewhere it "
            f"runs only in Triton's interpreter: set TRITON_INTERPRET=1 before Python starts)"
        )


def hierarchical_attention(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` and log evidence ``[trees, H]``; arguments are already checked."""
    from . import attention

    return attention.hierarchical_attention(*args, **options)
