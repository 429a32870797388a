"""Peak memory of a call beyond what was there before it.

On CUDA the allocator knows. On the CPU a fresh process makes the call twice: once to load and
compile what it needs; then free memory is handed back, Linux's record of the peak is reset, and
the second call is read off. The output of the call counts.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .baselines import METHODS
from .case import Case


def peak(call: Callable[[], Any], device: str = "cpu") -> int:
    """Extra bytes at the peak of the second call.

    Raises:
        OSError: on the CPU, if the system is not Linux or keeps the record from us.
    """
    call()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM, the highest resident size, starts again from here
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field + ":"))


def in_fresh_process(
    cells: list[tuple[str, int, str, str]], options: dict[str, Any], threads: int
) -> Iterator[tuple[tuple[str, int, str, str], int | str]]:
    """Peak of each (shape, size, method, pass) in one new process, or why there is none."""
    job = json.dumps({"cells": cells, "options": options, "threads": threads})
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", job]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        waiting = list(cells)
        for line in child.stdout:
            yield waiting.pop(0), json.loads(line)
        reason = child.stderr.read().strip().splitlines()[-1:] or [f"exit {child.wait()}"]
    for cell in waiting:
        yield cell, f"the process that measured memory ended: {reason[0]}"


def main(job: str) -> None:
    """The fresh process: one line of JSON for each cell."""
    given = json.loads(job)
    torch.set_num_threads(given["threads"])
    options = dict(given["options"])
    options["dtype"] = getattr(torch, options["dtype"])
    for shape, size, method, which in given["cells"]:
        try:
            prepared = METHODS[method].prepare(Case.of(shape, size, **options), which == "both")
            found: int | str = peak(prepared.call(which))
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
