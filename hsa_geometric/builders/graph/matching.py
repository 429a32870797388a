"""Multilevel heavy-edge matching: pairs of pairs, from the leaves upwards."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from hsa_geometric.builders._forest import stack
from hsa_geometric.builders._ids import places
from hsa_geometric.builders._progress import Step, no_step
from hsa_geometric.builders.graph._graph import Graph
from hsa_geometric.functional.options import check_bool, check_integer

# An adversarial order of weights could match one pair a round; so weights decide in so many
# rounds, and chance in the rest, of which there are O(log N).
ROUNDS_BY_WEIGHT = 16
_MASK = 0x7FFFFFFF


def matching(graph: Graph, step: Step = no_step, *, seed: int = 0, two_hop: bool = True) -> Tensor:
    """Forest of a multilevel matching: each level joins nodes in twos, rarely up to fours."""
    check_integer(seed, "seed", 0)
    check_bool(two_hop, "two_hop")
    edge_index, weight, sample = graph.edge_index, graph.weight, graph.sample
    size = torch.ones(graph.num_nodes, dtype=torch.float64, device=sample.device)
    levels: list[Tensor] = []
    while edge_index.numel() > 0:
        # Chance depends on places within the sample, so a batch gives what its samples give alone.
        noise = _hash(places(sample)[edge_index], seed + len(levels))
        similarity = weight / (size[edge_index[0]] * size[edge_index[1]])
        order = noise.argsort(stable=True)
        order = order[similarity[order].argsort(descending=True, stable=True)]
        edge_index, weight, noise = edge_index[:, order], weight[order], noise[order]

        leader = _match(edge_index, noise, size.numel())
        leader = _leftovers(edge_index, leader, two_hop)
        opens = leader == torch.arange(leader.numel(), device=leader.device)
        cluster = (opens.cumsum(0) - 1)[leader]
        levels.append(cluster)

        sample = sample[opens]
        step(opens.numel() - sample.numel())
        size = size.new_zeros(sample.numel()).index_add(0, cluster, size)
        edge_index, _ = cluster[edge_index].sort(dim=0)
        apart = edge_index[0] != edge_index[1]
        edge_index, weight = coalesce(edge_index[:, apart], weight[apart], sample.numel())
    step(sample.numel())
    return stack(levels, graph.num_nodes, graph.sample.device)


def _match(edge_index: Tensor, noise: Tensor, num_nodes: int) -> Tensor:
    """Smaller node of each node's pair, itself if alone; edges come heaviest first.

    Each free node proposes to its best free neighbour, and mutual proposals match. All nodes rank
    the edges alike, so this is the greedy matching of the sorted edges, found in parallel, until
    after :data:`ROUNDS_BY_WEIGHT` the edges that are left are shuffled each round.
    """
    leader = torch.arange(num_nodes, device=edge_index.device)
    free = torch.ones_like(leader, dtype=torch.bool)
    rank = torch.arange(edge_index.size(1), device=edge_index.device)
    worst, rounds = edge_index.size(1), 0
    while edge_index.numel() > 0:
        if rounds >= ROUNDS_BY_WEIGHT:
            order = _hash(torch.stack([noise, noise]), rounds).argsort(stable=True)
            edge_index, noise = edge_index[:, order], noise[order]
            rank = torch.arange(order.numel(), device=order.device)
        best = rank.new_full((num_nodes,), worst)
        best = best.scatter_reduce(0, edge_index.flatten(), rank.repeat(2), "amin")
        pair = edge_index[:, (best[edge_index] == rank).all(0)]
        leader[pair[1]] = pair[0]
        free[pair] = False
        open_ = free[edge_index].all(0)
        edge_index, noise, rank = edge_index[:, open_], noise[open_], rank[open_]
        rounds += 1
    return leader


def _leftovers(edge_index: Tensor, leader: Tensor, two_hop: bool) -> Tensor:
    """Give a cluster to each node whose neighbours all found another partner.

    Those with one best neighbour in common are paired, and the last of an odd number joins that
    neighbour's pair; without ``two_hop`` all of them join it.
    """
    ids = torch.arange(leader.numel(), device=leader.device)
    single = torch.bincount(leader, minlength=ids.numel())[leader] == 1
    rank = torch.arange(edge_index.size(1), device=ids.device).repeat(2)
    best = rank.new_full((ids.numel(),), edge_index.size(1))
    best = best.scatter_reduce(0, edge_index.flatten(), rank, "amin")
    left = (single & (best < edge_index.size(1))).nonzero().view(-1)
    hub = edge_index[:, best[left]].sum(0) - left  # the other end of the best edge
    hub, order = hub.sort(stable=True)
    left = left[order]
    leader = leader.clone()
    if not two_hop:
        leader[left] = leader[hub]
        return leader
    first = left.roll(1)  # the one before, of the same hub where the place in it is odd
    second = places(hub) % 2 == 1
    alone = ~second & ~second.roll(-1)
    leader[left[second]] = first[second]
    leader[left[alone]] = leader[hub[alone]]
    return leader


def _hash(pair: Tensor, salt: int) -> Tensor:
    """31 bits of chance for each column; every product stays below 2^63."""
    h = (pair[0] & _MASK) * 73856093 + (pair[1] & _MASK) * 19349663 + (salt & _MASK) * 83492791
    h = (h ^ (h >> 31)) & _MASK
    for factor in (0x2C1B3C6D, 0x297A2D39):
        h = ((h ^ (h >> 15)) * factor) & _MASK
    return h ^ (h >> 12)
