"""Orders over a tree, by pointer doubling: what a subtree holds at most, how a text reads it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hsa_geometric.tree import TreeIndex


def subtree_extreme(value: Tensor, parent: Tensor, reduce: Literal["amin", "amax"]) -> Tensor:
    """``[T]`` least or greatest value in the subtree of each node id."""
    jump = parent
    while True:  # value[a] covers the nodes fewer than 2^k levels below a; min and max may repeat
        value = value.scatter_reduce(0, jump, value, reduce)
        further = jump[jump]
        if torch.equal(further, jump):
            return value
        jump = further


def reading_order(tree: TreeIndex) -> tuple[Tensor, Tensor]:
    """Place of the first and of the last leaf below each node id, as a text lists the leaves.

    Siblings, and trees, stand in the order of the least leaf row below them. Where leaf rows are in
    reading order already, the place of a leaf is its row.
    """
    parent = tree.parent
    ids = torch.arange(tree.num_nodes, device=parent.device)
    row = torch.full_like(ids, tree.num_leaves)
    row[tree.leaf_ids] = ids[: tree.num_leaves]
    least = subtree_extreme(row, parent, "amin")
    count = tree.count[tree.position]

    # Leaves below the elder siblings of each node; roots are siblings of one another.
    is_root = parent == ids
    family = torch.where(is_root, -1, parent)
    order = torch.argsort((family + 1) * tree.num_leaves + least)
    before = count[order].cumsum(0) - count[order]
    opens = torch.ones_like(is_root)
    opens[1:] = family[order][1:] != family[order][:-1]
    elder = torch.empty_like(ids)
    elder[order] = before - torch.where(opens, before, 0).cummax(0).values

    first, jump = torch.where(is_root, 0, elder), parent
    for _ in range(tree.depth.bit_length()):  # summed over the path from the root
        first = first + first[jump]
        jump = jump[jump]
    first = first + elder[jump]
    return first, first + count - 1
