"""The door for pooling: what PyG's pooling layers return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from hsa_geometric.builders._forest import lift
from hsa_geometric.builders._ids import Ids, as_batch
from hsa_geometric.builders._pool_outputs import device_of, pick, read, size_of
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.edges import check_edge_index, check_range, check_samples
from hsa_geometric.functional.options import check_choice, check_integer


def from_pooling(
    outputs: Any,
    *,
    num_nodes: int | None = None,
    edge_index: Tensor | None = None,
    batch: Ids | None = None,
    dropped: str = "nearest",
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy from what PyG's pooling layers return: one level, or a stack of them.

    Leaves are the nodes that the first layer pools. Then come its clusters in the order of its
    output's rows, the clusters of the second layer, and at last the roots. A root is put above the
    last level unless that level is one cluster (with :obj:`batch`: unless cluster ``b`` is sample
    ``b``) and no node hangs beside it. Clusters of one member become nodes of one child;
    ``collapse_chains()`` removes those.

    For each layer give any of

    * all that its ``forward`` returned: of ``TopKPooling``, ``SAGPooling``, ``PANPooling``,
      ``ASAPooling``, ``EdgePooling``, ``ClusterPooling``, ``MemPooling`` or ``DMoNPooling``, or of
      a layer of torch-geometric-pool;
    * a ``SelectOutput`` of either package, or an ``UnpoolInfo`` (anything with a vector
      ``cluster``);
    * an assignment matrix, ``[n, K]`` or dense ``[B, n, K]``, as ``dense_diff_pool`` and
      ``dense_mincut_pool`` take it (but do not return it): each node joins the column of its
      greatest entry, the first of equal ones, and rows that pad a sample are ignored;
    * an integer vector: with one entry a node the cluster of each, if shorter the nodes that are
      kept (``perm``). A permutation of all nodes is refused where the two readings differ.

    Layers that keep some nodes drop the others. By ``dropped='nearest'`` a dropped node joins the
    cluster of the kept node that is the fewest hops away along :obj:`edge_index`, in either
    direction; among several the lowest cluster of its neighbours one hop nearer (the one of the
    highest score in a sample, where a layer sorts by it). Edges of later levels join clusters that
    have an edge between members. What no kept node reaches hangs from the root of its sample, with
    all that is below it; without :obj:`edge_index`, or by ``dropped='root'``, every dropped node
    does. A cluster without members, such as an unused column, is left out.

    Args:
        outputs: a list with one of these for each layer, the one that pools the leaves first. What
            is not a list is one layer.
        num_nodes: number of nodes that the first layer pools. (default: the rows of ``batch``,
            ``x``, ``pos`` or ``z``, or else what the first output tells)
        edge_index: ``[2, E]`` edges between the leaves; kept as ``h.edge_index``.
        batch: ``[N]`` sample of each leaf, ids ``0 .. B-1``; tree ``b`` is sample ``b``. Kept as
            ``h.batch``. (default: one sample)
        dropped: ``'nearest'`` or ``'root'``.
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Raises:
        TypeError: naming the layer, if an output is none of these.
        ValueError: naming layer and node: wrong lengths, ids out of range, a node selected twice,
            a cluster of a vector without members, a cluster or an edge across samples, NaN in a
            matrix, a number of nodes that nothing tells; and what
            :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: for each layer a sort of its edges, and one pass for each hop over edges of dropped nodes
    not reached yet; no Python for single nodes.

    Example:
        >>> from torch_geometric.nn import EdgePooling, TopKPooling
        >>> _ = torch.manual_seed(0)
        >>> x, batch = torch.rand(6, 4), torch.zeros(6, dtype=torch.long)
        >>> edge_index = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
        >>> first = EdgePooling(4)(x, edge_index, batch)
        >>> second = TopKPooling(4, ratio=2)(first[0], first[1], batch=first[2])
        >>> h = from_pooling([first, second], edge_index=edge_index)
        >>> h.num_nodes, h.depth
        (6, 3)
        >>> from_pooling(torch.tensor([0, 0, 1, 1, 1]), num_nodes=5).parent  # two clusters
        tensor([5, 5, 6, 6, 6, 7, 7, 7])
        >>> path = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
        >>> from_pooling(torch.tensor([0, 3]), num_nodes=5, edge_index=path).parent  # two kept
        tensor([5, 5, 6, 6, 6, 7, 7, 7])
    """
    check_choice(dropped, "dropped", ("nearest", "root"))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    if not outputs:
        raise ValueError("Expected 'outputs' to hold at least one layer (got none)")
    layers = [pick(output, f"outputs[{i}]") for i, output in enumerate(outputs)]
    num_nodes = _count_nodes(layers[0], num_nodes, {"batch": batch, **leaf_data})
    device = device_of(layers[0])
    sample = torch.zeros(num_nodes, dtype=torch.long, device=device)
    if batch is not None:
        sample = leaf_data["batch"] = as_batch(batch, num_nodes).to(device)
    edges = torch.empty(2, 0, dtype=torch.long, device=device)
    if edge_index is not None:
        edges = check_edge_index(edge_index).to(device)
        check_range(edges, num_nodes)
        check_samples(edges, sample)
        leaf_data["edge_index"] = edge_index
    num_samples = int(sample.max()) + 1

    # Of all tree nodes so far: the parent (-1: the sample's root), the sample, whether a leaf is
    # below. `nodes` are the ids of the level that comes next.
    nodes = torch.arange(num_nodes, device=device)
    parent, samples, filled = torch.full_like(nodes, -1), [sample], [nodes >= 0]
    beside = False
    for i, layer in enumerate(layers):
        name = f"outputs[{i}]"
        cluster, num_clusters, known = read(layer, samples[-1], num_samples, name)
        if dropped == "nearest":
            cluster = _join_nearest(cluster, edges)
        kept = cluster >= 0
        beside = beside or bool((filled[-1] & ~kept).any())
        parent[nodes[kept]] = cluster[kept] + parent.numel()

        counted = kept & filled[-1]
        above, sample = cluster[counted], samples[-1][counted]
        known = nodes.new_zeros(num_clusters) if known is None else known
        expected = f"each cluster of '{name}' to lie in one sample of 'batch'"
        samples.append(lift(sample, above, known, expected, "cluster"))
        filled.append(torch.bincount(above, minlength=num_clusters) > 0)
        nodes = torch.arange(num_clusters, device=device) + parent.numel()
        parent = torch.cat([parent, torch.full_like(nodes, -1)])
        edges = cluster[edges]
        edges = edges[:, (edges >= 0).all(0) & (edges[0] != edges[1])]
        edges = coalesce(edges, num_nodes=num_clusters)

    roots = torch.arange(num_samples, device=device)
    if not beside and torch.equal(samples[-1][filled[-1]], roots):
        parent[nodes] = nodes
    else:
        parent = torch.where(parent < 0, torch.cat(samples) + parent.numel(), parent)
        parent = torch.cat([parent, roots + parent.numel()])
        filled.append(roots >= 0)
    keep = torch.cat(filled)
    new_id = keep.cumsum(0) - 1
    return from_parent(new_id[parent[keep]], **leaf_data)


def _count_nodes(first: Any, num_nodes: int | None, rows: dict[str, Any]) -> int:
    if num_nodes is None:
        given = [len(rows[k]) for k in ("batch", "x", "pos", "z") if rows.get(k) is not None]
        num_nodes = given[0] if given else size_of(first)
    if num_nodes is None:
        raise ValueError(
            "Expected 'num_nodes' where 'outputs[0]' does not tell how many nodes it pools (got "
            "None)"
        )
    check_integer(num_nodes, "num_nodes", 1)
    return num_nodes


def _join_nearest(cluster: Tensor, edges: Tensor) -> Tensor:
    """Give dropped nodes (-1) the lowest cluster among neighbours, hop by hop."""
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    none = cluster.numel() + 1
    while True:
        edges = edges[:, cluster[edges[1]] < 0]
        offer = cluster[edges[0]]
        has = offer >= 0
        if not has.any():
            return cluster
        best = torch.full_like(cluster, none)
        best = best.scatter_reduce(0, edges[1, has], offer[has], "amin")
        cluster = torch.where(best < none, best, cluster)
