"""A tree cut off at clusters of a chosen size."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional import aggregate, clusters_at
from hsa_geometric.functional.layout import over_paths, root_of
from hsa_geometric.functional.options import check_integer
from hsa_geometric.surgery._check import check_hierarchy, check_no_positions
from hsa_geometric.tree import TreeIndex


def cut(
    h: Hierarchy,
    *,
    level: int | None = None,
    max_leaves: int | None = None,
    fraction: float | None = None,
) -> Hierarchy:
    r"""Flatten everything below a cut: leaves hang directly from their cluster there.

    The tree above the cut and the clusters themselves stay; the inner nodes below a cluster go. A
    leaf that ends above the cut stays where it is. Attention becomes finer and dearer, as a removed
    node no longer forces its leaves to share weights: the evidence never falls.

    Give exactly one of:

    Args:
        h: a sample or a batch; every tree is cut by itself.
        level: cut at the clusters of
            :func:`clusters_at(h.tree, level) <hsa_geometric.functional.clusters_at>`: 0 gives a
            star, -1 and -2 change nothing.
        max_leaves: cut at the topmost nodes with at most this many leaves.
        fraction: cut at the topmost nodes that hold at most this share of their tree's mass (of
            its leaves, without :obj:`mass`), in ``(0, 1]``; 1 gives a star. A tree of mass 0
            becomes a star.

    Returns:
        A new hierarchy with the same leaves in the same rows; the nodes that stay keep their
        clusters, their relations and their rows of ``tree_*`` and ``inner_*``. A batch can still
        be split into its samples.

    Raises:
        TypeError: if :obj:`h` or a number has the wrong type.
        ValueError: if not exactly one number is given, if it is out of range, or if nodes would
            go although :obj:`h` has a :obj:`tree_pos`, which they would make wrong.

    Cost: :math:`O(T \log \text{depth})`.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> h = from_parent([4, 4, 5, 6, 5, 6, 6])  # ((0, 1), 2), 3
        >>> cut(h, max_leaves=3).parent
        tensor([4, 4, 4, 5, 5, 5])
        >>> cut(h, level=0).parent
        tensor([4, 4, 4, 4, 4])
    """
    check_hierarchy(h)
    tree = h.tree
    below = _below_cut(h, tree, level, max_leaves, fraction)
    ids = torch.arange(tree.num_nodes, device=tree.device)
    above = tree.parent
    inside = below & below[above] & (above != ids)  # the parent is below the cut as well

    # top[a]: the topmost node below the cut on the way up from `a`, itself if there is none.
    top = torch.where(inside, above, ids)
    for _ in range(tree.depth.bit_length()):
        top = top[top]
    keep = ~inside
    keep[tree.leaf_ids] = True
    if bool(keep.all()) and torch.equal(top[above], above):
        return copy.copy(h)
    check_no_positions(h)
    return h._with_nodes(copy.copy(h), keep, top[above])


def _below_cut(
    h: Hierarchy,
    tree: TreeIndex,
    level: int | None,
    max_leaves: int | None,
    fraction: float | None,
) -> Tensor:
    """Mask ``[T]`` of the clusters at the cut and all that is below them."""
    given = {"level": level, "max_leaves": max_leaves, "fraction": fraction}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(
            f"Expected exactly one of {list(given)} (got {' and '.join(named) or 'none'})"
        )
    if level is not None:
        at = torch.zeros_like(tree.parent)
        at[clusters_at(tree, level).node] = 1
        root = root_of(tree)
        is_root = root == torch.arange(tree.num_nodes, device=tree.device)
        return (over_paths(torch.where(is_root, 0, at), tree) + at[root]) > 0
    if max_leaves is not None:
        check_integer(max_leaves, "max_leaves", 1)
        return tree.count[tree.position] <= max_leaves
    if not isinstance(fraction, (int, float)) or isinstance(fraction, bool):
        raise TypeError(f"Expected 'fraction' to be a number (got {type(fraction).__name__})")
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected 'fraction' to be in (0, 1] (got {fraction})")
    if h.mass is None:
        held = tree.count[tree.position].double()
    else:
        held = aggregate(h.mass.double(), tree)
    # Sums in another order differ by rounding, which must not decide whether a node is in.
    return held <= fraction * (1 + 1e-9) * held[root_of(tree)]
