"""Peak memory of a call beyond what was there before it.

On the CPU a fresh process makes the call, see ``hsa_geometric.report._peak``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch

from hsa_geometric.report._peak import peak

from .baselines import METHODS
from .case import Case


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
