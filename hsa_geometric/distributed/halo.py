"""Rows of other processes' leaves, for message passing beside attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..functional.checks import check_rows, check_tensor
from ..functional.coarse_edges import coarse_edges
from ..functional.edges import check_edge_index, check_range
from ..functional.sharded import named
from ..shard import TreeShard
from .hierarchy_shard import HierarchyShard, first_of


class Halo:
    r"""The leaves of other processes that edges come from.

    Every process keeps the edges that end at its leaves. Where one begins elsewhere, that leaf's
    row is fetched behind its own: ``conv(halo(x), halo.edge_index)[:x.size(0)]`` equals
    those rows of ``conv`` on one process, and gradients go back to the leaves' own processes. That
    holds for what a row hears from its neighbours alone; ``GCNConv`` also weighs by the neighbours'
    degrees, which are not here: normalise before the cut, and give the weights.

    All processes of the shard's group make it, and call it, together.

    Args:
        shard: the shard of this process.
        edge_index: edges of the whole graph in rows of the whole, or at least those that end at
            leaves here.

    Attributes:
        edge_index: ``[2, E_here]`` edges that end here, in rows of ``halo(x)``.
        edges: ``[E_here]`` which of the given edges these are, for rows of ``edge_attr``.

    Raises:
        ValueError: if edges name leaves that there are not.

    Cost: making it sends a number to and fro for each leaf once; a call sends the rows of the
    leaves that others need, once to each process.
    """

    def __init__(self, shard: HierarchyShard, edge_index: Tensor):
        edge_index = check_edge_index(edge_index)
        check_range(edge_index, int(shard.cut_size[0]))
        self._make(shard.leaf_row, edge_index, int(shard.cut_size[0]), shard.tree)

    def _make(self, names: Tensor, edge_index: Tensor, total: int, tree: TreeShard) -> None:
        """``names`` below ``total`` of the rows here, ascending; edges between names."""
        self.tree, self.group, self.names, self.total = tree, tree.group, names, total
        size = tree.size
        target = _find(names, edge_index[1])
        self.edges = (target >= 0).nonzero().view(-1)
        target, outside = target[self.edges], edge_index[0, self.edges]
        source = _find(names, outside)
        need, which = outside[source < 0].unique(return_inverse=True)

        # Row r is asked after at process r // part, where its holder has told of it.
        part = -(-total // size)
        mine = torch.stack([names, torch.full_like(names, tree.here)], 1)
        told, _, _ = _send(mine, names // part, size, self.group)
        holder = torch.zeros(part, dtype=torch.long, device=names.device)
        holder[told[:, 0] % part] = told[:, 1]
        asked, back, _ = _send(need, need // part, size, self.group)
        answer = _move(holder[asked % part], back, _counts(need // part, size), self.group)

        order = torch.argsort(answer, stable=True)  # rows come from one process after the other
        wanted, self.give, self.take = _send(need[order], answer[order], size, self.group)
        self.rows = _find(names, wanted)
        source[source < 0] = names.numel() + order.argsort()[which]
        self.edge_index = torch.stack([source, target])

    def coarsen(
        self, tree: TreeShard, cluster: Tensor, edge_weight: Tensor | None = None
    ) -> tuple[Halo, Tensor]:
        r"""Join the edges between the same two clusters, as
        :func:`~hsa_geometric.functional.coarse_edges` does on one process.

        Args:
            tree: the shard whose leaves are the clusters, of
                :func:`~hsa_geometric.functional.coarse_tree`.
            cluster: cluster of each row here, as in ``clusters_at(...).cluster``.
            edge_weight: weights of this halo's edges. (default: every edge weighs 1)

        Returns:
            The halo of the clusters, and the weights of its edges: sums of those joined.

        Shapes:
            - **input:** cluster :math:`(N)`, edge_weight :math:`(E_\mathrm{here})`

        Cost: names of the leaves that others need, and a halo of the clusters.
        """
        # A cluster's name is that of its first row; those of others lie with others.
        first = first_of(self.names, cluster, tree.num_leaves, self.total)
        elsewhere, which = self._beyond(first[cluster]).unique(return_inverse=True)
        rows = torch.cat([cluster, tree.num_leaves + which])
        joined = coarse_edges(self.edge_index, rows, edge_weight=edge_weight)
        out = Halo.__new__(Halo)
        out._make(first, torch.cat([first, elsewhere])[joined.edge_index], self.total, tree)
        return out, joined.edge_weight

    def __call__(self, x: Tensor) -> Tensor:
        r"""Append the rows of the leaves that edges come from.

        Args:
            x: features of the leaves here.

        Shapes:
            - **input:** x :math:`(N, *)`
            - **output:** :math:`(N + N_\mathrm{elsewhere}, *)`
        """
        check_tensor(x, "x")
        check_rows(x, "x", self.tree)
        return torch.cat([x, self._beyond(x)])

    def _beyond(self, x: Tensor) -> Tensor:
        """The rows of the leaves elsewhere, of any dtype."""
        rows: Tensor = Move.apply(x[self.rows], self.give, self.take, self.group)
        return rows


class Move(torch.autograd.Function):
    """Rows to the processes that want them; gradients back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, give: list[int], take: list[int], group: Any) -> Tensor:
        """Rows ``give`` of each process for rows ``take``."""
        ctx.give, ctx.take, ctx.group = give, take, group
        return _move(x, give, take, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The other way."""
        return Move.apply(grad, ctx.take, ctx.give, ctx.group), None, None, None


def _move(x: Tensor, give: list[int], take: list[int], group: Any) -> Tensor:
    out = x.new_empty(sum(take), *x.shape[1:])
    with named(group):
        dist.all_to_all_single(out, x.contiguous(), take, give, group=group)
    return out


def _find(rows: Tensor, wanted: Tensor) -> Tensor:
    """Where in ascending ``rows`` each one is; -1 where it is not."""
    if rows.numel() == 0:
        return torch.full_like(wanted, -1)
    at = torch.searchsorted(rows, wanted).clamp(max=rows.numel() - 1)
    return torch.where(rows[at] == wanted, at, -1)


def _counts(to: Tensor, size: int) -> list[int]:
    counts: list[int] = torch.bincount(to, minlength=size).tolist()
    return counts


def _send(x: Tensor, to: Tensor, size: int, group: Any) -> tuple[Tensor, list[int], list[int]]:
    """Rows sorted by process to these; and how many came from each, and went."""
    give = _counts(to, size)
    mine = torch.tensor(give, device=x.device)
    theirs = torch.empty_like(mine)
    with named(group):
        dist.all_to_all_single(theirs, mine, group=group)
    take = theirs.tolist()
    return _move(x, give, take, group), take, give
