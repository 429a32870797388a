"""Rows of leaves: some of them, or all in another order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import select, subgraph

if TYPE_CHECKING:
    from hsa_geometric.data.hierarchy import Hierarchy


def check_no_references(h: Hierarchy, handled: tuple[str, ...] = ("edge_index", "face")) -> None:
    """Refuse keys that name leaves by row in a way that would be left pointing at other leaves."""
    for key in h.keys():  # noqa: SIM118 (of PyG's Data, not of a dict)
        if key not in handled and h.rows_of(key) == "reference":
            raise ValueError(
                f"Expected no key that names leaves by row but {list(handled)} (got '{key}'; "
                f"delete it, and set it anew afterwards)"
            )


def take_leaf_rows(h: Hierarchy, key: str, rows: Tensor) -> Any:
    """Rows ``rows`` of what is stored under ``key``, a row for each leaf of ``h``."""
    value = h[key]
    if not isinstance(value, list) or "ptr" not in h:
        return take(value, rows)
    # Of a batch, a list holds the rows of each sample; leaves stay in theirs.
    sample = torch.bucketize(rows, h.ptr[1:], right=True)
    sizes = torch.bincount(sample, minlength=len(value)).tolist()
    parts = zip(value, (rows - h.ptr[sample]).cpu().split(sizes), strict=True)
    return [take(part, local) for part, local in parts]


def take(value: Any, rows: Tensor) -> Any:
    """Some rows, by number, of a tensor, an array or a list."""
    if isinstance(value, np.ndarray):
        return value[rows.cpu().numpy()]
    taken = select(value, rows, 0)
    return tuple(taken) if isinstance(value, tuple) else taken


def keep_leaves(h: Hierarchy, out: Hierarchy, mask: Tensor) -> Hierarchy:
    """Write into ``out``, which has its tree already, what ``h`` has of the leaves in ``mask``.

    The edges among them are kept, and the faces all of whose corners are kept. A batch can no
    longer be split into samples.
    """
    rows, new = mask.nonzero().view(-1), mask.cumsum(0) - 1
    edges = torch.ones(h.num_edges, dtype=torch.bool, device=mask.device)
    if isinstance(h.get("edge_index"), Tensor):
        out.edge_index, _, edges = subgraph(
            mask, h.edge_index, relabel_nodes=True, num_nodes=h.num_nodes, return_edge_mask=True
        )
    followed = {}
    for key in h.keys():  # noqa: SIM118
        if key == "num_nodes":
            out.num_nodes = rows.numel()
        elif key == "edge_index":
            followed[key] = edges
        elif key == "face":
            faces = mask[h.face].all(dim=0)
            out.face = new[h.face[:, faces]]
            followed[key] = faces
        elif h.is_node_attr(key):
            out[key] = take_leaf_rows(h, key, rows)
            followed[key] = mask
        elif h.rows_of(key) == "typed":
            followed[key] = mask[h.leaves_of_type(key)]
            out[key] = h[key][followed[key]]
        elif h.rows_of(key) == "edge" and h.is_edge_attr(key):
            out[key] = select(h[key], edges, 0)
            followed[key] = edges
    for key, kept_rows in followed.items():
        if f"{key}_batch" in h and f"{key}_ptr" in h:
            out[f"{key}_batch"] = h[f"{key}_batch"][kept_rows]
            out[f"{key}_ptr"] = count_before(kept_rows)[h[f"{key}_ptr"]]
    for name in ("_slice_dict", "_inc_dict"):  # they point at the old rows
        out._store.__dict__.pop(name, None)
    if "ptr" in h:
        out.ptr = count_before(mask)[h.ptr]
    return out


def count_before(mask: Tensor) -> Tensor:
    """``[n + 1]`` number of set entries before each entry, and in all."""
    return torch.cat([mask.new_zeros(1, dtype=torch.long), mask.cumsum(0)])
