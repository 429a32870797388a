"""The shard of one process, from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..data.hierarchy import Hierarchy
from .hierarchy_shard import HierarchyShard
from .save_shard import path_of


def load_shard(folder: str | Path, group: Any = None) -> HierarchyShard:
    r"""Read the shard of this process, and nothing else, from what was saved.

    All processes of the group call it; a fault of one is raised by all.

    Args:
        folder: where :func:`save_shard` or :func:`save_shards` has written.
        group: process group. (default: the default one)

    Raises:
        ValueError: naming process and reason: no file, or one that cannot be read, or that is
            another process's; shards of another number of processes; and what
            :meth:`HierarchyShard.attach` raises.
        RuntimeError: if there is no process group.

    Cost: the own file, read once; a few bytes from each process.

    The example of :func:`save_shard` reads what it wrote.
    """
    if not dist.is_initialized():
        raise RuntimeError(
            "Expected a process group (got none; call torch.distributed.init_process_group and "
            "start the program with torchrun)"
        )
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    h, fault = _read(Path(folder), rank, size)
    faults: list[str | None] = [None] * size
    dist.all_gather_object(faults, fault, group)
    for other, reason in enumerate(faults):
        if reason is not None:
            raise ValueError(
                f"Expected the shard of process {other} of {size} in '{folder}' (got {reason})"
            )
    return HierarchyShard.attach(h, group)


def _read(folder: Path, rank: int, size: int) -> tuple[Hierarchy, str | None]:
    """What is in the file, or what is wrong with it."""
    h, path = Hierarchy(), path_of(folder, rank, size)
    if not path.exists():
        sizes = sorted({int(p.stem.rpartition("-")[2]) for p in folder.glob("shard-*-of-*.pt")})
        if sizes and size not in sizes:
            return h, (
                f"shards of {', '.join(map(str, sizes))} processes; start as many, or save anew "
                f"for {size}"
            )
        return h, f"no file {path.name}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        rank_there, size_there, keys = (content[name] for name in ("rank", "size", "keys"))
        h._store._set_recorded(content["record"])
    except Exception as error:  # whatever a file that is cut off, or another's, makes of it
        return h, f"{path.name}, which cannot be read: {type(error).__name__}: {error}"
    if (rank_there, size_there) != (rank, size):
        return h, f"in {path.name} the shard of process {rank_there} of {size_there}"
    for key, value in keys.items():
        h[key] = value
    return h, None
