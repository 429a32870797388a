"""A tree and a graph, coarsened level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from ...functional.clusters import clusters_at
from ...functional.coarse_edges import coarse_edges
from ...functional.coarse_tree import coarse_tree
from ...functional.lift import nest
from ...functional.pool import pool_rows
from ...kernels.operator import handed_out, sizes_of_index
from ...shard import TreeShard
from ...tree import FIELDS, TreeIndex

if TYPE_CHECKING:
    from ...distributed.halo import Halo


class UNetLevel(NamedTuple):
    """What a :class:`HierarchicalUNet` needs to know of one level; the first one are the leaves.

    Attributes:
        tree: the tree whose leaves are the clusters of this level.
        cluster: cluster of each row of the level before; at the leaves, each its own.
        mass: mass of each cluster; :obj:`None` for leaves that all weigh 1.
        batch: sample of each cluster.
        edge_index: edges between the clusters, if there is a graph.
        edge_weight: their weights: sums of those of the leaves' edges.
        halo: on a shard, rows of other processes' clusters that edges come from.
    """

    tree: TreeIndex
    cluster: Tensor
    mass: Tensor | None
    batch: Tensor
    edge_index: Tensor | None
    edge_weight: Tensor | None
    halo: Halo | None = None


def unet_levels(
    tree: TreeIndex,
    levels: Sequence[int],
    edge_index: Tensor | Halo | None,
    edge_weight: Tensor | None,
    mass: Tensor | None,
    batch: Tensor | None,
) -> list[UNetLevel]:
    """The leaves and each of the levels; arguments are already checked.

    How many clusters there are depends on numbers: to a compiler this is one operator.
    """
    learned = edge_weight is not None and edge_weight.requires_grad
    if not torch.compiler.is_compiling() or learned or not isinstance(edge_index, Tensor | None):
        return _coarsen(tree, levels, edge_index, edge_weight, mass, batch)
    batch, *flat = torch.ops.hsa_geometric.unet_levels(
        tree.tensors, list(levels), edge_index, edge_weight, mass, batch
    )
    rows, width = torch.arange(tree.num_leaves, device=tree.device), len(flat) // len(levels)
    steps = [_unflat(flat[i : i + width]) for i in range(0, len(flat), width)]
    return [UNetLevel(tree, rows, mass, batch, edge_index, edge_weight), *steps]


def _coarsen(
    tree: TreeIndex,
    levels: Sequence[int],
    edge_index: Tensor | Halo | None,
    edge_weight: Tensor | None,
    mass: Tensor | None,
    batch: Tensor | None,
) -> list[UNetLevel]:
    fine, fine_name = clusters_at(tree, -1), "the leaves"
    batch = fine.tree if batch is None else batch
    halo = None
    if edge_index is not None and not isinstance(edge_index, Tensor):
        halo, edge_index = edge_index, edge_index.edge_index
    out = [UNetLevel(tree, fine.cluster, mass, batch, edge_index, edge_weight, halo)]
    for level in levels:
        coarse = coarse_tree(tree, level)
        index = nest(fine, coarse.clusters, fine_name, f"level {level}")
        fine, fine_name = coarse.clusters, f"level {level}"
        size, last = fine.num_clusters, out[-1]
        weight = torch.ones(index.shape, device=tree.device) if last.mass is None else last.mass
        if last.halo is not None:
            assert isinstance(coarse.tree, TreeShard)
            halo, edge_weight = last.halo.coarsen(coarse.tree, index, last.edge_weight)
            edge_index = halo.edge_index
        elif last.edge_index is not None:
            edge_index, edge_weight, _ = coarse_edges(
                last.edge_index, index, edge_weight=last.edge_weight
            )
        batch = last.batch.new_empty(size).index_copy(0, index, last.batch)
        if not torch.equal(batch[index], last.batch):
            raise ValueError(
                "Expected each tree to lie in one sample of 'batch' (got one in several)"
            )
        mass = pool_rows(weight, index, size, reduce="sum")
        out.append(UNetLevel(coarse.tree, index, mass, batch, edge_index, edge_weight, halo))
    return out


# --- what a compiler sees ------------------------------------------------------------------------

torch.library.define(
    "hsa_geometric::unet_levels",
    "(Tensor[] tree, int[] levels, Tensor? edge_index, Tensor? edge_weight, Tensor? mass, "
    "Tensor? batch) -> Tensor[]",
)


def _unflat(tensors: list[Tensor]) -> UNetLevel:
    tree, (cluster, mass, batch, *edges) = tensors[: len(FIELDS)], tensors[len(FIELDS) :]
    edge_index, edge_weight = edges or (None, None)
    return UNetLevel(TreeIndex(*tree), cluster, mass, batch, edge_index, edge_weight)


@torch.library.impl("hsa_geometric::unet_levels", "default")
@_disable_dynamo
def _unet_levels(tree: list[Tensor], levels: list[int], *given: Any) -> list[Tensor]:
    first, *more = _coarsen(TreeIndex(*tree), levels, *given)
    out = [first.batch.clone()]
    for step in more:
        rest = (step.cluster, step.mass, step.batch, step.edge_index, step.edge_weight)
        out += [*handed_out(step.tree), *(x for x in rest if x is not None)]
    return out


@torch.library.register_fake("hsa_geometric::unet_levels")
def _(tree, levels, edge_index, edge_weight, mass, batch):
    index, size = TreeIndex(*tree), torch.library.get_ctx().new_dynamic_size
    rows, where = index.num_leaves, tree[0]
    batch = where if batch is None else batch
    mass = where.new_empty(0, dtype=torch.float32) if mass is None else mass
    if edge_index is not None and edge_weight is None:
        edge_weight = where.new_empty(0, dtype=torch.float32)
    out = [batch.new_empty(rows)]
    for _ in levels:
        leaves, inner = size(), size()
        out += sizes_of_index(where, leaves + inner, index.num_trees, size(), leaves)
        out += [where.new_empty(rows), mass.new_empty(leaves), batch.new_empty(leaves)]
        if edge_index is not None:
            edges = size()
            out += [edge_index.new_empty(2, edges), edge_weight.new_empty(edges)]
        rows = leaves
    return out
