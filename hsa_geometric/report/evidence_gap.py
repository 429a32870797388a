"""How far hierarchical attention is from softmax attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.functional.checks import check_queries
from hsa_geometric.functional.layout import root_of
from hsa_geometric.functional.options import check_integer
from hsa_geometric.report._table import number, table
from hsa_geometric.surgery._check import check_hierarchy

LOGITS_AT_ONCE = 1 << 22  # 32 MiB of float64
LONG = 1 << 34  # multiplications after which a progress bar is shown: seconds of one core


@dataclass(frozen=True, eq=False)
class EvidenceGap:
    r"""What :func:`evidence_gap` found, in nats.

    Shapes:
        :obj:`R` trees in ascending id of their roots, :obj:`H` heads. All are float64.

    Attributes:
        gap: ``[R, H]`` mean :math:`\mathrm{KL}(\theta_i \,\|\, \mathrm{softmax}_i)` over the mass
            of each tree; NaN for a tree of mass 0.
        error: ``[R, H]`` standard error of :obj:`gap`; 0 where all rows were used.
        evidence: ``[R, H]`` :math:`f_\mathrm{root}`, so that :obj:`gap` + :obj:`evidence` is the
            mean log-partition of softmax.
        mass: ``[R]`` of each tree.
    """

    gap: Tensor
    error: Tensor
    evidence: Tensor
    mass: Tensor

    @property
    def mean(self) -> Tensor:
        """``[H]`` the gap over the mass of all trees."""
        return mean_over_trees(self.gap, self.mass)

    def __str__(self) -> str:
        estimated = bool((self.error > 0).any())
        rows = [["evidence gap, nats", *(f"head {i}" for i in range(self.gap.size(1)))]]
        rows.append(["mean" if len(self.gap) > 1 else "", *map(number, self.mean.tolist())])
        if len(self.gap) > 1:
            for name, best in (("smallest tree", "amin"), ("largest tree", "amax")):
                known = self.gap[self.mass > 0]
                if len(known):
                    rows.append([name, *map(number, getattr(known, best)(0).tolist())])
        if estimated:
            rows.append(["standard error", *map(number, self._error().tolist())])
        return table(rows)

    def _error(self) -> Tensor:
        share = (self.mass / self.mass.sum()).unsqueeze(1)
        return (share * self.error.nan_to_num()).square().sum(0).sqrt()


@torch.no_grad()
def evidence_gap(
    h: Hierarchy,
    q: Tensor,
    k: Tensor,
    *,
    scale: float | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> EvidenceGap:
    r"""Measure the mean divergence of hierarchical attention from softmax attention.

    .. math::
        \frac{1}{M} \sum_i m_i \, \mathrm{KL}(\theta_i \,\|\, \mathrm{softmax}_j(\log m_j + s_{ij}))
        = \frac{1}{M} \sum_i m_i \, \mathrm{logsumexp}_j(\log m_j + s_{ij}) - f_\mathrm{root}

    with logits :math:`s_{ij} = \mathrm{scale} \cdot q_i \cdot k_j`, masses :math:`m_i` (1 without
    :obj:`h.mass`) and their sum :math:`M`, for each tree and head. It is 0 for a star, and never
    negative but for rounding, or by chance where rows were sampled.

    Args:
        h: a sample or a batch.
        q: ``[N, H, D]`` queries of the leaves.
        k: ``[N, H, D]`` keys of the leaves.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)
        sample: estimate the softmax term of trees with more leaves than this from so many rows,
            drawn by mass with replacement; the standard error tells how well. (default: all rows)
        seed: of that draw.
        progress: whether to show a progress bar where it takes long.

    Returns:
        :class:`EvidenceGap`, which prints as a table.

    Raises:
        TypeError, ValueError: if :obj:`h` is no valid hierarchy, if :obj:`q` and :obj:`k` do not
            fit it, or :obj:`sample` is less than 2.

    Cost: :math:`O(N^2 H D)` time in each tree of :math:`N` leaves, in float64 (:math:`O(N H D)` for
    each sampled row); memory :math:`O(T H D)` and 32 MiB at a time for the logits: never
    :math:`N^2`.

    Example:
        >>> import torch
        >>> from hsa_geometric.builders import from_parent
        >>> q, k = torch.randn(2, 4, 1, 8).unbind(0)
        >>> star = evidence_gap(from_parent([4] * 5), q, k)
        >>> tree = evidence_gap(from_parent([4, 4, 5, 5, 6, 6, 6]), q, k)
        >>> bool(star.gap.abs() < 1e-12), bool(tree.gap > 0)
        (True, True)
    """
    check_hierarchy(h)
    check_queries(q, k, h.tree)
    if sample is not None:
        check_integer(sample, "sample", 2)
    evidence = log_evidence(h, q, k, scale)
    tree = h.tree
    number_of = tree.position[root_of(tree)][tree.leaf_ids]  # tree of each leaf
    mass = leaf_mass(h)
    total = torch.zeros_like(evidence[:, 0]).index_add(0, number_of, mass)
    rows, row_tree, weight = _rows(number_of, mass, total, sample, seed)
    flat = _log_partitions(q.double(), k.double(), mass, number_of, rows, row_tree, scale, progress)

    def mean(x: Tensor) -> Tensor:
        return torch.zeros_like(evidence).index_add(0, row_tree, weight.unsqueeze(1) * x)

    known = (total > 0).unsqueeze(1)
    average = mean(flat)
    gap = torch.where(known, average - evidence, torch.nan)
    error = torch.zeros_like(gap)
    if sample is not None:
        drawn = _drawn(number_of, mass, total, sample).unsqueeze(1)
        variance = mean((flat - average[row_tree]).square()) * (sample / (sample - 1))
        error = torch.where(drawn, (variance / sample).sqrt(), error)
    return EvidenceGap(gap, torch.where(known, error, torch.nan), evidence, total)


def log_evidence(h: Hierarchy, q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    """``[R, H]`` log evidence of each tree in float64."""
    value = q.new_zeros(q.shape[0], q.shape[1], 1, dtype=torch.float64)
    mass = None if h.mass is None else h.mass.detach().double()
    q, k = q.detach().double(), k.detach().double()
    return hierarchical_attention(
        q, k, value, h.tree, scale=scale, mass=mass, return_evidence=True
    )[1]


def leaf_mass(h: Hierarchy) -> Tensor:
    """``[N]`` mass of each leaf in float64, 1 where there is none."""
    if h.mass is None:
        return torch.ones(h.tree.num_leaves, dtype=torch.float64, device=h.tree.device)
    return h.mass.detach().double()


def mean_over_trees(x: Tensor, mass: Tensor) -> Tensor:
    """Mean of ``x [R, H]`` by mass, over trees that have any."""
    some = mass > 0
    return (mass[some].unsqueeze(1) * x[some]).sum(0) / mass[some].sum()


def _drawn(number_of: Tensor, mass: Tensor, total: Tensor, sample: int) -> Tensor:
    """Which trees have too many leaves of positive mass to use them all."""
    return torch.bincount(number_of[mass > 0], minlength=total.numel()) > sample


def _rows(
    number_of: Tensor, mass: Tensor, total: Tensor, sample: int | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Leaf rows to evaluate, sorted by tree, their trees, and their weights in the tree's mean."""
    order = torch.argsort(number_of, stable=True)
    order = order[mass[order] > 0]  # padding has no part in the mean
    tree = number_of[order]
    weight = mass[order] / total[tree]
    if sample is None:
        return order, tree, weight
    drawn = _drawn(number_of, mass, total, sample)
    which = drawn.nonzero().view(-1)
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(which.numel(), sample, generator=generator, dtype=torch.float64)
    # The cumulated weights rise by 1 in each tree: that of the trees before, and a part of its own.
    number = torch.unique_consecutive(tree, return_inverse=True)[1]
    first = torch.searchsorted(tree, which)
    last = torch.searchsorted(tree, which, right=True) - 1
    at = torch.searchsorted(weight.cumsum(0), (number[first].unsqueeze(1) + u.to(weight)))
    at = torch.minimum(torch.maximum(at, first.unsqueeze(1)), last.unsqueeze(1)).view(-1)
    whole = ~drawn[tree]
    rows = torch.cat([order[whole], order[at]])
    weight = torch.cat([weight[whole], weight.new_full((at.numel(),), 1 / sample)])
    tree = number_of[rows]
    by_tree = torch.argsort(tree, stable=True)
    return rows[by_tree], tree[by_tree], weight[by_tree]


def _log_partitions(
    q: Tensor,
    k: Tensor,
    mass: Tensor,
    number_of: Tensor,
    rows: Tensor,
    row_tree: Tensor,
    scale: float | None,
    progress: bool,
) -> Tensor:
    """``[len(rows), H]`` logsumexp_j(log m_j + s_ij) over the leaves j of the row's tree."""
    order = torch.argsort(number_of, stable=True)
    tree, log_mass = number_of[order], mass[order].log()
    k = k[order].permute(1, 2, 0)  # [H, D, N]
    q = q[rows].transpose(0, 1) * (q.shape[-1] ** -0.5 if scale is None else scale)  # [H, rows, D]
    begin = torch.searchsorted(tree, row_tree).tolist()
    end = torch.searchsorted(tree, row_tree, right=True).tolist()

    out = q.new_empty(q.shape[:2])
    chunks: Iterable[tuple[int, int]] = _chunks(begin, end, LOGITS_AT_ONCE // q.shape[0])
    pairs = sum((hi - lo) * (end[hi - 1] - begin[lo]) for lo, hi in chunks)
    work = pairs * q.shape[0] * q.shape[2]
    if progress and work > LONG:
        chunks = progress_bar(chunks, desc="softmax log-partition", leave=False)
    for lo, hi in chunks:
        keys = slice(begin[lo], end[hi - 1])
        logit = torch.matmul(q[:, lo:hi], k[:, :, keys]) + log_mass[keys]
        if begin[lo] != begin[hi - 1]:  # several trees
            other = row_tree[lo:hi].unsqueeze(1) != tree[keys]
            logit.masked_fill_(other, -torch.inf)
        out[:, lo:hi] = logit.logsumexp(-1)
    return out.T


def _chunks(begin: list[int], end: list[int], budget: int) -> list[tuple[int, int]]:
    """Runs of at most 256 rows, sorted by tree, whose logits fit the budget."""
    chunks, lo = [], 0
    while lo < len(begin):
        hi = min(lo + 256, len(begin))
        while hi > lo + 1 and (hi - lo) * (end[hi - 1] - begin[lo]) > budget:
            hi = (lo + hi) // 2
        chunks.append((lo, hi))
        lo = hi
    return chunks
