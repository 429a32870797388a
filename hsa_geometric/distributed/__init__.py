"""One tree on several processes of :mod:`torch.distributed`."""

from .halo import Halo
from .hierarchy_shard import HierarchyShard
from .make_shard import make_shard
from .shard_hierarchy import shard_hierarchy

__all__ = ["Halo", "HierarchyShard", "make_shard", "shard_hierarchy"]
