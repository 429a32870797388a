"""One tree on several gloo processes: bytes, time and memory; and what follows for many GPUs.

Each number of processes is measured by itself, with one thread each. Between measured calls all
wait for each other, and the slowest counts. CPU time is that of the busiest process: on a machine
where other work runs, it says what the wall clock would without.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from hsa_geometric import Hierarchy
from hsa_geometric.distributed import load_shard, save_shards
from hsa_geometric.functional import hierarchical_attention, sharded
from hsa_geometric.report._peak import status
from hsa_geometric.testing.zoo import balanced

from .measure import machine, machine_line

SENT = {"bytes": 0}


def count(name: str) -> None:
    """Count what a collective of the layer sends: its part to each other process."""
    plain = getattr(sharded, name)

    def counted(out: torch.Tensor, x: torch.Tensor, group: Any = None) -> Any:
        one = min(out.numel(), x.numel()) * x.element_size()
        SENT["bytes"] += one * (dist.get_world_size(group) - 1)
        return plain(out, x, group=group)

    setattr(sharded, name, counted)


def on_the_wire() -> int:
    """Bytes that this machine's loopback has carried."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[0])
    return 0


def save(folder: str, size: int, depth: int) -> None:
    """Cut the tree, in a process of its own: those that attend never hold the whole."""
    save_shards(Hierarchy(parent=balanced(4, depth)), folder, size)


def measure(
    rank: int, size: int, folder: str, heads: int, channels: int, repeats: int, queue: Any
) -> None:
    """One process: forward alone, then forward and backward."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size,
        timeout=timedelta(minutes=10),
    )  # fmt: skip
    count("_gather"), count("_scatter")
    shard = load_shard(folder)
    tree, rows = shard.tree if size > 1 else shard.tree._plan.local, shard.num_nodes
    torch.manual_seed(rank)
    q, k, v, grad = (torch.randn(rows, heads, channels) for _ in range(4))
    found: dict[str, Any] = {"rank": rank, "leaves": rows}

    def forward() -> Any:
        return hierarchical_attention(q, k, v, tree)

    def both() -> None:
        for x in (q, k, v):
            x.requires_grad_()
        torch.autograd.grad(forward(), (q, k, v), grad)

    for name, call in (("forward", forward), ("both", both)):
        found[name] = timed(call, repeats)
    found["peak"] = status("VmHWM")
    queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds by the clock and of this process, and bytes that one call sends."""
    call()
    wall, cpu = [], []
    SENT["bytes"], before = 0, on_the_wire()
    for _ in range(repeats):
        gc.collect()
        dist.barrier()
        start, used = time.perf_counter(), time.process_time()
        call()
        cpu.append(time.process_time() - used)
        wall.append(time.perf_counter() - start)
    dist.barrier()
    return {
        "wall": median(wall), "cpu": median(cpu), "best": min(wall), "best_cpu": min(cpu),
        "sent": SENT["bytes"] / repeats, "wire": (on_the_wire() - before) / repeats,
    }  # fmt: skip


def run(size: int, depth: int, heads: int, channels: int, repeats: int) -> list[dict[str, Any]]:
    """What each of so many processes found."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        writer = context.Process(target=save, args=(folder, size, depth))
        writer.start(), writer.join()
        queue, members = context.Queue(), []
        for rank in range(size):
            args = (rank, size, folder, heads, channels, repeats, queue)
            members.append(context.Process(target=measure, args=args))
            members[-1].start()
        found = [queue.get(timeout=1800) for _ in members]
        for member in members:
            member.join()
    return sorted(found, key=lambda x: x["rank"])


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The slowest process counts, and the one that sends most."""
    out: dict[str, Any] = {"processes": len(found), "leaves": sum(x["leaves"] for x in found)}
    for name in ("forward", "both"):
        for key in ("wall", "cpu", "best", "best_cpu", "sent", "wire"):
            out[f"{name}_{key}"] = max(x[name][key] for x in found)
    return out | {"peak": max(x["peak"] for x in found)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| leaves | processes | forward [s] | both [s] | CPU forward [s] | CPU both [s] "
        "| sent forward [kB] | sent both [kB] | peak [GB] |",
        "|--:" * 9 + "|",
    ]
    lines += [
        f"| {x['leaves']:,} | {x['processes']} | {x['forward_best']:.3f} | {x['both_best']:.3f} "
        f"| {x['forward_best_cpu']:.3f} | {x['both_best_cpu']:.3f} "
        f"| {x['forward_sent'] / 1e3:.1f} | {x['both_sent'] / 1e3:.1f} | {x['peak'] / 1e9:.2f} |"
        for x in rows
    ]
    return "\n".join(lines)


def expected(
    processes: int,
    leaves: float,
    pieces: int,
    channels: int,
    rate: float,
    link: float,
    delay: float,
) -> float:
    """Part of the time of a layer, both ways, that is not spent waiting for others.

    A process computes its leaves at ``rate`` a second, and the top at the same; a ring of
    ``processes`` takes as many steps of ``delay``, and carries all pieces' rows at ``link`` bytes a
    second, forward and backward.
    """
    work = leaves / processes / rate
    top = processes * pieces / rate
    row = 4 * (3 * channels + 10)
    message = 2 * processes * pieces * row / link + 2 * delay * processes
    return work / (work + top + message)


def plan(channels: int) -> str:
    """Expected efficiency on many GPUs, as a table."""
    lines = [
        "| leaves | 8 GPUs | 64 GPUs | 1,024 GPUs |", "|--:|--:|--:|--:|"
    ]  # fmt: skip
    for leaves in (1e7, 1e8, 1e9):
        cells = [
            expected(n, leaves, 4, channels, 1e8, link, delay)
            for n, link, delay in ((8, 3e11, 3e-6), (64, 2.5e10, 5e-6), (1024, 2.5e10, 5e-6))
        ]
        lines.append(f"| {leaves:,.0f} | " + " | ".join(f"{x:.0%}" for x in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument(
        "--depth", type=int, nargs="+", default=[8, 10], help="levels of 4 children"
    )
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plan", action="store_true", help="only the expected efficiencies")
    args = parser.parse_args()
    print(machine_line(machine(1)))
    rows = []
    for depth in [] if args.plan else args.depth:
        for size in args.processes:
            rows.append(summary(run(size, depth, args.heads, args.channels, args.repeats)))
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    print(plan(args.heads * args.channels))


if __name__ == "__main__":
    main()
