"""What must hold in a hierarchy, besides what PyG checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hsa_geometric.data.rows import count_rows, rows_by_name, type_number

if TYPE_CHECKING:
    from hsa_geometric.data.hierarchy import Hierarchy


def check_contents(h: Hierarchy) -> None:
    """Check the tree, the rows of every key, the masses and the faces."""
    if "parent" not in h._store:
        raise ValueError(f"Expected 'parent' in '{type(h).__name__}' (got none)")
    check_rows(h, h.tree.num_nodes, h.tree.num_leaves)


def check_rows(h: Hierarchy, nodes: int, leaves: int) -> None:
    """:func:`check_contents` but for the tree, which has so many nodes and leaves."""
    rows = {
        "tree": (nodes, "node"),
        "inner": (nodes - leaves, "inner node"),
        "leaf": (leaves, "leaf"),
    }
    record = h._store._recorded()
    for key, value in h._store.items():
        kind = rows_by_name(key) or record.get(key)
        if kind in rows and (isinstance(value, Tensor) or key in record):
            _check_rows(key, h._store._count(value), *rows[kind])
        elif kind == "edge" and isinstance(value, Tensor):
            edges = h.num_edges if h._store._has_edges() else 0
            _check_rows(key, count_rows(value), edges, "edge")
        number = type_number(record.get(key))
        if number is not None:
            rows_of_type = int(h.leaves_of_type(key).sum())
            _check_rows(key, count_rows(value), rows_of_type, f"leaf of type {number}")
    num_nodes = h._store.get("num_nodes")
    if num_nodes is not None and (not isinstance(num_nodes, int) or num_nodes != leaves):
        raise ValueError(
            f"Expected 'num_nodes' to be the number of leaves, {leaves} (got {num_nodes})"
        )
    if isinstance(h.mass, Tensor):
        _check_mass(h.mass)
    if isinstance(h._store.get("face"), Tensor):
        _check_face(h.face, leaves)


def _check_rows(key: str, rows: int | None, expected: int, what: str) -> None:
    if rows is None:
        raise ValueError(f"Expected '{key}' to have a row for each {what} (got 0 dimensions)")
    if rows != expected:
        plural = what.replace("leaf", "leaves") if what.startswith("leaf") else f"{what}s"
        raise ValueError(
            f"Expected '{key}' to have one row for each of the {expected} {plural} (got {rows} "
            f"rows)"
        )


def _check_face(face: Tensor, num_leaves: int) -> None:
    if face.numel() and (int(face.min()) < 0 or int(face.max()) >= num_leaves):
        raise ValueError(
            f"Expected 'face' to hold leaf rows in [0, {num_leaves - 1}] (got {int(face.min())} to "
            f"{int(face.max())})"
        )


def _check_mass(mass: Tensor) -> None:
    if mass.dim() != 1:
        raise ValueError(f"Expected 'mass' to be one-dimensional (got {mass.dim()} dimensions)")
    bad = ~((mass >= 0) & torch.isfinite(mass))
    if bad.any():
        leaf = int(bad.nonzero()[0])
        raise ValueError(
            f"Expected 'mass' to be finite and non-negative (got mass[{leaf}] = "
            f"{mass[leaf].item()})"
        )
