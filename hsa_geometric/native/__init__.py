"""The compiled kernel: where it is, how it is loaded, and why it may not be there.

In the environment ``HSA_GEOMETRIC_KERNEL=0`` leaves it out, ``HSA_GEOMETRIC_LIBRARY`` is the path
of another one, and ``HSA_GEOMETRIC_INSTRUCTIONS`` (base, avx2, avx512) the most that it may use.

``src`` is plain C++, :mod:`.build` compiles it when the package is installed. It knows neither
torch nor Python: it is called with addresses, and Python's lock is free meanwhile.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from functools import lru_cache
from pathlib import Path

from .build import LIBRARY, REASON, SOURCES, fingerprint

__all__ = ["INSTRUCTIONS", "kernel", "library", "why_not"]

FOLDER = Path(__file__).parent
# What the numbers of ``hsa_instructions`` mean.
INSTRUCTIONS = ("base", "avx2", "avx512")


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none, of which a line tells who did not ask for that."""
    if os.environ.get("HSA_GEOMETRIC_KERNEL") == "0":
        return None, "HSA_GEOMETRIC_KERNEL=0 in the environment"
    lib, reason = _open()
    if lib is None:
        logging.getLogger("hsa_geometric").warning(
            "hsa_geometric has no kernel for the CPU and takes backend 'scatter', which is slower: "
            "show_config() says why; python -m hsa_geometric.native.build compiles it"
        )
    return lib, reason


def _open() -> tuple[ctypes.CDLL | None, str]:
    path = Path(os.environ.get("HSA_GEOMETRIC_LIBRARY") or FOLDER / LIBRARY)
    if not path.exists():
        said = path.parent / REASON
        reason = said.read_text().strip() if said.exists() else "it was not built"
        return None, (
            f"{path} does not exist: {reason}\n"
            f"(python -m hsa_geometric.native.build compiles it, with g++ or clang++)"
        )
    try:
        lib = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        lib.hsa_index.argtypes = [pointer, number, *[pointer] * 9]
        lib.hsa_index.restype = number
        lib.hsa_walk.argtypes = [*[pointer] * 3, *[number] * 4, pointer, pointer]
        lib.hsa_walk.restype = None
        lib.hsa_masses.argtypes = [*[pointer] * 4, *[number] * 3, pointer, pointer, ctypes.c_int]
        lib.hsa_masses.restype = None
        lib.hsa_blocks.argtypes = [pointer, *[number] * 4, pointer, *[number] * 4, *[pointer] * 3]
        lib.hsa_blocks.restype = pointer
        lib.hsa_take_blocks.argtypes = [pointer] * 3
        lib.hsa_take_blocks.restype = None
        for name in ("hsa_forward", "hsa_backward", "hsa_lists_forward", "hsa_lists_backward"):
            getattr(lib, name).argtypes = [ctypes.c_char_p]  # a packed call, see call.h
        lib.hsa_instructions.argtypes = [ctypes.c_int]
        lib.hsa_sources.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded on {platform.machine()}: {error}"
    if lib.hsa_sources().decode() != fingerprint():
        return None, (
            f"{path} was compiled from other sources than those in {SOURCES}\n"
            f"(python -m hsa_geometric.native.build compiles it anew)"
        )
    wanted = os.environ.get("HSA_GEOMETRIC_INSTRUCTIONS")
    if wanted in INSTRUCTIONS:
        lib.hsa_instructions(INSTRUCTIONS.index(wanted))
    return lib, ""


def library() -> ctypes.CDLL | None:
    """The kernel's library, or None where there is none; :func:`why_not` tells why."""
    return _load()[0]


def kernel() -> ctypes.CDLL:
    """The same, or an ImportError that tells why there is none."""
    found, reason = _load()
    if found is None:
        raise ImportError(f"backend='cpu' has no kernel: {reason}")
    return found


def why_not() -> str:
    """Why there is no library; empty where there is one."""
    return _load()[1]
