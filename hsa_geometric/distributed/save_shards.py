"""All shards of a hierarchy, written by one process."""

from __future__ import annotations

from pathlib import Path

from ..builders._progress import counting
from ..data.hierarchy import Hierarchy
from ..functional.options import check_integer
from .hierarchy_shard import HierarchyShard
from .make_shard import make_shard
from .save_shard import write
from .shard_hierarchy import choose_cut


def save_shards(
    h: Hierarchy, folder: str | Path, num_processes: int, *, progress: bool = False
) -> None:
    r"""Cut a hierarchy as :func:`shard_hierarchy` does, and write each process's shard to a file.

    Needs no process group: one process builds and cuts a large tree, once; then each of many reads
    its own shard by :func:`load_shard`, and none of them ever holds the whole.

    Args:
        h: the whole, a sample or a batch.
        folder: as for :func:`save_shard`.
        num_processes: for how many processes.
        progress: whether a bar on stderr counts the shards. (default: off)

    Raises:
        TypeError: if :obj:`h` is no whole hierarchy, or as for :func:`save_shard`.
        ValueError: if it cannot be cut evenly, see :func:`shard_hierarchy`.

    Cost: the index of the whole, and :math:`O(T \log \text{depth})` for each shard, of which one
    is in memory at a time.

    Example:
        >>> import os, tempfile, torch
        >>> from hsa_geometric import from_points
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_shards(from_points(torch.rand(100, 3)), folder, num_processes=2)
        ...     sorted(os.listdir(folder))
        ['shard-00000-of-00002.pt', 'shard-00001-of-00002.pt']
    """
    if not isinstance(h, Hierarchy) or isinstance(h, HierarchyShard):
        raise TypeError(f"Expected 'h' to be a whole Hierarchy (got {type(h).__name__})")
    check_integer(num_processes, "num_processes", 1)
    pieces, ranks = choose_cut(h.tree, num_processes)
    with counting(progress, num_processes, "save_shards", "shard") as step:
        for rank in range(num_processes):
            write(make_shard(h, pieces, ranks, rank, num_processes), folder, rank)
            step(1)
