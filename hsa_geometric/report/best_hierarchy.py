"""Hierarchies over the same leaves, ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.checks import check_queries
from hsa_geometric.functional.layout import root_of
from hsa_geometric.report._table import number, table
from hsa_geometric.report.evidence_gap import (
    evidence_gap,
    leaf_mass,
    log_evidence,
    mean_over_trees,
)
from hsa_geometric.surgery._check import check_hierarchy


@dataclass(frozen=True, eq=False)
class Ranking:
    r"""What :func:`best_hierarchy` found, best first. Print it.

    Shapes:
        :obj:`C` candidates, :obj:`H` heads.

    Attributes:
        names: names of the candidates, or their numbers in the list.
        hierarchies: the candidates.
        evidence: ``[C, H]`` log evidence in nats, float64, over the mass of all trees.
        logits: ``[C]`` logits to compute for each head: what the evidence is paid with.
        efficient: ``[C]`` whether no other candidate has at least as much evidence, in the mean
            over the heads, for fewer logits, or more for as many.
        gap: ``[C, H]`` divergence from softmax, if it was asked for.
    """

    names: list[str | int]
    hierarchies: list[Hierarchy]
    evidence: Tensor
    logits: Tensor
    efficient: Tensor
    gap: Tensor | None

    @property
    def best(self) -> Hierarchy:
        """The candidate of highest evidence."""
        return self.hierarchies[0]

    @property
    def best_name(self) -> str | int:
        """Its name, or its number in the list."""
        return self.names[0]

    def __str__(self) -> str:
        heads = [f"head {i}" for i in range(self.evidence.size(1))]
        what = "evidence" if self.gap is None else "gap"
        values = self.evidence if self.gap is None else self.gap
        rows = [["nats", f"mean {what}", *heads, "logits", "efficient"]]
        for name, value, cost, good in zip(
            self.names, values, self.logits.tolist(), self.efficient.tolist(), strict=True
        ):
            cells = [number(x) for x in [float(value.mean()), *value.tolist()]]
            rows.append([str(name), *cells, f"{cost:,}", "yes" if good else ""])
        return table(rows)


def best_hierarchy(
    candidates: Mapping[str, Hierarchy] | Sequence[Hierarchy],
    q: Tensor,
    k: Tensor,
    *,
    scale: float | None = None,
    gap: bool = False,
    sample: int | None = None,
    seed: int = 0,
) -> Ranking:
    r"""Rank hierarchies over the same leaves by how close they come to softmax attention.

    The evidence :math:`f_\mathrm{root}` is the mean log-partition of softmax less the divergence
    from it. The former is the same for all candidates, so the evidence ranks them without it, in
    time linear in the leaves.

    **Evidence is bought with logits.** To remove an inner node never lowers it, and a star, which
    computes all :math:`N^2`, always comes first. So compare trees of like cost, and read the column
    "efficient": a candidate without it is outdone by another that costs no more.

    Args:
        candidates: hierarchies by name, or a list of them; samples or batches. Row :math:`i` must
            stand for the same leaf in all, with the same mass, and in the same tree.
        q: ``[N, H, D]`` queries of the leaves, of the model or layer the tree is for.
        k: ``[N, H, D]`` keys.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)
        gap: also measure the divergence itself, in quadratic time unless sampled: see
            :func:`evidence_gap`.
        sample: number of rows for that.
        seed: of that draw.

    Returns:
        :class:`Ranking`, best first, which prints as a table. Of equal ones (to nine decimals of
        the mean over the heads) the one of fewer logits comes first, then the earlier one.

    Raises:
        TypeError: if a candidate is no hierarchy.
        ValueError: naming the candidate: if there are none; if the leaves, their masses or their
            division into trees differ; if :obj:`q` or :obj:`k` does not fit or is not finite; if
            all mass is 0.

    Cost: one attention in float64 for each candidate.

    Example:
        >>> import torch
        >>> from hsa_geometric.builders import from_parent
        >>> q = k = 3 * torch.tensor([1.0, 1, -1, -1]).view(4, 1, 1)
        >>> near, far = from_parent([4, 4, 5, 5, 6, 6, 6]), from_parent([4, 5, 4, 5, 6, 6, 6])
        >>> ranking = best_hierarchy({"far": far, "near": near}, q, k)
        >>> print(ranking)
        nats  mean evidence  head 0  logits  efficient
        near           9.69    9.69      12        yes
        far               9       9      12
        >>> ranking.best is near
        True
    """
    if not isinstance(candidates, (Mapping, Sequence)) or isinstance(candidates, Hierarchy):
        raise TypeError(
            f"Expected 'candidates' to be a dict or a list (got {type(candidates).__name__})"
        )
    pairs = candidates.items() if isinstance(candidates, Mapping) else enumerate(candidates)
    named: dict[str | int, Hierarchy] = dict(pairs)
    if not named:
        raise ValueError("Expected 'candidates' to hold at least one hierarchy (got none)")
    hierarchies: list[Hierarchy] = list(named.values())
    for name, h in named.items():
        check_hierarchy(h, f"candidates[{name!r}]")
        _check_leaves(h, hierarchies[0], f"candidates[{name!r}]")
    check_queries(q, k, hierarchies[0].tree)
    for x, name in ((q, "q"), (k, "k")):
        if not bool(x.isfinite().all()):
            raise ValueError(f"Expected '{name}' to be finite (got NaN or infinity)")
    if not bool((leaf_mass(hierarchies[0]) > 0).any()):
        raise ValueError("Expected some leaf of positive mass (got mass 0 in all)")

    with torch.no_grad():
        evidence = torch.stack([_evidence(h, q, k, scale) for h in hierarchies]).cpu()
    cost = torch.tensor([_logits(h) for h in hierarchies])
    mean = evidence.mean(1).mul(1e9).round()
    order = sorted(range(len(hierarchies)), key=lambda i: (-float(mean[i]), int(cost[i])))
    gaps = None
    if gap:
        options: dict[str, Any] = {"scale": scale, "sample": sample, "seed": seed}
        gaps = torch.stack(
            [evidence_gap(hierarchies[i], q, k, **options).mean.cpu() for i in order]
        )
    better = (mean > mean.unsqueeze(1)) & (cost <= cost.unsqueeze(1))
    cheaper = (mean >= mean.unsqueeze(1)) & (cost < cost.unsqueeze(1))
    return Ranking(
        names=[list(named)[i] for i in order],
        hierarchies=[hierarchies[i] for i in order],
        evidence=evidence[order],
        logits=cost[order],
        efficient=~(better | cheaper).any(1)[order],
        gap=gaps,
    )


def _evidence(h: Hierarchy, q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    """``[H]`` evidence over the mass of all trees."""
    tree, mass = h.tree, leaf_mass(h)
    number_of = tree.position[root_of(tree)][tree.leaf_ids]
    total = mass.new_zeros(tree.num_trees).index_add(0, number_of, mass)
    return mean_over_trees(log_evidence(h, q, k, scale), total)


def _logits(h: Hierarchy) -> int:
    return int(h.tree.family_ptr.diff().square().sum())


def _check_leaves(h: Hierarchy, first: Hierarchy, name: str) -> None:
    """As many leaves as the first candidate, of the same masses, divided alike into trees."""
    if h.num_nodes != first.num_nodes:
        raise ValueError(
            f"Expected '{name}' to have the {first.num_nodes} leaves of the first candidate "
            f"(got {h.num_nodes})"
        )
    if not torch.equal(leaf_mass(h), leaf_mass(first)):
        raise ValueError(f"Expected '{name}' to have the masses of the first candidate")
    if not torch.equal(_partition(h), _partition(first)):
        raise ValueError(
            f"Expected '{name}' to divide the leaves into trees as the first candidate does"
        )


def _partition(h: Hierarchy) -> Tensor:
    """First leaf row in the tree of each leaf."""
    root = root_of(h.tree)[h.tree.leaf_ids]
    rows = torch.arange(root.numel(), device=root.device)
    first = torch.full_like(h.tree.parent, root.numel()).scatter_reduce(0, root, rows, "amin")
    return first[root]
