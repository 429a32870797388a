"""What tensors cannot hold of a networkx graph."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class NetworkxRecord:
    r"""Names and non-numeric attributes of the tree nodes of **one** sample, in id order.

    Not a list and not a mapping on purpose: PyG reaches into both when it moves data (and would
    turn a node named ``(0, 1)`` into a list), but carries an unknown object along untouched. A
    batch holds a list of records, one for each sample.

    Args:
        names: name of each tree node.
        attrs: attributes of each tree node that are in no tensor.
        edges: attributes of the edge from each tree node to its parent.
        graph: attributes of the graph.
        directed: whether the graph was directed.
    """

    names: list[Hashable]
    attrs: list[dict[Any, Any]]
    edges: list[dict[Any, Any]]
    graph: dict[Any, Any] = field(default_factory=dict)
    directed: bool = True

    def select(self, keep: Tensor) -> NetworkxRecord:
        """The record of the nodes in the mask :obj:`keep`."""
        mask = keep.tolist()
        return NetworkxRecord(
            names=list(compress(self.names, mask)),
            attrs=list(compress(self.attrs, mask)),
            edges=list(compress(self.edges, mask)),
            graph=self.graph,
            directed=self.directed,
        )

    def __repr__(self) -> str:
        return f"[{len(self.names)}]"
