"""From the roots down: which of the pairs that meet are opened."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..lists import InteractionLists, Side, meeting
from ..tree import TreeIndex


def descend(
    query_tree: TreeIndex,
    key_tree: TreeIndex,
    choose: Callable[[Tensor, Tensor], Tensor],
    hide: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> InteractionLists:
    """Lists in which a pair that meets is opened where ``choose`` says so, and two roots always.

    Args:
        query_tree: the tree of the queries.
        key_tree: the tree of the keys.
        choose: of the positions of query nodes and key nodes that meet, which pairs to open. It is
            asked once a level; pairs of two leaves are not opened whatever it says.
        hide: which of the pairs that are not opened to hide.
    """
    one, other = Side.of(query_tree), Side.of(key_tree)
    query = key = torch.arange(query_tree.num_trees, device=query_tree.device)
    opened: list[Tensor] = []
    hidden = [query.new_empty(2, 0)]
    while query.numel():
        take = choose(query, key) if opened else torch.ones_like(query, dtype=torch.bool)
        take = take & ~(one.is_leaf[query] & other.is_leaf[key])
        pairs = torch.stack([query_tree.order[query], key_tree.order[key]])
        opened.append(pairs[:, take])
        if hide is not None:
            hidden.append(pairs[:, ~take & hide(query, key)])
        query, key, _ = meeting(query[take], key[take], one, other)
    return InteractionLists.from_opened(
        query_tree, torch.cat(opened, 1), key_tree=key_tree, hidden=torch.cat(hidden, 1)
    )
