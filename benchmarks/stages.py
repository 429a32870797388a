"""Where a forward pass of the backend ``scatter`` spends its time: seconds in each of its steps.

``python -m benchmarks.stages balanced:16384`` prints milliseconds and shares.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from unittest.mock import patch

import torch
from tqdm import tqdm

from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.scatter import attention

from .case import Case
from .measure import machine, machine_line
from .report import markdown
from .shapes import SHAPES

STAGES = {
    "up": "means of q, k, v up the tree",
    "siblings": "attention within families",
    "evidence": "the scalar recursion upward",
    "product_down": "the scalar recursion downward",
    "down": "the way down",
}


def stages(shape: str, leaves: int, seconds: float = 2.0) -> dict[str, float]:
    """Mean seconds of each stage, of the ``rest``, and of ``all``."""
    case = Case.of(shape, leaves)
    (q, k, v), tree = case.qkv, case.tree
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str):
        function = getattr(attention, name)

        def call(*args, **kwargs):
            start = time.perf_counter()
            out = function(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return out

        return call

    operators = {name: timed(name) for name in STAGES}
    with torch.no_grad(), patch.multiple(attention, **operators):
        for _ in range(3):
            hierarchical_attention(q, k, v, tree, backend="scatter")
        spent.clear()
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            hierarchical_attention(q, k, v, tree, backend="scatter")
            calls += 1
        total = time.perf_counter() - start
    found = {name: spent[name] / calls for name in STAGES}
    return found | {"rest": (total - sum(spent.values())) / calls, "all": total / calls}


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser("python -m benchmarks.stages", description=__doc__)
    p.add_argument("cases", nargs="*", default=["balanced:1024", "ragged:1024", "balanced:16384"])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seconds", type=float, default=2.0, help="for each case")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(f"Machine: {machine_line(machine(args.threads))}\n")
    rows = []
    for case in tqdm(args.cases, unit="case"):
        shape, leaves = case.split(":")
        if shape not in SHAPES:
            p.error(f"expected a shape of {list(SHAPES)} (got '{shape}')")
        found = stages(shape, int(leaves), args.seconds)
        cells = [f"{1e3 * s:.2f} ({s / found['all']:.0%})" for s in found.values()]
        rows.append([f"{shape}, {int(leaves):,}", *cells])
    print(markdown(["ms (share)", *STAGES, "rest", "all"], rows))


if __name__ == "__main__":
    main()
