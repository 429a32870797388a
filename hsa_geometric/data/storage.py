"""The store behind a hierarchy: it counts leaves, and remembers what it derived from the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data.storage import GlobalStorage


class HierarchyStorage(GlobalStorage):  # type: ignore[misc]
    r"""A store whose graph nodes are the leaves of :obj:`parent`.

    PyG's collation asks the store, not the data object, how many nodes there are and whether
    that can be known: with :obj:`parent` it always can, whatever other keys there are.

    What is derived from :obj:`parent` is remembered beside the mapping, never in it, so PyG neither
    collates nor moves it. It holds for one tensor in one state: another tensor under
    :obj:`parent` or an in-place change makes it void. It is left out of pickles and deep copies.
    """

    def derive(self, key: str, build: Callable[[Tensor], Any]) -> Any:
        """Return ``build(parent)``, built at most once for the present :obj:`parent`."""
        parent = self["parent"]
        # Inference tensors carry no version; they cannot be changed outside inference mode.
        version = -1 if parent.is_inference() else parent._version
        memo: tuple[Tensor, int, dict[str, Any]] | None = self.__dict__.get("_memo")
        if memo is None or memo[0] is not parent or memo[1] != version:
            memo = self.__dict__["_memo"] = (parent, version, {})
        if key not in memo[2]:
            memo[2][key] = build(parent)
        return memo[2][key]

    @property
    def can_infer_num_nodes(self) -> bool:
        """Whether the number of leaves is known."""
        return "parent" in self or bool(super().can_infer_num_nodes)

    @property
    def num_nodes(self) -> int | None:
        """Number of leaves."""
        if isinstance(self.get("parent"), Tensor):
            return int(self.derive("num_leaves", _count_leaves))
        return super().num_nodes

    def __deepcopy__(self, memo: dict[int, Any] | None) -> HierarchyStorage:
        out: HierarchyStorage = super().__deepcopy__(memo)
        out.__dict__.pop("_memo", None)
        return out

    def __getstate__(self) -> dict[str, Any]:
        out: dict[str, Any] = super().__getstate__()
        out.pop("_memo", None)
        return out


def _count_leaves(parent: Tensor) -> int:
    # Asked before anything is validated (by repr, by collation): invalid ids count for nothing.
    parent = parent.detach().reshape(-1).long()
    ids = torch.arange(parent.numel(), device=parent.device)
    valid = (parent != ids) & (parent >= 0) & (parent < parent.numel())
    is_leaf = torch.ones(parent.numel() + 1, dtype=torch.bool, device=parent.device)
    is_leaf.index_fill_(0, torch.where(valid, parent, parent.numel()), False)
    return int(is_leaf[:-1].sum())
