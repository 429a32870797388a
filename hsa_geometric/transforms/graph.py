"""Graphs with a hierarchy over their nodes: :class:`GraphHierarchy`."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.data import Data

from hsa_geometric.builders.graph.from_graph import check_options, from_graph
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_bool
from hsa_geometric.transforms._base import HierarchyTransform


class GraphHierarchy(HierarchyTransform):
    r"""Give graphs a tree over their nodes: matching, METIS, communities, and so on.

    All attributes are kept and :obj:`parent` is added. See
    :func:`~hsa_geometric.builders.from_graph` for methods, options and errors.

    Args:
        method: ``'matching'``, ``'metis'``, ``'components'``, ``'communities'``,
            ``'agglomerative'`` or ``'spectral'``.
        progress: whether each graph shows a bar on stderr.
        **options: of the method, such as ``seed``, ``branching`` or ``leaf_size``.

    Raises:
        TypeError, ValueError: here, for an unknown method or wrong options.
        ImportError: here, if a method's library is missing.

    Example:
        >>> from torch_geometric.data import Data
        >>> path = Data(x=torch.rand(4, 8), edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]))
        >>> GraphHierarchy()(path)
        Hierarchy(leaves=4, nodes=7, depth=2, x=[4, 8], edge_index=[2, 3])
    """

    def __init__(self, method: str = "matching", *, progress: bool = False, **options: Any) -> None:
        check_options(method, options)
        check_bool(progress, "progress")
        # Their values are tried on two nodes, so that each check stands in one place.
        features: dict[str, Any] = {str(options.get("features") or "x"): torch.zeros(2, 1)}
        from_graph(torch.tensor([[0], [1]]), method=method, **features, **options)
        self.method = method
        self.progress = progress
        self.options = options

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        return from_graph(data, method=self.method, progress=self.progress, **self.options)
