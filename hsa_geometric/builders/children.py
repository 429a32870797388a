"""Dendrograms of scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders._ids import first
from hsa_geometric.builders._merges import Matrix, as_matrix, parent_of_merges
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_integer


def from_children(
    children: Matrix, n_leaves: int | None = None, *, distances: Any = None, **leaf_data: Any
) -> Hierarchy:
    r"""Build a hierarchy from the ``children_`` of a scikit-learn clustering.

    Leaf :obj:`i` is sample :obj:`i`, node :obj:`N + i` the merge of row :obj:`i`. Where merging
    stopped early, as :class:`~sklearn.cluster.AgglomerativeClustering` does with
    ``compute_full_tree=False``, all that is not merged is hung below one root, the last node.

    Args:
        children: ``[M, 2]`` tensor, array or list of rows: the two nodes that each merge joins.
        n_leaves: number of samples, ``model.n_leaves_``, needed where merging stopped early.
            (default: ``M + 1``, all of them merged)
        distances: ``[M]`` height of each merge, ``model.distances_``, kept as ``inner_height``;
            a root put on top is infinitely high. (default: none)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Raises:
        TypeError: if :obj:`children` or :obj:`distances` hold no real numbers, or :obj:`n_leaves`
            is no integer.
        ValueError: naming row and column, if :obj:`children` has another shape or an id that is no
            integer, not formed yet or merged twice; if there are too few leaves for the merges; if
            :obj:`distances` has another length or a NaN; and what
            :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: linear in the number of leaves and merges; no Python per merge.

    Example:
        >>> from sklearn.cluster import AgglomerativeClustering
        >>> model = AgglomerativeClustering().fit([[0.0], [0.1], [5.0], [5.2]])
        >>> from_children(model.children_, model.n_leaves_)
        Hierarchy(leaves=4, nodes=7, depth=2)
        >>> from_children([[0, 1]], 4).parent  # nodes 2, 3 and 4 were not merged
        tensor([4, 4, 5, 5, 5, 5])
    """
    merges = as_matrix(children, "children", 2)
    num_merges = merges.shape[0]
    if n_leaves is None:
        n_leaves = num_merges + 1
    check_integer(n_leaves, "n_leaves")
    if n_leaves <= num_merges:
        raise ValueError(
            f"Expected 'n_leaves' to be more than the {num_merges} merges (got {n_leaves})"
        )
    parent = parent_of_merges(merges, n_leaves, "children")
    height = None if distances is None else _as_heights(distances, num_merges, parent.device)
    if num_merges < n_leaves - 1:
        top = parent.numel()
        unmerged = parent == torch.arange(top, device=parent.device)
        parent = torch.cat([torch.where(unmerged, top, parent), parent.new_tensor([top])])
        if height is not None:
            height = torch.cat([height, height.new_tensor([math.inf])])
    if height is None:
        return from_parent(parent, **leaf_data)
    return from_parent(parent, inner_height=height, **leaf_data)


def _as_heights(distances: Any, num_merges: int, device: torch.device) -> Tensor:
    try:
        height = torch.as_tensor(distances).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"Expected 'distances' to be a vector of numbers ({error})") from error
    if height.is_complex() or height.dtype == torch.bool:
        raise TypeError(f"Expected 'distances' to hold real numbers (got {height.dtype})")
    if height.shape != (num_merges,):
        raise ValueError(
            f"Expected 'distances' to have one entry for each of the {num_merges} merges "
            f"(got shape {list(height.shape)})"
        )
    if not height.is_floating_point():
        height = height.to(torch.get_default_dtype())
    if (row := first(height.isnan())) is not None:
        raise ValueError(f"Expected 'distances' to hold no NaN (got distances[{row}] = nan)")
    return height.to(device, copy=True)
