"""What a bug report should tell of an installation."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .native import INSTRUCTIONS, library, why_not

__all__ = ["show_config"]

PACKAGES = (
    "hsa_geometric", "torch", "torch-geometric", "torch-scatter", "networkx", "numpy", "triton",
)  # fmt: skip


def show_config() -> None:
    """Print versions, backends, the kernel's instruction set and threads: for bug reports.

    Example:
        >>> show_config()  # doctest: +ELLIPSIS
        Python ...
    """
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name}: not installed")
    lib = library()
    if lib is None:
        print(f"backend 'cpu': no kernel, 'auto' is 'scatter' there. {why_not()}")
    else:
        print(
            f"backend 'cpu': compiled kernel ({INSTRUCTIONS[lib.hsa_instructions(-1)]}), "
            f"{torch.get_num_threads()} threads"
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    print(f"backend 'triton': {device}")
