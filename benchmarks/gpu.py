"""What we aim for on a GPU: times, ratios, shares of the floor, and what holds the rest.

``python -m benchmarks.gpu`` on a machine with a CUDA device prints the tables and writes
``benchmarks/results/gpu.json``; no speed is printed of kernels that are wrong. On a CPU it runs in
Triton's interpreter, which says nothing about speed: for its own tests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.triton import call

from . import gate
from .case import Case, Skipped
from .measure import Timing, interleaved, machine, machine_line
from .memory import peak
from .report import markdown
from .sweep import prepare

RESULTS = Path(__file__).parent / "results"
HSA = "hsa-triton"
Cell = tuple[str, int, str, str]  # shape, leaves, method, pass


@dataclass(frozen=True)
class Aim:
    """A bound on milliseconds or, with ``below``, on a ratio of times."""

    above: Cell
    bound: float
    below: Cell | None = None
    at_least: bool = False

    @property
    def what(self) -> str:
        """In words."""
        cells = [self.above, self.below] if self.below else [self.above]
        names = [f"{shape}, {leaves:,} leaves, {m} {which}" for shape, leaves, m, which in cells]
        return " / ".join(names) + ("" if self.below else ", ms")


def aims(shrink: int = 1) -> list[Aim]:
    """The aims, on trees smaller by a factor."""

    def cell(shape: str, leaves: int, which: str, method: str = HSA) -> Cell:
        return shape, max(25, leaves // shrink), method, which

    big = 1_048_576
    found = [Aim(cell("balanced", big, "forward"), 3.0), Aim(cell("balanced", big, "both"), 9.0)]
    for leaves, bound in ((16_384, 10.0), (131_072, 50.0)):
        above, below = (cell("balanced", leaves, "forward", m) for m in ("sdpa", HSA))
        found.append(Aim(above, bound, below, at_least=True))
    for which in ("forward", "both"):
        found.append(Aim(cell("ragged", big, which), 1.3, cell("balanced", big, which)))
    found.append(Aim(cell("molecules", 4096 * 25, "forward"), 0.5))
    return found


def floor_bytes(case: Case, which: str) -> int:
    """What must move: q, k, v and out; backward, q, k, v and four gradients as well."""
    rows = sum(x.nbytes for x in case.qkv)
    one = case.qkv[2].nbytes
    return rows + one if which == "forward" else 3 * rows + 2 * one


def measure(found: list[Aim], options: dict[str, Any], seconds: float, copy_rate: float) -> Any:
    """Rows of the two tables: aims, and times against the floor."""
    cells = list(dict.fromkeys(c for aim in found for c in (aim.above, aim.below) if c))
    timings: dict[Cell, Timing] = {}
    failed: dict[Cell, str] = {}
    times = []
    for shape, leaves in tqdm(list(dict.fromkeys(c[:2] for c in cells)), unit="tree"):
        case, calls = Case.of(shape, leaves, **options), {}
        for each in (c for c in cells if c[:2] == (shape, leaves)):
            try:
                ready = prepare(case, each[2], each[3])
                calls[each] = ready.call(each[3])
            except Skipped as reason:
                failed[each] = str(reason)
        took, why = interleaved(calls, options["device"], seconds=seconds)
        timings |= took
        failed |= why
        for each, timing in took.items():
            moved = floor_bytes(case, each[3])
            times.append({
                "cell": each, "ms": 1e3 * timing.median, "q1": 1e3 * timing.q1,
                "q3": 1e3 * timing.q3, "floor_ms": 1e3 * moved / copy_rate,
                "share": moved / copy_rate / timing.median,
            })  # fmt: skip
    return [judge(aim, timings, failed) for aim in found], times


def judge(aim: Aim, timings: dict[Cell, Timing], failed: dict[Cell, str]) -> dict[str, Any]:
    """The row of an aim."""
    row = {"what": aim.what, "bound": f"{'≥' if aim.at_least else '≤'} {aim.bound:g}"}
    for cell in filter(None, (aim.above, aim.below)):
        if cell not in timings:
            return row | {"measured": failed.get(cell, "not measured"), "met": "–"}
    value = timings[aim.above].median * 1e3
    if aim.below:
        value /= timings[aim.below].median * 1e3
    met = value >= aim.bound if aim.at_least else value <= aim.bound
    return row | {"measured": f"{value:.3g}", "met": "yes" if met else "no"}


def memory(shape: str, leaves: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of peak memory beyond the inputs, over q + k + v + out."""
    rows = []
    for which in ("forward", "both"):
        case = Case.of(shape, leaves, **options)
        ready = prepare(case, HSA, which)
        found = peak(ready.call(which), options["device"])
        ratio = found / floor_bytes(case, "forward")
        what = f"{shape}, {leaves:,} leaves, {which}: peak extra memory / (q + k + v + out)"
        met = "yes" if ratio <= 3 else "no"
        rows.append({"what": what, "bound": "≤ 3", "measured": f"{ratio:.2f}", "met": met})
    return rows


def kernels(shape: str, leaves: int, options: dict[str, Any]) -> list[list[str]]:
    """What holds the time: kernels of a forward and backward pass, by time on the device."""
    ready = prepare(Case.of(shape, leaves, **options), HSA, "both")
    ready.both()
    here = torch.profiler.ProfilerActivity
    activities = [here.CPU, here.CUDA] if options["device"] != "cpu" else [here.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        ready.both()
        if options["device"] != "cpu":
            torch.cuda.synchronize()
    field = "self_device_time_total" if options["device"] != "cpu" else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda e: -getattr(e, field))
    total = sum(getattr(e, field) for e in events) or 1
    return [
        [e.key[:60], str(e.count), f"{getattr(e, field) / 1e3:.3f}",
         f"{getattr(e, field) / total:.0%}"]
        for e in events[:16] if getattr(e, field) > 0
    ]  # fmt: skip


def same_bits(options: dict[str, Any], leaves: int) -> list[str]:
    """What differs between repeated runs, and between one launch up a tree and one a level."""
    wrong = []
    for shape in ("balanced", "ragged", "molecules", "deep"):
        case = Case.of(shape, leaves, **options)
        results = []
        for one_launch in (True, True, False):
            call.ONE_LAUNCH = one_launch
            q, k, v = case.learned(True, *case.qkv)
            out = hierarchical_attention(q, k, v, case.tree, backend="triton")
            results.append((out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))))
        call.ONE_LAUNCH = True
        for what, (one, other) in zip(("runs", "ways up"), pairwise(results), strict=True):
            if not all(torch.equal(x, y) for x, y in zip(one, other, strict=True)):
                wrong.append(f"two {what} of {shape}, {leaves:,} leaves, differ")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 1 and prints no speed if the kernels are wrong."""
    p = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    p.add_argument("--device", default="cuda")
    p.add_argument("--seconds", type=float, default=1.0, help="of samples a cell")
    p.add_argument("--shrink", type=int, default=1, help="divide the sizes of all trees by this")
    p.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    args = p.parse_args(arguments)
    options = {"heads": 8, "channels": 32, "dtype": torch.bfloat16, "device": args.device}
    if args.device == "cpu":
        options |= {"heads": 2, "channels": 4}
    wrong = same_bits(options, 100_000 // args.shrink)
    wrong += gate.check(args.device, ["hsa", HSA], max(50, 1000 // args.shrink)).wrong
    if wrong:
        print("The kernels are wrong; no speed is printed.", *wrong, sep="\n- ", file=sys.stderr)
        return 1
    found = machine(torch.get_num_threads(), args.device)
    print(f"Machine: {machine_line(found)}; bfloat16, {options['heads']} heads × "
          f"{options['channels']}\n")  # fmt: skip
    todo = aims(args.shrink)
    big = todo[0].above[:2]
    judged, times = measure(todo, options, args.seconds, found["copy_rate"])
    judged += memory(*big, options)
    names = ["what", "bound", "measured", "met"]
    print(markdown(["aim", *names[1:]], [[row[n] for n in names] for row in judged]), end="\n\n")
    rows = [
        [f"{shape}, {leaves:,} leaves, {method}", which, f"{t['ms']:.3g}", f"{t['floor_ms']:.3g}",
         f"{t['share']:.0%}"]
        for t in times for shape, leaves, method, which in [t["cell"]]
    ]  # fmt: skip
    print(markdown(["", "pass", "ms", "floor, ms", "share of the floor"], rows), end="\n\n")
    parts = kernels(*big, options)
    print(markdown([f"kernels of both passes, {big[0]}, {big[1]:,} leaves", "calls", "ms", "share"],
                   parts))  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": found, "aims": judged, "times": times, "kernels": parts}
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
