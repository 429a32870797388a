"""The tree, laid out for tensor code: :class:`TreeIndex` knows no PyG and holds plain tensors.

Words used everywhere in this package. A *leaf* has no children and carries a row of ``x``; the
children of one node are a *family*; *level* is the distance from the root; *up* means from child
to parent. Node **ids** are the caller's numbering. **Positions** are ours: nodes are sorted by
level and then by parent, so that a level is one slice and every family is one slice of a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from .passes import PASS_COLUMNS, Passes

LEVEL_COLUMNS, SIZE_COLUMNS = 8, 4


class Layout(NamedTuple):
    r"""Where families, levels and sizes are: what kernels read beside ``up`` and ``leaf``.

    Shapes:
        :obj:`T` tree nodes, :obj:`R` roots, :obj:`F` families, :obj:`L` levels below the roots,
        :obj:`G` distinct family sizes. All tensors are int64.

    Attributes:
        family_parent: ``[F]`` position of each family's parent, families in storage order.
        family_ptr: ``[F + 1]`` members of family ``f`` are positions
            ``family_ptr[f]:family_ptr[f + 1]``.
        inner: ``[F]`` position of each inner node, ascending.
        inner_ptr: ``[F + 1]`` inner members of family ``f`` are
            ``inner[inner_ptr[f]:inner_ptr[f + 1]]``.
        family_inner: ``[F]`` which inner node is the family's parent:
            ``inner[family_inner] == family_parent``.
        above: ``[T]`` which inner node is the parent of the node at each position; ``F`` for a
            root.
        by_size: ``[2, R + F]`` first member and size of each family, sorted by size. Each root is a
            family of one here, so that every node belongs to one.
        levels: ``[L, 8]`` on the CPU, of each level below the roots: first family, last family + 1,
            first node, last node + 1, position of the first parent if the parents are consecutive
            (else -1), family size if all families of the level agree (else 0), and the slice of
            ``inner`` that is on the level.
        sizes: ``[G, 4]`` on the CPU: family size, its slice of ``by_size``, and the position of the
            first member if the families of that size are consecutive (else -1).
        passes: how sweeps run where levels are many and thin.
        num_roots: number of trees.
        first_leaf: position of the first leaf if the leaves are consecutive and in order (else -1).
    """

    family_parent: Tensor
    family_ptr: Tensor
    inner: Tensor
    inner_ptr: Tensor
    family_inner: Tensor
    above: Tensor
    by_size: Tensor
    levels: Tensor
    sizes: Tensor
    passes: Passes
    num_roots: int
    first_leaf: int

    @classmethod
    def of(cls, packed: Tensor, numbers: Tensor) -> Layout:
        """Views of what :class:`TreeIndex` holds in two tensors.

        An operator with a list of twenty tensors would take longer to walk it than to compute on a
        small tree.
        """
        num_roots, first_leaf, num_nodes, f, k, m, *rows = numbers[:9].tolist()
        widths = [f, f + 1, f, f + 1, f, num_nodes, 2 * (num_roots + f), k, k, m, m + 1]
        parts: list[Any] = list(packed.split(widths))
        passes = parts[7:]
        parts[6:] = [parts[6].view(2, -1)]
        columns = [LEVEL_COLUMNS, SIZE_COLUMNS, PASS_COLUMNS]
        tables = numbers[9:].split([n * c for n, c in zip(rows, columns, strict=True)])
        levels, sizes, table = (x.view(c, -1).t() for x, c in zip(tables, columns, strict=True))
        parts += [levels, sizes, Passes(table, *passes), num_roots, first_leaf]
        return cls(*parts)


# After which rounds of pointer doubling, levels below 2^5, 2^15 and 2^35, a device is asked whether
# they were enough: waiting for its answer costs it more than some rounds too many. On the CPU
# looking costs nothing.
LOOKS = (5, 15, 35)


@dataclass(frozen=True, eq=False)
class TreeIndex:
    r"""A rooted forest in level order, built once and shared by every operator.

    Build it with :meth:`from_parent`; the constructor takes the finished tensors.

    Shapes:
        :obj:`T` tree nodes, :obj:`N` leaves, :obj:`R` roots, :obj:`L` levels below the roots. All
        tensors are int64.

    Attributes:
        parent: ``[T]`` id of each node's parent; a root points to itself.
        order: ``[T]`` node id at each position; ``position`` ``[T]`` is its inverse.
        up: ``[T]`` position of the parent of the node at each position.
        root: ``[R]`` position of each root, which is simply ``arange(R)``: trees in id order.
        starts: ``[L]`` position of the first node of each level below the roots.
        leaf: ``[N]`` position of each leaf, leaves in ascending id: row order of ``x``.
        count: ``[T]`` number of leaves below the node at each position (1 for a leaf).
        packed: the other tensors of :attr:`layout`, one after another.
        numbers: its numbers and tables, always on the CPU.

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
    packed: Tensor
    numbers: Tensor

    @classmethod
    def from_parent(cls, parent: Tensor) -> TreeIndex:
        r"""Index a parent vector.

        Pointer doubling finds levels and leaf counts in :math:`\log_2` depth passes over the inner
        nodes and one sort lays all nodes out; nothing loops over nodes or families. A device is
        waited for 4 times, and up to 3 times more where there are more than 32 levels.

        Args:
            parent: ``[T]`` integer id of each node's parent; a root points to itself.

        Raises:
            TypeError: if :obj:`parent` is no integer tensor.
            ValueError: if it is empty, not one-dimensional, out of range, or contains a cycle.
        """
        parent = _check_parent(parent)
        num_nodes, device = parent.numel(), parent.device
        ids = torch.arange(num_nodes, device=device)
        is_root = parent == ids
        degree = torch.zeros_like(ids).index_add_(0, parent, (~is_root).long())
        is_inner = degree > 0
        num_roots, num_inner = torch.stack([is_root, is_inner]).sum(1).tolist()

        # Leaves are most of a tree and know their place by their parents': the search is for the
        # levels of inner nodes, by ascending id.
        rank = is_inner.cumsum(0).sub_(1)  # of an inner node among them
        both = torch.empty_like(ids)  # inner nodes, then leaves
        both.index_copy_(0, torch.where(is_inner, rank, ids - rank + (num_inner - 1)), ids)
        inner_id, leaf_id = both[:num_inner], both[num_inner:]
        degree = degree.index_select(0, inner_id)
        over = rank.index_select(0, parent.index_select(0, inner_id))
        level, count, depth = _levels_and_counts(over, degree)
        if depth < 0:
            _raise_cycle(parent, inner_id[level > 0])
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
        leaf = position.index_select(0, leaf_id)
        family_parent = position.index_select(0, family_id)
        up = torch.cat([ids[:1], family_parent]).index_select(0, number)
        up[:num_roots] = ids[:num_roots]
        family_ptr = torch.cat([size.new_full((1,), num_roots), size]).cumsum(0)
        by_position = torch.ones_like(ids)
        by_position.index_copy_(0, family_parent, count.index_select(0, family))

        before = ids.new_zeros(num_nodes + 1)  # inner nodes before each position
        before = before.index_fill_(0, family_parent + 1, 1).cumsum(0)
        family_inner = before.index_select(0, family_parent)
        inner_ptr = before.index_select(0, family_ptr)
        inner = torch.empty_like(family_parent)
        inner.index_copy_(0, family_inner, family_parent)
        above = torch.cat([before[-1:], family_inner]).index_select(0, number)

        by_size = torch.cat([torch.ones_like(ids[:num_roots]), size])
        by_size, at = torch.sort(by_size, stable=True)
        first = torch.cat([ids[:num_roots], family_ptr[:-1]]).index_select(0, at)

        # Tables of a level or a size per row, column after column, read back in one copy. Leaves
        # are consecutive and in order if none is away from where the first one puts it.
        num_away = (leaf[:1] + ids[: leaf.numel()] != leaf).sum().view(1)
        size_columns, num_sizes = _size_columns(first, by_size, num_nodes)
        columns = _level_columns(level, depth, family_parent, family_ptr, inner_ptr, size)
        host = torch.cat([*columns, *size_columns, num_sizes, leaf[:1], num_away]).cpu()
        end = depth * LEVEL_COLUMNS
        found, first_leaf, away = host[-3:].tolist()
        levels, sizes = host[:end], host[end:-3].view(SIZE_COLUMNS, -1)[:, :found].reshape(-1)
        table, *passes = Passes.of(up, levels[2 * depth : 3 * depth])
        counts = [num_nodes, num_inner, passes[0].numel(), passes[2].numel()]
        counts = [num_roots, -1 if away else first_leaf, *counts, depth, found, len(table)]
        pieces = [family_parent, family_ptr, inner, inner_ptr, family_inner, above, first, by_size]
        return cls(
            parent=parent,
            order=order,
            position=position,
            up=up,
            root=ids[:num_roots].clone(),
            starts=columns[2].clone(),
            leaf=leaf,
            count=by_position,
            packed=torch.cat([*pieces, *passes]),
            numbers=torch.cat([torch.tensor(counts), levels, sizes, table.t().reshape(-1)]),
        )

    @property
    def layout(self) -> Layout:
        """Families, levels and sizes, read from :attr:`packed` and :attr:`numbers`."""
        return Layout.of(self.packed, self.numbers)

    @property
    def tensors(self) -> list[Tensor]:
        """What operators receive of a tree."""
        return [self.up, self.leaf, self.packed, self.numbers]

    @property
    def num_nodes(self) -> int:
        """Number of tree nodes, leaves included."""
        return self.up.numel()

    @property
    def num_leaves(self) -> int:
        """Number of leaves: rows of ``x``."""
        return self.leaf.numel()

    @property
    def num_trees(self) -> int:
        """Number of roots."""
        return self.root.numel()

    @property
    def depth(self) -> int:
        """Number of levels below the roots: 0 where every tree is one leaf."""
        return self.starts.numel()

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

    @property
    def family_parent(self) -> Tensor:
        """``[F]`` position of each family's parent, families in storage order."""
        return self.layout.family_parent

    @property
    def family_ptr(self) -> Tensor:
        """``[F + 1]`` members of family ``f`` are ``family_ptr[f]:family_ptr[f + 1]``."""
        return self.layout.family_ptr

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeIndex:
        """The same index on another device; :attr:`numbers` are copied, but stay on the CPU."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "numbers"}
        moved = {k: x.to(device, non_blocking=non_blocking) for k, x in moved.items()}
        # Operators know a tree by the identity of its numbers.
        return TreeIndex(**moved, numbers=self.numbers.clone())

    def __repr__(self) -> str:
        return (
            f"TreeIndex(leaves={self.num_leaves}, nodes={self.num_nodes}, "
            f"trees={self.num_trees}, depth={self.depth})"
        )


def _check_parent(parent: Tensor) -> Tensor:
    if not isinstance(parent, Tensor):
        raise TypeError(f"Expected 'parent' to be a tensor (got {type(parent).__name__})")
    if parent.dtype.is_floating_point or parent.dtype.is_complex or parent.dtype == torch.bool:
        raise TypeError(f"Expected 'parent' to hold integers (got {parent.dtype})")
    if parent.dim() != 1:
        raise ValueError(f"Expected 'parent' to be one-dimensional (got {parent.dim()} dimensions)")
    if parent.numel() == 0:
        raise ValueError("Expected 'parent' to hold at least one node (got an empty tree)")
    parent = parent.detach().long()
    low, high = torch.stack(parent.aminmax()).tolist()
    if low < 0 or high >= parent.numel():
        node = int(((parent < 0) | (parent >= parent.numel())).nonzero()[0])
        raise ValueError(
            f"Expected 'parent' to hold node ids in [0, {parent.numel() - 1}] "
            f"(got parent[{node}] = {int(parent[node])}); a root points to itself"
        )
    return parent


def _levels_and_counts(above: Tensor, degree: Tensor) -> tuple[Tensor, Tensor, int]:
    """Level and number of leaves of every inner node, by pointer doubling, and the forest's depth.

    If there are cycles the depth is -1, and the level is 0 for those nodes that no cycle is above.

    Args:
        above: ``[F]`` which inner node is the parent of each; a root is its own.
        degree: ``[F]`` number of children.
    """
    if above.numel() == 0:
        return above, degree, 0
    jump, reach = above, 1  # jump[a]: the ancestor `reach` levels above a, or a's root
    level = (above != torch.arange(above.numel(), device=above.device)).long()
    count = degree.index_add(0, above, level, alpha=-1)
    rounds = above.numel().bit_length()
    for i in range(1, rounds + 1):
        # After this step count[a] holds the leaves within 2 * reach levels below a: a node adds
        # to the ancestor `reach` levels up, if it has one.
        count = count.index_add(0, jump, torch.where(level == reach, count, 0))
        level = level + level.index_select(0, jump)
        reach *= 2
        if above.device.type == "cpu" or i in LOOKS or i == rounds:
            depth = int(level.max())
            if depth < reach:
                return level, count, depth + 1
        jump = jump.index_select(0, jump)
    return level[jump], count, -1


def _raise_cycle(parent: Tensor, lost: Tensor) -> NoReturn:
    is_lost = torch.zeros_like(parent, dtype=torch.bool)
    node = int(is_lost.index_fill_(0, lost, True)[parent].nonzero()[0])
    raise ValueError(
        f"Expected 'parent' to lead from every node to a root (got a cycle above node {node})"
    )


def _level_columns(
    level: Tensor, depth: int, parent: Tensor, ptr: Tensor, inner_ptr: Tensor, size: Tensor
) -> list[Tensor]:
    """The columns of :attr:`Layout.levels`."""
    if depth == 0:
        return [level.new_empty(0)] * LEVEL_COLUMNS
    rows = torch.arange(max(depth + 1, level.numel()), device=level.device)
    bounds = torch.searchsorted(level, rows[: depth + 1])
    begin, end = bounds[:-1], bounds[1:]
    # A property of neighbours holds over a whole level where its running count of breaks stays.
    both = torch.stack([parent - rows[: level.numel()], size])
    breaks = torch.zeros_like(both)
    breaks[:, 1:] = both[:, 1:] != both[:, :-1]
    breaks = breaks.cumsum(1)
    apart, unequal = breaks.index_select(1, begin) != breaks.index_select(1, end - 1)
    node, inner = ptr.index_select(0, bounds), inner_ptr.index_select(0, bounds)
    return [
        begin,
        end,
        node[:-1],
        node[1:],
        parent.index_select(0, begin).masked_fill_(apart, -1),
        size.index_select(0, begin).masked_fill_(unequal, 0),
        inner[:-1],
        inner[1:],
    ]


def _size_columns(first: Tensor, size: Tensor, total: int) -> tuple[list[Tensor], Tensor]:
    """The columns of :attr:`Layout.sizes`, from first members and sizes sorted by size.

    Also the number of rows, ``[1]``: sizes that add up to ``total`` are at most so many different
    ones that more rows, without meaning, do no harm.
    """
    rank = torch.zeros_like(size)
    rank[1:] = size[1:] != size[:-1]
    rank = rank.cumsum(0)
    most = min(size.numel(), (math.isqrt(8 * total + 1) - 1) // 2)
    bounds = torch.searchsorted(rank, torch.arange(most + 1, device=size.device))
    begin, end = bounds[:-1].clamp(max=size.numel() - 1), bounds[1:]
    value, start = size.index_select(0, begin), first.index_select(0, begin)
    apart = first.index_select(0, end - 1) - start != (end - begin - 1) * value
    return [value, begin, end, start.masked_fill_(apart, -1)], rank[-1:] + 1
