"""Trees for a Data that is there already: all that it carries goes along."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_by_name


def attach(data: Data, tree: Hierarchy, given: Collection[str] = ()) -> Hierarchy:
    """Let a tree that was just built carry all that a Data has.

    Of a name in several places that in ``given``, by the caller, counts, else that of ``data``,
    else what the builder derived. What belongs to an earlier tree of ``data`` stays behind.
    """
    values = carried(data)  # its keys come first, as they stand there
    built, built_record = dict(tree._store.items()), tree._store._recorded()
    record = dict(data._store._recorded()) if isinstance(data, Hierarchy) else {}
    for key, value in built.items():
        if key == "parent":
            continue
        if key in given or key not in values:
            values[key] = value
            record.pop(key, None)
            if key in built_record:
                record[key] = built_record[key]
        del tree[key]
    for key, value in values.items():
        setattr(tree, key, value)
    tree._store._set_recorded({key: rows for key, rows in record.items() if key in values})
    tree.validate()
    return tree


def carried(data: Data) -> dict[str, Any]:
    """All that a Data has, but for a tree."""
    kept: dict[str, Any] = data.to_dict()
    kept.pop("_record", None)
    if "parent" not in kept:
        return kept
    return {
        key: value
        for key, value in kept.items()
        if rows_by_name(key.removesuffix("_batch").removesuffix("_ptr")) not in ("tree", "inner")
    }


def attribute(data: Any, key: str, name: str = "data") -> Any:
    """An attribute that must be there."""
    _check_data(data, name)
    if data.get(key) is None:
        raise ValueError(f"Expected '{name}' to have '{key}' (got {list(data.to_dict())})")
    return data[key]


def check_sample(data: Any, name: str = "data") -> None:
    """A Data, but no batch of several samples."""
    _check_data(data, name)
    batch = data.get("batch")
    if isinstance(batch, Tensor) and batch.numel() > 0 and int(batch.max()) > 0:
        raise ValueError(
            f"Expected '{name}' to be one sample (got a batch of {int(batch.max()) + 1}; transform "
            f"its samples)"
        )


def device_of(data: Data) -> torch.device:
    """Device of the first tensor in it, or the CPU."""
    tensors = (value for value in data.to_dict().values() if isinstance(value, Tensor))
    return next((value.device for value in tensors), torch.device("cpu"))


def _check_data(data: Any, name: str) -> None:
    if not isinstance(data, Data):
        raise TypeError(f"Expected '{name}' to be a Data (got {type(data).__name__})")
