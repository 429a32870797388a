"""New inner nodes in a hierarchy."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_by_name
from hsa_geometric.surgery._check import node_rows, take_rows


def insert_nodes(h: Hierarchy, parent: Tensor, source: Tensor) -> Hierarchy:
    """Add inner nodes; in a batch each is put at the end of its sample.

    Args:
        h: a sample or a batch of ``T`` tree nodes.
        parent: ``[T + M]`` parents; the new nodes have ids ``T .. T + M - 1`` here.
        source: ``[M]`` inner node of ``h``, in the same sample, whose rows of ``tree_*`` and
            ``inner_*`` a new node copies.
    """
    tree, added = h.tree, source.numel()
    ids = torch.arange(tree.num_nodes, device=tree.device)
    row = torch.cat([ids, source])
    slices = dict(h._store.__dict__.get("_slice_dict", {}))
    incs = dict(h._store.__dict__.get("_inc_dict", {}))
    order = torch.arange(row.numel(), device=tree.device)
    if "parent" in slices:
        ends = slices["parent"].to(tree.device)
        order = torch.argsort(torch.bucketize(row, ends[1:], right=True), stable=True)
    new_id = torch.empty_like(order)
    new_id[order] = torch.arange(order.numel(), device=order.device)

    inner = torch.ones_like(ids, dtype=torch.bool)
    inner[tree.leaf_ids] = False
    is_inner = torch.cat([inner, inner.new_ones(added)])[order]
    inner_row = inner.cumsum(0) - 1
    rows = {"tree": row[order], "inner": inner_row[row[order][is_inner]]}

    out = copy.copy(h)
    out.parent = new_id[parent][order].to(h.parent.dtype)
    for key, value in [("parent", h.parent), *node_rows(h)]:
        take = rows[str(rows_by_name(key))]
        if key != "parent":
            out[key] = take_rows(h, value, take)
        if f"{key}_batch" in h:
            out[f"{key}_batch"] = h[f"{key}_batch"][take]
            out[f"{key}_ptr"] = _ends(h[f"{key}_ptr"], take)
        if key in slices:
            slices[key] = _ends(slices[key], take)
    if "parent" in slices:
        incs["parent"] = slices["parent"][:-1]
        out._slice_dict, out._inc_dict = slices, incs
    return out


def _ends(ends: Tensor, take: Tensor) -> Tensor:
    """Where the samples end after rows were taken, in ascending order of samples."""
    sample = torch.bucketize(take.to(ends.device), ends[1:], right=True)
    count = torch.bincount(sample, minlength=ends.numel() - 1)
    return torch.cat([ends[:1], count.cumsum(0)])
