"""Several processes: a model on batches of trees, its parts on each, and one tree on all.

    torchrun --nproc-per-node 2 examples/distributed.py

trains one model in the ways that torch.distributed has, and compares each with one process: the
same model everywhere with each process's part of a batch (DistributedDataParallel), its parameters
parted (FSDP2), a checkpoint that any number of processes can read, and a tree that is cut for the
processes (hsa_geometric.distributed). On GPUs, take 'nccl' and move model and data there.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Batch

from hsa_geometric import from_points
from hsa_geometric.distributed import shard_hierarchy
from hsa_geometric.nn import HierarchicalAttentionConv


class Model(torch.nn.Module):
    """Two layers of attention, and a number for each leaf."""

    def __init__(self, channels: int = 16):
        super().__init__()
        self.first = HierarchicalAttentionConv(3, channels // 4, heads=4)
        self.second = HierarchicalAttentionConv(channels, channels // 4, heads=4, residual=True)
        self.last = torch.nn.Linear(channels, 1)

    def forward(self, x, tree):
        """``[N, 1]`` of leaf features ``[N, 3]``."""
        return self.last(self.second(self.first(x, tree).relu(), tree).relu())


def model():
    """The same on every process."""
    torch.manual_seed(0)
    return Model()


def clouds(count=8):
    """Points of uneven numbers, in trees; the target is their distance from the middle."""
    generator = torch.Generator().manual_seed(1)
    out = []
    for i in range(count):
        pos = torch.randn(20 + 15 * i, 3, generator=generator)
        out.append(from_points(pos, branching=3, x=pos, y=pos.norm(dim=1, keepdim=True)))
    return out


def loss(net, data, total):
    """This data's part of the mean error of ``total`` leaves."""
    return (net(data.x, data.tree) - data.y).square().sum() / total


def gradients(net):
    """All of a model in one row."""
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def data_parallel(samples, total):
    """Gradients of DistributedDataParallel, where each process has some of the samples."""
    rank, size = dist.get_rank(), dist.get_world_size()
    net = DistributedDataParallel(model())
    mine = Batch.from_data_list(samples[rank::size])
    (size * loss(net, mine, total)).backward()  # it averages over processes, and we want the sum
    return gradients(net.module)


def parted(samples, total, folder):
    """The loss with parted parameters before and after a step, and a checkpoint of then."""
    rank, size = dist.get_rank(), dist.get_world_size()
    net = model()
    for layer in (net.first, net.second, net):
        fully_shard(layer, mesh=init_device_mesh("cpu", (size,)))
    mine = Batch.from_data_list(samples[rank::size])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    (size * loss(net, mine, total)).backward()
    optimizer.step()
    dcp.save(get_model_state_dict(net), checkpoint_id=folder)
    after = loss(net, mine, total).detach()
    dist.all_reduce(after)
    return float(after)


def restored(samples, total, folder):
    """The same loss of the model in the checkpoint, whole on every process."""
    net = model()
    state = net.state_dict()
    dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    net.load_state_dict(state)
    with torch.no_grad():
        return float(loss(net, Batch.from_data_list(samples), total))


def tree_parallel(sample):
    """Gradients where one tree lies on all processes."""
    shard = shard_hierarchy(sample)
    net = model()
    loss(net, shard, sample.num_nodes).backward()
    grad = gradients(net)
    dist.all_reduce(grad)  # the leaves of each process have their part in it
    return grad


def main(folder=None):
    """Compare each way with one process: the largest differences, as parts of what they are of."""
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo")
    samples = clouds()
    joined = Batch.from_data_list(samples)
    net = model()
    loss(net, joined, joined.num_nodes).backward()
    whole = gradients(net)
    found = {
        "data parallel": apart(data_parallel(samples, joined.num_nodes), whole),
        "tree parallel": apart(tree_parallel(joined), whole),
    }
    with tempfile.TemporaryDirectory() as own:
        path = [folder or own]
        dist.broadcast_object_list(path)
        after = parted(samples, joined.num_nodes, path[0])
        dist.barrier()
        found["checkpoint"] = abs(1 - restored(samples, joined.num_nodes, path[0]) / after)
        dist.barrier()
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes, largest differences from one: {found}")
    if alone:
        dist.destroy_process_group()
    return found | {"loss": after}


def apart(found, expected):
    """The largest difference as a part of the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", help="folder to keep the checkpoint in")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with: torchrun --nproc-per-node 2 examples/distributed.py")
    main(args.checkpoint)
