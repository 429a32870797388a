"""One node and what is below it, as a sample."""

from __future__ import annotations

import copy
from bisect import bisect_right

import torch
from torch import Tensor
from torch_geometric.data import Batch

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.leaves import check_no_references, keep_leaves
from hsa_geometric.data.rows import count_rows
from hsa_geometric.functional.layout import over_paths, root_of
from hsa_geometric.functional.options import check_integer
from hsa_geometric.surgery._check import check_hierarchy


def subtree(h: Hierarchy, node: int) -> Hierarchy:
    r"""Take the part of a tree below one node, which becomes the root.

    Args:
        h: a sample, or a batch, of which the sample is taken by ``get_example``.
        node: id of a tree node. A leaf gives a tree of one node.

    Returns:
        A new sample: the leaves below :obj:`node` in their order, with their rows; the edges among
        them, relabelled, with their rows; the mesh faces (:obj:`face`) whose corners are all among
        them; and the rows of ``tree_*`` and ``inner_*`` of the nodes. Data of a whole sample, such
        as :obj:`y`, is that of the sample :obj:`node` belongs to: where a forest has a row for each
        tree, it keeps the row of the tree. :obj:`batch` goes.

    Raises:
        TypeError: if :obj:`node` is no integer.
        ValueError: if there is no such node, or if :obj:`h` has a key that names leaves by row
            (``*_index``, ``adj*``) besides :obj:`edge_index` and :obj:`face`.

    Cost: :math:`O(T \log \text{depth})`.

    Example:
        >>> import torch
        >>> from hsa_geometric.builders import from_parent
        >>> h = from_parent([4, 4, 5, 6, 5, 6, 6], x=torch.tensor([10, 11, 12, 13]))
        >>> part = subtree(h, 5)
        >>> part.parent, part.x
        (tensor([3, 3, 4, 4, 4]), tensor([10, 11, 12]))
    """
    check_hierarchy(h)
    check_integer(node, "node", 0)
    if node >= h.num_tree_nodes:
        raise ValueError(
            f"Expected 'node' to be the id of one of the {h.num_tree_nodes} tree nodes (got {node})"
        )
    if isinstance(h, Batch):
        ends = h._store.__dict__.get("_slice_dict", {}).get("parent")
        if ends is None:
            raise ValueError("Expected 'h' to be a sample, or a batch that can still be split")
        sample = bisect_right(ends.tolist(), node) - 1
        return subtree(h.get_example(sample), node - int(ends[sample]))
    check_no_references(h)

    tree, ids = h.tree, torch.arange(h.num_tree_nodes, device=h.parent.device)
    root = root_of(tree)
    at = (ids == node) & (root != node)
    keep = (over_paths(at.long(), tree) > 0) | (root == node)
    leaves = keep[tree.leaf_ids]
    above = torch.where(ids == node, ids, tree.parent)
    out = keep_leaves(h, h._with_nodes(copy.copy(h), keep, above), leaves)
    if "batch" in out:
        del out["batch"]
    if tree.num_trees > 1:
        number = tree.position[root[node]]
        for key in h.keys():  # noqa: SIM118 (of PyG's Data, not of a dict)
            value = h[key]
            if h.rows_of(key) != "sample" or not isinstance(value, Tensor) or key not in out:
                continue
            if count_rows(value) == tree.num_trees:
                out[key] = value[number : number + 1]
    return out
