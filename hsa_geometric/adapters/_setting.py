"""What a replaced module attends along, and the trees of a batch that follow from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..builders.grids import from_grid
from ..builders.sequences._nest import nest
from ..builders.sequences._windows import as_windows
from ..functional.checks import as_tree
from ..functional.options import check_bool, check_integer, check_positive
from ..interactions._balls import balls
from ..interactions._descend import descend
from ..lists import InteractionLists, Side
from ..tree import TreeIndex

Structure = tuple[TreeIndex, InteractionLists | None]
_FOUND: OrderedDict[Any, Structure] = OrderedDict()  # of the last batches
KEPT = 64


class Seen(NamedTuple):
    """What one call of a module attends with: rows ``[N, H, D]`` of real tokens, and their trees.

    Attributes:
        q, k, v: queries, keys and values.
        scale: factor of the dot product.
        lengths: ``[B]`` tokens of each sequence.
        ids: ``[N]`` ids of the tokens, if the model has told.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    lengths: Tensor
    ids: Tensor | None


@dataclass(frozen=True)
class Setting:
    """The options of :func:`~hsa_geometric.adapters.replace_attention` for one module."""

    hierarchy: Any
    lists: Any
    sinks: tuple[int, ...]
    special_ids: tuple[int, ...]
    self_loop: bool

    def __post_init__(self) -> None:
        h = self.hierarchy
        if isinstance(h, str):
            if h not in ("star", "grid"):
                raise ValueError(
                    f"Expected 'hierarchy' to be 'star', 'grid', sizes of windows, a tree or a "
                    f"function (got {h!r})"
                )
        elif isinstance(h, int) and not isinstance(h, bool):
            check_integer(h, "hierarchy", 2)
        elif isinstance(h, tuple):
            for size in h:
                check_integer(size, "hierarchy", 1)
            for fine, coarse in pairwise(h):
                if coarse <= fine or coarse % fine:
                    raise ValueError(
                        f"Expected windows of 'hierarchy' to grow by whole multiples (got {h})"
                    )
        elif not callable(h):
            as_tree(h)
        if self.lists is not None and not callable(self.lists):
            check_positive(self.lists, "lists")
        for name in ("sinks", "special_ids"):
            for place in getattr(self, name):
                check_integer(place, name)
        check_bool(self.self_loop, "self_loop")

    @property
    def ours(self) -> bool:
        """Whether trees are built here, from nothing but lengths."""
        return isinstance(self.hierarchy, (str, int, tuple))

    def structure(self, seen: Seen, name: str) -> Structure:
        """Tree and lists of a batch of sequences one behind the other; cached where they can be."""
        q, k, lengths = seen.q, seen.k, seen.lengths
        sink = self._sinks(lengths, seen.ids, name)
        fixed = not callable(self.lists) and not callable(self.hierarchy)
        key = (self, str(q.device), tuple(lengths.tolist()), tuple(sink.nonzero()[:, 0].tolist()))
        if fixed and key in _FOUND:
            _FOUND.move_to_end(key)
            return _FOUND[key]
        tree, pos = self._tree(lengths, sink, name)
        tree, lists = tree.to(q.device), None
        if callable(self.lists):
            lists = self.lists(tree, q, k)
            if lists is not None and not isinstance(lists, InteractionLists):
                raise TypeError(
                    f"Expected 'lists' to return InteractionLists or None in {name} "
                    f"(got {type(lists).__name__})"
                )
        elif tree.depth > 1 and (self.lists is not None or bool(sink.any())):
            lists = _lists(tree, pos.to(q.device), sink.to(q.device), self.lists)
        if fixed:
            _FOUND[key] = tree, lists
            if len(_FOUND) > KEPT:
                _FOUND.popitem(last=False)
        return tree, lists

    def _sinks(self, lengths: Tensor, ids: Tensor | None, name: str) -> Tensor:
        """``[N]`` whether a token is a sink."""
        sink = torch.zeros(int(lengths.sum()), dtype=torch.bool)
        first = lengths.cumsum(0) - lengths
        for place in self.sinks:
            at = place if place >= 0 else lengths + place
            fits = (at < lengths) & (torch.as_tensor(at) >= 0)
            sink[(first + at)[fits]] = True
        if self.special_ids:
            if ids is None or ids.shape != sink.shape:
                raise ValueError(
                    f"Expected input_ids for the 'special_ids' of {name} (got a model without an "
                    f"embedding of tokens, or inputs_embeds)"
                )
            sink |= torch.isin(ids.cpu(), torch.tensor(self.special_ids))
        return sink

    def _tree(self, lengths: Tensor, sink: Tensor, name: str) -> tuple[TreeIndex, Tensor]:
        """The forest, and positions of the tokens within their sequences."""
        h, number = self.hierarchy, torch.repeat_interleave(lengths)
        pos = torch.arange(sink.numel()) - (lengths.cumsum(0) - lengths)[number]
        if isinstance(h, str) and h == "grid":
            return _grids(lengths, sink, name)
        if not self.ours:
            tree = _fitting(as_tree(h(lengths) if callable(h) else h), lengths, name)
            above = tree.up[tree.leaf].cpu()[sink]
            if bool((tree.up.cpu()[above] != above).any()):
                raise ValueError(
                    f"Expected 'sinks' to hang directly below the root of a tree of your own in "
                    f"{name} (got some within a block)"
                )
            return tree, pos.view(-1, 1)
        if isinstance(h, int):
            h = [size for (size,) in as_windows(None, h, (int(lengths.max()),), h)]
        return _windows(lengths, number, sink, () if h == "star" else h), pos.view(-1, 1)


def _windows(lengths: Tensor, number: Tensor, sink: Tensor, windows: Sequence[int]) -> TreeIndex:
    """Windows over all but the sinks, which hang below the root."""
    inside = torch.zeros_like(lengths).index_add(0, number, (~sink).long())
    place = (~sink).long().cumsum(0) - 1 - (inside.cumsum(0) - inside)[number]
    levels = []
    for size in windows:
        count = (inside + size - 1) // size
        unit = place // size + (count.cumsum(0) - count)[number]
        levels.append(torch.where(sink, -1, unit))
    return TreeIndex.from_parent(nest(levels, number, collapse=False).parent)


def _grids(lengths: Tensor, sink: Tensor, name: str) -> tuple[TreeIndex, Tensor]:
    """A quadtree for each image, over all its tokens but the sinks."""
    length = int(lengths[0])
    sink = sink[:length]
    patches = int((~sink).sum())
    side = round(patches**0.5)
    if side * side != patches or bool((lengths != length).any()):
        raise ValueError(
            f"Expected a square of patches beside the sinks in {name} "
            f"(got {patches} of {length} tokens; name the places of the others in 'sinks')"
        )
    h = from_grid((side, side), collapse=False)
    up = h.parent + (length - patches)
    root = int(h.num_tree_nodes) - 1 + (length - patches)
    parent = torch.full((root + 1,), root)
    parent[:length][~sink] = up[:patches]
    parent[length:] = up[patches:]
    samples = torch.arange(lengths.numel()).unsqueeze(1)
    pos = torch.zeros(length, 2).masked_scatter(~sink.unsqueeze(1), h.pos.float())
    tree = TreeIndex.from_parent((parent + samples * parent.numel()).flatten())
    return tree, pos.repeat(lengths.numel(), 1)


def _fitting(tree: TreeIndex, lengths: Tensor, name: str) -> TreeIndex:
    """A given forest of the sequences, or a tree that is repeated for each."""
    if tree.num_trees == 1 and lengths.numel() > 1:
        samples = torch.arange(lengths.numel(), device=tree.device).unsqueeze(1)
        tree = TreeIndex.from_parent((tree.parent + samples * tree.num_nodes).flatten())
    leaves = Side.of(tree).trees[tree.leaf].cpu()
    wanted = torch.repeat_interleave(lengths)
    if not torch.equal(leaves, wanted):
        raise ValueError(
            f"Expected trees of {lengths.tolist()} leaves, one for each sequence, in {name} "
            f"(got {torch.bincount(leaves).tolist()})"
        )
    return tree


def _lists(tree: TreeIndex, pos: Tensor, sink: Tensor, angle: float | None) -> InteractionLists:
    """Near nodes meet, and each token meets each sink of its sequence."""
    exact = torch.zeros(tree.num_nodes, dtype=torch.bool, device=tree.device)
    exact[tree.leaf] = sink
    center, radius = balls(pos, tree)

    def choose(query: Tensor, key: Tensor) -> Tensor:
        opened = exact[query] | exact[key] | (query == key)
        if angle is not None:
            apart = (center[query] - center[key]).square().sum(1).sqrt()
            opened |= radius[query] + radius[key] > angle * apart
        return opened

    return descend(tree, tree, choose)
