"""The shard of one process, in a file of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.hierarchy import Hierarchy
from .hierarchy_shard import HierarchyShard


def save_shard(shard: HierarchyShard, folder: str | Path) -> None:
    r"""Write the shard of this process to a file of its own, for :func:`load_shard`.

    Every process of the group calls it; none waits for another.

    Args:
        shard: what :func:`shard_hierarchy` returned here.
        folder: where ``shard-00000-of-00004.pt`` and so on are written; made if it is not there.
            Files of other numbers of processes are left alone.

    Raises:
        TypeError: if :obj:`shard` is no shard (a whole hierarchy is cut by :func:`save_shards`), or
            a key holds something else than tensors, numbers, strings, and lists and dicts of these.

    Cost: one copy of the tensors, if they are parts of larger ones.

    Example:
        >>> import tempfile
        >>> from hsa_geometric import from_points
        >>> from hsa_geometric.distributed import load_shard, shard_hierarchy
        >>> store = torch.distributed.HashStore()
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> shard = shard_hierarchy(from_points(torch.rand(100, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_shard(shard, folder)
        ...     same = load_shard(folder)
        >>> torch.equal(same.pos, shard.pos)
        True
        >>> torch.distributed.destroy_process_group()
    """
    if not isinstance(shard, HierarchyShard):
        raise TypeError(
            f"Expected 'shard' to be a HierarchyShard (got {type(shard).__name__}; save_shards "
            f"cuts and saves a whole hierarchy)"
        )
    write(shard, folder, dist.get_rank(shard.__dict__["_group"].group))


def path_of(folder: str | Path, rank: int, size: int) -> Path:
    """The file of one process."""
    return Path(folder) / f"shard-{rank:05}-of-{size:05}.pt"


def write(h: Hierarchy, folder: str | Path, rank: int) -> None:
    """Write a hierarchy that has the keys of a shard; at no time is there half a file."""
    size = int(h.cut_size[1])
    path = path_of(folder, rank, size)
    keys = {key: _plain(key, value) for key, value in h._store.items()}
    content = {"rank": rank, "size": size, "keys": keys, "record": dict(h._store._recorded())}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def _plain(key: str, value: Any) -> Any:
    """What torch.load reads without running code; of parts of larger tensors only the part."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
    if isinstance(value, (list, tuple)):
        return [_plain(key, item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(key, item) for name, item in value.items()}
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    raise TypeError(
        f"Expected '{key}' to hold tensors, numbers or strings (got {type(value).__name__}; delete "
        f"it, or save it apart)"
    )
