"""What the samples of a batch must have in common."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hsa_geometric.data.rows import type_number
from hsa_geometric.data.storage import HierarchyStorage

_MARKS = ("index", "batch", "edge", "face", "adj")  # in names that PyG batches by other rules


def check_keys(samples: Sequence[Any], excluded: Collection[str] = ()) -> None:
    """Refuse samples of a batch whose keys differ: PyG takes those of the first one."""
    first = _mapping(samples[0], 0)
    for i, sample in enumerate(samples[1:], start=1):
        keys = _mapping(sample, i).keys()
        if keys == first.keys():
            continue
        odd = sorted((keys ^ first.keys()) - {"ptr", *excluded})
        if odd:
            here, there = (i, 0) if odd[0] in keys else (0, i)
            raise ValueError(
                f"Expected all samples of a batch to have the same keys (got '{odd[0]}' in sample "
                f"{here}, but not in sample {there}); give it to all, or to none: del "
                f"h['{odd[0]}'], or exclude_keys=['{odd[0]}']"
            )


def common_record(samples: Sequence[Any], excluded: Collection[str] = ()) -> dict[str, str]:
    """What was recorded of the rows of each key, in all samples alike."""
    records = [sample._store._recorded() for sample in samples]
    if all(record == records[0] for record in records[1:]):
        return records[0]
    out = {}
    for key in dict.fromkeys(key for record in records for key in record):
        if key in excluded:
            continue
        found = [record.get(key) for record in records]
        if None in found:
            typed = any(type_number(rows) is not None for rows in found)
            if typed or any(mark in key for mark in _MARKS):
                _refuse(key, found, found.index(None))
            continue  # PyG's rules do for such a name
        certain = [rows for rows in found if rows != "either"]
        if len(set(certain)) > 1:
            _refuse(key, found, found.index(certain[0]))
        out[key] = certain[0] if certain else "either"
    return out  # type: ignore[return-value]


def _mapping(sample: Any, i: int) -> dict[str, Any]:
    store = getattr(sample, "_store", None)
    if not isinstance(store, HierarchyStorage):
        raise TypeError(
            f"Expected all samples of a batch to be hierarchies (got {type(sample).__name__} at "
            f"sample {i})"
        )
    mapping: dict[str, Any] = store._mapping
    return mapping


def _refuse(key: str, found: list[str | None], one: int) -> None:
    odd = (i for i, rows in enumerate(found) if rows != found[one])
    other = min(odd, key=lambda i: found[i] == "either")
    what = {"leaf": "rows of leaves", "sample": "a value of the whole sample"}
    unknown = "set after it was built"
    said = [
        f"rows of leaves of {rows}"
        if type_number(rows) is not None
        else what.get(str(rows), unknown)
        for rows in (found[one], found[other])
    ]
    raise ValueError(
        f"Expected '{key}' to be the same thing in all samples of a batch (got {said[0]} in sample "
        f"{one}, {said[1]} in sample {other})"
    )
