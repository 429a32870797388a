"""The part of a tree that one of several processes holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from .tree import FIELDS, TreeIndex


@dataclass(frozen=True, eq=False)
class TreeShard(TreeIndex):
    r"""The leaves of one process of a group, and all tree nodes above them.

    As a :class:`~hsa_geometric.TreeIndex` it holds this process's leaves, the nodes above them, and
    their levels in the whole tree. Below the *cut* all nodes are here; the nodes at and above the
    cut are the *top*, which every process knows. Leaves of the top are the *pieces*: subtrees that
    lie on one process each. Attention, pooling and lifting take a shard where they take a tree, and
    all processes of the group must call them together;
    what needs the whole tree refuses it.

    Attributes:
        cut: ``[T]`` number in the top of each node here, by id; -1 below the cut.
        top: :class:`~hsa_geometric.TreeIndex` of the top; its ids ascend as those of the whole do.
        rank: ``[P]`` process that holds each piece, pieces in ascending number.
        depth_below: ``[P]`` levels below each piece.
        group: process group; :obj:`None` is the default one.
    """

    cut: Tensor
    top: TreeIndex
    rank: Tensor
    depth_below: Tensor
    group: Any = None

    @classmethod
    def of(
        cls,
        parent: Tensor,
        cut: Tensor,
        top_parent: Tensor,
        rank: Tensor,
        depth_below: Tensor,
        group: Any = None,
    ) -> TreeShard:
        """Index the nodes of a process, of which there may be none."""
        tensors = TreeIndex.from_parent(parent).tensors if parent.numel() else _nothing(parent)
        top = TreeIndex.from_parent(top_parent)
        fields: list[Any] = [*tensors, cut, top, rank, depth_below, group]
        return cls(*fields)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Cannot pickle a TreeShard: save its HierarchyShard, and attach it to a group"
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeShard:
        """The same shard on another device."""
        *tensors, key = self.tensors
        moved = [x.to(device, non_blocking=non_blocking) for x in tensors]
        cut, rank, depth = (
            x.to(device, non_blocking=non_blocking) for x in (self.cut, self.rank, self.depth_below)
        )
        fields: list[Any] = [*moved, key, cut, self.top.to(device), rank, depth, self.group]
        return TreeShard(*fields)

    @property
    def here(self) -> int:
        """Number of this process in the group."""
        return int(dist.get_rank(self.group))

    @property
    def size(self) -> int:
        """Number of processes in the group."""
        return int(dist.get_world_size(self.group))

    @property
    def _plan(self) -> Plan:
        """What attention needs to know of the cut; worked out once."""
        return self.once(("shard", self.here), lambda: Plan.of(self))

    def check_level(self, level: int) -> None:
        """Whether clusters at a level lie on one process each; the same on all processes.

        Raises:
            ValueError: if not.
        """
        over = self._levels_above(level) < 0
        if over.any():
            raise ValueError(
                f"Expected 'level' to be at or below the cut of a shard (got {level}, where "
                f"{int(over.sum())} of {over.numel()} pieces lie deeper; "
                f"shard_hierarchy(..., level={level}) leaves its clusters whole)"
            )

    def coarsened(self, parent: Tensor, node: Tensor, level: int) -> TreeShard:
        """The shard above a level: ``parent`` of its nodes, which are these ``node`` here."""
        below = torch.minimum(self.depth_below, self._levels_above(level))
        top = self.top.parent
        return TreeShard.of(parent, self.cut[node], top, self.rank, below, self.group)

    def _levels_above(self, level: int) -> Tensor:
        """``[P]`` how many levels below each piece a level is."""
        top = self.top
        at = top.level[top.leaf_ids]
        if level >= 0:
            return level - at
        tree, deepest = self._deepest()
        return (deepest[tree] + 1 + level).clamp(min=0) - at

    def _deepest(self) -> tuple[Tensor, Tensor]:
        """``[P]`` tree of each piece, and ``[trees]`` level of the deepest leaf of each."""
        top = self.top
        tree, level = roots(top)[top.leaf], top.level[top.leaf_ids] + self.depth_below
        return tree, level.new_zeros(top.num_trees).scatter_reduce(0, tree, level, "amax")

    @property
    def deepest(self) -> Tensor:
        """``[trees here]`` level of the deepest leaf of each tree, wherever that is."""

        def make() -> Tensor:
            _, deepest = self._deepest()
            return deepest[self.top.position[self.cut[self.order[self.root]]]]

        return self.once("deepest", make)


@dataclass(frozen=True, eq=False)
class Plan:
    """How a process's nodes hang below the top.

    Attributes:
        local: index of the nodes below the cut and the pieces here, each the root of a tree;
            :obj:`None` where nothing is here.
        node: ``[T_local]`` id in the shard of each node of ``local``; a slice where it is one.
        piece: ``[N]`` root in ``local`` of each leaf.
        top: of the trees that lie on several processes; :obj:`None` where there is none.
        mine: ``[P_here]`` row among the pieces of ``top`` of each root of ``local`` that is one.
        root: ``[P_here]`` these roots.
        whole: the other roots, of trees that one process holds.
        owned: ``[T_owned]`` id in the shard of each node of the top that this process tells of.
        piece_slot: ``[2, P]`` of each piece of ``top``: its process, and its place there.
        node_slot: ``[2, T_top]`` the same of the nodes of ``top``.
        tree_slot: ``[2, R]`` the same of the trees of the whole that one process holds; of others
            -1 and their place in ``top``.
        most_pieces: the most that one process tells of, as ``most_nodes`` and ``most_trees``.
    """

    local: TreeIndex | None
    node: Tensor | slice
    piece: Tensor
    top: TreeIndex | None
    mine: Tensor
    root: Tensor
    whole: Tensor
    owned: Tensor
    piece_slot: Tensor
    node_slot: Tensor
    tree_slot: Tensor
    most_pieces: int
    most_nodes: int
    most_trees: int

    @property
    def shared(self) -> bool:
        """Whether some tree lies on several processes."""
        return self.top is not None

    @classmethod
    def of(cls, shard: TreeShard) -> Plan:
        """Worked out from what every process knows, alike on all."""
        top, cut, here = shard.top, shard.cut, shard.here
        device = shard.device
        # Pieces by top id, with process; trees of one piece are whole.
        is_leaf = torch.zeros_like(top.parent, dtype=torch.bool)
        is_leaf[top.leaf_ids] = True
        is_root = top.parent == torch.arange(top.num_nodes, device=device)
        whole = is_leaf & is_root
        holder = torch.full_like(top.parent, shard.size)
        holder[top.leaf_ids] = shard.rank
        # A node above is told of by the process of lowest number below it.
        by_position = holder[top.order]
        starts = [*top.starts.tolist(), top.num_nodes]
        for low, high in reversed(list(pairwise(starts))):
            above = top.up[low:high]
            by_position = by_position.scatter_reduce(0, above, by_position[low:high], "amin")
        holder[top.order] = by_position

        # The nodes here that are at or below the cut.
        inside = cut < 0
        own = cut.clamp(min=0)
        mine = (cut >= 0) & is_leaf[own] if cut.numel() else inside
        keep = inside | mine
        node = keep.nonzero().view(-1)
        new = keep.cumsum(0) - 1
        local, piece = None, node
        if node.numel():
            above = torch.where(mine, torch.arange(cut.numel(), device=device), shard.parent)
            local = TreeIndex.from_parent(new[above[node]])
            piece = roots(local)[local.leaf]
        prefix = slice(0, node.numel())
        contiguous = bool((node == torch.arange(node.numel(), device=device)).all())

        split = ~whole
        kept = split.nonzero().view(-1)
        number = split.cumsum(0) - 1
        over = None if kept.numel() == 0 else TreeIndex.from_parent(number[top.parent[kept]])
        # What is told of stands in the order of the top, also where ids here do not.
        here_pieces = cut[node[local.order[local.root]]] if local is not None else cut[:0]
        by_number = torch.argsort(here_pieces)
        is_split = split[here_pieces[by_number]]
        mine_split, mine_whole = by_number[is_split], by_number[~is_split]
        split_piece = is_leaf & split
        row = split_piece.cumsum(0) - 1
        tells = (cut >= 0) & split[own] & (holder[own] == here) if cut.numel() else inside
        owned = tells.nonzero().view(-1)
        owned = owned[torch.argsort(cut[owned])]

        tree_roots = top.order[top.root]
        is_whole = whole[tree_roots]
        tree_slot = torch.stack([holder[tree_roots], torch.zeros_like(tree_roots)])
        tree_slot[1] = _places(torch.where(is_whole, tree_slot[0], shard.size))
        # Where a whole tree stands among the whole ones of its process; others in the top.
        at = over.position[number[tree_roots]] if over is not None else torch.zeros_like(tree_roots)
        tree_slot = torch.where(is_whole, tree_slot, torch.stack([torch.full_like(at, -1), at]))
        piece_at = holder[split_piece.nonzero().view(-1)]
        node_at = holder[kept]
        return cls(
            local, prefix if contiguous else node, piece, over,
            row[here_pieces[mine_split]], mine_split, mine_whole, owned,
            torch.stack([piece_at, _places(piece_at)]), torch.stack([node_at, _places(node_at)]),
            tree_slot, _most(piece_at), _most(node_at), _most(tree_slot[0][is_whole]),
        )  # fmt: skip


def roots(tree: TreeIndex) -> Tensor:
    """``[T]`` position of the root above each position, which is its number."""
    root = tree.up
    for _ in range(tree.depth.bit_length()):
        root = root[root]
    return root


def _places(group: Tensor) -> Tensor:
    """For each entry how many of the same number stand before it."""
    order = torch.argsort(group, stable=True)
    ordered = group[order]
    start = torch.searchsorted(ordered, ordered)
    out = torch.empty_like(group)
    out[order] = torch.arange(group.numel(), device=group.device) - start
    return out


def _most(group: Tensor) -> int:
    return int(torch.bincount(group).max()) if group.numel() else 0


def _nothing(parent: Tensor) -> list[Tensor]:
    """The tensors of an index of no nodes."""
    empty = parent.new_empty(0, dtype=torch.long)
    key = TreeIndex.from_parent(torch.zeros(1, dtype=torch.long)).key
    return [empty if name != "family_ptr" else empty.new_zeros(1) for name in FIELDS[:-1]] + [key]
