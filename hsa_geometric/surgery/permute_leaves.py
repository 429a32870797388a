"""The leaves in another order."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.leaves import check_no_references, take_leaf_rows
from hsa_geometric.functional.options import check_integers
from hsa_geometric.surgery._check import check_hierarchy, node_rows


def permute_leaves(h: Hierarchy, perm: Tensor | Sequence[int]) -> Hierarchy:
    r"""Reorder the leaves: row ``i`` of the new hierarchy is row ``perm[i]`` of the old one.

    The tree follows, so attention is equivariant. The set of ids of leaves stays the same, and so
    do the ids of inner nodes: leaf number ``i`` takes the ``i``-th of the leaves' ids.

    Args:
        h: a sample or a batch.
        perm: ``[N]`` permutation of the rows, for instance ``pos[:, 0].argsort()``. In a batch
            every leaf must stay in its sample.

    Returns:
        A new hierarchy. All rows of leaves are permuted (tensors and lists), those of ``tree_*``
        follow their nodes, and :obj:`edge_index` and :obj:`face` name the new rows; edges keep
        their order. A batch can still be split into its samples.

    Raises:
        TypeError: if :obj:`perm` holds no integers.
        ValueError: if it is no permutation of the rows, or moves leaves between samples; if
            :obj:`h` has another key that names leaves by row (``*_index``, ``adj*``); if a key of
            nodes holds neither a tensor nor names of nodes.

    Cost: linear.

    Example:
        >>> import torch
        >>> from hsa_geometric.builders import from_parent
        >>> h = from_parent([3, 3, 4, 4, 4], x=torch.tensor([10, 11, 12]))
        >>> out = permute_leaves(h, [2, 0, 1])
        >>> out.parent, out.x
        (tensor([4, 3, 3, 4, 4]), tensor([12, 10, 11]))
    """
    check_hierarchy(h)
    check_no_references(h)
    tree = h.tree
    perm = _permutation(perm, tree.num_leaves).to(tree.device)
    if isinstance(h.get("batch"), Tensor) and not torch.equal(h.batch[perm], h.batch):
        row = int((h.batch[perm] != h.batch).nonzero()[0])
        raise ValueError(
            f"Expected 'perm' to keep leaves in their sample (got perm[{row}] = {int(perm[row])}, "
            f"from sample {int(h.batch[perm[row]])} to {int(h.batch[row])})"
        )
    old = torch.arange(tree.num_nodes, device=tree.device)  # node that takes each id
    old[tree.leaf_ids] = tree.leaf_ids[perm]
    inverse = torch.empty_like(perm)
    inverse[perm] = torch.arange(perm.numel(), device=perm.device)

    out = copy.copy(h)
    above = tree.parent[old]
    # An inner node, whose id stays; or the leaf itself, which is all of its tree.
    out.parent = torch.where(above == old, torch.arange(old.numel(), device=old.device), above)
    for key, value in node_rows(h, ("tree",)):
        out[key] = h._take(value, old)
    for key in h.keys():  # noqa: SIM118 (of PyG's Data, not of a dict)
        if h.is_node_attr(key):
            out[key] = take_leaf_rows(h, key, perm)
        elif h.rows_of(key) == "typed":
            of_type = h.leaves_of_type(key)
            rows = of_type.cumsum(0) - 1
            out[key] = h[key][rows[perm][of_type[perm]]]
        elif key in ("edge_index", "face"):
            out[key] = inverse[h[key]]
    return out


def _permutation(perm: Tensor | Sequence[int], num_leaves: int) -> Tensor:
    perm = torch.as_tensor(perm)
    check_integers(perm, "perm")
    perm = perm.long()
    if perm.shape != (num_leaves,):
        raise ValueError(
            f"Expected 'perm' to have one entry for each of the {num_leaves} leaves "
            f"(got shape {list(perm.shape)})"
        )
    low, high = torch.stack(perm.aminmax()).tolist()
    if low < 0 or high >= num_leaves or int(torch.bincount(perm).max()) > 1:
        raise ValueError(
            f"Expected 'perm' to hold each row in [0, {num_leaves - 1}] once (got {perm.tolist()})"
            if num_leaves <= 16
            else f"Expected 'perm' to hold each row in [0, {num_leaves - 1}] once"
        )
    return perm
