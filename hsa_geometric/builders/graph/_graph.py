"""Reading a graph: what every method of :func:`from_graph` takes, checked once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import coalesce

from hsa_geometric.builders._attach import attribute, carried
from hsa_geometric.builders._extra import extra
from hsa_geometric.builders._ids import as_batch, first
from hsa_geometric.functional.edges import check_edge_index, check_range, check_samples
from hsa_geometric.functional.options import check_integer

Weights: TypeAlias = "Tensor | Sequence[float] | np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Graph:
    """An undirected graph without self loops.

    Attributes:
        edge_index: ``[2, E]`` int64, each pair once, the smaller end first, sorted.
        weight: ``[E]`` float64, positive.
        sample: ``[N]`` sample of each node; no edge joins two samples.
        attrs: attributes of the nodes, by name.
    """

    edge_index: Tensor
    weight: Tensor
    sample: Tensor
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_nodes(self) -> int:
        """Number of nodes, isolated ones included."""
        return self.sample.numel()

    def adjacency(self) -> Any:
        """Symmetric ``[N, N]`` SciPy matrix of the weights, in CSR form."""
        with extra("clusters", "This method of from_graph needs SciPy"):
            from scipy.sparse import csr_array
        row, col = self.edge_index.cpu().numpy()
        weight, size = self.weight.cpu().numpy(), self.num_nodes
        upper = csr_array((weight, (row, col)), shape=(size, size))
        return (upper + upper.T).tocsr()


def read_graph(
    graph: Any,
    edge_weight: Weights | None,
    num_nodes: int | None,
    batch: Any,
    leaf_data: Mapping[str, Any],
) -> tuple[Graph, Data]:
    """The graph, and the Data whose attributes the hierarchy takes over."""
    if isinstance(graph, Data):
        data = graph
        batch = data.get("batch") if batch is None else batch
        if num_nodes is None:
            with warnings.catch_warnings():  # where PyG has to guess, it warns
                warnings.simplefilter("ignore")
                num_nodes = graph.num_nodes
    elif isinstance(graph, Tensor):
        data = Data(edge_index=graph)
    elif hasattr(graph, "nodes") and hasattr(graph, "edges") and hasattr(graph, "is_directed"):
        data = Data.from_dict(_from_networkx(graph))
        num_nodes = graph.number_of_nodes() if num_nodes is None else num_nodes
    else:
        raise TypeError(
            "Expected 'graph' to be a PyG Data, an edge_index tensor or a networkx graph "
            f"(got {type(graph).__name__})"
        )

    edge_index = check_edge_index(attribute(data, "edge_index", "graph"))
    num_nodes = _count_nodes(edge_index, num_nodes, {"batch": batch, **leaf_data})
    check_range(edge_index, num_nodes)
    name = "edge_weight"
    if edge_weight is None:
        edge_weight = data.get("edge_weight")
    if edge_weight is None:
        attr = data.get("edge_attr")
        if isinstance(attr, Tensor) and (attr.dim() == 1 or attr.shape[1:] == (1,)):
            edge_weight, name = attr.reshape(-1), "edge_attr"
    weight = _check_weight(edge_weight, edge_index, name)

    sample = torch.zeros(num_nodes, dtype=torch.long, device=edge_index.device)
    if batch is not None:
        sample = as_batch(batch, num_nodes).to(sample.device)
        check_samples(edge_index, sample)

    kept = (edge_index[0] != edge_index[1]) & (weight > 0)
    edge_index, _ = edge_index[:, kept].sort(dim=0)
    edge_index, weight = coalesce(edge_index, weight[kept], num_nodes)
    return Graph(edge_index, weight, sample, {**carried(data), **leaf_data}), data


def _from_networkx(G: Any) -> dict[str, Any]:
    row = {name: i for i, name in enumerate(G)}
    edges = list(G.edges(data="weight"))
    pairs = torch.tensor([(row[u], row[v]) for u, v, _ in edges], dtype=torch.long).view(-1, 2).t()
    out = {"edge_index": pairs}
    if any(w is not None for _, _, w in edges):
        try:
            out["edge_weight"] = torch.tensor([1.0 if w is None else float(w) for *_, w in edges])
        except (TypeError, ValueError) as error:
            raise TypeError(f"Expected 'weight' of edges to hold numbers ({error})") from error
    if not G.is_directed():  # PyG's way: an undirected edge stands for both directions
        out["edge_index"] = torch.cat([pairs, pairs.flip(0)], dim=1)
        if "edge_weight" in out:
            out["edge_weight"] = out["edge_weight"].repeat(2)
    return out


def _count_nodes(edge_index: Tensor, num_nodes: int | None, rows: Mapping[str, Any]) -> int:
    """What was said, or the rows of node attributes, or one more than the highest id."""
    if num_nodes is None:
        for key in ("batch", "x", "pos", "z", "mass"):
            if rows.get(key) is not None:
                num_nodes = len(rows[key])
                break
        else:
            num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
    check_integer(num_nodes, "num_nodes")
    if num_nodes < 1:
        raise ValueError(
            f"Expected 'graph' to hold at least one node (got {num_nodes}; a graph without edges "
            "needs 'num_nodes')"
        )
    return num_nodes


def _check_weight(weight: Weights | None, edge_index: Tensor, name: str) -> Tensor:
    num_edges, device = edge_index.size(1), edge_index.device
    if weight is None:
        return torch.ones(num_edges, dtype=torch.float64, device=device)
    weight = torch.as_tensor(weight).detach()
    if weight.dtype == torch.bool or weight.is_complex():
        raise TypeError(f"Expected '{name}' to hold real numbers (got {weight.dtype})")
    if weight.dim() != 1 or weight.numel() != num_edges:
        raise ValueError(
            f"Expected '{name}' to have one entry for each of the {num_edges} edges "
            f"(got shape {list(weight.shape)})"
        )
    if (edge := first(~(weight.isfinite() & (weight >= 0)))) is not None:
        raise ValueError(
            f"Expected '{name}' to be finite and not negative "
            f"(got {name}[{edge}] = {weight[edge].item()})"
        )
    return weight.to(device, torch.float64)
