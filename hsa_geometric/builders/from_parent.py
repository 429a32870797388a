"""The first door: a parent vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from hsa_geometric.builders._coordinates import copied
from hsa_geometric.builders._ids import Ids, as_ids
from hsa_geometric.builders._internal import own_leaves
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.leaves import take
from hsa_geometric.data.rows import FOLLOWERS, count_rows, rows_by_name
from hsa_geometric.data.validation import check_rows
from hsa_geometric.functional.options import check_choice
from hsa_geometric.tree import TreeIndex


def from_parent(parent: Ids, *, internal: str = "error", **leaf_data: Any) -> Hierarchy:
    r"""Build a hierarchy from the id of each tree node's parent.

    The caller's numbering stays: the :obj:`k`-th leaf in ascending id is row :obj:`k` of
    :obj:`x`, wherever the leaves stand. Nothing handed in is changed.

    Args:
        parent: ``[T]`` tensor, list or array. A root is marked by its own id or by ``-1``, which is
            replaced by its own id here: a sentinel would not survive batching.
        internal: what becomes of inner nodes with features of their own, that is, of leaf data
            with one row for each of the :obj:`T` **nodes** of :obj:`parent`. ``'error'``: it is
            refused. ``'leaf'``: every inner node gets one more child, a leaf for its row, so that
            row :obj:`a` of :obj:`x` stays node :obj:`a`, now always a leaf; inner nodes get the
            ids :obj:`T` and up, in their order, and ``tree_*`` data is given for the nodes of
            :obj:`parent`, an own leaf gets the row of its node. ``'drop'``: the rows of inner
            nodes are dropped. Keys of edges speak of rows of the :obj:`x` that results.
            (default: ``'error'``)
        **leaf_data: what the hierarchy carries. ``x``, ``pos``, ``z``, ``mass`` and ``batch`` have
            one row per leaf; ``tree_*`` one per tree node; ``inner_*`` one per inner node; any
            other tensor (``y``, say) one per leaf, or one per tree, or one. Which of these it is
            is recorded, and stays so **whatever its name**: ``surface_area`` and ``vertex_index``
            are data of leaves like any other. Only PyG's own names mean what they mean to PyG:
            ``edge_index``, ``edge_attr``, ``edge_weight``, ``edge_type``, ``edge_label``,
            ``edge_label_index``, ``e_id``, ``face``, ``adj`` and ``adj_t``. More data of edges, and
            what names leaves by row, is set afterwards: ``h.train_index = ...`` follows PyG's
            rules. Arrays become tensors, and so do lists under the first names and ``y``.

    Returns:
        A :class:`~hsa_geometric.data.Hierarchy` that passed
        :meth:`~hsa_geometric.data.Hierarchy.validate`; its :obj:`tree` is built already.

    Raises:
        TypeError: if :obj:`parent` holds no integers, or a list no numbers.
        ValueError: naming argument and node: an empty tree, an id out of range, a cycle, a wrong
            number of rows, a negative or NaN mass; an unknown :obj:`internal`; a name that PyG
            keeps for itself (``ptr``, ``_*``, ``tree_*_batch``).

    Cost: one sort of :obj:`T` keys; no Python per node.

    Example:
        >>> h = from_parent([3, 3, 4, 4, -1], x=torch.rand(3, 8), mass=[1.0, 2.0, 0.5])
        >>> h
        Hierarchy(leaves=3, nodes=5, depth=2, x=[3, 8], mass=[3])
        >>> h.parent
        tensor([3, 3, 4, 4, 4])

        "The dog barked loudly": words that govern one another, each with a feature of its own.

        >>> h = from_parent([1, 2, -1, 2], x=torch.arange(4.0), internal="leaf")
        >>> h
        Hierarchy(leaves=4, nodes=6, depth=2, x=[4])
        >>> h.parent  # [[the dog] barked loudly]
        tensor([4, 4, 5, 5, 5, 5])
    """
    check_choice(internal, "internal", ("error", "leaf", "drop"))
    ids = as_ids(parent, "parent")
    ids = torch.where(ids == -1, torch.arange(ids.numel(), device=ids.device), ids)
    data = {key: _as_tensor(key, value) for key, value in leaf_data.items()}
    _check_names(data)
    if internal != "error":
        ids, data = _settle_inner_rows(ids, data, internal)
    hierarchy = Hierarchy(parent=ids, **data)
    tree = hierarchy.tree
    if internal == "error":
        _check_no_inner_rows(data, tree.num_nodes, tree.num_leaves)
    hierarchy.validate()
    return _record(hierarchy, data, tree.num_leaves, tree.num_trees)


def built(parent: Tensor, num_leaves: int, num_trees: int, /, **leaf_data: Any) -> Hierarchy:
    """:func:`from_parent` of a vector that is right by construction.

    The tree's index, which takes several times the memory of the vector, waits for its first use.
    """
    if leaf_data.get("internal", "error") != "error":
        return from_parent(parent, **leaf_data)
    data = {key: _as_tensor(key, value) for key, value in leaf_data.items() if key != "internal"}
    _check_names(data)
    _check_no_inner_rows(data, parent.numel(), num_leaves)
    hierarchy = Hierarchy(parent=parent, **data)
    hierarchy._store._derive("num_leaves", lambda _: num_leaves)
    check_rows(hierarchy, parent.numel(), num_leaves)
    Data.validate(hierarchy)
    return _record(hierarchy, data, num_leaves, num_trees)


def _record(hierarchy: Hierarchy, data: dict[str, Any], leaves: int, trees: int) -> Hierarchy:
    """Record what the rows of keys are whose names say nothing."""
    unnamed = {k: v for k, v in data.items() if rows_by_name(k) is None}
    hierarchy._store._set_recorded(
        {k: _leaf_or_sample(k, v, leaves, trees) for k, v in unnamed.items()}
    )
    return hierarchy


def _check_names(data: dict[str, Any]) -> None:
    for key in data:
        if (
            key in ("ptr", "num_edges")
            or key.startswith("_")
            or (key.startswith(("tree_", "inner_")) and key.endswith(FOLLOWERS))
        ):
            raise ValueError(
                f"Expected names of leaf data that PyG does not keep for itself (got '{key}'; give "
                f"it another name)"
            )


def _as_tensor(key: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return copied(value)
    if isinstance(value, (list, tuple)) and (
        key == "y" or rows_by_name(key) in ("tree", "inner", "leaf")
    ):
        try:
            return torch.tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"Expected '{key}' to hold numbers of one shape ({error})") from error
    return value


def _leaf_or_sample(key: str, value: Any, leaves: int, trees: int) -> str:
    """What to record of a value under a name that says nothing."""
    rows = count_rows(value)
    if not isinstance(value, Tensor):
        return "sample" if rows is None else "either"  # lists go by their length
    if rows is not None and rows not in (leaves, trees, 1):
        raise ValueError(
            f"Expected '{key}' to have one row for each of the {leaves} leaves or one for each of "
            f"the {trees} trees (got {rows} rows); set afterwards what is neither: h['{key}'] = ..."
        )
    if rows != leaves:
        return "sample"
    return "either" if leaves == trees else "leaf"


def _settle_inner_rows(
    parent: Tensor, data: dict[str, Any], internal: str
) -> tuple[Tensor, dict[str, Any]]:
    """The tree with own leaves and its data, or the data without the rows of inner nodes."""
    tree = TreeIndex.from_parent(parent)
    out = dict(data)
    if internal == "leaf":
        parent, kept = own_leaves(tree)
    else:
        kept = tree.leaf_ids
    for key, value in data.items():
        changes = rows_by_name(key) in (("tree",) if internal == "leaf" else ("leaf", None))
        if changes and count_rows(value) == tree.num_nodes:
            out[key] = take(value, kept.to(getattr(value, "device", "cpu")))
    return parent, out


def _check_no_inner_rows(data: dict[str, Any], nodes: int, leaves: int) -> None:
    """Say what can be done about a row for every node; `validate` only counts."""
    for key, value in data.items():
        if rows_by_name(key) not in ("leaf", None) or not isinstance(value, Tensor):
            continue
        if value.shape[:1] == (nodes,) and nodes != leaves:
            raise ValueError(
                f"Expected '{key}' to have one row for each of the {leaves} leaves (got {nodes} "
                f"rows); if these are all tree nodes, internal='leaf' gives inner nodes leaves of "
                f"their own, 'drop' drops their rows"
            )
