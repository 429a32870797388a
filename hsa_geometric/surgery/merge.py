"""Several samples below one new root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_by_name
from hsa_geometric.surgery._check import check_hierarchy, node_rows


def merge(hierarchies: Sequence[Hierarchy], *, root: Mapping[str, Any] | None = None) -> Hierarchy:
    r"""Join several hierarchies into **one** tree: their roots become a family below a new root.

    In a :class:`~torch_geometric.data.Batch` the trees stay apart; here leaves of one attend to
    those of the others, as siblings of the topmost family.

    Args:
        hierarchies: samples, one or more. A forest brings all of its roots.
        root: the new root's row under every ``tree_*`` and ``inner_*`` key that the samples have,
            for instance ``{"tree_kind": 2, "inner_x": torch.zeros(8)}``, under ``tree_names`` its
            name. The old roots keep their rows; their :obj:`tree_pos` now is a position among each
            other, so set it before.

    Returns:
        A new sample: leaves ``0 .. N-1`` in the order of the samples, their inner nodes, and the
        root with the highest id. Rows are concatenated and edges shifted as PyG does in a batch, so
        data of whole samples, such as :obj:`y`, has a row for each former sample. Names of nodes
        become pairs ``(sample, name)``.

    Raises:
        TypeError: if something in :obj:`hierarchies` is no hierarchy.
        ValueError: if there are none; if one is a batch (its samples are
            ``batch.to_data_list()``); if keys, or the widths or types of a key's rows, differ; if
            :obj:`root` has a key too few or too many, or a row of another shape; if a key of nodes
            holds neither a tensor nor names of nodes.

    Cost: linear.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> merge([from_parent([2, 2, 2]), from_parent([0])]).parent
        tensor([3, 3, 4, 4, 4])
    """
    if isinstance(hierarchies, Hierarchy) or not isinstance(hierarchies, Sequence):
        raise TypeError(f"Expected 'hierarchies' to be a list (got {type(hierarchies).__name__})")
    if not hierarchies:
        raise ValueError("Expected 'hierarchies' to hold at least one hierarchy (got none)")
    for i, h in enumerate(hierarchies):
        check_hierarchy(h, f"hierarchies[{i}]")
        _check_alike(h, hierarchies[0], f"hierarchies[{i}]")
    wanted = {key for key, _ in node_rows(hierarchies[0])}
    rows = dict(root or {})
    if rows.keys() != wanted:
        raise ValueError(
            f"Expected 'root' to hold the new root's row of {sorted(wanted)} (got {sorted(rows)})"
        )

    batch = Batch.from_data_list(list(hierarchies))
    tree, count = batch.tree, batch.num_tree_nodes
    inner = torch.ones_like(tree.parent, dtype=torch.bool)
    inner[tree.leaf_ids] = False
    order = torch.cat([tree.leaf_ids, inner.nonzero().view(-1)])  # leaves first
    new_id = torch.empty_like(order)
    new_id[order] = torch.arange(count, device=order.device)
    is_root = tree.parent == torch.arange(count, device=order.device)
    above = torch.where(is_root, count, new_id[tree.parent])

    out = Hierarchy.from_dict(
        {k: v for k, v in batch.to_dict().items() if k not in ("batch", "ptr", "_num_nodes")}
    )
    out.parent = torch.cat([above[order], above.new_full((1,), count)])
    for key, value in node_rows(batch):
        if isinstance(value, list):
            out[key] = (
                value[0]
                .join(value, [rows[key]])
                .select(torch.cat([order, order.new_tensor([count])]))
            )
            continue
        if rows_by_name(key) == "tree":
            value = value[order]
        out[key] = torch.cat([value, _row(rows[key], value, key)])
    return out


def _check_alike(h: Hierarchy, first: Hierarchy, name: str) -> None:
    """No batch, and keys, widths and types as those of the first one."""
    if isinstance(h, Batch) or "batch" in h:
        raise ValueError(
            f"Expected '{name}' to be a sample (got a batch; merge its 'to_data_list()')"
        )
    if set(h.keys()) != set(first.keys()):
        odd = sorted(set(h.keys()) ^ set(first.keys()))
        raise ValueError(
            f"Expected '{name}' to have the keys of 'hierarchies[0]' (got {odd} in only one)"
        )
    for key in h.keys():  # noqa: SIM118
        value, other = h[key], first[key]
        if not isinstance(value, Tensor) or not isinstance(other, Tensor):
            continue
        dim = h.__cat_dim__(key, value)
        if value.device != other.device:
            raise ValueError(f"Expected '{key}' of '{name}' on {other.device} (got {value.device})")
        if value.dtype != other.dtype or _width(value, dim) != _width(other, dim):
            raise ValueError(
                f"Expected '{key}' of '{name}' to be like that of 'hierarchies[0]' (got "
                f"{value.dtype} {list(value.shape)} and {other.dtype} {list(other.shape)})"
            )


def _width(value: Tensor, dim: Any) -> list[int] | None:
    """Shape without the dimension along which PyG concatenates, if it is a single one."""
    if not isinstance(dim, int) or value.dim() == 0:
        return list(value.shape) if value.dim() == 0 else None
    shape = list(value.shape)
    del shape[dim]
    return shape


def _row(value: Any, like: Tensor, key: str) -> Tensor:
    row = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if row.shape != like.shape[1:]:
        raise ValueError(
            f"Expected '{key}' in 'root' to have shape {list(like.shape[1:])} "
            f"(got {list(row.shape)})"
        )
    return row.unsqueeze(0)
