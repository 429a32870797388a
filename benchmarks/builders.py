"""Building hierarchies from points, against SciPy's k-d tree of the same points.

``python -m benchmarks.builders`` prints a table. The calls of one row take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from hsa_geometric.builders.points import from_points
from hsa_geometric.builders.voxels import from_voxels

from .measure import interleaved, machine, machine_line
from .report import markdown

AIM = 5  # from_points of a million points, against cKDTree
REPEATS = 3


def measure(num_points: int, dim: int = 3, seed: int = 0) -> dict[str, float]:
    """Median seconds of each call, on points that are uniform in a cube."""
    from scipy.spatial import cKDTree

    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(num_points, dim, generator=generator)
    levels = max((num_points - 1).bit_length() // dim, 1)  # about one point to a cell
    calls = {
        "cKDTree": lambda: cKDTree(pos.numpy()),
        "kd": lambda: from_points(pos, method="kd"),
        "pca": lambda: from_points(pos, method="pca"),
        "ball": lambda: from_points(pos, method="ball"),
        "voxels": lambda: from_voxels(pos, levels=levels),
    }
    timings, failed = interleaved(calls, seconds=0, least=REPEATS)
    if failed:
        raise RuntimeError(f"Some builders failed: {failed}")
    return {name: timing.median for name, timing in timings.items()}


def table(sizes: Sequence[int]) -> str:
    """One row for each number of points: milliseconds, and the ratio to cKDTree."""
    rows = []
    for num_points in sizes:
        seconds = measure(num_points)
        base = seconds.pop("cKDTree")
        cells = [f"{1000 * s:.1f} ({s / base:.1f}×)" for s in seconds.values()]
        rows.append([f"{num_points:,}", f"{1000 * base:.1f}", *cells])
    return markdown(["points", "cKDTree", *seconds], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the machine and the table."""
    p = argparse.ArgumentParser("python -m benchmarks.builders", description=__doc__)
    p.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args(arguments)
    torch.set_num_threads(args.threads)
    print(f"Machine: {machine_line(machine(args.threads))}; float32, 3 dimensions\n")
    print("Milliseconds, and the time relative to cKDTree (one thread) of the same points:\n")
    print(table(args.sizes))
    print(f"\nAim: from_points of 1,000,000 points in at most {AIM}× cKDTree.")


if __name__ == "__main__":
    main()
