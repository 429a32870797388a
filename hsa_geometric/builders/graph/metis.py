"""METIS: parts of parts with few edges between them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from hsa_geometric.builders._extra import extra
from hsa_geometric.builders._progress import Step, no_step
from hsa_geometric.builders.graph._graph import Graph
from hsa_geometric.builders.graph._parts import Labels, cut_down
from hsa_geometric.functional.options import check_integer


def metis(
    graph: Graph,
    step: Step = no_step,
    *,
    branching: int = 8,
    leaf_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Forest of recursive METIS partitions."""
    check_integer(branching, "branching", 2)
    leaf_size = branching if leaf_size is None else leaf_size
    check_integer(leaf_size, "leaf_size", 2)
    check_integer(seed, "seed", 0)
    with extra("clusters", "method='metis' needs pymetis"):
        import pymetis  # noqa: F401
    split = partial(_split, branching=branching, seed=seed)
    return cut_down(graph, split, step, branching=branching, leaf_size=leaf_size)


def _split(adjacency: Any, *, branching: int, seed: int) -> Labels:
    import pymetis

    # METIS takes positive integers whose sum fits 31 bits.
    weight = adjacency.data / adjacency.data.max()
    weight = np.rint(weight * min(1000.0, 2**30 / weight.sum())).clip(min=1).astype(np.int64)
    neighbours = pymetis.CSRAdjacency(
        adjacency.indptr.astype(np.int64), adjacency.indices.astype(np.int64)
    )
    options = pymetis.Options(seed=seed)
    _, label = pymetis.part_graph(branching, neighbours, eweights=weight, options=options)
    return np.asarray(label, dtype=np.int64)
