"""Arguments and keys at the door of surgery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_of


def check_hierarchy(h: Any, name: str = "h") -> None:
    """A hierarchy with a tree.

    Raises:
        TypeError: if it is something else.
        ValueError: if it has no tree, or one that is no forest.
    """
    if not isinstance(h, Hierarchy):
        raise TypeError(f"Expected '{name}' to be a Hierarchy (got {type(h).__name__})")
    if "parent" not in h:
        raise ValueError(f"Expected 'parent' in '{name}' (got none)")
    _ = h.tree


def check_integer(value: Any, name: str, least: int) -> None:
    """An integer that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be an integer (got {type(value).__name__})")
    if value < least:
        raise ValueError(f"Expected '{name}' to be at least {least} (got {value})")


def check_no_positions(h: Hierarchy) -> None:
    """Refuse positions within families where families change."""
    if h.tree_pos is not None:
        raise ValueError(
            "Expected no 'tree_pos' in 'h': it holds positions within families, and families "
            "change here (delete it, and set it anew afterwards)"
        )


def check_no_references(h: Hierarchy, handled: tuple[str, ...]) -> None:
    """Refuse keys that name leaves by row in a way that would be left pointing at other leaves."""
    for key in h.keys():  # noqa: SIM118 (of PyG's Data, not of a dict)
        if key in handled or key.endswith(("_batch", "_ptr")) or rows_of(key) != "other":
            continue
        if "index" in key or "adj" in key or key == "face":
            raise ValueError(
                f"Expected no key that names leaves by row but {list(handled)} (got '{key}'; "
                f"delete it, and set it anew afterwards)"
            )


def node_tensors(
    h: Hierarchy, kinds: tuple[str, ...] = ("tree", "inner")
) -> Iterator[tuple[str, Tensor]]:
    """Every key but ``parent`` with a row for each tree node or inner node.

    Raises:
        ValueError: at one that is no tensor, whose rows can only be left out, not moved or added.
    """
    for key in h.keys():  # noqa: SIM118
        if key == "parent" or rows_of(key) not in kinds:
            continue
        value = h[key]
        if not isinstance(value, Tensor):
            raise ValueError(
                f"Expected '{key}' to be a tensor, whose rows can be moved and added to (got "
                f"{type(value).__name__}; delete it first: del h['{key}'])"
            )
        yield key, value
