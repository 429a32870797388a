"""The crossover curve: time and memory against the number of leaves, on logarithmic axes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from .report import TITLES
from .sweep import Record

COLOURS = {
    "hsa": "#c1272d",
    "sdpa": "#1f4e9c",
    "layer": "#e38d2c",
    "gps": "#5b8fd4",
    "transformer-conv": "#2f8f5b",
    "sparse-levels": "#8a5fb5",
    "recursive": "#8c6d4a",
    "flex-families": "#25a3a3",
    "floor": "#777777",
}


def crossover(records: list[Record], which: str, shape: str) -> float | None:
    """Leaves from which ``hsa`` is faster than ``sdpa`` at all larger sizes, interpolated.

    None where it never is; the smallest size where it always is.
    """
    at = {
        (r.method, r.leaves): r.median
        for r in records
        if (r.shape, r.which) == (shape, which) and r.timing
    }
    leaves = sorted(n for method, n in at if method == "hsa" and ("sdpa", n) in at)
    if not leaves:
        return None
    gap = [np.log(at["hsa", n] / at["sdpa", n]) for n in leaves]
    if gap[-1] >= 0:
        return None
    slower = [i for i, g in enumerate(gap) if g >= 0]
    if not slower:
        return float(leaves[0])
    i = slower[-1]
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(np.exp((1 - share) * np.log(leaves[i]) + share * np.log(leaves[i + 1])))


def plot(records: list[Record], path: Path, title: str) -> None:
    """Write a picture: for each shape a panel for each pass and one for memory, two to a row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shapes = list(dict.fromkeys(r.shape for r in records if r.timing))
    passes = list(dict.fromkeys(r.which for r in records if r.timing))
    with_memory = any(r.peak for r in records)
    each = len(passes) + with_memory  # panels of a shape
    columns = each if each > 1 else min(2, len(shapes))
    rows = -(-each * len(shapes) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.6 * columns, 4.3 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[each * len(shapes) :]:
        axis.set_visible(False)
    panels = axes.flat[: each * len(shapes)].reshape(len(shapes), each)
    for row, shape in zip(panels, shapes, strict=True):
        for axis, which in zip(row, passes, strict=False):
            _lines(axis, [r for r in records if (r.shape, r.which) == (shape, which)], "time")
            axis.set(title=f"{shape}: {TITLES[which]}", ylabel="milliseconds")
            _mark(axis, crossover(records, which, shape))
        if with_memory:
            _lines(
                row[-1], [r for r in records if (r.shape, r.which) == (shape, passes[-1])], "peak"
            )
            row[-1].set(title=f"{shape}: peak memory, {TITLES[passes[-1]]}", ylabel="MiB")
    title = "\n".join(textwrap.wrap(title, 85 * columns))
    figure.suptitle(title, fontsize=9, color="#555555", x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _lines(axis, records: list[Record], what: str) -> None:
    """One line a method, its name at its end."""
    axis.set(xscale="log", yscale="log", xlabel="leaves")
    sizes = sorted({r.size for r in records})
    axis.set_xticks(sizes, [_short(n) for n in sizes])
    axis.minorticks_off()
    axis.grid(which="major", color="#e6e6e6", linewidth=0.8)
    axis.margins(y=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    ends = []
    for method, colour in COLOURS.items():
        chosen = [r for r in records if r.method == method]
        if what == "time":
            points = [(r.leaves, 1e3 * r.median) for r in chosen if r.timing]
        else:
            points = [(r.leaves, r.peak / 2**20) for r in chosen if r.peak]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        own = method == "hsa"
        axis.plot(
            x,
            y,
            color=colour,
            linewidth=2.6 if own else 1.5,
            linestyle="--" if method == "floor" else "-",
            marker="o",
            markersize=5 if own else 3.5,
            zorder=3 if own else 2,
        )
        if what == "time":
            timings = [r.timing for r in chosen if r.timing]
            axis.fill_between(
                x, [1e3 * t.q1 for t in timings], [1e3 * t.q3 for t in timings],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
        ends.append((x[-1], y[-1], method, colour))
    _label(axis, ends)


def _short(n: int) -> str:
    return f"{n >> 20}M" if n >= 2**20 else f"{n >> 10}k" if n >= 2**10 else f"{n}"


def _label(axis, ends: list) -> None:
    """Names at the ends of lines, moved apart where they would overlap; room to the right."""
    if not ends:
        return
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (high / low) ** 0.28)
    axis.figure.canvas.draw()
    placed: list[tuple[float, float]] = []
    for x, y, method, colour in sorted(ends, key=lambda end: end[1]):
        px, py = axis.transData.transform((x, y))
        spot = py
        for other_x, other_y in placed:
            if abs(other_x - px) < 110 and spot - other_y < 11:
                spot = other_y + 11
        placed.append((px, spot))
        axis.annotate(
            method,
            (x, y),
            xytext=(8, (spot - py) * 72 / axis.figure.dpi),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
            fontweight="bold" if method == "hsa" else "normal",
            annotation_clip=False,
        )


def _mark(axis, leaves: float | None) -> None:
    """Where hierarchical attention overtakes softmax attention."""
    if leaves is None:
        return
    axis.axvline(leaves, color="#c1272d", linewidth=0.9, linestyle=":")
    axis.annotate(
        f"hsa is faster than sdpa\nfrom {float(f'{leaves:.2g}'):,.0f} leaves",
        (leaves, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="#c1272d",
    )
