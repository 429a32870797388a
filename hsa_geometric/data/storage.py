"""The store behind a hierarchy: it knows what rows are, and keeps what follows from the tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data.storage import GlobalStorage
from torch_geometric.utils import is_sparse

from hsa_geometric.data.rows import Rows, count_rows, is_follower, rows_by_name, type_number


class HierarchyStorage(GlobalStorage):  # type: ignore[misc]
    r"""A store whose graph nodes are the leaves of :obj:`parent`.

    PyG asks the store, not the data object, how many nodes there are and which keys have a row for
    each node or edge. It guesses from names and sizes; here a **record** comes first, of what was
    passed to a builder: ``'leaf'`` or ``'sample'``, or ``'either'`` where one row is both, as in a
    tree of one leaf; or ``'type 2'``, a row for each leaf whose :obj:`leaf_type` is 2. It goes
    wherever the keys go: into copies, pickles, batches and back.

    What is derived from :obj:`parent` is remembered beside the mapping, never in it, so PyG neither
    collates nor moves it. It holds for one tensor in one state: another tensor under
    :obj:`parent` or an in-place change makes it void. It is left out of pickles and deep copies.

    Names of methods begin with an underscore: ``h.name`` would find them before a key.
    """

    # What follows from `parent` ###############################################################

    def _derive(self, key: str, build: Callable[[Tensor], Any]) -> Any:
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
            return int(self._derive("num_leaves", _count_leaves))
        return super().num_nodes

    # What rows are ############################################################################

    def _recorded(self) -> dict[str, str]:
        """What was recorded; it may be shared with copies and is never changed in place."""
        record: dict[str, str] = self.__dict__.get("_record", {})
        return record

    def _set_recorded(self, record: Mapping[str, str]) -> None:
        if record:
            self.__dict__["_record"] = dict(record)
        else:
            self.__dict__.pop("_record", None)

    def _forget(self, key: str) -> None:
        record = self._recorded()
        if key in record:
            self._set_recorded({other: rows for other, rows in record.items() if other != key})

    def _count(self, value: Any) -> int | None:
        """Number of rows; in a batch a list holds a list of rows for each sample."""
        ptr = self.get("ptr")
        if not isinstance(value, list) or not isinstance(ptr, Tensor):
            return count_rows(value)
        parts = [count_rows(part) for part in value]
        return int(ptr[-1]) if parts == ptr.diff().tolist() else None

    def _rows_of(self, key: str) -> Rows:
        by_name, recorded = rows_by_name(key), self._recorded().get(key)
        if by_name is not None:
            return by_name
        if recorded in ("leaf", "sample"):
            return "leaf" if recorded == "leaf" else "sample"
        if type_number(recorded) is not None:
            return "typed"
        if recorded is None and is_follower(key, self._mapping):
            return "other"
        value = self[key]
        if recorded is None and ("index" in key or key.startswith("adj") or is_sparse(value)):
            return "reference"
        count = self._count(value)
        if count is None:
            return "sample"
        # PyG takes what has as many rows for data of nodes and of edges at once; here it is one.
        of_edges = recorded is None and self._has_edges() and count == self.num_edges
        if of_edges and "edge" in key:
            return "edge"
        if count == self.num_nodes:
            return "leaf"
        return "edge" if of_edges and count > 1 else "sample"

    def _has_edges(self) -> bool:
        return any(key in self._mapping for key in ("edge_index", "adj", "adj_t"))

    def is_node_attr(self, key: str) -> bool:
        """Whether there is a row for each leaf."""
        if "parent" not in self:
            return bool(super().is_node_attr(key))
        return self._rows_of(key) == "leaf" and self._count(self[key]) == self.num_nodes

    def is_edge_attr(self, key: str) -> bool:
        """Whether there is a row for each edge."""
        if "parent" not in self:
            return bool(super().is_edge_attr(key))
        rows, value = self._rows_of(key), self[key]
        if rows == "edge":
            return self._count(value) == self.num_edges
        if rows != "reference" or not isinstance(value, Tensor) or is_sparse(value):
            return False
        dim = self._parent().__cat_dim__(key, value, self)  # the last one, of `edge_index`
        return value.dim() > 0 and value.size(dim) == self.num_edges

    @property
    def num_edges(self) -> int:
        """Number of edges between leaves."""
        edge_index = self.get("edge_index")
        if isinstance(edge_index, Tensor) and not is_sparse(edge_index) and "num_edges" not in self:
            return int(edge_index.size(-1))
        own, record = ("tree", "inner", "leaf"), self._recorded()
        rest = {k: v for k, v in self.items() if rows_by_name(k) not in own and k not in record}
        return int(GlobalStorage(rest, _parent=self._parent()).num_edges)

    # What is written ##########################################################################

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "_record":  # from `to_dict`, item by item
            self._set_recorded(self._recorded() | value)
            return
        old = self._mapping.get(key)
        if old is not None and "parent" in self._mapping:
            self._check_replaced(key, old, value)
        super().__setitem__(key, value)
        if value is None:
            self._forget(key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._forget(key)

    def _check_replaced(self, key: str, old: Any, value: Any) -> None:
        """Refuse to add or remove rows of leaves without the tree.

        Transforms do that which know nothing of it. What has as many rows as before passes at once.
        """
        if value is None or type_number(self._recorded().get(key)) is not None:
            return  # `validate` counts rows of types, which change after those of the leaves
        recorded, by_name = self._recorded().get(key), rows_by_name(key)
        if key == "num_nodes":
            before, after = old, value
        elif recorded is not None or by_name == "leaf":
            before, after = self._count(old), self._count(value)
        else:
            return
        if before == after or (after is None and by_name and not isinstance(value, Tensor)):
            return
        leaves = self.num_nodes
        leaf = by_name is not None or (recorded == "leaf" and after not in (None, 1))
        if leaf and after != leaves:
            raise ValueError(
                f"Expected '{key}' to have one row for each of the {leaves} leaves (got "
                f"{after or 0} rows), which come and go with their tree: set 'parent' first, take "
                f"'subgraph' or a function of hsa_geometric.surgery, or transform the Data before "
                f"its hierarchy is built" + f" (or del h['{key}'] first)" * (by_name is None)
            )
        if recorded is not None:
            kept = recorded if recorded == "leaf" else "either"
            self._set_recorded(self._recorded() | {key: kept if after == leaves else "sample"})

    # Copies ###################################################################################

    def to_dict(self) -> dict[str, Any]:
        """All that is stored and, as PyG does with ``_num_nodes``, what is known beside it."""
        out: dict[str, Any] = super().to_dict()
        if self._recorded():
            out["_record"] = self._recorded()
        return out

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
