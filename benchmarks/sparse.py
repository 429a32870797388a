"""The per-depth sparse scheme of the paper's appendix E.3: at every depth one sparse matrix holds
the logits of all sibling pairs, its rows go through a softmax, and sparse matrices carry means up
and outputs down.

Heads are blocks on the diagonal. Index tensors are made once (:func:`plan`), as a TreeIndex is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric import TreeIndex


@dataclass(frozen=True)
class Depth:
    """The nodes of one depth, numbered from 0.

    Attributes:
        size: how many there are.
        leaf: which of them are leaves, and ``row`` the rows of ``x`` these carry.
        count: ``[size]`` leaves below each.
        mean: sparse ``[size above, size]``, maps a family to its weighted mean; None at the roots.
        copy: sparse ``[size, size above]``, gives each node what its parent has.
        pair: ``[2, heads * E]`` the sibling pairs (A, B) of every head, sorted.
        edge: ``[2, E]`` the same of the first head.
        first: one pair of each node with siblings, and ``social`` these nodes, for all heads.
    """

    size: int
    leaf: Tensor
    row: Tensor
    count: Tensor
    mean: Tensor | None
    copy: Tensor | None
    pair: Tensor
    edge: Tensor
    first: Tensor
    social: Tensor


def plan(tree: TreeIndex, siblings: Tensor, heads: int, dtype: torch.dtype) -> list[Depth]:
    """All depths, roots first. :obj:`siblings` holds ordered pairs (B, A) of node ids."""
    b, a = tree.position[siblings]
    ends = [*tree.starts.tolist(), tree.num_nodes]
    row_at = torch.full((tree.num_nodes,), -1, device=tree.device)
    row_at[tree.leaf] = torch.arange(tree.num_leaves, device=tree.device)
    cut = torch.searchsorted(a, torch.tensor([0, *ends], device=a.device)).tolist()
    depths: list[Depth] = []
    start = above = 0
    for depth, end in enumerate(ends):
        size = end - start
        row = row_at[start:end]
        leaf = (row >= 0).nonzero().view(-1)
        mean = copy = None
        if depth > 0:
            child = torch.arange(size, device=a.device)
            parent = tree.up[start:end] - above
            count = tree.count.to(dtype)
            weight = count[start:end] / count[tree.up[start:end]]
            index = torch.stack([parent, child])
            mean = torch.sparse_coo_tensor(index, weight, (start - above, size)).coalesce()
            one = torch.ones_like(weight)
            copy = torch.sparse_coo_tensor(index.flip(0), one, (size, start - above)).coalesce()
        edge = torch.stack([a, b])[:, cut[depth] : cut[depth + 1]] - start
        head = torch.arange(heads, device=a.device).view(1, -1, 1) * size
        pair = (edge.unsqueeze(1) + head).flatten(1)
        new = torch.ones_like(pair[0], dtype=torch.bool)
        new[1:] = pair[0, 1:] != pair[0, :-1]
        first = new.nonzero().view(-1)
        depths.append(
            Depth(size, leaf, row[leaf], tree.count[start:end].to(dtype), mean, copy, pair, edge,
                  first, pair[0, first])
        )  # fmt: skip
        start, above = end, start
    return depths


def hierarchical_attention(q: Tensor, k: Tensor, v: Tensor, depths: list[Depth]) -> Tensor:
    """Attention over the leaves, ``[N, H, D]``."""
    heads, channels = q.shape[1:]
    scale = channels**-0.5
    self_logit = scale * (q * k).sum(-1)

    # Upward: means, sibling softmax and log evidence, one depth after the other.
    below: tuple[Tensor, Tensor] | None = None  # means of q, k, v and evidence
    kept, averages, values = [], [], []
    for depth in reversed(depths):
        x = _leaves(depth, torch.stack([q, k, v], 1).flatten(1), below and below[0])
        f = _leaves(depth, self_logit, below and below[1])
        qs, ks, vs = x.view(depth.size, 3, heads, channels).unbind(1)
        total = torch.full((heads * depth.size,), -torch.inf).to(f)
        average = torch.zeros_like(vs)
        if depth.pair.numel():
            a, b = depth.edge
            logit = scale * (qs[a] * ks[b]).sum(-1) + depth.count[b].log().unsqueeze(-1)
            shape = (heads * depth.size,) * 2
            logits = torch.sparse_coo_tensor(
                depth.pair, logit.t().flatten(), shape, is_coalesced=True
            )
            weights = torch.sparse.softmax(logits, 1)
            average = torch.sparse.mm(weights, vs.transpose(0, 1).flatten(0, 1))
            average = average.view(heads, depth.size, channels).transpose(0, 1)
            # softmax = exp(logit − logsumexp), so one pair of each row tells the row's sum.
            log_weight = torch.sparse.log_softmax(logits, 1).coalesce().values()
            rows = (logit.t().flatten() - log_weight)[depth.first]
            total = total.index_copy(0, depth.social, rows)
        total = total.view(heads, depth.size).t()
        kept.append(torch.sigmoid(f - total))
        averages.append(average)
        values.append(vs)
        if depth.mean is not None:
            z = torch.logaddexp(f, total)
            below = torch.sparse.mm(depth.mean, x), torch.sparse.mm(depth.mean, z)

    # Downward: what is left for the inside, and the sum of what came from outside.
    inside = carried = v.new_empty(0)
    out, rows = [], []
    for depth, keep, average, value in zip(
        depths, reversed(kept), reversed(averages), reversed(values), strict=True
    ):
        if depth.copy is None:
            given, carried = torch.ones_like(keep), torch.zeros_like(value).flatten(1)
        else:
            given = torch.sparse.mm(depth.copy, inside)
            carried = torch.sparse.mm(depth.copy, carried)
        inside = given * keep
        carried = carried + ((given - inside).unsqueeze(-1) * average).flatten(1)
        own = inside.unsqueeze(-1) * value
        out.append(carried[depth.leaf] + own[depth.leaf].flatten(1))
        rows.append(depth.row)
    return torch.cat(out)[torch.cat(rows).argsort()].view_as(v)


def _leaves(depth: Depth, x: Tensor, inner: Tensor | None) -> Tensor:
    """Rows of a depth: those of its leaves from ``x``, all others from below."""
    if inner is None:
        inner = x.new_zeros(depth.size, x.shape[1])
    return inner.index_copy(0, depth.leaf, x[depth.row])
