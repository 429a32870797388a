"""Backend ``'triton'``: kernels of its own for CUDA devices, forward and backward.

====================  ===========================================================================
``attention``         forward and backward: which launches follow each other
``plan``, ``call``    what kernels need to know of the tree, and their arguments
``sweeps``            rows up and down the tree
``siblings``          attention within all families of all levels at once
``scalars``           the recursions for log evidence and what follows from it
``*_kernels``         the kernels, the only files that import Triton
====================  ===========================================================================

Importing this package does not import Triton. On the CPU the kernels run in Triton's interpreter,
which ``TRITON_INTERPRET=1`` in the environment switches on for a whole process.
"""

from __future__ import annotations

import importlib.util

import torch

from .attention import backward, forward, saved_like

__all__ = ["INSTALLED", "backward", "check", "forward", "interpreted", "saved_like"]

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
