"""The first door: a parent vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._ids import Ids, as_ids
from hsa_geometric.data.hierarchy import LEAF_KEYS, Hierarchy
from hsa_geometric.data.rows import rows_of


def from_parent(parent: Ids, **leaf_data: Any) -> Hierarchy:
    r"""Build a hierarchy from the id of each tree node's parent.

    The caller's numbering stays: the :obj:`k`-th leaf in ascending id is row :obj:`k` of
    :obj:`x`, wherever the leaves stand. Nothing handed in is changed.

    Args:
        parent: ``[T]`` tensor, list or array. A root is marked by its own id or by ``-1``, which is
            replaced by its own id here: a sentinel would not survive batching.
        **leaf_data: what the hierarchy carries. ``x``, ``pos``, ``z``, ``mass`` and ``batch`` have
            one row per leaf; ``tree_*`` one per tree node; ``inner_*`` one per inner node; any
            other tensor (``y``, say) one per leaf or one per tree. Keys of edges are left to
            PyG's own check. Arrays become tensors, and so do lists under the names above.

    Returns:
        A :class:`~hsa_geometric.data.Hierarchy` that passed
        :meth:`~hsa_geometric.data.Hierarchy.validate`; its :obj:`tree` is built already.

    Raises:
        TypeError: if :obj:`parent` holds no integers, or a list no numbers.
        ValueError: naming argument and node: an empty tree, an id out of range, a cycle, a wrong
            number of rows, a negative or NaN mass.

    Cost: one sort of :obj:`T` keys; no Python per node.

    Example:
        >>> h = from_parent([3, 3, 4, 4, -1], x=torch.rand(3, 8), mass=[1.0, 2.0, 0.5])
        >>> h
        Hierarchy(leaves=3, nodes=5, depth=2, x=[3, 8], mass=[3])
        >>> h.parent
        tensor([3, 3, 4, 4, 4])
    """
    ids = as_ids(parent, "parent")
    ids = torch.where(ids == -1, torch.arange(ids.numel(), device=ids.device), ids)
    data = {key: _as_tensor(key, value) for key, value in leaf_data.items()}
    hierarchy = Hierarchy(parent=ids, **data)
    hierarchy.validate()
    for key, value in data.items():
        if rows_of(key) == "leaf" and key not in LEAF_KEYS and isinstance(value, Tensor):
            _check_leaf_or_sample(key, value, hierarchy)
    return hierarchy


def _as_tensor(key: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, (list, tuple)) and (
        key in LEAF_KEYS or key == "y" or rows_of(key) in ("tree", "inner")
    ):
        try:
            return torch.tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"Expected '{key}' to hold numbers of one shape ({error})") from error
    return value


def _check_leaf_or_sample(key: str, value: Tensor, hierarchy: Hierarchy) -> None:
    leaves, trees = hierarchy.num_nodes, hierarchy.num_trees
    if value.dim() > 0 and value.size(0) not in (leaves, trees, 1):
        raise ValueError(
            f"Expected '{key}' to have one row for each of the {leaves} leaves or one for each of "
            f"the {trees} trees (got {value.size(0)} rows)"
        )
