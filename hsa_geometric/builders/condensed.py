"""Condensed trees of HDBSCAN."""

from __future__ import annotations

from typing import Any

import torch

from hsa_geometric.builders._ids import first
from hsa_geometric.builders._merges import Matrix, as_matrix
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy


def from_condensed_tree(tree: Matrix, **leaf_data: Any) -> Hierarchy:
    r"""Build a hierarchy from the condensed tree of HDBSCAN.

    Leaf :obj:`i` is row :obj:`i` of the data, and node :obj:`c` is cluster :obj:`c`, the root
    :obj:`N`. Every row is a leaf below the smallest cluster that it belonged to: noise hangs from
    the root or from another cluster that it dropped out of.

    Args:
        tree: ``model.condensed_tree_`` of the package hdbscan, or its rows as a data frame, an
            array or a list: parent, child, :math:`\lambda`, and the size of the child. scikit-learn
            keeps no condensed tree; there it is
            ``from_linkage(model._single_linkage_tree_, min_cluster_size=model.min_cluster_size)``.
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Returns:
        A :class:`~hsa_geometric.data.Hierarchy` with ``tree_lambda`` ``[T]``, one over the distance
        at which a cluster split off or a row dropped out; 0 at the root.

    Raises:
        TypeError: if :obj:`tree` holds no real numbers.
        ValueError: naming row or node, if :obj:`tree` has no rows or another shape, a NaN, an id
            that is no integer or negative, a child that comes twice; if a row of the data or a
            cluster is nowhere a child, or a cluster is empty; and what
            :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: linear; no Python per row.

    Example:
        >>> rows = [[5, 6, 0.5, 2], [5, 7, 0.5, 2], [5, 4, 0.2, 1],
        ...         [6, 0, 9.0, 1], [6, 1, 9.0, 1], [7, 2, 8.0, 1], [7, 3, 8.0, 1]]
        >>> from_condensed_tree(rows).parent  # two clusters and leaf 4, which is noise
        tensor([6, 6, 7, 7, 5, 5, 5, 5])
    """
    table = as_matrix(tree, "tree", 4)
    if not table.is_floating_point():
        table = table.to(torch.get_default_dtype())
    ids = table[:, :2].long()
    bad = torch.cat([(table[:, :2] != ids) | (ids < 0), table[:, 2:].isnan()], dim=1)
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"Expected 'tree' to hold ids of parent and child, and numbers that are not NaN (got "
            f"tree[{row}, {column}] = {table[row, column].item()})"
        )
    if ids.numel() == 0:
        raise ValueError("Expected 'tree' to have rows (got none)")
    num_leaves, num_nodes = int(ids[:, 0].min()), int(ids.max()) + 1
    if num_nodes > 2 * len(ids) + 1:
        raise ValueError(
            f"Expected ids in 'tree' to count up from 0 (got {num_nodes - 1} in {len(ids)} rows)"
        )
    above, below = (torch.bincount(column, minlength=num_nodes) for column in ids.t())
    below[num_leaves] += 1  # the root
    if (node := first(below != 1)) is not None:
        raise ValueError(
            f"Expected every row of the data and every cluster but the root, {num_leaves}, to be a "
            f"child in 'tree' once (got {node} {int(below[node]) - (node == num_leaves)} times)"
        )
    if (node := first(above[num_leaves:] == 0)) is not None:
        node += num_leaves
        raise ValueError(f"Expected clusters of 'tree' to have children (got none in {node})")
    parent = torch.arange(num_nodes, device=ids.device)
    parent[ids[:, 1]] = ids[:, 0]
    height = table.new_zeros(num_nodes)
    height[ids[:, 1]] = table[:, 2]
    return from_parent(parent, tree_lambda=height, **leaf_data)
