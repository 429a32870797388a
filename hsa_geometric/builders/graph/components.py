"""Connected components: the coarsest level of any graph."""

from __future__ import annotations

import torch
from torch import Tensor

from hsa_geometric.builders._forest import stack
from hsa_geometric.builders._progress import Step, no_step
from hsa_geometric.builders.graph._graph import Graph
from hsa_geometric.builders.graph._parts import components_of


def components(graph: Graph, step: Step = no_step) -> Tensor:
    """Forest of stars: the nodes of each connected component are a family."""
    label = torch.from_numpy(components_of(graph.adjacency())).long().to(graph.sample.device)
    step(graph.num_nodes)
    return stack([label], graph.num_nodes, label.device)
