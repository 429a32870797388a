"""One tree on several processes of :mod:`torch.distributed`."""

from ..shard import TreeShard
from .halo import Halo
from .hierarchy_shard import HierarchyShard
from .load_shard import load_shard
from .make_shard import make_shard
from .save_shard import save_shard
from .save_shards import save_shards
from .shard_hierarchy import shard_hierarchy

__all__ = [
    "Halo",
    "HierarchyShard",
    "TreeShard",
    "load_shard",
    "make_shard",
    "save_shard",
    "save_shards",
    "shard_hierarchy",
]
