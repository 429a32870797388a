"""Checks at the door of interaction lists and what comes with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..lists import InteractionLists, Side
from ..tree import TreeIndex
from .checks import (
    as_tree,
    check_device,
    check_dtype,
    check_mass,
    check_rows,
    check_tensor,
    check_values,
)


def check_alone(key_tree: Any, key_mass: Any) -> None:
    """Nothing of a key tree where there are no lists."""
    if key_tree is not None:
        raise ValueError(
            "Expected 'lists' beside 'key_tree' (got None; "
            "interactions.between(tree, key_tree) makes some)"
        )
    if key_mass is not None:
        raise ValueError("Expected 'key_tree' beside 'key_mass' (got None)")


def check_lists(lists: Any) -> InteractionLists:
    """Interaction lists."""
    if not isinstance(lists, InteractionLists):
        raise TypeError(f"Expected 'lists' to be InteractionLists (got {type(lists).__name__})")
    return lists


def as_lists(
    lists: InteractionLists, tree: TreeIndex | Tensor, key_tree: Any, q: Tensor, k: Tensor
) -> InteractionLists:
    """The lists, which must be of these trees; beside a FakeTensor of such."""
    check_lists(lists)
    if isinstance(q, FakeTensor) and not isinstance(lists.blocks, FakeTensor):
        fake = q.fake_mode.from_tensor
        query_tree = TreeIndex(*map(fake, lists.query_tree.tensors))
        other = TreeIndex(*map(fake, lists.key_tree.tensors))
        other = query_tree if lists.of_one_tree else other
        return InteractionLists(query_tree, other, *map(fake, lists.tensors))
    if key_tree is None:
        if not (_is(tree, lists.query_tree, q) or _is(tree, lists.key_tree, q)):
            raise ValueError("Expected 'lists' to be of 'tree' (got those of other trees)")
        queries, keys = lists.query_tree.num_leaves, lists.key_tree.num_leaves
        if queries != keys:
            raise ValueError(
                f"Expected 'key_tree' beside 'lists' of {queries} queries and {keys} keys "
                f"(got None)"
            )
        _check_same_leaves(lists)
        return lists
    if not _is(tree, lists.query_tree, q):
        raise ValueError("Expected 'lists' to be of the query tree 'tree' (got those of another)")
    if not _is(key_tree, lists.key_tree, k):
        raise ValueError("Expected 'lists' to be of 'key_tree' (got those of another)")
    return lists


def _check_same_leaves(lists: InteractionLists) -> None:
    """Two trees over the same leaves have them in the same trees of their forests."""
    if lists.of_one_tree or torch.compiler.is_compiling():
        return

    def alike() -> bool:
        one, other = (Side.of(x).trees[x.leaf] for x in (lists.query_tree, lists.key_tree))
        return torch.equal(one, other)

    if not lists.once("same leaves", alike):
        raise ValueError(
            "Expected the two trees of 'lists' to have the same leaves in each sample of the batch "
            "(got others; give 'key_tree' where queries attend to other leaves than themselves)"
        )


def _is(tree: TreeIndex | Tensor, other: TreeIndex, x: Tensor) -> bool:
    """Whether these are the same trees; a parent vector is compared entry by entry."""
    if tree is other or torch.compiler.is_compiling():
        return True
    if not isinstance(tree, Tensor):
        tree = as_tree(tree, x)
        return int(tree.key) == int(other.key) or torch.equal(tree.parent, other.parent)
    return tree.shape == other.parent.shape and bool((tree == other.parent).all())


def check_keys(q: Tensor, k: Tensor, v: Tensor, lists: InteractionLists) -> None:
    """Queries ``[N_q, H, D]`` of one tree, keys and values ``[N_k, H, *]`` of the other."""
    check_tensor(q, "q", 3)
    check_tensor(k, "k", 3, like=q)
    check_rows(q, "q", lists.query_tree)
    check_rows(k, "k", lists.key_tree)
    check_device(q, "q", lists.key_tree)
    if q.shape[1:] != k.shape[1:]:
        raise ValueError(
            f"Expected 'k' to have the heads and channels of 'q' "
            f"(got {list(k.shape[1:])} and {list(q.shape[1:])})"
        )
    if 0 in q.shape[1:]:
        raise ValueError(f"Expected 'q' to have heads and channels (got shape {list(q.shape)})")
    check_dtype(k, "k", q)
    check_values(v, k)


def check_key_mass(
    key_mass: Tensor | None,
    key_tree: Any,
    mass: Tensor | None,
    lists: InteractionLists,
    dtype: torch.dtype,
) -> None:
    """Masses of keys only where there is a key tree."""
    if key_tree is None:
        if key_mass is not None:
            raise ValueError("Expected 'key_tree' beside 'key_mass' (got None)")
        return
    if lists.of_one_tree and key_mass is not None:
        raise ValueError(
            "Expected no 'key_mass' where 'lists' are of one tree (got a tensor; 'mass' is of both)"
        )
    check_mass(key_mass, lists.key_tree, dtype, "key_mass")


def check_self_loop(self_loop: bool, lists: InteractionLists) -> None:
    """A leaf is left out of its own attention only where lists tell it apart."""
    if self_loop or torch.compiler.is_compiling():
        return
    if not lists.of_one_tree:
        raise ValueError(
            "Expected self_loop=True with 'lists' of two trees (got False; hide the pairs of a "
            "leaf with itself in the lists instead)"
        )

    def whole() -> list[int]:  # blocks of an inner node with itself
        query, key = lists.blocks
        inner = torch.ones_like(lists.query_tree.up, dtype=torch.bool)
        inner[lists.query_tree.leaf] = False
        at = query[(query == key) & inner[query]]
        return lists.query_tree.order[at[:1]].tolist()

    for node in lists.once("whole", whole):
        raise ValueError(
            f"Expected the pair of every inner node with itself to be opened with self_loop=False "
            f"(got a block of node {node} with itself)"
        )


def unless_siblings(lists: InteractionLists) -> InteractionLists | None:
    """None where siblings meet, for which there are faster ways."""
    if torch.compiler.is_compiling() or isinstance(lists.blocks, FakeTensor):
        return lists
    return None if lists.are_siblings else lists
