"""The tree, laid out for tensor code: :class:`TreeIndex` knows no PyG and holds plain tensors.

Words used everywhere in this package. A *leaf* has no children and carries a row of ``x``; the
children of one node are a *family*; *level* is the distance from the root; *up* means from child
to parent. Node **ids** are the caller's numbering. **Positions** are ours: nodes are sorted by
level and then by parent, so that a level is one slice and every family is one slice of a level.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .native.index import index
from .once import Found, found_by, plainly


@dataclass(frozen=True, eq=False)
class TreeIndex:
    r"""A rooted forest in level order, built once and shared by every operator.

    :meth:`from_parent` builds it; the constructor takes the finished int64 tensors of :obj:`T` tree
    nodes, :obj:`N` leaves, :obj:`R` roots, :obj:`F` families and :obj:`L` levels below the roots.

    Attributes:
        parent: ``[T]`` id of each node's parent; a root points to itself.
        order: ``[T]`` node id at each position; ``position`` ``[T]`` is its inverse.
        up: ``[T]`` position of the parent of the node at each position.
        root: ``[R]`` position of each root, which is simply ``arange(R)``: trees in id order.
        starts: ``[L]`` position of the first node of each level below the roots.
        leaf: ``[N]`` position of each leaf, leaves in ascending id: row order of ``x``.
        count: ``[T]`` number of leaves below the node at each position (1 for a leaf).
        family_parent: ``[F]`` position of each family's parent, families in storage order.
        family_ptr: ``[F + 1]`` members of family ``f`` are ``family_ptr[f]:family_ptr[f + 1]``.
        key: a random number, always on the CPU, that all copies share; see :meth:`once`.

    Example:
        >>> import torch
        >>> tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4]))
        >>> tree
        TreeIndex(leaves=3, nodes=5, trees=1, depth=2)
    """

    parent: Tensor
    order: Tensor
    position: Tensor
    up: Tensor
    root: Tensor
    starts: Tensor
    leaf: Tensor
    count: Tensor
    family_parent: Tensor
    family_ptr: Tensor
    key: Tensor

    @classmethod
    def from_parent(cls, parent: Tensor, *, num_leaves: int | None = None) -> TreeIndex:
        r"""Index a parent vector, of which a copy is kept.

        By pointer doubling, :math:`\log_2` depth passes over the inner nodes. A device is waited
        for 3 times, or up to 6 where there are more than 32 levels.

        Args:
            parent: ``[T]`` integer id of each node's parent; a root points to itself.
            num_leaves: how many leaves there must be, so that a compiler knows.

        Raises:
            TypeError: if :obj:`parent` is no integer tensor.
            ValueError: if it is empty, not one-dimensional, out of range, or contains a cycle.
        """
        _check(parent)
        if torch.compiler.is_compiling() or isinstance(parent, FakeTensor):
            return cls(*torch.ops.hsa_geometric.tree_index(parent, num_leaves))
        return cls(*_build(parent))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, of which ``TreeIndex(*tensors)`` makes the same index again."""
        return [getattr(self, name) for name in FIELDS]

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` returned at the first call with this name: the one cache of a tree.

        All indices of one :attr:`key` and device find it; it is freed with the last of them, and
        not pickled. Threads that ask at once may both make it; one result stays.
        """
        if name not in self._found:
            with plainly():
                self._found.setdefault(name, make())
        return self._found[name]

    @cached_property
    @plainly()
    def _found(self) -> Found:
        return found_by(int(self.key), self.device)

    def __post_init__(self) -> None:
        if not torch.compiler.is_compiling() and type(self.key) is Tensor:
            self._found  # noqa: B018 (held for those that operators put together from its tensors)

    def __reduce__(self) -> tuple[type, tuple[Tensor, ...]]:
        return TreeIndex, tuple(self.tensors)

    @property
    def num_nodes(self) -> int:
        """Number of tree nodes, leaves included."""
        return self.up.shape[0]

    @property
    def num_leaves(self) -> int:
        """Number of leaves: rows of ``x``."""
        return self.leaf.shape[0]

    @property
    def num_trees(self) -> int:
        """Number of roots."""
        return self.root.shape[0]

    @property
    def depth(self) -> int:
        """Number of levels below the roots: 0 where every tree is one leaf."""
        return self.starts.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the index tensors live."""
        return self.up.device

    @property
    def leaf_ids(self) -> Tensor:
        """``[N]`` node id of each leaf, ascending."""
        return self.order[self.leaf]

    @property
    def level(self) -> Tensor:
        """``[T]`` level of each node **id**; roots have level 0."""
        ids = torch.arange(self.num_nodes, device=self.device)
        return torch.searchsorted(self.starts, ids, right=True)[self.position]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeIndex:
        """The same index on another device; :attr:`key` stays on the CPU."""
        *tensors, key = self.tensors
        return TreeIndex(*[x.to(device, non_blocking=non_blocking) for x in tensors] + [key])

    def __repr__(self) -> str:
        sizes = f"leaves={self.num_leaves}, nodes={self.num_nodes}, trees={self.num_trees}"
        return f"TreeIndex({sizes}, depth={self.depth})"


FIELDS = tuple(field.name for field in fields(TreeIndex))
torch.export.register_dataclass(TreeIndex, serialized_type_name="hsa_geometric.TreeIndex")


@plainly()
def _build(parent: Tensor) -> list[Tensor]:
    """:attr:`TreeIndex.tensors` of a parent vector."""
    parent = parent.detach().to(torch.long, copy=True, memory_format=torch.contiguous_format)
    num_nodes, device = parent.shape[0], parent.device
    key = torch.tensor(secrets.randbits(62), device="cpu")
    if device.type == "cpu" and (found := index(parent)):
        return [parent, *found, key]
    low, high = torch.stack(parent.aminmax()).tolist()
    if low < 0 or high >= num_nodes:
        node = int(((parent < 0) | (parent >= num_nodes)).nonzero()[0])
        raise ValueError(
            f"Expected 'parent' to hold node ids in [0, {num_nodes - 1}] "
            f"(got parent[{node}] = {int(parent[node])}); a root points to itself"
        )
    ids = torch.arange(num_nodes, device=device)
    is_root = parent == ids
    degree = torch.zeros_like(ids).index_add_(0, parent, (~is_root).long())
    is_inner = degree > 0
    num_roots, num_inner = torch.stack([is_root, is_inner]).sum(1).tolist()

    # Leaves, most of a tree, know their place by their parents': levels are those of inner nodes.
    rank = is_inner.cumsum(0).sub_(1)  # of an inner node among them
    both = torch.empty_like(ids)  # inner nodes, then leaves
    both.index_copy_(0, torch.where(is_inner, rank, ids - rank + (num_inner - 1)), ids)
    inner_id, leaf_id = both[:num_inner], both[num_inner:]
    degree = degree.index_select(0, inner_id)
    over = rank.index_select(0, parent.index_select(0, inner_id))
    level, count, depth = _levels_and_counts(over, degree)
    if depth < 0:
        node = int(torch.isin(parent, inner_id[level > 0]).nonzero()[0])
        raise ValueError(
            f"Expected 'parent' to lead from every node to a root (got a cycle above node {node})"
        )
    level, family = torch.sort(level, stable=True)
    family_id, size = inner_id.index_select(0, family), degree.index_select(0, family)

    # Sorting by (family of the parent, id), families by (level, id of the parent), makes levels
    # and families slices. A stable sort keeps the ids ascending within a family.
    number = torch.zeros_like(ids)
    number.index_copy_(0, family_id, ids[1 : num_inner + 1])
    number = number.index_select(0, parent).masked_fill_(is_root, 0)
    number, order = torch.sort(number, stable=True)
    position = torch.empty_like(order)
    position.index_copy_(0, order, ids)
    family_parent = position.index_select(0, family_id)
    up = torch.cat([ids[:1], family_parent]).index_select(0, number)
    up[:num_roots] = ids[:num_roots]
    family_ptr = torch.cat([size.new_full((1,), num_roots), size]).cumsum(0)
    by_position = torch.ones_like(ids)
    by_position.index_copy_(0, family_parent, count.index_select(0, family))
    starts = family_ptr.index_select(0, torch.searchsorted(level, ids[:depth]))
    root, leaf = ids[:num_roots].clone(), position.index_select(0, leaf_id)
    return [parent, order, position, up, root, starts, leaf, by_position, family_parent,
            family_ptr, key]  # fmt: skip


def _check(parent: Tensor) -> None:
    if not isinstance(parent, Tensor):
        raise TypeError(f"Expected 'parent' to be a tensor (got {type(parent).__name__})")
    if parent.dtype.is_floating_point or parent.dtype.is_complex or parent.dtype == torch.bool:
        raise TypeError(f"Expected 'parent' to hold integers (got {parent.dtype})")
    if parent.dim() != 1:
        raise ValueError(f"Expected 'parent' to be one-dimensional (got {parent.dim()} dimensions)")
    if parent.numel() == 0:
        raise ValueError("Expected 'parent' to hold at least one node (got an empty tree)")
    if parent.is_meta and type(parent) is Tensor:
        raise ValueError("Expected 'parent' to hold numbers (got one on meta: move the tree there)")


def _levels_and_counts(above: Tensor, degree: Tensor) -> tuple[Tensor, Tensor, int]:
    """Level and leaves of inner nodes, and depth: -1 with cycles, level 0 where none is above."""
    if above.numel() == 0:
        return above, degree, 0
    jump, reach = above, 1  # jump[a]: the ancestor `reach` levels above a, or a's root
    level = (above != torch.arange(above.numel(), device=above.device)).long()
    count = degree.index_add(0, above, level, alpha=-1)
    rounds = above.numel().bit_length()
    for i in range(1, rounds + 1):
        # count[a] will hold the leaves within 2 * reach levels below: all add to who is reach up.
        count = count.index_add(0, jump, torch.where(level == reach, count, 0))
        level = level + level.index_select(0, jump)
        reach *= 2
        # Asking a device whether this is enough costs more than some rounds too many.
        if above.device.type == "cpu" or i in (5, 15, 35, rounds):
            depth = int(level.max())
            if depth < reach:
                return level, count, depth + 1
        jump = jump.index_select(0, jump)
    return level[jump], count, -1
