"""What the processes do with files of shards."""

import torch
import torch.distributed as dist

from hsa_geometric import Hierarchy, from_parent
from hsa_geometric.distributed import load_shard, save_shard, shard_hierarchy
from hsa_geometric.nn import HierarchicalAttentionConv
from hsa_geometric.testing.zoo import balanced


def whole():
    """A tree with keys of all kinds."""
    parent = balanced(3, 3)
    generator = torch.Generator().manual_seed(0)
    return from_parent(
        parent,
        x=torch.rand(27, 4, generator=generator),
        surface_area=torch.rand(27, generator=generator),
        tree_pos=torch.rand(parent.numel(), 2, generator=generator),
        inner_x=torch.rand(13, generator=generator),
        name="a tree",
    )


def same(a, b):
    """Whether two hierarchies hold the same, to the last bit."""
    assert set(a.keys()) == set(b.keys()) and a._store._recorded() == b._store._recorded()
    for key, value in a._store.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(b[key], value, rtol=0, atol=0)
        else:
            assert b[key] == value
    return True


def round_trip(group, folder):
    shard = shard_hierarchy(whole(), group)
    save_shard(shard, folder)
    dist.barrier(group)
    loaded = load_shard(folder, group)
    torch.manual_seed(0)
    conv = HierarchicalAttentionConv(4, 2, heads=2)
    expected = conv(whole().x, whole().tree)[loaded.leaf_row]
    torch.testing.assert_close(conv(loaded.x, loaded.tree), expected, rtol=0, atol=1e-6)
    return same(shard, loaded)


def load(group, folder):
    """What was loaded of rows, or the error."""
    try:
        return load_shard(folder, group).leaf_row.tolist()
    except ValueError as error:
        return str(error)


def refused(group, folder):
    """Errors of saving."""
    found = []
    for h in (whole(), Hierarchy()):
        try:
            save_shard(h, folder)
        except TypeError as error:
            found.append(str(error))
    shard = shard_hierarchy(whole(), group)
    shard.thing = object()
    try:
        save_shard(shard, folder)
    except TypeError as error:
        found.append(str(error))
    return found
