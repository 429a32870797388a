"""Hierarchical self-attention: means up, softmax within families, evidence up, output down."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..call import Call, accumulator
from ..dropout import OWN, factors
from . import lists
from .nodes import weighted, with_node_values
from .recursion import evidence, product_down
from .siblings import siblings
from .sweeps import down, up


class Prepared(NamedTuple):
    """What attention within families starts from, in the dtype of sums.

    Attributes:
        query: ``[T, H, *]`` with scale, position and temperature, as ``key``; by position.
        value: ``[T, H, Dv]`` means.
        leaf_value: ``[N, H, Dv]``.
        bias: ``[T, H]`` of a node's logits, or :obj:`None`.
        mass: ``[T]``.
        share: ``[T]`` each node's share of its parent's mass: 0 where that has none.
        own: ``[N, H]`` log evidence of the leaves.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    leaf_value: Tensor
    bias: Tensor | None
    mass: Tensor
    share: Tensor
    own: Tensor


def prepare(call: Call) -> Prepared:
    """Means over subtrees, and what the leaves' own logits are."""
    tree, dtype = call.tree, accumulator(call.q.dtype)
    qkv = torch.cat([x.to(dtype) for x in (call.q, call.k, call.v)], dim=-1)
    qkv, mass, share = weighted(qkv, call.mass, tree)
    width = call.q.shape[-1]
    query, key, value = up(qkv, tree, share).split([width, width, call.v.shape[-1]], dim=-1)
    query, key, bias = with_node_values(query, key, call, tree, tree)
    own = (query * key).sum(-1).index_select(0, tree.leaf)
    own = own + mass.index_select(0, tree.leaf).log().unsqueeze(-1)
    own = own if call.self_loop else torch.full_like(own, -torch.inf)
    return Prepared(query, key, value, qkv[..., 2 * width :], bias, mass, share, own)


def attend(call: Call) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` in the dtype of v, and log evidence ``[trees, H]``."""
    if call.lists is not None:
        return lists.attend(call, call.lists)
    tree, dtype = call.tree, accumulator(call.q.dtype)
    prepared = prepare(call)
    z, alone, f = recursed(prepared, call)
    if call.seed is not None:
        heads = torch.arange(alone.shape[1], device=alone.device)
        place = torch.full_like(heads, OWN)
        query_at = tree.leaf.unsqueeze(1)
        alone = alone * factors(call.dropout_p, call.seed, heads, query_at, place, dtype)
    out = z + alone.unsqueeze(-1) * prepared.leaf_value
    return out.to(call.v.dtype), f


def recursed(prepared: Prepared, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """What leaves have from others ``[N, H, Dv]``, their W ``[N, H]``, and f of the roots."""
    query, key, value, _, bias, mass, share, own = prepared
    tree = call.tree
    total, average = siblings(query, key, value, mass, call)
    if bias is not None:  # all logits of a node but its own have it, so that no weight changes
        total = total + bias
    f = evidence(own, total, share, tree)
    f = torch.where(mass.unsqueeze(-1) > 0, f, -torch.inf)

    # g, the part that stays inside: 0 where nothing is there to attend to, 1 without siblings.
    keep = torch.sigmoid(torch.where(f.isneginf(), f, f - total))
    reach = product_down(keep, tree)  # W
    given = reach.index_select(0, tree.up) * (1.0 - keep)
    z = down(given.unsqueeze(-1) * average, tree)
    return z, reach.index_select(0, tree.leaf), f[: tree.num_trees].clone()


def above(call: Call, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`recursed` of a tree whose leaves are subtrees with means and log evidence ``own``."""
    return recursed(prepare(call)._replace(own=own), call)
