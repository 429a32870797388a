"""Attention as blocks, and pictures of a leaf.

``python -m benchmarks.blocks``: a million points in the plane, families of 8, 4 heads × 32,
float32, one thread. CPU time, as other processes lengthen the clock's; blocks a second time, as
the first call works out the tree's tiles; peak memory of the process so far.
"""

from __future__ import annotations

import argparse
import io
import resource
from collections.abc import Callable
from time import process_time
from typing import Any

import matplotlib

matplotlib.use("Agg")

import torch

from hsa_geometric import from_points
from hsa_geometric.report import (
    attention_blocks,
    attention_levels,
    attention_rollout,
    plot_attention,
)

from .measure import machine, machine_line


def timed(name: str, call: Callable[[], Any]) -> Any:
    """What the call returns; its CPU time is printed."""
    before = process_time()
    out = call()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name:<22} {process_time() - before:6.2f} s, peak {memory:.2f} GB", flush=True)
    return out


def picture(*arguments: Any, **options: Any) -> None:
    """Drawn and written."""
    plot_attention(*arguments, **options).ax.figure.savefig(io.BytesIO(), dpi=100)


def main(leaves: int = 1_000_000) -> None:
    """Prints a line for each thing done."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine_line(machine(1)))
    pos = torch.rand(leaves, 2)
    h = from_points(pos)
    q, k = torch.randn(2, leaves, 4, 32).unbind(0)
    timed("tree", lambda: h.tree)
    timed("blocks, first time", lambda: attention_blocks(h, q, k))
    blocks = timed("blocks", lambda: attention_blocks(h, q, k))
    print(blocks)
    timed("attention from a leaf", lambda: blocks.attention_from(7))
    timed("attention to a leaf", lambda: blocks.attention_to(7))
    timed("rollout, 4 layers", lambda: attention_rollout([blocks] * 4, 7))
    timed("levels", lambda: attention_levels(blocks, pos))
    timed("picture of a leaf", lambda: picture(h, blocks, 7))
    timed("picture of the matrix", lambda: picture(h, blocks))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    main(**vars(parser.parse_args()))
