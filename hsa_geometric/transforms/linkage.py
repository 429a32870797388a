"""Agglomerative clustering as a transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from hsa_geometric.builders._attach import attach, attribute, check_sample
from hsa_geometric.builders._coordinates import as_coordinates
from hsa_geometric.builders._extra import extra
from hsa_geometric.builders.linkage import (
    check_heights,
    check_num_clusters,
    check_one_way,
    from_linkage,
)
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_choice
from hsa_geometric.transforms._base import HierarchyTransform

_EUCLIDEAN = ("centroid", "median", "ward")
_METHODS = ("single", "complete", "average", "weighted", *_EUCLIDEAN)


@dataclass(repr=False, eq=False)
class LinkageHierarchy(HierarchyTransform):
    r"""Put a dendrogram of agglomerative clustering above the nodes of a graph or a point cloud.

    The rows of ``data.pos`` (or another attribute) are clustered by
    :func:`scipy.cluster.hierarchy.linkage`, and
    :func:`~hsa_geometric.builders.from_linkage` makes the tree, with ``inner_height`` ``[T - N]``,
    the heights of the merges, in the precision of the attribute. Everything :obj:`data` holds
    stays, but a tree it had is replaced, with its ``tree_*`` and ``inner_*``.

    Args:
        method: ``'single'``, ``'complete'``, ``'average'``, ``'weighted'``, ``'centroid'``,
            ``'median'`` or ``'ward'``. (default: ``'ward'``)
        metric: distance, as SciPy names it; the last three methods need ``'euclidean'``.
            (default: ``'euclidean'``)
        attr: attribute to cluster, ``'pos'`` or ``'x'``, say. (default: ``'pos'``)
        heights: cuts that flatten the dendrogram, as for
            :func:`~hsa_geometric.builders.from_linkage`.
        num_clusters: cuts given by numbers of clusters.
        min_cluster_size: least size of a cluster of the condensed tree. At most one of the three.
            (default: the whole binary dendrogram)

    Raises:
        TypeError, ValueError: for an unknown method or bad cuts, at once; when applied, if the
            attribute is missing or no matrix of finite real numbers, if there are no nodes, or if
            :obj:`data` is a batch of several samples (transform the samples, then batch them).
        ImportError: when applied, without SciPy.

    Equal rows merge at height 0, in an order of SciPy's choice; one row gives a tree of one leaf.

    Cost: that of SciPy, which keeps all :math:`N(N-1)/2` distances, so up to some 20,000 rows.

    Example:
        >>> import torch
        >>> data = Data(pos=torch.tensor([[0.0], [0.1], [5.0], [5.2]]), y=torch.tensor([1.0]))
        >>> LinkageHierarchy(num_clusters=[2])(data)
        Hierarchy(leaves=4, nodes=7, depth=2, y=[1], pos=[4, 1], inner_height=[3])
    """

    method: str = "ward"
    metric: str = "euclidean"
    _: KW_ONLY
    attr: str = "pos"
    heights: Sequence[float] | None = None
    num_clusters: Sequence[int] | None = None
    min_cluster_size: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.method, "method", _METHODS)
        if self.method in _EUCLIDEAN and self.metric != "euclidean":
            raise ValueError(
                f"Expected metric='euclidean' for method={self.method!r} (got {self.metric!r})"
            )
        check_one_way(self.heights, self.num_clusters, self.min_cluster_size)
        if self.heights is not None:
            self.heights = check_heights(self.heights)
        if self.num_clusters is not None:
            self.num_clusters = check_num_clusters(self.num_clusters)

    def forward(self, data: Data) -> Hierarchy:
        """Build the tree of one sample."""
        check_sample(data)
        x = attribute(data, self.attr)
        if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()):
            x = x.to(torch.get_default_dtype())
        x = as_coordinates(x, self.attr, "row").detach()
        Z = np.empty((0, 4))
        if x.shape[0] > 1:
            with extra("clusters", "LinkageHierarchy needs SciPy"):
                from scipy.cluster.hierarchy import linkage
            Z = linkage(x.double().cpu().numpy(), self.method, self.metric)
        tree = from_linkage(
            Z,
            heights=self.heights,
            num_clusters=self.num_clusters,
            min_cluster_size=self.min_cluster_size,
        ).to(x.device)
        tree.inner_height = tree.inner_height.to(x.dtype)
        return attach(data, tree)
