"""Who calls: the two things that PyG does to a hierarchy without saying so."""

from __future__ import annotations

import sys
from typing import Any

# Transforms of torch_geometric.transforms that add, remove or replace nodes: what to do instead.
_BEFORE = "apply it to the Data before its hierarchy is built"
_OTHER_NODES = {
    "AddMetaPaths": _BEFORE,
    "AddRandomMetaPaths": _BEFORE,
    "FixedPoints": f"{_BEFORE} (PointHierarchy), or keep leaves by 'subgraph'",
    "GridSampling": f"{_BEFORE} (VoxelHierarchy), or take 'coarsen' of a voxel tree",
    "HalfHop": f"{_BEFORE} (GraphHierarchy)",
    "LineGraph": f"{_BEFORE} (GraphHierarchy)",
    "RemoveIsolatedNodes": "h.subgraph(h.edge_index.unique()) does it with the tree",
    "RootedEgoNets": _BEFORE,
    "RootedRWSubgraph": _BEFORE,
    "SamplePoints": f"{_BEFORE} (PointHierarchy)",
    "VirtualNode": f"{_BEFORE} (GraphHierarchy); attention needs none",
}


def check_transform() -> None:
    """Refuse a transform of PyG that is about to change what the nodes are.

    A transform first copies its argument; nothing else tells a Data that it is being transformed,
    and points in another order, or edges that take the place of nodes, may be just as many. To be
    called by ``__copy__``.
    """
    frame: Any = sys._getframe(2)  # copy.copy
    frame = frame.f_back
    if frame is None or frame.f_code.co_name != "__call__":
        return
    transform = frame.f_locals.get("self")
    for cls in type(transform).__mro__:
        of_pyg = cls.__module__.startswith("torch_geometric.transforms.")
        if of_pyg and cls.__name__ in _OTHER_NODES:
            raise ValueError(
                f"Expected a transform that keeps the leaves (got {type(transform).__name__}, of "
                f"which the tree knows nothing): {_OTHER_NODES[cls.__name__]}"
            )


def samples_to_batch() -> tuple[list[Any], set[str]]:
    """The samples that PyG is about to batch, and the keys that it shall leave out.

    It shows a new batch the first of them alone, and takes the keys from there. To be called by
    ``stores_as``. Empty if something else calls that.
    """
    frame: Any = sys._getframe(2)
    if frame.f_code.co_name != "collate":
        return [], set()
    return list(frame.f_locals.get("data_list", ())), set(frame.f_locals.get("exclude_keys") or ())
