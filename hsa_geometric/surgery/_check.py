"""Arguments and keys at the door of surgery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_by_name


def check_hierarchy(h: Any, name: str = "h") -> None:
    """A hierarchy with a tree."""
    if not isinstance(h, Hierarchy):
        raise TypeError(f"Expected '{name}' to be a Hierarchy (got {type(h).__name__})")
    if "parent" not in h:
        raise ValueError(f"Expected 'parent' in '{name}' (got none)")
    _ = h.tree


def check_no_positions(h: Hierarchy) -> None:
    """Refuse positions within families where families change."""
    if h.tree_pos is not None:
        raise ValueError(
            "Expected no 'tree_pos' in 'h': it holds positions within families, and families "
            "change here (delete it, and set it anew afterwards)"
        )


def node_rows(
    h: Hierarchy, kinds: tuple[str, ...] = ("tree", "inner")
) -> Iterator[tuple[str, Any]]:
    """Every key but ``parent`` with a row for each tree node or inner node, and its value.

    That is a tensor, or the names of nodes: one record, or in a batch a list of them.
    """
    for key in h.keys():  # noqa: SIM118
        if key == "parent" or rows_by_name(key) not in kinds:
            continue
        value = h[key]
        splits = "_slice_dict" in h._store.__dict__  # into the samples whose records are listed
        records = value if isinstance(value, list) and splits else [value]
        if not isinstance(value, Tensor) and not all(hasattr(r, "select") for r in records):
            raise ValueError(
                f"Expected '{key}' to be a tensor, whose rows can be moved and added to (got "
                f"{type(value).__name__}; delete it first: del h['{key}'])"
            )
        yield key, value
