"""One level of a hierarchy as a graph, and as the smaller hierarchy above it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import rows_by_name
from hsa_geometric.functional.checks import check_tensor
from hsa_geometric.functional.coarse_edges import EDGE_REDUCTIONS, coarse_edges
from hsa_geometric.functional.coarse_tree import coarse_tree
from hsa_geometric.functional.layout import root_of
from hsa_geometric.functional.options import check_choice
from hsa_geometric.functional.pool import pool_rows
from hsa_geometric.tree import TreeIndex


def coarsen(
    data: Hierarchy, level: int, *, reduce: str = "mean", edge_reduce: str = "sum"
) -> Hierarchy:
    r"""Turn one level of a hierarchy, or of a batch of them, into data of its own.

    The clusters of :func:`~hsa_geometric.functional.clusters_at`\ ``(data.tree, level)`` become the
    nodes of the graph, in that order. The result is a :class:`~hsa_geometric.data.Hierarchy`, so
    any PyG layer takes it, and hierarchical attention runs on the tree that remains above.
    Coarsening a batch gives the batch of the coarsened samples, which can still be split into
    them; levels count, as everywhere, in each tree.

    ============================  ==================================================================
    ``x``                         pooled by :obj:`reduce`, weighted by mass
    ``pos``, and what else has    mass-weighted mean; rows of integers (such as ``z``) or booleans
    one row for each leaf         have none and are dropped
    ``mass``                      sum; the number of leaves where there was none
    ``edge_index``                edges between different clusters, each once, without self-loops
    ``edge_weight``               reduced by :obj:`edge_reduce`; where there was none, every edge
                                  weighed 1
    ``edge_attr``                 mean over the edges joined
    ``parent``                    clusters ``0 .. K - 1``, then the inner nodes above them in their
                                  order; in a batch with ``ptr``, sample by sample
    ``tree_*``, ``inner_*``       rows of the nodes that are left; ``inner_*`` loses those of the
                                  clusters, which are leaves now
    ``batch``, ``ptr``,           those of the clusters, the nodes and the edges that are left
    ``*_batch``, ``*_ptr``
    anything else                 dropped if it belongs to edges, or names leaves by row (``face``,
                                  ``adj``, ``*_index`` set after the hierarchy was built) or tree
                                  nodes (``tree_names``); kept otherwise, such as ``y`` of a sample
    ============================  ==================================================================

    What has one row for each leaf, :meth:`Hierarchy.rows_of <hsa_geometric.data.Hierarchy.rows_of>`
    says; under names that no builder was given that is, as in PyG, what has as many rows.

    Args:
        data: a hierarchy, or a batch of them. It is not changed.
        level: as for :func:`~hsa_geometric.functional.clusters_at`.
        reduce: how ``x`` is reduced: ``'mean'``, ``'sum'`` or ``'max'``, see
            :func:`~hsa_geometric.functional.pool`.
        edge_reduce: how edge weights are: ``'sum'``, ``'mean'`` or ``'count'``, see
            :func:`~hsa_geometric.functional.coarse_edges`.

    Raises:
        TypeError: if :obj:`data` is no hierarchy, :obj:`level` no integer, or ``x``, ``pos``,
            ``edge_weight`` or ``edge_attr`` holds no floating-point numbers (categories have no
            mean: encode or remove them first).
        ValueError: if a reduction is unknown, :obj:`data` is invalid, or a tree has leaves of
            several samples in ``batch``, or leaves are of several types
            (:class:`~hsa_geometric.builders.NestedSignal`).

    Cost: linear in nodes and features, and one sort of the edges; no Python per node.

    Example:
        >>> import torch
        >>> from hsa_geometric.builders import from_clusters
        >>> path = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
        >>> h = from_clusters([[0, 0, 0, 1, 1, 2]], x=torch.arange(6.0).view(6, 1), edge_index=path)
        >>> coarse = coarsen(h, level=1)
        >>> coarse.num_nodes, coarse.depth
        (3, 1)
        >>> coarse.x.view(-1), coarse.mass, coarse.edge_index
        (tensor([1.0000, 3.5000, 5.0000]), tensor([3., 2., 1.]), tensor([[0, 1],
                [1, 2]]))
    """
    if not isinstance(data, Hierarchy):
        raise TypeError(f"Expected 'data' to be a Hierarchy (got {type(data).__name__})")
    check_choice(reduce, "reduce", ("mean", "sum", "max"))
    check_choice(edge_reduce, "edge_reduce", EDGE_REDUCTIONS)
    data.validate()
    for key in data._store:
        if data.rows_of(key) == "typed":
            raise ValueError(
                f"Expected leaves of one type, which have means (got rows of a type in '{key}'); "
                f"bring them to one width, h.x = ..., and del h['{key}']"
            )
    tree, clusters, node = coarse_tree(data.tree, level)
    size = clusters.num_clusters
    batch, sample = _samples(data, tree, clusters.cluster, size)
    order = torch.argsort(sample, stable=True)  # node ids sample by sample, as PyG batches them
    new_id = torch.empty_like(order)
    new_id[order] = torch.arange(order.numel(), device=order.device)

    # The new value of each key, and the sample that each of its rows belongs to.
    cluster_sample, node_sample = sample[:size], sample[order]
    new = {"parent": (new_id[tree.parent[order]].to(data.parent.dtype), node_sample)}
    mass = data.mass
    if mass is None:
        mass = torch.ones_like(clusters.cluster, dtype=torch.get_default_dtype())
    new["mass"] = (pool_rows(mass, clusters.cluster, size, reduce="sum"), cluster_sample)

    node, is_inner = node[order], order >= size
    inner = torch.ones_like(data.tree.parent, dtype=torch.bool)
    inner[data.tree.leaf_ids] = False
    inner_row = (inner.cumsum(0) - 1)[node[is_inner]]
    dropped = set()
    for key, value in data._store.items():
        rows = data.rows_of(key)
        if key in ("parent", "mass") or rows not in ("tree", "inner", "leaf"):
            continue
        if rows == "leaf" and _is_of_samples(key, data):
            continue
        if not isinstance(value, Tensor):
            dropped.add(key)
        elif rows == "tree":
            new[key] = (value[node], node_sample)
        elif rows == "inner":
            new[key] = (value[inner_row], node_sample[is_inner])
        elif key in ("x", "pos") or value.is_floating_point():
            check_tensor(value, key)
            if key == "x" and reduce != "mean":
                pooled = pool_rows(value, clusters.cluster, size, reduce=reduce, mass=data.mass)
            else:
                pooled = _mean(value, clusters.cluster, size, data.mass)
            new[key] = (pooled, cluster_sample)
        else:
            dropped.add(key)
    if batch is not None:
        new["batch"] = (batch, cluster_sample)
        dropped.discard("batch")
    if isinstance(data.edge_index, Tensor):
        edges = coarse_edges(
            data.edge_index,
            clusters.cluster,
            edge_weight=data._store.get("edge_weight"),
            edge_attr=data.edge_attr,
            reduce=edge_reduce,
        )
        for key, value in edges._asdict().items():
            if value is not None:
                new[key] = (value, cluster_sample[edges.edge_index[0]])
    out = _with_rows(data, new, dropped)
    data._coarsened(out, tree, clusters)
    return out


def _mean(value: Tensor, cluster: Tensor, size: int, mass: Tensor | None) -> Tensor:
    """Means of the rows of each cluster, summed about a place among them.

    Far from the origin the sum itself would have no digits left for what is near.
    """
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    about = pool_rows(wide.detach(), cluster, size, reduce="max", mass=mass)  # 0 without mass
    about = about.masked_fill(~about.isfinite(), 0)
    near = wide - about.index_select(0, cluster)
    return (about + pool_rows(near, cluster, size, mass=mass)).to(value.dtype)


def _samples(
    data: Hierarchy, tree: TreeIndex, cluster: Tensor, size: int
) -> tuple[Tensor | None, Tensor]:
    """``batch`` of the clusters, and the sample of each node of the coarse tree.

    Nodes are all of sample 0 where no ``ptr`` says that samples are stored one after the other.
    """
    sample = torch.zeros_like(tree.parent)
    if "batch" not in data:
        return None, sample
    batch = data.batch.new_empty(size).index_copy(0, cluster, data.batch)
    if not torch.equal(batch[cluster], data.batch):
        raise ValueError("Expected each tree to lie in one sample of 'batch' (got one in several)")
    if "ptr" in data:
        root = root_of(tree)
        sample[root[:size]] = batch
        sample = sample[root]
    return batch, sample


def _is_of_samples(key: str, data: Hierarchy) -> bool:
    """Whether rows may as well be those of samples, of one leaf each, which stay as they are."""
    if rows_by_name(key) == "leaf" or data._store._recorded().get(key) == "leaf":
        return False
    samples = int(data.batch.max()) + 1 if "batch" in data else 1
    return samples == data.num_nodes


def _with_rows(
    data: Hierarchy, new: dict[str, tuple[Tensor, Tensor]], dropped: set[str]
) -> Hierarchy:
    """A copy of ``data`` with new rows, and with all that PyG keeps beside them."""
    out = copy.copy(data)
    store = out._store
    rows = {key: data.rows_of(key) for key in store}
    ptr = {}
    if "ptr" in store:
        num_samples = store["ptr"].numel() - 1
        ptr = {key: _ptr(sample, num_samples) for key, (_, sample) in new.items()}

    for key in list(store.keys()):
        followed = key.removesuffix("_batch").removesuffix("_ptr")  # by follow_batch
        if key == "ptr":
            store["ptr"] = ptr["mass"]
        elif key != followed and followed in ptr:
            store[key] = ptr[followed] if key.endswith("_ptr") else new[followed][1]
        elif key != followed and followed in store and followed not in dropped | new.keys():
            continue  # of something that stays
        elif key in dropped or (rows[key] in ("edge", "reference", "other") and key not in new):
            del store[key]
    for key, (value, _) in new.items():
        store[key] = value

    slices = store.__dict__.pop("_slice_dict", None)
    incs = store.__dict__.pop("_inc_dict", None)
    store.__dict__.pop("_num_nodes", None)
    if slices is not None and incs is not None and ptr:
        bounds = {key: value.cpu() for key, value in ptr.items() if key != "batch"}
        shift = {"parent": bounds["parent"], "edge_index": bounds["mass"]}
        zero = torch.zeros_like(bounds["mass"])
        out._slice_dict = slices | bounds
        out._inc_dict = incs | {key: shift.get(key, zero)[:-1] for key in bounds}
    return out


def _ptr(sample: Tensor, num_samples: int) -> Tensor:
    """``[B + 1]`` where the rows of each sample start, rows sorted by sample."""
    count = torch.bincount(sample, minlength=num_samples)
    return torch.cat([count.new_zeros(1), count.cumsum(0)])
