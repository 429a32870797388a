"""How the kernel walks a tree; worked out once for each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...native import kernel
from ...tree import TreeIndex

# Rows that a thread must have to do before it pays to start it, times channels.
WORTH_A_THREAD = 60_000


class Walk(NamedTuple):
    """What the kernel is told of a tree.

    Attributes:
        packed: the tensors of ``native/src/tree.h``, one after another.
        order: node id at each position.
        head: the first arguments of a call, which are the same in each.
        families: number of families, where a root that is a leaf counts as one.
        tasks: ranges of families that need no others.
        tops: families above them.
        widest: members of the largest family.
        cost: about how many rows a call moves and multiplies.
    """

    packed: Tensor
    order: Tensor
    head: tuple[int, ...]
    families: int
    tasks: int
    tops: int
    widest: int
    cost: int

    @classmethod
    def of(cls, tree: TreeIndex) -> Walk:
        """The walk of a tree, made at the first call."""
        return tree.once("cpu walk", lambda: cls._made(tree))

    @classmethod
    def _made(cls, tree: TreeIndex) -> Walk:
        nodes, leaves, trees = tree.num_nodes, tree.num_leaves, tree.num_trees
        if nodes >= 2**31:
            raise ValueError(
                f"Expected 'tree' to have fewer than 2^31 nodes for backend='cpu' (got {nodes}; "
                f"backend='scatter' has no such limit)"
            )
        inner = nodes - leaves
        packed = tree.up.new_empty(6 * (inner + trees) + nodes, dtype=torch.int32)
        sizes = tree.up.new_empty(5)  # see tree.cpp
        given = (tree.family_parent, tree.family_ptr, tree.leaf)
        kernel().hsa_walk(
            *(x.data_ptr() for x in given), nodes, leaves, inner, trees,
            packed.data_ptr(), sizes.data_ptr(),
        )  # fmt: skip
        numbers = sizes.tolist()
        addresses = packed.data_ptr(), tree.order.data_ptr()
        return cls(packed, tree.order, (*addresses, nodes, inner, trees, *numbers), *numbers)

    def threads(self, heads: int, channels: int) -> int:
        """How many threads pay."""
        worth = self.cost * heads * channels // (32 * WORTH_A_THREAD)
        return 1 if worth <= 1 else min(torch.get_num_threads(), worth)


def masses(mass: Tensor | None, tree: TreeIndex, dtype: torch.dtype) -> Tensor:
    """``[2, T]`` by position: the share of its parent's mass, and its own mass's log2."""
    if mass is None:
        return tree.once(("cpu masses", dtype), lambda: _masses(None, tree, dtype))
    return _masses(mass, tree, dtype)


def _masses(mass: Tensor | None, tree: TreeIndex, dtype: torch.dtype) -> Tensor:
    given = None if mass is None else mass.detach().to(torch.float64).contiguous()
    result = tree.up.new_empty((2, tree.num_nodes), dtype=dtype)
    kernel().hsa_masses(
        None if given is None else given.data_ptr(), tree.leaf.data_ptr(), tree.up.data_ptr(),
        tree.count.data_ptr(), tree.num_nodes, tree.num_leaves, tree.num_trees,
        result.data_ptr(), result.data_ptr() + result.nbytes // 2, dtype == torch.float64,
    )  # fmt: skip
    return result
