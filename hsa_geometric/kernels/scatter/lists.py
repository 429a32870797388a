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
    dtype, tree, other = accumulator(call.q.dtype), lists.query_tree, lists.key_tree
    q, mass, share = weighted(call.q.to(dtype), call.mass, tree)
    kv = torch.cat([call.k.to(dtype), call.v.to(dtype)], dim=-1)
    kv, key_mass, key_share = weighted(kv, call.mass_of_keys, other)
    query = up(q, tree, share)
    key, value = up(kv, other, key_share).split([call.k.shape[-1], call.v.shape[-1]], dim=-1)
    query, key, bias = with_node_values(query, key, call, tree, other)

    total, average = _blocks(query, key, value, bias, key_mass, call, lists)
    nothing = total.new_full((tree.num_leaves, total.shape[1]), -torch.inf)
    inside = evidence(nothing, total, share, tree)  # E
    inside = torch.where(mass.unsqueeze(-1) > 0, inside, -torch.inf)
    # g, the part that goes on to the children: all where a node itself attends to nothing.
    keep = torch.sigmoid(torch.where(inside.isneginf(), inside, inside - total))
    keep = torch.where(total.isneginf(), 1.0, keep)
    trees = tree.num_trees
    reach = product_down(keep, tree).index_select(0, tree.up[trees:])
    reach = torch.cat([torch.ones_like(keep[:trees]), reach])  # W
    out = down((reach * (1.0 - keep)).unsqueeze(-1) * average, tree)
    return out.to(call.v.dtype), log_add(inside[:trees], total[:trees])


def _blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    key_mass: Tensor,
    call: Call,
    lists: InteractionLists,
) -> tuple[Tensor, Tensor]:
    """S ``[T, H]`` and M ``[T, H, Dv]``: −∞ and 0 where there is nobody."""
    cuts = _cuts(lists, max(1, NUMBERS // max(key[0].numel(), value[0].numel())))
    if len(cuts) == 2:
        return _softmax(query, key, value, bias, key_mass, 0, lists.blocks, call, lists)
    ends, found = lists.once("ends", lists.ptr.tolist), []
    for lo, hi in pairwise(cuts):
        part = lists.blocks[:, ends[lo] : ends[hi]]
        more = None if bias is None else bias[lo:hi]
        found.append(
            checkpoint(
                _softmax,
                *(query[lo:hi], key, value, more, key_mass, lo, part, call, lists),
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


def _softmax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    key_mass: Tensor,
    first: int,
    blocks: Tensor,
    call: Call,
    lists: InteractionLists,
) -> tuple[Tensor, Tensor]:
    """S and M of the query nodes from position ``first`` on, whose blocks these are."""
    at, to = blocks[0] - first, blocks[1]
    own = None  # blocks of a leaf with itself
    if lists.of_one_tree:
        own = (blocks[0] == to) & Side.of(lists.key_tree).is_leaf.index_select(0, to)
    log_mass = key_mass.index_select(0, to)
    seen = log_mass > 0
    if own is not None and not call.self_loop:
        seen = seen & ~own
    log_mass = torch.where(seen, log_mass, 1.0).log().unsqueeze(-1)
    logit = (query.index_select(0, at) * key.index_select(0, to)).sum(-1) + log_mass
    if bias is not None:
        added = bias.index_select(0, at)
        logit = logit + (added if own is None else torch.where(own.unsqueeze(-1), 0, added))

    shape, seen = (query.shape[0], query.shape[1]), seen.unsqueeze(-1)
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
    average = weight.unsqueeze(-1) * value.index_select(0, to)
    average = average.new_zeros(*shape, value.shape[2]).index_add(0, at, average)
    average = average / total.unsqueeze(-1)
    return torch.where(nobody, -torch.inf, total.log() + highest), average
