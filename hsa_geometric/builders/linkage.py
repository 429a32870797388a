"""Dendrograms of :mod:`scipy.cluster.hierarchy`, both ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._forest import keep_nodes
from hsa_geometric.builders._ids import first
from hsa_geometric.builders._merges import Matrix, as_matrix, parent_of_merges
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.layout import over_subtrees
from hsa_geometric.functional.options import check_integer


def from_linkage(
    Z: Matrix,
    *,
    heights: Sequence[float] | None = None,
    num_clusters: Sequence[int] | None = None,
    min_cluster_size: int | None = None,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy from a linkage matrix, as :func:`scipy.cluster.hierarchy.linkage` gives.

    Leaf :obj:`i` is observation :obj:`i`. The whole dendrogram is a binary tree whose node
    :obj:`N + i` is the merge of row :obj:`i`. It is often deep; :obj:`heights` or
    :obj:`num_clusters` flatten it to a few levels, and :obj:`min_cluster_size` condenses it.

    A cut at height :math:`t` gives the clusters of
    ``scipy.cluster.hierarchy.fcluster(Z, t, 'distance')``: the largest subtrees in which no merge
    is higher than :math:`t`. With cuts, only those clusters, the root and the leaves are
    kept, in the order of their merges; a cluster that two cuts find is one node, and one of a
    single leaf is that leaf. No cluster has a single child.

    The condensed tree is that of HDBSCAN (`Campello et al., 2013
    <https://doi.org/10.1007/978-3-642-37456-2_14>`_): only where both sides of a merge have at
    least :obj:`min_cluster_size` leaves does a cluster fall into two; from all others leaves drop
    out, and hang from the cluster that they dropped out of, noise from the root.

    Args:
        Z: ``[N - 1, 4]`` tensor, array or list of rows: the two nodes joined, the height of the
            merge, the number of leaves below. Heights need not increase (centroid linkage). A
            matrix without rows is one observation, a tree of a single leaf. Or a record array or
            an object with ``to_numpy``, such as ``single_linkage_tree_`` of the package hdbscan and
            ``_single_linkage_tree_`` of scikit-learn's.
        heights: cuts, in any order; an empty list leaves a star. (default: no cuts, all merges)
        num_clusters: cuts given by the greatest number of clusters they may leave, like
            ``fcluster(Z, k, 'maxclust')``: the lowest such cut, fewer where heights are equal.
        min_cluster_size: least number of leaves of a cluster, at least 2. (default: no condensing)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Returns:
        A :class:`~hsa_geometric.data.Hierarchy` with ``inner_height`` ``[T - N]``, the height of
        each inner node in the precision of :obj:`Z`.

    Raises:
        TypeError: if :obj:`Z` holds no real numbers, or a number of clusters is no integer.
        ValueError: naming row and column, if :obj:`Z` has another shape, a NaN, an id that is no
            integer, not formed yet or merged twice, or a wrong number of leaves; if more than one
            of :obj:`heights`, :obj:`num_clusters` and :obj:`min_cluster_size` is given, or they
            hold a NaN or too small a number; and what
            :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: linear in :obj:`N` times the logarithm of the depth; no Python per merge.

    Example:
        >>> Z = [[0, 1, 0.5, 2], [2, 3, 0.7, 2], [5, 6, 2.0, 4], [4, 7, 3.0, 5]]
        >>> h = from_linkage(Z)
        >>> h
        Hierarchy(leaves=5, nodes=9, depth=3, inner_height=[4])
        >>> h.parent
        tensor([5, 5, 6, 6, 8, 7, 7, 8, 8])
        >>> from_linkage(Z, heights=[1.0]).parent  # merge 7 falls out
        tensor([5, 5, 6, 6, 7, 7, 7, 7])
        >>> from_linkage(Z, num_clusters=[2]).parent
        tensor([5, 5, 5, 5, 6, 6, 6])
    """
    matrix = as_matrix(Z, "Z", 4)
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.get_default_dtype())
    num_leaves = matrix.shape[0] + 1
    missing = matrix.isnan()
    if missing.any():
        row, column = missing.nonzero()[0].tolist()
        raise ValueError(f"Expected 'Z' to hold no NaN (got Z[{row}, {column}] = nan)")
    parent = parent_of_merges(matrix[:, :2], num_leaves, "Z")
    _check_counts(matrix, num_leaves)

    height = matrix[:, 2].clone()
    check_one_way(heights, num_clusters, min_cluster_size)
    if min_cluster_size is not None:
        keep = _large(parent, matrix, num_leaves, min_cluster_size)
        parent, height = keep_nodes(parent, keep), height[keep[num_leaves:]]
    if heights is not None or num_clusters is not None:
        below = torch.cat([height.new_full((num_leaves,), -math.inf), height])
        tallest = over_subtrees(below, parent, "amax")
        if heights is not None:
            cuts = check_heights(heights)
        else:
            sorted_heights = tallest[num_leaves:].sort(descending=True).values.tolist()
            cuts = [  # as many merges are higher than the k-th highest as k clusters need, or fewer
                sorted_heights[k - 1] if k < num_leaves else -math.inf
                for k in check_num_clusters(() if num_clusters is None else num_clusters)
            ]
        # The leaves, the root, and every node that is the topmost one below some cut.
        band = torch.searchsorted(tallest.new_tensor(sorted(cuts)), tallest)
        keep = (band < band[parent]) | _ends(parent, num_leaves)
        parent, height = keep_nodes(parent, keep), height[keep[num_leaves:]]
    return from_parent(parent, inner_height=height, **leaf_data)


def to_linkage(hierarchy: Hierarchy) -> np.ndarray[Any, Any]:
    r"""Turn a binary tree into a linkage matrix; the inverse of :func:`from_linkage`.

    Observation :obj:`i` is leaf row :obj:`i`. Heights are ``inner_height``, or, in a hierarchy
    without it, the number of leaves below. Merges are in the order of the node ids where
    parents follow their children, else by height, so that SciPy can read them.

    Args:
        hierarchy: one tree in which every inner node has two children
            (:meth:`~hsa_geometric.data.Hierarchy.collapse_chains` removes those with one).

    Returns:
        ``[N - 1, 4]`` float64 array.

    Raises:
        TypeError, ValueError: if the hierarchy is not valid.
        ValueError: if it has several trees, or naming the node that is not binary.

    Cost: three sorts.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> to_linkage(from_parent([3, 3, 4, 4, 4])).tolist()
        [[0.0, 1.0, 2.0, 2.0], [2.0, 3.0, 3.0, 3.0]]
    """
    hierarchy.validate()
    tree = hierarchy.tree.to("cpu")
    if tree.num_trees != 1:
        raise ValueError(f"Expected 'hierarchy' to be one tree (got {tree.num_trees} trees)")
    parent, leaf = tree.parent, tree.leaf_ids
    ids = torch.arange(tree.num_nodes)
    child = (parent != ids).nonzero().view(-1)
    degree = torch.bincount(parent[child], minlength=tree.num_nodes)
    if (node := first((degree != 2) & (degree != 0))) is not None:
        raise ValueError(
            f"Expected every inner node to have two children (got {int(degree[node])} at node "
            f"{node})"
        )
    inner = (degree == 2).nonzero().view(-1)
    count = tree.count[tree.position]
    height = count.double()
    if isinstance(own := hierarchy._store.get("inner_height"), Tensor):
        if own.dim() != 1:
            raise ValueError(
                f"Expected 'inner_height' to be one-dimensional (got {own.dim()} dimensions)"
            )
        height[leaf] = -math.inf
        height[inner] = own.detach().cpu().double()
    if not (parent[child] > child).all():
        inner = inner[torch.argsort(tree.level[inner], descending=True, stable=True)]
        tallest = over_subtrees(height, parent, "amax")
        inner = inner[torch.argsort(tallest[inner], stable=True)]

    new_id = torch.empty_like(ids)
    new_id[leaf] = ids[: leaf.numel()]
    new_id[inner] = ids[leaf.numel() :]
    child = child[torch.argsort(new_id[child])]
    child = child[torch.argsort(new_id[parent[child]], stable=True)]
    pairs = new_id[child].view(-1, 2).double()
    return torch.cat([pairs, torch.stack([height, count.double()], 1)[inner]], 1).numpy()


def check_one_way(
    heights: Sequence[float] | None,
    num_clusters: Sequence[int] | None,
    min_cluster_size: int | None,
) -> None:
    """At most one way to flatten a dendrogram."""
    ways = {"heights": heights, "num_clusters": num_clusters, "min_cluster_size": min_cluster_size}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"Expected at most one of {list(ways)} (got {given})")
    if min_cluster_size is not None:
        check_integer(min_cluster_size, "min_cluster_size", 2)


def check_heights(heights: Sequence[float]) -> list[float]:
    """The cuts as floats, none of them NaN."""
    try:
        cuts = [float(t) for t in heights]
    except (TypeError, ValueError) as error:
        raise TypeError(f"Expected 'heights' to be a list of numbers (got {heights!r})") from error
    if any(math.isnan(t) for t in cuts):
        raise ValueError(f"Expected 'heights' to hold no NaN (got {cuts})")
    return cuts


def check_num_clusters(num_clusters: Sequence[int]) -> list[int]:
    """Positive integers."""
    if isinstance(num_clusters, str) or not isinstance(num_clusters, Iterable):
        raise TypeError(f"Expected 'num_clusters' to be a list of integers (got {num_clusters!r})")
    for k in num_clusters:
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool):
            raise TypeError(f"Expected 'num_clusters' to hold integers (got {k!r})")
        if k < 1:
            raise ValueError(f"Expected 'num_clusters' to hold positive numbers (got {k})")
    return [int(k) for k in num_clusters]


def _check_counts(Z: Tensor, num_leaves: int) -> None:
    """A merge has the leaves of its two nodes; row by row that settles the whole column."""
    count = torch.cat([Z.new_ones(num_leaves), Z[:, 3]])
    expected = count[Z[:, :2].long()].sum(1)
    if (row := first(Z[:, 3] != expected)) is not None:
        raise ValueError(
            f"Expected row {row} of 'Z' to count the {expected[row].item():g} leaves of the nodes "
            f"it joins (got Z[{row}, 3] = {Z[row, 3].item():g})"
        )


def _large(parent: Tensor, Z: Tensor, num_leaves: int, least: int) -> Tensor:
    """Leaves, the root, and both sides of every merge in which both have so many leaves."""
    count = torch.cat([Z.new_ones(num_leaves), Z[:, 3]])
    splits = torch.zeros_like(parent, dtype=torch.bool)
    splits[num_leaves:] = (count[Z[:, :2].long()] >= least).all(1)
    return splits[parent] | _ends(parent, num_leaves)


def _ends(parent: Tensor, num_leaves: int) -> Tensor:
    """The leaves and the root."""
    ids = torch.arange(parent.numel(), device=parent.device)
    return (parent == ids) | (ids < num_leaves)
