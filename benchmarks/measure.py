"""Time of calls: those of one comparison take turns, so that ratios come from one run."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Key = TypeVar("Key", bound=Hashable)
BURST = 0.02  # seconds: calls shorter than this are timed several at a time
MOST_REPEATS = 30


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of :obj:`repeats` samples and their quartiles."""

    median: float
    q1: float
    q3: float
    repeats: int

    @classmethod
    def of(cls, samples: list[float]) -> Timing:
        """Summarise samples."""
        q1, median, q3 = np.percentile(samples, [25, 50, 75]).tolist()
        return cls(median, q1, q3, len(samples))


def burst(call: Callable[[], Any], times: int, device: str) -> float:
    """Mean seconds of :obj:`times` calls in a row."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def interleaved(
    calls: Mapping[Key, Callable[[], Any]],
    device: str = "cpu",
    *,
    seconds: float = 0.5,
    least: int = 3,
    done: Callable[[Key], None] = lambda key: None,
) -> tuple[dict[Key, Timing], dict[Key, str]]:
    """Time all calls in turn, round after round.

    The allocator is made ready (:func:`settle`). Each call is made once to warm up and once to be
    estimated. Then every round takes one sample of each, until it has its share of samples: as many
    as fit :obj:`seconds`, but at least :obj:`least`. A sample is the mean of a burst of 20 ms. The
    estimate of a call that takes :obj:`seconds` is a sample too.

    Returns:
        The timings, and what those calls that failed had to say.
    """
    settle()
    failed: dict[Key, str] = {}
    plan: dict[Key, tuple[int, int]] = {}  # repeats, and calls in a burst
    samples: dict[Key, list[float]] = {}
    for key, call in calls.items():
        try:
            call()
            estimate = max(burst(call, 1, device), 1e-7)
        except Exception as error:  # out of memory, not supported here, ...: part of the result
            failed[key] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        else:
            times = math.ceil(BURST / estimate)
            repeats = min(max(int(seconds / (estimate * times)), least), MOST_REPEATS)
            plan[key] = repeats, times
            samples[key] = [estimate] if estimate > seconds > 0 else []
        done(key)
    for _ in range(MOST_REPEATS):
        for key, (repeats, times) in plan.items():
            if len(samples[key]) < repeats:
                samples[key].append(burst(calls[key], times, device))
    return {key: Timing.of(s) for key, s in samples.items()}, failed


def settle() -> None:
    """Have the C library keep what is freed, as it does in a process that has worked for a while.

    glibc gives free memory at the end of its heap back to the system beyond twice the size of the
    largest block that was freed so far, up to 32 MiB. Before any was, small cases would be timed
    with a page fault for each 4 KiB of each temporary, or without any, as it happens.
    """
    torch.empty(31 * 2**18)  # freed at once


def copy_rate(device: str = "cpu", megabytes: int = 256) -> float:
    """Bytes a second that a large copy reads and writes, both counted."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(burst(lambda: target.copy_(source), 1, device) for _ in range(7))
    return 2 * source.nbytes / seconds


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """What the numbers depend on."""
    import os

    import torch_geometric

    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    found = {
        "cpu": name,
        "simd": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": threads,
        "torch": torch.__version__,
        "torch_geometric": torch_geometric.__version__,
        "torch_scatter": torch_geometric.typing.WITH_TORCH_SCATTER,
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "copy_rate": copy_rate(device),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def machine_line(found: Mapping[str, Any]) -> str:
    """The machine in one line."""
    parts = [
        found.get("gpu"),
        f"{found['cpu']} ({found['simd']})",
        f"{found['cores']} cores, {found['threads']} threads",
        f"torch {found['torch']}, PyG {found['torch_geometric']}, "
        f"torch-scatter {'present' if found['torch_scatter'] else 'absent'}",
        f"copies {found['copy_rate'] / 1e9:.1f} GB/s (read + written)",
    ]
    if found["load_at_start"] is not None:
        parts.append(f"load before the run {found['load_at_start']:.1f}")
    return "; ".join(p for p in parts if p)
