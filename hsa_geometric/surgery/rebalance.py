"""A tree brought within bounds of depth and branching."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.layout import (
    Layout,
    layout,
    over_paths,
    over_subtrees,
    root_of,
)
from hsa_geometric.functional.options import check_integer
from hsa_geometric.surgery._check import check_hierarchy, check_no_positions, node_rows
from hsa_geometric.tree import TreeIndex


def rebalance(
    h: Hierarchy, *, max_branching: int | None = None, max_depth: int | None = None
) -> Hierarchy:
    r"""Split wide families and shorten deep paths, with as much of the tree kept as fits.

    **Wide families.** More than :math:`b` = :obj:`max_branching` children are divided into
    :math:`b` runs of consecutive ones, whose lengths differ by one at most; each run of two or more
    gets a new node, and so on below it. That adds no more levels than needed. Siblings are taken in
    the order of their first leaves.

    **Deep paths.** Going down from the root, a node :math:`u` stays if what is below it, its wide
    families split, fits into the :math:`r` levels that are left, or if it holds at most
    :math:`n^{r / \mathrm{max\_depth}}` of the tree's :math:`n` leaves; else it is dissolved and its
    children move up in its place. So long paths lose nodes evenly by the number of leaves: of a
    caterpillar of 4,096 leaves, with a depth of 12, one spine node stays for each halving. Where
    the bounds are so tight that runs of equally many children do not fit, runs hold equally many
    leaves, and nodes that lie across a border are dissolved.

    What is promised:

    * no path is longer than :obj:`max_depth` and no family wider than :obj:`max_branching`;
    * rows of leaves stay; a node that stays holds the same leaves, below the same of its former
      ancestors as far as they stay; a new node holds leaves that were consecutive in tree order;
    * trees within the bounds stay as they are; without :obj:`max_depth` no node goes, and without
      :obj:`max_branching` none is added.

    Args:
        h: a sample or a batch; every tree is treated by itself.
        max_branching: greatest number of children, at least 2. (default: no bound)
        max_depth: greatest distance of a leaf from its root, at least 1. (default: no bound)

    Returns:
        A new hierarchy. New nodes have the highest ids (of their sample, in a batch, which can
        still be split), and copy the rows of ``tree_*`` and ``inner_*`` of the nearest node above
        that is not new.

    Raises:
        TypeError: if :obj:`h` or a bound has the wrong type.
        ValueError: if no bound is given; if one is too small; if a tree has more than
            ``max_branching ** max_depth`` leaves; if the tree must change although :obj:`h` has a
            :obj:`tree_pos`, which that would make wrong; if nodes must be added and a key of nodes
            holds neither a tensor nor names of nodes.

    Cost: :math:`O(T \log T)`, and one pass over the subtrees not yet within the bounds for each new
    level; no loop over nodes or families.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> rebalance(from_parent([5, 5, 5, 5, 5, 5]), max_branching=3).parent
        tensor([6, 6, 7, 7, 5, 5, 5, 5])
        >>> from hsa_geometric.testing import caterpillar
        >>> rebalance(from_parent(caterpillar(2999)), max_branching=8, max_depth=12)
        Hierarchy(leaves=3000, nodes=4169, depth=12)
    """
    check_hierarchy(h)
    if max_branching is None and max_depth is None:
        raise ValueError("Expected 'max_branching' or 'max_depth' (got neither)")
    if max_branching is not None:
        check_integer(max_branching, "max_branching", 2)
    if max_depth is not None:
        check_integer(max_depth, "max_depth", 1)
    tree = h.tree
    widest = int(tree.family_ptr.diff().max()) if tree.depth else 0
    branching = widest if max_branching is None else max_branching
    if widest <= branching and (max_depth is None or tree.depth <= max_depth):
        return copy.copy(h)
    if max_branching is not None and max_depth is not None:
        leaves = int(tree.count[tree.root].max())
        if leaves > max_branching ** min(max_depth, 63):  # no number of leaves needs more digits
            raise ValueError(
                f"Expected 'max_branching' ** 'max_depth' to be at least {leaves}, the leaves of "
                f"one tree (got {max_branching} ** {max_depth} = {max_branching**max_depth})"
            )
    check_no_positions(h)

    above, source, keep = _plan(tree, max_branching, max_depth)
    nodes = tree.num_nodes
    out = h._with_nodes(copy.copy(h), keep, source[above[:nodes]])
    if source.numel() == nodes:
        return out
    stays = torch.cat([keep, keep.new_ones(source.numel() - nodes)])
    new_id = stays.cumsum(0) - 1
    return _insert(out, new_id[above[stays]], new_id[source[nodes:]])


def _insert(h: Hierarchy, parent: Tensor, source: Tensor) -> Hierarchy:
    """Add nodes ``T ..`` with the rows of the inner nodes ``source``, each to its own sample."""
    _ = list(node_rows(h))  # all of them can be copied
    row = torch.cat([torch.arange(h.num_tree_nodes, device=source.device), source])
    order = torch.arange(row.numel(), device=row.device)
    if "parent" in h._store.__dict__.get("_slice_dict", {}):
        ends = h._slice_dict["parent"].to(row.device)
        order = torch.argsort(torch.bucketize(row, ends[1:], right=True), stable=True)
    new_id = torch.empty_like(order)
    new_id[order] = torch.arange(order.numel(), device=order.device)
    return h._with_rows(copy.copy(h), row[order], new_id[parent][order])


def _plan(
    tree: TreeIndex, branching: int | None, max_depth: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The new tree, built level by level from the roots.

    Returns:
        ``above [T + M]``: parent of each node, new nodes having ids from ``T`` (void for nodes that
        are dissolved); ``source [T + M]``: the nearest old node, a node itself or above it;
        ``keep [T]``: which old nodes stay.
    """
    nodes, device = tree.num_nodes, tree.device
    ids = torch.arange(nodes, device=device)
    place = layout(tree)
    children = torch.bincount(tree.parent, minlength=nodes) - (tree.parent == ids).long()
    wide = over_subtrees(children, tree.parent, "amax") > (branching or nodes)
    height = _heights(tree, children, branching)
    depth = int(height.max()) if max_depth is None else max_depth
    leaves = tree.count[tree.root].double()  # of each tree

    above, source = tree.parent.clone(), ids
    keep = torch.ones_like(wide)
    # What each leaf, in tree order, is below on the level reached; -1 where all is done.
    owner = torch.empty_like(tree.leaf)
    leaf, root = tree.leaf_ids, root_of(tree)[tree.leaf_ids]
    owner[place.start[leaf]] = torch.where(leaf == root, -1, root)
    alive = (tree.parent != ids).nonzero().view(-1)  # neither placed nor dissolved nor done
    whole = torch.zeros_like(wide)  # those of them that may stay
    for left in range(depth - 1, -1, -1):  # levels left below the nodes that are placed now
        if alive.numel() == 0:
            break
        fits = height[alive] <= left
        if left > 0:
            most = leaves.pow(left / depth).mul_(1 + 1e-9).long()  # rounding: never 3.99 for 4
            fits |= place.leaves[alive] <= most[place.tree[alive]]
        whole[alive] = fits
        item, group, unit = _divide(whole, alive, owner, tree, place, branching, left)

        # A unit of one is that node; a larger one gets a new node.
        size = torch.bincount(unit)
        new, single = size > 1, size[unit] == 1
        handle = torch.empty_like(size)
        handle[new] = source.numel() + torch.arange(int(new.sum()), device=device)
        handle[unit[single]] = item[single]
        under = torch.empty_like(size)
        under[unit] = group
        above[item[single]] = group[single]
        above = torch.cat([above, under[new]])
        source = torch.cat([source, source[under[new]]])

        done = single & (height[item] <= left) & ~wide[item]  # what is below stays as it is
        at = torch.where(done, -1, handle[unit])
        owner[owner >= 0] = torch.repeat_interleave(at, place.leaves[item])
        keep[alive[~whole[alive]]] = False
        whole[item[single]] = False
        rest = alive[whole[alive] & (owner[place.start[alive]] >= 0)]
        whole[alive] = False
        alive = rest
    return above, source, keep


def _heights(tree: TreeIndex, children: Tensor, branching: int | None) -> Tensor:
    """``[T]`` levels needed below each node once its wide families are split."""
    steps = torch.ones_like(children)
    if branching is not None and children.numel():
        reach, most = branching, int(children.max())
        while reach < most:
            steps += children > reach
            reach *= branching
    is_root = tree.parent == torch.arange(tree.num_nodes, device=tree.device)
    level = over_paths(torch.where(is_root, 0, steps[tree.parent]), tree)
    return over_subtrees(level, tree.parent, "amax") - level


def _divide(
    whole: Tensor,
    alive: Tensor,
    owner: Tensor,
    tree: TreeIndex,
    place: Layout,
    branching: int | None,
    left: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Form one level: runs of nodes, each to hang from a node of the level above.

    Where equally many nodes are too many leaves for the levels that are left, runs hold equally
    many leaves, and nodes that lie across a border are struck out of ``whole``, in place.

    Returns:
        The nodes in tree order, the node of the level above each is for, and the number of its run.
    """
    item = _topmost(whole, alive, tree, place)
    group = owner[place.start[item]]
    run = _by_number(group, branching)
    unit = _count_changes(group, run)
    if branching is None:
        return item, group, unit
    held = torch.zeros_like(unit).index_add(0, unit, place.leaves[item])
    full = held[unit] > min(branching ** min(left, 63), tree.num_leaves)
    if not full.any():
        return item, group, unit

    open_places = (owner >= 0).nonzero().view(-1)
    of_group = owner[open_places]
    total = torch.bincount(of_group)
    first = torch.full_like(total, tree.num_leaves)
    first = first.scatter_reduce(0, of_group, open_places, "amin")
    tight = torch.zeros_like(total, dtype=torch.bool)
    tight[group[full]] = True
    length = torch.where(tight, (total + branching - 1) // branching, tree.num_leaves)

    def stretch(node: Tensor, place_of: Tensor) -> Tensor:
        at = owner[place.start[node]]
        return (place_of - first[at]) // length[at]

    start, end = place.start[alive], place.start[alive] + place.leaves[alive] - 1
    whole[alive[stretch(alive, start) != stretch(alive, end)]] = False
    item = _topmost(whole, alive, tree, place)
    group = owner[place.start[item]]
    run = _by_number(group, branching)
    run = torch.where(tight[group], stretch(item, place.start[item]), run)
    return item, group, _count_changes(group, run)


def _topmost(whole: Tensor, alive: Tensor, tree: TreeIndex, place: Layout) -> Tensor:
    """Nodes that may stay and have nothing above them that may, in tree order."""
    item = alive[whole[alive] & ~whole[tree.parent[alive]]]
    return item[place.start[item].argsort()]


def _by_number(group: Tensor, branching: int | None) -> Tensor:
    """Number of the run of each entry within its group, runs being equally long."""
    index, size = torch.unique_consecutive(group, return_inverse=True, return_counts=True)[1:]
    rank = torch.arange(group.numel(), device=group.device) - (size.cumsum(0) - size)[index]
    if branching is None:
        return rank
    return torch.where(size[index] <= branching, rank, rank * branching // size[index])


def _count_changes(a: Tensor, b: Tensor) -> Tensor:
    """Number the runs of equal pairs."""
    opens = torch.zeros_like(a)
    opens[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return opens.cumsum(0)
