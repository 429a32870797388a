"""The tree, laid out for tensor code: :class:`TreeIndex` knows no PyG and holds plain tensors.

Words used everywhere in this package. A *leaf* has no children and carries a row of ``x``; the
children of one node are a *family*; *level* is the distance from the root; *up* means from child
to parent. Node **ids** are the caller's numbering. **Positions** are ours: nodes are sorted by
level and then by parent, so that a level is one slice and every family is one slice of a level.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .passes import Passes

# Columns of ``TreeIndex.levels``: one row for each level below the roots.
#   first family, last family + 1, first node, last node + 1, position of the first parent if the
#   parents are consecutive (else -1), family size if all families of the level agree (else 0), and
#   the slice of ``TreeIndex.inner`` that is on the level.
LEVEL_COLUMNS = 8


@dataclass(frozen=True, eq=False)
class TreeIndex:
    r"""A rooted forest in level order, built once and shared by every operator.

    Build it with :meth:`from_parent`; the constructor takes the finished tensors.

    Shapes:
        :obj:`T` tree nodes, :obj:`N` leaves, :obj:`F` families, :obj:`L` levels below the roots,
        :obj:`G` distinct family sizes. All tensors are int64.

    Attributes:
        parent: ``[T]`` id of each node's parent; a root points to itself.
        order: ``[T]`` node id at each position; ``position`` ``[T]`` is its inverse.
        up: ``[T]`` position of the parent of the node at each position.
        root: ``[R]`` position of each root, which is simply ``arange(R)``: trees in id order.
        leaf: ``[N]`` position of each leaf, leaves in ascending id: row order of ``x``.
        count: ``[T]`` number of leaves below the node at each position (1 for a leaf).
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
        levels: ``[L, 8]`` on the CPU, see :data:`LEVEL_COLUMNS`.
        sizes: ``[G, 4]`` on the CPU: family size, its slice of ``by_size``, and the position of the
            first member if the families of that size are consecutive (else -1).
        layout: ``[2]`` on the CPU: number of roots, and the position of the first leaf if the
            leaves are consecutive and in order (else -1).
        passes: how sweeps run where levels are many and thin, see :class:`~.passes.Passes`.

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
    leaf: Tensor
    count: Tensor
    family_parent: Tensor
    family_ptr: Tensor
    inner: Tensor
    inner_ptr: Tensor
    family_inner: Tensor
    above: Tensor
    by_size: Tensor
    levels: Tensor
    sizes: Tensor
    layout: Tensor
    passes: Passes

    @classmethod
    def from_parent(cls, parent: Tensor) -> TreeIndex:
        r"""Index a parent vector.

        Pointer doubling finds levels and leaf counts in :math:`\log_2` depth passes and one sort
        lays the nodes out; nothing loops over nodes or families.

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
        degree = torch.bincount(parent, minlength=num_nodes).sub_(is_root.long())
        is_leaf = degree == 0
        level, count = _levels_and_counts(parent, is_root, is_leaf)

        # Sorting by (level, parent id, id) makes levels and families slices. A stable sort keeps
        # the ids ascending within a family.
        order = torch.argsort(level * num_nodes + torch.where(is_root, 0, parent), stable=True)
        position = torch.empty_like(order)
        position[order] = ids
        up = position[parent[order]]
        degree = degree[order]

        leaf = position[is_leaf]
        num_roots = int(is_root.sum())
        below = up[num_roots:]
        starts = torch.ones(below.numel(), dtype=torch.bool, device=device)
        starts[1:] = below[1:] != below[:-1]
        first = starts.nonzero().view(-1) + num_roots
        family_parent = up[first]
        family_ptr = torch.cat([first, first.new_full((1,), num_nodes)])
        size = degree[family_parent]
        inner = degree.nonzero().view(-1)
        by_size = torch.stack(
            [
                torch.cat([ids[:num_roots], first]),
                torch.cat([torch.ones_like(ids[:num_roots]), size]),
            ]
        )
        by_size = by_size[:, torch.argsort(by_size[1], stable=True)]
        family_inner = torch.searchsorted(inner, family_parent)
        above = torch.full_like(up, inner.numel())
        above[num_roots:] = family_inner.repeat_interleave(size, output_size=num_nodes - num_roots)
        inner_ptr = torch.searchsorted(inner, family_ptr)
        levels = _level_table(level[order][first], family_parent, family_ptr, inner_ptr, size)
        return cls(
            parent=parent,
            order=order,
            position=position,
            up=up,
            root=ids[:num_roots],
            leaf=leaf,
            count=count[order],
            family_parent=family_parent,
            family_ptr=family_ptr,
            inner=inner,
            inner_ptr=inner_ptr,
            family_inner=family_inner,
            above=above,
            by_size=by_size,
            levels=levels,
            sizes=_size_table(*by_size),
            layout=torch.tensor([num_roots, _first_if_consecutive(leaf)]),
            passes=Passes.of(up, level[order], levels.shape[0]),
        )

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
        return self.levels.shape[0]

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
        if self.depth == 0:
            return torch.zeros_like(self.order)
        start = self.levels[:, 2].contiguous().to(self.device)
        at = torch.searchsorted(start, torch.arange(self.num_nodes, device=self.device), right=True)
        return at[self.position]

    @property
    def tensors(self) -> list[Tensor]:
        """What the kernels read: everything but the caller's numbering."""
        return [
            self.up,
            self.leaf,
            self.family_parent,
            self.family_ptr,
            self.inner,
            self.inner_ptr,
            self.family_inner,
            self.above,
            self.by_size,
            self.levels,
            self.sizes,
            self.layout,
            *self.passes,
        ]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeIndex:
        """The same index on another device. The small tables stay on the CPU."""
        host = ("levels", "sizes", "layout", "passes")
        moved = {
            f.name: getattr(self, f.name)
            if f.name in host
            else getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
        }
        table, *rows = self.passes
        rows = [x.to(device, non_blocking=non_blocking) for x in rows]
        return TreeIndex(**{**moved, "passes": Passes(table, *rows)})

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


def _levels_and_counts(parent: Tensor, is_root: Tensor, is_leaf: Tensor) -> tuple[Tensor, Tensor]:
    """Level and number of leaves of every node id, by pointer doubling."""
    jump, reach = parent, 1  # jump[a]: the ancestor `reach` levels above a, or a's root
    level = (~is_root).long()
    count = is_leaf.long()
    for _ in range(parent.numel().bit_length() + 1):
        # After this step count[a] holds the leaves within 2 * reach levels below a: a node adds
        # to the ancestor `reach` levels up, if it has one.
        count = count.index_add(0, jump, torch.where(level == reach, count, 0))
        step = level[jump]
        if not step.any():
            break
        level = level + step
        jump = jump[jump]
        reach *= 2
    lost = ~is_root[jump]
    if lost.any():
        node = int(lost.nonzero()[0])
        raise ValueError(
            f"Expected 'parent' to lead from every node to a root (got a cycle above node {node})"
        )
    return level, count


def _level_table(
    level: Tensor, parent: Tensor, ptr: Tensor, inner_ptr: Tensor, size: Tensor
) -> Tensor:
    """One row a level: where its families, members and parents are."""
    num_families = level.numel()
    if num_families == 0:
        return torch.empty(0, LEVEL_COLUMNS, dtype=torch.long)
    last = torch.ones(num_families, dtype=torch.bool, device=level.device)
    last[:-1] = level[1:] != level[:-1]
    end = last.nonzero().view(-1)
    begin = torch.cat([end.new_zeros(1), end[:-1] + 1])
    # A property of neighbours holds over a whole level where its running count of breaks stays.
    breaks = torch.zeros(2, num_families, dtype=torch.long, device=level.device)
    breaks[0, 1:] = parent[1:] != parent[:-1] + 1
    breaks[1, 1:] = size[1:] != size[:-1]
    breaks = breaks.cumsum(1)
    same = breaks[:, end] == breaks[:, begin]
    table = torch.stack(
        [
            begin,
            end + 1,
            ptr[begin],
            ptr[end + 1],
            torch.where(same[0], parent[begin], -1),
            torch.where(same[1], size[begin], 0),
            inner_ptr[begin],
            inner_ptr[end + 1],
        ],
        dim=1,
    )
    return table.cpu()


def _size_table(first: Tensor, size: Tensor) -> Tensor:
    """One row a family size: the size, its slice of the families sorted by size, and its start."""
    value, number = torch.unique_consecutive(size, return_counts=True)
    end = number.cumsum(0)
    begin = end - number
    consecutive = first[end - 1] - first[begin] == (number - 1) * value
    start = torch.where(consecutive, first[begin], -1)
    return torch.stack([value, begin, end, start], dim=1).cpu()


def _first_if_consecutive(x: Tensor) -> int:
    """The first entry of ``x`` if each is one more than the last, else -1."""
    return int(x[0]) if bool((x.diff() == 1).all()) else -1
