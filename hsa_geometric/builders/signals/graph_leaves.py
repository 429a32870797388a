"""Graphs, molecules and point clouds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from hsa_geometric.builders.signals._leaves import LeafType, Leaves, family, is_rows, said_rows
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_integer
from hsa_geometric.functional.sweeps import aggregate


@dataclass(frozen=True)
class GraphLeaves(LeafType):
    r"""A PyG :class:`~torch_geometric.data.Data`: each node is a leaf with its row of ``x``.

    Edges become those of the hierarchy. Attributes that are no tensors, such as ``smiles``, are
    kept; tensors that are not declared here are refused.

    Args:
        width: number of channels of ``x``; :obj:`None` for ids ``[n]``.
        edges: whether there is an ``edge_index``. (default: :obj:`True`)
        edge_width: number of channels of ``edge_attr``. (default: there is none)
        coordinates: number of columns of ``pos``, ``float32``; nodes then stand on the domain
            ``'points'`` at their coordinates, groups of them at their mean. (default: there is no
            ``pos``, and nodes stand on the domain ``'graph'``, whose positions follow from edges:
            theirs are 0)
        tree: a transform from ``Data`` to the hierarchy of its nodes, such as
            :class:`~hsa_geometric.transforms.MoleculeHierarchy`. (default: all nodes are one
            family)

    Raises:
        TypeError, ValueError: if a number is no positive integer.

    Example:
        >>> graph = Data(x=torch.rand(3, 4), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> GraphLeaves(4).takes(graph), GraphLeaves(5).takes(graph)
        (True, False)
    """

    width: int | None
    edges: bool = True
    edge_width: int | None = None
    coordinates: int | None = None
    tree: Callable[[Data], Hierarchy] | None = None

    takes_type = Data

    def __post_init__(self) -> None:
        for name in ("width", "edge_width", "coordinates"):
            if getattr(self, name) is not None:
                check_integer(getattr(self, name), name, 1)
        dtype = torch.int64 if self.width is None else torch.float32
        names = ["x", *self._tensors()[1:]]
        expects = f"a Data with {names}, x {said_rows(self.width, dtype)}"
        domain = "graph" if self.coordinates is None else "points"
        given = {"dtype": dtype, "expects": expects, "domain": domain}
        for key, value in (given | {"columns": self.coordinates or 0}).items():
            object.__setattr__(self, key, value)

    def _tensors(self) -> list[str]:
        present = {
            "x": True,
            "edge_index": self.edges,
            "edge_attr": self.edge_width is not None,
            "pos": self.coordinates is not None,
        }
        return [key for key, there in present.items() if there]

    def takes(self, value: Any) -> bool:
        """Whether it has the declared tensors, and ``x`` the width and the type."""
        if not isinstance(value, Data) or not is_rows(value.get("x"), self.width, self.dtype):
            return False
        tensors = {key for key, x in value.to_dict().items() if isinstance(x, Tensor)}
        return tensors == set(self._tensors())

    def encode(self, value: Data) -> Leaves:
        """A leaf for each node."""
        n, edges, attr = value.x.shape[0], value.get("edge_index"), value.get("edge_attr")
        if edges is not None:
            if edges.dtype != torch.int64 or edges.dim() != 2 or edges.shape[0] != 2:
                raise ValueError(f"Expected 'edge_index' [2, E] of integers (got {edges.shape})")
            if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= n):
                raise ValueError(
                    f"Expected 'edge_index' to hold rows in [0, {n - 1}] (got {int(edges.min())} "
                    f"to {int(edges.max())})"
                )
        self._check("edge_attr", attr, 0 if edges is None else edges.shape[1], self.edge_width)
        self._check("pos", value.get("pos"), n, self.coordinates)
        parent = family(n) if self.tree is None else self._tree(self.tree(value), n)
        place = value.get("pos")
        if place is not None:
            ones = torch.ones(n, 1)
            place = aggregate(place, parent) / aggregate(ones, parent)
        kept = {key: x for key, x in value.to_dict().items() if not isinstance(x, Tensor)}
        return Leaves(value.x, parent, place, kept, edges, attr)

    def decode(self, leaves: Leaves) -> Data:
        """The graph."""
        found = {"x": leaves.rows, "edge_index": leaves.edge_index, "edge_attr": leaves.edge_attr}
        if self.coordinates is not None and leaves.place is not None:
            found["pos"] = leaves.place[:, : self.coordinates]
        return Data(**{key: found[key] for key in self._tensors()}, **leaves.kept)

    def _check(self, key: str, x: Any, rows: int, width: int | None) -> None:
        if width is not None and (x.shape != (rows, width) or x.dtype != torch.float32):
            raise ValueError(
                f"Expected '{key}' [{rows}, {width}] of torch.float32 (got {list(x.shape)} of "
                f"{x.dtype})"
            )

    def _tree(self, h: Any, n: int) -> Tensor:
        if not isinstance(h, Hierarchy):
            raise TypeError(f"Expected 'tree' to return a Hierarchy (got {type(h).__name__})")
        if h.num_trees != 1 or not torch.equal(h.tree.leaf_ids, torch.arange(n)):
            raise ValueError(f"Expected 'tree' to return one tree whose first {n} nodes are leaves")
        return h.parent if n < h.num_tree_nodes else family(n)
