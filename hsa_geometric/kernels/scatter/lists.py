r"""Attention where any pairs of nodes are opened, of one tree or two.

.. math::
    S_A = \mathrm{logsumexp}_{B \in N(A)} \, s_{AB}, \quad
    M_A = \sum_{B \in N(A)} \mathrm{softmax}_B(s_{AB}) \, \bar v_B, \quad
    s_{AB} = \log|B| + q_A \cdot k_B

over the blocks of each node. What the children find takes the place of a leaf's own evidence in the
recursions; the rest is as where siblings meet. Blocks are taken some query nodes at a time, and
their rows are forgotten and gathered again in backward.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...lists import InteractionLists, Side
from ..call import Call, accumulator
from ..dropout import factors
from .nodes import weighted, with_node_values
from .recursion import evidence, log_add, product_down
from .sweeps import down, up

NUMBERS = 9 << 20  # so many at a time are gathered from keys, and as many from queries


def attend(call: Call, lists: InteractionLists) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` in the dtype of v, and log evidence ``[trees, H]``."""
    nodes = Nodes.of(call, lists)
    total, average = _blocks(nodes, call, lists)
    f, _, given = solve(total, nodes, lists)
    out = down(given.unsqueeze(-1) * average, lists.query_tree)
    return out.to(call.v.dtype), f[: lists.query_tree.num_trees]


def block_weights(call: Call, lists: InteractionLists) -> tuple[Tensor, Tensor, Tensor, Nodes]:
    """Logits and weights ``[M, H]`` of all blocks; F − log W ``[T, H]``; and the nodes' values.

    The weight of a block is what each query below its query node gives to its keys together.
    """
    nodes = Nodes.of(call, lists)
    total, _ = _blocks(nodes, call, lists)
    f, reach, given = solve(total, nodes, lists)
    ends, found = lists.once("ends", lists.ptr.tolist), []
    for lo, hi in pairwise(_cuts(lists, _at_once(nodes))):
        found.append(_logits(nodes, lo, hi, lists.blocks[:, ends[lo] : ends[hi]], call, lists))
    logit, seen = (torch.cat(x) for x in zip(*found, strict=True))
    at = lists.blocks[0]
    gap = torch.where(seen.unsqueeze(1), logit - total.index_select(0, at), -torch.inf)
    return logit, gap.exp() * given.index_select(0, at), f - reach.log(), nodes


class Nodes(NamedTuple):
    """Values by position, of query nodes but for ``key``, ``value`` and ``key_mass``."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    mass: Tensor
    share: Tensor
    key_mass: Tensor

    @classmethod
    def of(cls, call: Call, lists: InteractionLists) -> Nodes:
        """Means over the leaves, and what is given beside them."""
        dtype, tree, other = accumulator(call.q.dtype), lists.query_tree, lists.key_tree
        q, mass, share = weighted(call.q.to(dtype), call.mass, tree)
        kv = torch.cat([call.k.to(dtype), call.v.to(dtype)], dim=-1)
        kv, key_mass, key_share = weighted(kv, call.mass_of_keys, other)
        widths = [call.k.shape[-1], call.v.shape[-1]]
        key, value = up(kv, other, key_share).split(widths, dim=-1)
        query, key, bias = with_node_values(up(q, tree, share), key, call, tree, other)
        return cls(query, key, value, bias, mass, share, key_mass)


def solve(total: Tensor, nodes: Nodes, lists: InteractionLists) -> tuple[Tensor, Tensor, Tensor]:
    """F, W and W (1 − g) from S, all ``[T, H]``."""
    tree = lists.query_tree
    nothing = total.new_full((tree.num_leaves, total.shape[1]), -torch.inf)
    inside = evidence(nothing, total, nodes.share, tree)  # E
    inside = torch.where(nodes.mass.unsqueeze(-1) > 0, inside, -torch.inf)
    # g, the part that goes on to the children: all where a node itself attends to nothing.
    keep = torch.sigmoid(torch.where(inside.isneginf(), inside, inside - total))
    keep = torch.where(total.isneginf(), 1.0, keep)
    trees = tree.num_trees
    reach = product_down(keep, tree).index_select(0, tree.up[trees:])
    reach = torch.cat([torch.ones_like(keep[:trees]), reach])  # W
    return log_add(inside, total), reach, reach * (1.0 - keep)


def _at_once(nodes: Nodes) -> int:
    """How many blocks are gathered at a time."""
    return max(1, NUMBERS // max(nodes.key[0].numel(), nodes.value[0].numel()))


def _blocks(nodes: Nodes, call: Call, lists: InteractionLists) -> tuple[Tensor, Tensor]:
    """S ``[T, H]`` and M ``[T, H, Dv]``: −∞ and 0 where there is nobody."""
    cuts = _cuts(lists, _at_once(nodes))
    if len(cuts) == 2:
        return _softmax(nodes, cuts[0], cuts[1], lists.blocks, call, lists)
    ends, found = lists.once("ends", lists.ptr.tolist), []
    for lo, hi in pairwise(cuts):
        part = lists.blocks[:, ends[lo] : ends[hi]]
        found.append(
            checkpoint(
                _softmax,
                *(nodes, lo, hi, part, call, lists),
                use_reentrant=False,
                preserve_rng_state=False,
            )
        )
    total, average = zip(*found, strict=True)
    return torch.cat(total), torch.cat(average)


def _cuts(lists: InteractionLists, blocks: int) -> list[int]:
    """Positions between which query nodes have at most so many blocks, or are only one."""

    def make() -> list[int]:
        cuts, ends, nodes = [0], lists.ptr, lists.ptr.shape[0] - 1
        while cuts[-1] < nodes:
            last = int(torch.searchsorted(ends, ends[cuts[-1]] + blocks, right=True)) - 1
            cuts.append(max(cuts[-1] + 1, last))
        return cuts

    # torch.func has no place for what checkpoint does: it needs the memory of all blocks.
    if torch._C._are_functorch_transforms_active():
        return [0, lists.ptr.shape[0] - 1]
    return lists.once(("cuts", blocks), make)


def _logits(
    nodes: Nodes, lo: int, hi: int, blocks: Tensor, call: Call, lists: InteractionLists
) -> tuple[Tensor, Tensor]:
    """Logits ``[m, H]`` with log masses, and which blocks ``[m]`` are seen.

    Of the query nodes at positions from ``lo`` up to ``hi``, whose blocks these are.
    """
    at, to = blocks[0] - lo, blocks[1]
    own = None  # blocks of a leaf with itself
    if lists.of_one_tree:
        own = (blocks[0] == to) & Side.of(lists.key_tree).is_leaf.index_select(0, to)
    mass = nodes.key_mass.index_select(0, to)
    seen = mass > 0
    if own is not None and not call.self_loop:
        seen = seen & ~own
    logit = (nodes.query[lo:hi].index_select(0, at) * nodes.key.index_select(0, to)).sum(-1)
    logit = logit + torch.where(seen, mass, 1.0).log().unsqueeze(-1)
    if nodes.bias is not None:
        added = nodes.bias[lo:hi].index_select(0, at)
        logit = logit + (added if own is None else torch.where(own.unsqueeze(-1), 0, added))
    return logit, seen


def _softmax(
    nodes: Nodes, lo: int, hi: int, blocks: Tensor, call: Call, lists: InteractionLists
) -> tuple[Tensor, Tensor]:
    """S and M of these query nodes."""
    at, to = blocks[0] - lo, blocks[1]
    logit, seen = _logits(nodes, lo, hi, blocks, call, lists)
    shape, seen = (hi - lo, logit.shape[1]), seen.unsqueeze(-1)
    highest = torch.where(seen, logit, -torch.inf).detach()
    rows = at.unsqueeze(1).expand_as(highest)
    highest = highest.new_full(shape, -torch.inf).scatter_reduce(0, rows, highest, "amax")
    nobody = highest.isneginf()
    highest = torch.where(nobody, 0, highest)
    weight = torch.where(seen, logit - highest.index_select(0, at), 0).exp()
    weight = torch.where(seen, weight, 0)
    total = weight.new_zeros(shape).index_add(0, at, weight)
    total = torch.where(nobody, 1, total)
    if call.seed is not None:
        head = torch.arange(shape[1], device=at.device)
        counters = head, blocks[0].unsqueeze(1), to.unsqueeze(1)
        weight = weight * factors(call.dropout_p, call.seed, *counters, weight.dtype)
    average = weight.unsqueeze(-1) * nodes.value.index_select(0, to)
    average = average.new_zeros(*shape, average.shape[2]).index_add(0, at, average)
    average = average / total.unsqueeze(-1)
    return torch.where(nobody, -torch.inf, total.log() + highest), average
