"""What one process holds of a hierarchy: :class:`HierarchyShard`."""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.hierarchy import Hierarchy
from ..functional import Clusters
from ..functional.sharded import check_alike
from ..shard import TreeShard
from ..tree import TreeIndex

CUT = ("tree_cut", "cut_parent", "cut_rank", "cut_depth", "cut_size", "leaf_row")


class HierarchyShard(Hierarchy):
    r"""The leaves of one process, with all tree nodes above them, and where the tree was cut.

    A :class:`~hsa_geometric.Hierarchy`, so that ``layer(shard.x, shard.tree, mass=shard.mass)`` is
    what one writes without processes; :attr:`tree` is a
    :class:`~hsa_geometric.distributed.TreeShard`, with which layers attend to the leaves of all
    processes. It has these keys more, all tensors, so
    that it is saved and loaded as any other:

    ==============  ================================================================================
    ``leaf_row``    ``[N]`` row in the whole of each leaf here, ascending; after :func:`coarsen`
                    that of each cluster's first leaf
    ``tree_cut``    ``[T]`` number in the top of each node here, -1 below the cut
    ``cut_parent``  ``[T']`` parent of each node of the top: the nodes at and above the cut, of all
                    processes; its leaves are the :obj:`P` pieces, subtrees on one process each
    ``cut_rank``    ``[P]`` process of each piece, pieces in ascending number
    ``cut_depth``   ``[P]`` levels below each piece
    ``cut_size``    ``[2]`` number of leaves of the whole, and of processes
    ==============  ================================================================================

    :func:`shard_hierarchy` makes it; :meth:`attach` makes it of a hierarchy with these keys.
    It cannot be batched, nor can leaves or nodes be removed: do so first, and cut then.
    """

    @classmethod
    def attach(cls, h: Hierarchy, group: Any = None) -> HierarchyShard:
        r"""Take the shard of this process, as loaded, for a group of processes.

        All processes call it together.

        Args:
            h: a hierarchy that has the keys above, of this process.
            group: process group. (default: the default one)

        Raises:
            ValueError: if keys are missing; if it was cut for another number of processes or is
                another process's; if processes hold different cuts. The message names the process.
            RuntimeError: if there is no process group.
        """
        if not dist.is_initialized():
            raise RuntimeError(
                "Expected a process group (got none; call torch.distributed.init_process_group and "
                "start the program with torchrun)"
            )
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        if rank < 0:
            raise ValueError(
                f"Expected this process to belong to 'group' (got a group of {size} others)"
            )
        missing = [key for key in CUT if key not in h]
        if missing:
            raise ValueError(
                f"Expected 'h' to be a shard (process {rank} got one without {missing}; make it by "
                f"shard_hierarchy)"
            )
        leaves, processes = h.cut_size.tolist()
        wrong = None
        if processes != size:
            wrong = f"was cut for {processes} processes and is held by one of {size}"
        elif _others(h, rank):
            wrong = "has pieces of another process"
        # Asked of all, so that all fail together.
        found: list[Any] = [None] * size
        dist.all_gather_object(found, wrong, group)
        for other, reason in enumerate(found):
            if reason is not None:
                raise ValueError(
                    f"Expected each process to hold its own shard of this group (that of process "
                    f"{other} {reason}; cut the whole hierarchy anew for another number)"
                )
        own = [leaves, *(_checksum(h[key]) for key in ("cut_parent", "cut_rank", "cut_depth"))]
        check_alike(own, ["number of leaves", *CUT[1:4]], group)
        out = cls()
        for key, value in h._store.items():
            out[key] = value
        record = {key: "sample" for key in CUT if key.startswith("cut_")} | {"leaf_row": "leaf"}
        out._store._set_recorded(h._store._recorded() | record)
        out.__dict__["_group"] = _Group(group)
        return out

    @property
    def tree(self) -> TreeShard:  # type: ignore[override]
        """The index every operator takes, with what is known of the other processes."""
        return self._store._derive("tree", self._index)

    @property
    def num_trees(self) -> int:
        """Number of trees some of whose leaves are here."""
        return self.tree.num_trees

    def _index(self, parent: Tensor) -> TreeShard:
        cut, top, rank, depth = (self[key] for key in CUT[:4])
        return TreeShard.of(parent, cut, top, rank, depth, self.__dict__["_group"].group)

    def _coarsened(self, out: Hierarchy, tree: TreeIndex, clusters: Clusters) -> None:
        assert isinstance(tree, TreeShard)
        size, leaves = clusters.num_clusters, int(self.cut_size[0])
        out.leaf_row = first_of(self.leaf_row, clusters.cluster, size, leaves)
        out.cut_depth = tree.depth_below
        out._store._set_recorded(self._store._recorded())

    def stores_as(self, data: Any) -> Hierarchy:
        """Refused: shards are no samples of a batch.

        Raises:
            ValueError: always, with what to do.
        """
        raise ValueError(
            "Expected whole hierarchies in a batch (got shards; cut the batch instead)"
        )

    def _with_rows(self, out: Hierarchy, rows: Tensor, parent: Tensor) -> Hierarchy:
        raise ValueError(
            "Expected a whole hierarchy to take nodes from (got a shard; do it before the cut)"
        )


class _Group:
    """A process group, which is neither copied nor pickled."""

    def __init__(self, group: Any = None):
        self.group = group

    def __deepcopy__(self, memo: Any) -> _Group:
        return self

    def __reduce__(self) -> Any:
        return _Group, ()


def first_of(rows: Tensor, cluster: Tensor, num_clusters: int, total: int) -> Tensor:
    """The lowest row of each cluster, of ``rows`` below ``total``."""
    first = rows.new_full((num_clusters,), total)
    return first.scatter_reduce(0, cluster, rows, "amin")


def _others(h: Hierarchy, rank: int) -> bool:
    """Whether some piece here is another process's."""
    top = h.cut_parent
    is_leaf = torch.ones_like(top, dtype=torch.bool)
    is_leaf[top[top != torch.arange(top.numel(), device=top.device)]] = False
    holder = torch.full_like(top, rank)
    holder[is_leaf] = h.cut_rank
    return bool((holder[h.tree_cut[h.tree_cut >= 0]] != rank).any())


def _checksum(x: Tensor) -> int:
    return zlib.crc32(x.cpu().contiguous().numpy().tobytes())
