"""What PyG's pooling layers return, read as one thing: the cluster of each node of a level.

In PyG 2.8 ``forward`` returns

* ``x, edge_index, edge_attr, batch, perm, score`` for TopKPooling, SAGPooling and PANPooling;
* ``x, edge_index, edge_weight, batch, perm`` for ASAPooling;
* ``x, edge_index, batch, unpool_info`` with ``unpool_info.cluster`` for EdgePooling and
  ClusterPooling;
* ``x, S`` with a dense ``S [B, n, K]`` for MemPooling;
* ``S, x, adj`` and three losses for DMoNPooling;
* ``x, adj`` and two losses, but not the ``S`` they were made with, for ``dense_mincut_pool`` and
  ``dense_diff_pool``.

The layers of torch-geometric-pool 1.0 return an object with ``so``, a SelectOutput whose ``s`` is a
sparse matrix, or a dense one ``[B, n, K]``, or one ``[N, K]`` with ``batch``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import to_dense_batch

from hsa_geometric.builders._ids import as_ids, check_all_used, first, places


class Assignment(NamedTuple):
    """Where the nodes of a level go.

    Attributes:
        cluster: ``[n]`` cluster of each node, -1 if it was dropped.
        num_clusters: how many there are; some may be empty.
        sample: ``[num_clusters]`` sample of each cluster where the output itself says so.
    """

    cluster: Tensor
    num_clusters: int
    sample: Tensor | None = None


class Perm(NamedTuple):
    """A vector that is known to hold the nodes which are kept."""

    perm: Tensor


def pick(output: Any, name: str) -> Any:
    """The part of a layer's output that says which node goes where."""
    output = output if getattr(output, "so", None) is None else output.so
    if isinstance(getattr(output, "s", None), Tensor) and not output.s.is_sparse:
        batch = getattr(output, "batch", None)
        return output.s if batch is None else to_dense_batch(output.s, batch)[0]
    if isinstance(output, Tensor) or _is_select(output) or hasattr(output, "cluster"):
        return output
    if isinstance(output, tuple):
        if len(output) == 2 and is_matrix(output[1]):
            return output[1]
        if len(output) == 4 and hasattr(output[3], "cluster"):
            return output[3]
        if len(output) == 6 and _are_losses(output[3:]):
            return output[0]
        if len(output) == 4 and _are_losses(output[2:]):
            raise TypeError(
                f"Expected '{name}' to say where each node goes (got what dense_mincut_pool or "
                "dense_diff_pool returned, which does not; give the assignment matrix 's' that it "
                "was called with)"
            )
        if len(output) in (5, 6) and isinstance(output[4], Tensor):
            return Perm(output[4])
    elif hasattr(output, "__array__"):
        return as_ids(output, name)
    raise TypeError(
        f"Expected '{name}' to be what a pooling layer returned, a SelectOutput, an UnpoolInfo, a "
        f"vector of clusters or kept nodes, or an assignment matrix (got {type(output).__name__})"
    )


def _are_losses(values: Any) -> bool:
    return all(isinstance(value, Tensor) and value.dim() == 0 for value in values)


def is_matrix(output: Any) -> bool:
    """Whether this is a (dense) assignment matrix."""
    return isinstance(output, Tensor) and output.is_floating_point()


def size_of(output: Any) -> int | None:
    """Number of nodes of the level, if the output tells it."""
    if _is_select(output):
        return int(output.num_nodes)
    if hasattr(output, "cluster"):
        return int(output.cluster.numel())
    if is_matrix(output) and (output.dim() == 2 or (output.dim() == 3 and output.size(0) == 1)):
        return int(output.size(-2))
    return None


def device_of(output: Any) -> torch.device:
    """Where the output lives."""
    for key in ("node_index", "cluster", "perm"):
        output = getattr(output, key, output)
    device: torch.device = output.device
    return device


def read(output: Any, sample: Tensor, num_samples: int, name: str) -> Assignment:
    """Check what :func:`pick` returned against a level whose nodes are in ``sample``."""
    num_nodes = sample.numel()
    if is_matrix(output):
        return _read_matrix(output.detach(), sample, num_samples, name)
    if _is_select(output):
        if int(output.num_nodes) != num_nodes:
            raise ValueError(
                f"Expected '{name}' to select from {num_nodes} nodes (got {int(output.num_nodes)})"
            )
        node = as_ids(output.node_index, f"{name}.node_index")
        cluster = as_ids(output.cluster_index, f"{name}.cluster_index")
        known = "num_clusters" if hasattr(output, "num_clusters") else "num_supernodes"
        return _read_pairs(node, cluster, num_nodes, int(getattr(output, known)), name)
    if isinstance(output, Perm):
        return _read_perm(as_ids(output.perm, name), num_nodes, name)
    if not isinstance(output, Tensor):
        return _read_clusters(as_ids(output.cluster, f"{name}.cluster"), num_nodes, name)
    ids = as_ids(output, name)
    if ids.numel() < num_nodes:
        return _read_perm(ids, num_nodes, name)
    places = torch.arange(ids.numel(), device=ids.device)
    if torch.equal(ids.sort().values, places) and not torch.equal(ids[ids], places):
        raise ValueError(
            f"Expected '{name}' to be either clusters or kept nodes (got a permutation of all "
            f"{num_nodes} nodes, which may be both; give all that the layer returned)"
        )
    return _read_clusters(ids, num_nodes, name)


def _is_select(output: Any) -> bool:
    # SelectOutput is compiled by TorchScript, so its type says nothing.
    return hasattr(output, "node_index") and hasattr(output, "cluster_index")


def _read_clusters(ids: Tensor, num_nodes: int, name: str) -> Assignment:
    if ids.numel() != num_nodes:
        raise ValueError(
            f"Expected '{name}' to have one cluster for each of the {num_nodes} nodes "
            f"(got {ids.numel()})"
        )
    _check_range(ids, num_nodes, "clusters", name)
    check_all_used(ids, name, "cluster")
    return Assignment(ids, int(ids.max()) + 1)


def _read_perm(perm: Tensor, num_nodes: int, name: str) -> Assignment:
    places = torch.arange(perm.numel(), device=perm.device)
    return _read_pairs(perm, places, num_nodes, perm.numel(), name)


def _read_pairs(
    node: Tensor, cluster: Tensor, num_nodes: int, num_clusters: int, name: str
) -> Assignment:
    _check_range(node, num_nodes, "nodes", name)
    _check_range(cluster, num_clusters, "clusters", name)
    if (twice := first(torch.bincount(node) > 1)) is not None:
        raise ValueError(
            f"Expected '{name}' to select each node once (got node {twice} more often); in a tree "
            "a node has one cluster"
        )
    out = node.new_full((num_nodes,), -1)
    out[node] = cluster
    return Assignment(out, num_clusters)


def _read_matrix(matrix: Tensor, sample: Tensor, num_samples: int, name: str) -> Assignment:
    """Hard clusters; those of a dense matrix are numbered sample by sample, ``K`` for each."""
    num_nodes, clusters = sample.numel(), matrix.size(-1) if matrix.dim() else 0
    above: Tensor | None = None
    if matrix.dim() == 3:
        longest = int(torch.bincount(sample).max())
        if matrix.size(0) != num_samples or matrix.size(1) < longest:
            raise ValueError(
                f"Expected '{name}' to be of shape [{num_samples}, n, K] with n at least {longest} "
                f"(got {list(matrix.shape)}; 'batch' says which leaf is in which sample)"
            )
        matrix = matrix[sample, places(sample)]
        above = torch.arange(num_samples, device=sample.device).repeat_interleave(clusters)
    elif matrix.dim() != 2 or matrix.size(0) != num_nodes:
        raise ValueError(
            f"Expected '{name}' to be of shape [{num_nodes}, K] or [B, n, K] "
            f"(got {list(matrix.shape)})"
        )
    if clusters == 0:
        raise ValueError(f"Expected '{name}' to have columns (got shape {list(matrix.shape)})")
    if matrix.isnan().any():
        raise ValueError(f"Expected '{name}' to hold numbers (got NaN)")
    columns = torch.arange(clusters, device=sample.device)
    greatest = matrix == matrix.amax(1, keepdim=True)
    column = torch.where(greatest, columns, clusters).amin(1)
    if above is None:
        return Assignment(column, clusters)
    return Assignment(column + sample * clusters, num_samples * clusters, above)


def _check_range(ids: Tensor, count: int, what: str, name: str) -> None:
    outside = (ids < 0) | (ids >= count)
    if outside.any():
        raise ValueError(
            f"Expected '{name}' to hold {what} in [0, {count - 1}] (got {int(ids[outside][0])})"
        )
