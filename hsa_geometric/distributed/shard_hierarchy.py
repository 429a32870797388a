"""A hierarchy, cut for the processes of a group."""

from __future__ import annotations

import heapq
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.hierarchy import Hierarchy
from ..functional import clusters_at
from ..functional.layout import over_paths, root_of
from ..kernels.scatter.sweeps import add_to_parents, levels_of
from ..tree import TreeIndex
from .hierarchy_shard import HierarchyShard
from .make_shard import make_shard

EVEN = 1.05  # the busiest process's cost by the mean, at which no finer cut is looked for
UNEVEN = 1.5  # at which a tree that is hard to cut is refused
PIECES = 64  # for each process, or one for so many leaves, are few enough
SWEEPS = 16.0  # cost of a node beside one logit a sibling


def shard_hierarchy(h: Hierarchy, group: Any = None, *, level: int | None = None) -> HierarchyShard:
    r"""Cut a hierarchy into subtrees of about equal cost for the processes of a group.

    Subtrees that together cost about the same go to each process; the few nodes above are known to
    all. Attention on the result equals attention on the whole: per layer each process sends means
    of q, k and v, log evidence and mass of its subtrees' roots, and gets the others', forward, and
    their gradients backward: :math:`O(\text{subtrees} \times \text{channels})`.

    All processes of the group call it, with the same hierarchy.

    Args:
        h: a sample or a batch; trees that fit go to one process whole.
        group: process group. (default: the default one)
        level: leave the clusters of :func:`~hsa_geometric.functional.clusters_at`\ ``(h.tree,
            level)`` whole, so that pooling to that level, as a U-Net does, stays on each process.
            (default: cut wherever it is even)

    Returns:
        :class:`HierarchyShard`: the leaves of this process, which may be none, in their order.
        Edges among them are kept; :class:`Halo` is for those between processes.

    Raises:
        TypeError: if :obj:`h` is no hierarchy, or :obj:`level` no integer.
        ValueError: if it cannot be cut evenly (a star of many leaves, a chain of single leaves), or
            processes hold different hierarchies.
        RuntimeError: if there is no process group.

    Cost: :math:`O(T \log \text{depth})` on each process.

    Example:
        >>> import torch
        >>> from hsa_geometric import from_points
        >>> from hsa_geometric.nn import HierarchicalAttentionConv
        >>> store = torch.distributed.HashStore()
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> shard = shard_hierarchy(from_points(torch.rand(100, 3), x=torch.rand(100, 8)))
        >>> HierarchicalAttentionConv(8, 4)(shard.x, shard.tree).shape
        torch.Size([100, 4])
        >>> torch.distributed.destroy_process_group()
    """
    if not isinstance(h, Hierarchy) or isinstance(h, HierarchyShard):
        raise TypeError(f"Expected 'h' to be a whole Hierarchy (got {type(h).__name__})")
    if not dist.is_initialized():
        raise RuntimeError(
            "Expected a process group (got none; call torch.distributed.init_process_group and "
            "start the program with torchrun)"
        )
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    pieces, ranks = choose_cut(h.tree, size, level)
    return HierarchyShard.attach(make_shard(h, pieces, ranks, rank, size), group)


def choose_cut(tree: TreeIndex, processes: int, level: int | None = None) -> tuple[Tensor, Tensor]:
    """Node ids of pieces, and the process of each.

    Raises:
        ValueError: if there is none that is about even.
    """
    ids = torch.arange(tree.num_nodes, device=tree.device)
    is_root = tree.parent == ids
    degree = torch.bincount(tree.parent[~is_root], minlength=tree.num_nodes)
    cost = _cost(tree, degree)
    total = float(cost[is_root].sum())
    most = max(PIECES * processes, tree.num_leaves // PIECES)
    whole = (degree == 0) | (degree > most)  # what is never opened
    if level is not None:
        whole[clusters_at(tree, level).node] = True
    best = None
    for finer in (1, 2, 4, 8, 16):
        shut = whole | (cost <= total / (processes * finer))
        above = over_paths(torch.where(is_root, False, shut).long(), tree)
        pieces = (shut & (above + (shut & is_root)[root_of(tree)] == 1)).nonzero().view(-1)
        if pieces.numel() > most and finer > 1:
            break
        if pieces.numel() > most:
            raise ValueError(
                f"Expected a tree that can be cut into few subtrees for {processes} processes (got "
                f"{pieces.numel()} subtrees of {tree.num_leaves} leaves, as of a chain; "
                f"surgery.rebalance makes it shallower)"
            )
        shared, busiest = _share(cost[pieces].tolist(), processes)
        if best is None or busiest < best[0]:
            best = busiest, pieces, torch.tensor(shared, device=tree.device)
        if busiest <= EVEN * total / processes:
            break
    assert best is not None
    busiest, pieces, ranks = best
    wide = pieces[degree[pieces] > most]
    if processes > 1 and wide.numel() and busiest > UNEVEN * total / processes:
        node = int(wide[cost[wide].argmax()])
        raise ValueError(
            f"Expected a tree that can be cut evenly for {processes} processes (got node {node} "
            f"with {int(degree[node])} children and {float(cost[node]) / total:.0%} of the cost; "
            f"surgery.rebalance parts such a family, or take fewer processes)"
        )
    return pieces, ranks


def _cost(tree: TreeIndex, degree: Tensor) -> Tensor:
    """``[T]`` about the time that each subtree takes, by id."""
    own = degree[tree.parent].double() + SWEEPS
    cost = levels_of(own[tree.order], tree)
    for i in reversed(range(1, len(cost))):
        cost[i - 1] = add_to_parents(cost[i - 1], cost[i], i, tree)
    return torch.cat(cost)[tree.position]


def _share(costs: list[float], processes: int) -> tuple[list[int], float]:
    """A process for each piece, the dearest first to whoever has least; and the busiest's cost."""
    heap = [(0.0, rank) for rank in range(processes)]
    ranks = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, ranks[i] = heap[0]
        heapq.heapreplace(heap, (load + costs[i], ranks[i]))
    return ranks, max(heap)[0]
