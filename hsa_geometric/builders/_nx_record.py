"""What tensors cannot hold of a networkx graph."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
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

    def select(self, rows: Tensor) -> NetworkxRecord:
        """The record of the nodes in the mask or the list of ids :obj:`rows`.

        Where an id comes again it stands for a new node, with the attributes of the old one but the
        first name ``(name, 1)``, ``(name, 2)``, … that is free, and no edge attributes.
        """
        ids = (rows.nonzero().view(-1) if rows.dtype == torch.bool else rows).tolist()
        taken, seen = set(self.names), dict.fromkeys(ids, 0)
        names, edges = [], []
        for i in ids:
            name, edge = self.names[i], self.edges[i]
            if seen[i]:
                edge = {}
                while (copy := (name, seen[i])) in taken:
                    seen[i] += 1
                name = copy
            seen[i] += 1
            names.append(name)
            edges.append(edge)
        attrs = [self.attrs[i] for i in ids]
        return NetworkxRecord(names, attrs, edges, self.graph, self.directed)

    @staticmethod
    def join(records: Sequence[NetworkxRecord], further: Sequence[Hashable] = ()) -> NetworkxRecord:
        """The nodes of several samples, named ``(sample, name)``, and further ones by name."""
        return NetworkxRecord(
            names=[(i, name) for i, record in enumerate(records) for name in record.names]
            + list(further),
            attrs=[attrs for record in records for attrs in record.attrs] + [{} for _ in further],
            edges=[edge for record in records for edge in record.edges] + [{} for _ in further],
            directed=all(record.directed for record in records),
        )

    def __repr__(self) -> str:
        return f"[{len(self.names)}]"


# A dataset on disk names the classes of what it holds, which `torch.load` must trust.
torch.serialization.add_safe_globals([NetworkxRecord])
