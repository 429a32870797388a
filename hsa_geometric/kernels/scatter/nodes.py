"""What belongs to each node: mass, and what is given beside queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from ...tree import TreeIndex
from ..call import Call
from .sweeps import up


def weighted(x: Tensor, mass: Tensor | None, tree: TreeIndex) -> tuple[Tensor, Tensor, Tensor]:
    """Leaf rows ``[N, H, *]`` without padding; and ``[T]`` mass and share of the parent's mass."""
    if mass is None:
        total = tree.count.to(x.dtype)
    else:
        total = up(mass.detach().to(x.dtype), tree)
        x = torch.where(mass.view(-1, 1, 1) > 0, x, 0)  # padding may hold anything
    # 0 where the parent has none.
    return x, total, total / total.index_select(0, tree.up).clamp(min=torch.finfo(x.dtype).tiny)


def with_node_values(
    query: Tensor, key: Tensor, call: Call, query_tree: TreeIndex, key_tree: TreeIndex
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scaled queries and keys ``[T, H, *]`` whose dot product is the logit, and its bias."""

    def by_position(x: Tensor, tree: TreeIndex) -> Tensor:  # given by id, in the dtype of sums
        return x.to(query.dtype).index_select(0, tree.order)

    query = query * call.scale
    if call.pos_q is not None and call.pos_k is not None:
        query = torch.cat([query, by_position(call.pos_q, query_tree)], dim=-1)
        key = torch.cat([key, by_position(call.pos_k, key_tree)], dim=-1)
    if call.temperature is not None:
        query = query * by_position(call.temperature, query_tree).unsqueeze(-1)
    return query, key, None if call.bias is None else by_position(call.bias, query_tree)
