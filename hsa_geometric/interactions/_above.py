"""All that must be opened so that given leaves meet."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lists import InteractionLists, PairCodes
from ..tree import TreeIndex


def opened_above(
    query_tree: TreeIndex, key_tree: TreeIndex, pairs: Tensor, opened: Tensor
) -> InteractionLists:
    """Lists in which these rows ``[2, E]`` of leaves meet, and pairs of ids are opened."""
    both = PairCodes(query_tree, key_tree)
    code = both.code(query_tree.leaf[pairs[0]], key_tree.leaf[pairs[1]]).unique()
    found = [both.code(query_tree.position[opened[0]], key_tree.position[opened[1]])]
    for _ in range(max(query_tree.depth, key_tree.depth)):
        code = both.parents(code)[0].unique()  # two roots are their own
        found.append(code)
    every = torch.cat(found).unique()
    query, key = both.pairs(every)
    every = every[~(both.one.is_leaf[query] & both.other.is_leaf[key])]
    return InteractionLists.from_opened(query_tree, both.ids(every), key_tree=key_tree)
