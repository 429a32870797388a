"""The weights of single blocks, for those who look at attention."""

from __future__ import annotations

import torch
from torch import Tensor

from ...tree import TreeIndex
from ..call import Call, accumulator
from . import lists
from .attention import solve
from .nodes import weighted
from .sweeps import levels
from .tiles import tiles

LOGITS = 1 << 18  # of a head so many at a time, so that memory is used again while it is warm
ROWS = 1 << 15


@torch.no_grad()
def block_weights(call: Call) -> tuple[Tensor, Tensor]:
    """Positions ``[2, M]`` of query node and key node of all blocks, and weights ``[H, M]``.

    The weight of a block is what each query below its query node gives to its keys together.
    """
    if call.lists is not None:
        return call.lists.blocks, lists.block_weights(call, call.lists)[1].t().contiguous()
    tree = call.tree
    query, key, mass, share = _nodes(call)
    each = [torch.einsum("td,td->t", q, k) for q, k in zip(query, key, strict=True)]
    own = (torch.stack(each, 1) + mass.log().unsqueeze(1))[tree.leaf]
    own = own if call.self_loop else torch.full_like(own, -torch.inf)
    blocks, weight, total = _softmax(query, key, mass, tree)
    bias = None if call.bias is None else call.bias.to(total.dtype)[tree.order]
    _, outward, alone = solve(own, total, bias, mass, share, tree)
    itself = (blocks[0] == blocks[1]).nonzero().squeeze(1)  # by position, as are these leaves
    alone = alone[tree.leaf.argsort()]
    for head, rows in enumerate(weight):
        rows *= outward[:, head][blocks[0]]
        rows[itself] = alone[:, head]
    return blocks, weight


def num_blocks(tree: TreeIndex) -> int:
    """Ordered pairs of siblings, and each leaf with itself."""
    size = tree.family_ptr.diff()
    return int((size * (size - 1)).sum()) + tree.num_leaves


def _nodes(call: Call) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Of each head queries and keys ``[T, *]``; mass and share ``[T]``: all by position.

    As ``prepare`` of attention, but in place, so that little is new of the size of the input.
    """
    tree, dtype = call.tree, accumulator(call.q.dtype)
    none = call.q.new_zeros(tree.num_leaves, 1, 1, dtype=dtype)
    _, mass, share = weighted(none, call.mass, tree)
    query, key = [], []
    for head in range(call.q.shape[1]):
        q, k = (_means(x[:, head].to(dtype), call.mass, share, tree) for x in (call.q, call.k))
        q *= call.scale
        if call.pos_q is not None and call.pos_k is not None:
            pos = (x[:, head].to(dtype)[tree.order] for x in (call.pos_q, call.pos_k))
            q, k = (torch.cat(pair, 1) for pair in zip((q, k), pos, strict=True))
        if call.temperature is not None:
            q *= call.temperature[:, head].to(dtype)[tree.order].unsqueeze(1)
        query.append(q)
        key.append(k)
    return query, key, mass, share


def _means(x: Tensor, mass: Tensor | None, share: Tensor, tree: TreeIndex) -> Tensor:
    """``[T, D]`` means of the leaf rows ``[N, D]`` below each node."""
    if mass is not None:
        x = torch.where(mass.unsqueeze(1) > 0, x, 0)  # padding may hold anything
    sizes, above = levels(tree)
    row = torch.zeros_like(tree.up)
    row[tree.leaf] = torch.arange(tree.num_leaves, device=tree.device)
    mean = x.index_select(0, row).index_fill_(0, tree.family_parent, 0)
    by_level, weight = mean.split(sizes), share.unsqueeze(1).split(sizes)
    for i in reversed(range(1, len(sizes))):
        parts = (y.split(ROWS) for y in (above[i], by_level[i], weight[i]))
        for to, below, w in zip(*parts, strict=True):
            by_level[i - 1].index_add_(0, to, below * w)
    return mean


def _softmax(
    query: list[Tensor], key: list[Tensor], mass: Tensor, tree: TreeIndex
) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks, softmax over siblings ``[H, M]``, and S ``[T, H]``."""
    blocks, ptr, is_leaf = _blocks(tree)
    weight = query[0].new_zeros(len(query), blocks.shape[1])
    total = query[0].new_full((tree.num_nodes, len(query)), -torch.inf)
    table, log_mass = tiles(tree), mass.log()
    sizes = [families * width for families, width in table.shapes]
    for (_, width), *tile in zip(
        table.shapes, table.member.split(sizes), table.seen.split(sizes), strict=True
    ):
        place = torch.arange(width, device=tree.device)
        rows = max(1, LOGITS // width)
        parts = (x.view(-1, width).split(max(1, rows // width)) for x in tile)
        for member, real in zip(*parts, strict=True):
            unseen = torch.where(real, log_mass[member], -torch.inf).unsqueeze(1)
            for i in range(0, width, rows):
                at, some = member[:, i : i + rows], real[:, i : i + rows]
                mine = place[i : i + rows].unsqueeze(1)
                pair = some.unsqueeze(2) & real.unsqueeze(1) & (place != mine)
                pair, slots = (x.flatten().nonzero().squeeze(1) for x in (pair, some))
                nodes = at.flatten()[slots]
                # A leaf has a place for itself among its blocks, an inner node has none.
                skip = (place > mine) & ~is_leaf[at].unsqueeze(2)
                to = (ptr[at].unsqueeze(2) + place - skip.long()).flatten()[pair]
                for head, (q, k) in enumerate(zip(query, key, strict=True)):
                    q, k = _rows(q, at), _rows(k, member).transpose(1, 2)
                    s = torch.baddbmm(unseen, q, k).masked_fill_(place == mine, -torch.inf)
                    z = s.logsumexp(2)
                    total[:, head].index_copy_(0, nodes, z.flatten()[slots])
                    s = (s - z.masked_fill(z.isneginf(), 0).unsqueeze(2)).exp_().flatten()
                    weight[head].index_copy_(0, to, s.index_select(0, pair))
    return blocks, weight, total


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """``x[at]``, which is slower."""
    return x.index_select(0, at.flatten()).view(*at.shape, -1)


def _blocks(tree: TreeIndex) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks, where those of each node begin ``[T]``, and which nodes are leaves ``[T]``."""
    roots, size = tree.num_trees, tree.family_ptr.diff()
    is_leaf = torch.zeros_like(tree.up, dtype=torch.bool)
    is_leaf[tree.leaf] = True
    first, count = torch.arange(tree.num_nodes, device=tree.device), torch.ones_like(tree.up)
    first[roots:] = tree.family_ptr[:-1].repeat_interleave(size)
    count[roots:] = size.repeat_interleave(size)
    count -= (~is_leaf).long()
    ptr = count.cumsum(0) - count
    query = torch.repeat_interleave(count)
    key = torch.arange(query.shape[0], device=tree.device) - (ptr - first)[query]
    key += ((key >= query) & ~is_leaf[query]).long()
    return torch.stack([query, key]), ptr, is_leaf
