"""The runner: the correctness gate, then the sweep (or the aims); tables, JSON and a picture."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import aims, gate, lists
from .baselines import CORE, METHODS
from .measure import machine, machine_line
from .plot import crossover, plot
from .report import TITLES, tables
from .shapes import DEFAULT_SHAPES, SHAPES, SIZES
from .sweep import PASSES, Record, Settings, sweep

RESULTS = Path(__file__).parent / "results"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser("python -m benchmarks.run", description=__doc__)
    p.add_argument("--list", action="store_true", help="print shapes and methods, and stop")
    p.add_argument("--aims", action="store_true", help="measure the ratios we aim for instead")
    p.add_argument("--lists", action="store_true", help="measure interaction lists instead")
    p.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(DEFAULT_SHAPES))
    p.add_argument("--sizes", nargs="+", type=int, help="leaves (default: 256 to 1,048,576)")
    p.add_argument("--methods", nargs="+", choices=METHODS, help="default: all on 'balanced'")
    p.add_argument("--pass", dest="which", choices=PASSES, help="'both': forward and backward")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--channels", type=int, default=32, help="of each head")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--seconds", type=float, help="of samples a cell (default: 0.3; aims: 1)")
    p.add_argument("--passes", type=int, default=3, help="through all aims, whose median counts")
    p.add_argument("--limit", type=float, default=2.0, help="skip calls that take longer, seconds")
    p.add_argument("--no-memory", action="store_true")
    p.add_argument("--out", type=Path, help="JSON (default: benchmarks/results/…)")
    p.add_argument("--plot", type=Path, help="picture (default: beside the JSON)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 1 and prints no speed if the gate is red."""
    args = parser().parse_args(arguments)
    if args.list:
        return _list()
    warnings.filterwarnings("ignore", category=UserWarning)  # Inductor's and torch.sparse's advice
    torch.set_num_threads(args.threads)
    verdict = gate.check(args.device, args.methods or METHODS)
    if verdict.wrong:
        red = "The correctness gate is red; no speed is printed."
        print(red, *verdict.wrong, sep="\n- ", file=sys.stderr)
        return 1
    green = "The correctness gate is green."
    print(green, *(f"not checked: {x}" for x in verdict.unchecked), sep="\n- ", file=sys.stderr)

    found = machine(args.threads, args.device)
    how = Settings(
        options={
            "heads": args.heads,
            "channels": args.channels,
            "dtype": getattr(torch, args.dtype),
            "device": args.device,
            "seed": args.seed,
        },
        threads=args.threads,
        seconds=args.seconds or 0.3,
        limit=args.limit,
        memory=not args.no_memory,
    )
    line = f"{machine_line(found)}; {args.dtype}, {args.heads} heads × {args.channels}"
    print(f"Machine: {line}")
    if args.lists:
        lists.run(args.seconds or 1.0)
        return 0
    if args.aims:
        how = replace(how, seconds=args.seconds or 1.0)
        table, rows = aims.run(how, max(args.sizes or SIZES), args.passes)
        print(f"\n{table}")
        _write(args.out or RESULTS / f"aims-{args.device}.json", found, args, aims=rows)
        return 0

    grid = {shape: args.sizes or _default_sizes(shape) for shape in args.shapes}
    everywhere = [m for m in METHODS if m != "hsa-triton" or args.device != "cpu"]
    methods = {
        shape: args.methods or (everywhere if shape.startswith("balanced") else CORE)
        for shape in args.shapes
    }
    records = sweep(grid, methods, [args.which] if args.which else PASSES, how)
    print(tables(records, found["copy_rate"]))
    print(*_crossovers(records), sep="\n")
    out = args.out or RESULTS / f"sweep-{args.device}.json"
    _write(out, found, args, records=[r.as_dict() for r in records])
    picture = args.plot or out.with_suffix(".png")
    plot(records, picture, line)
    print(f"\nWritten: {out}, {picture}", file=sys.stderr)
    return 0


def _default_sizes(shape: str) -> Iterable[int]:
    return [size for size in SIZES if size <= SHAPES[shape].largest]


def _crossovers(records: list[Record]) -> list[str]:
    """A sentence for each shape and pass."""
    lines = ["\n### From which size hsa is faster than SDPA\n"]
    for shape in dict.fromkeys(r.shape for r in records):
        for which in dict.fromkeys(r.which for r in records):
            leaves = crossover(records, which, shape)
            text = "at no size measured" if leaves is None else f"from {leaves:,.0f} leaves"
            lines.append(f"- {shape}, {TITLES[which]}: {text}")
    return lines


def _write(path: Path, found: dict[str, Any], args: argparse.Namespace, **results: Any) -> None:
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": found, "arguments": settings, **results}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _list() -> int:
    print("Shapes:")
    for name, shape in SHAPES.items():
        default = f"to {shape.largest:,} leaves" if name in DEFAULT_SHAPES else "not by default"
        print(f"  {name:18}{shape.about}; {default}")
    print("Methods:")
    for name, method in METHODS.items():
        print(f"  {name:18}{method.about}{' (checked by the gate)' if method.exact else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
