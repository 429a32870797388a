"""The cheapest lists that are near enough to softmax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_positive
from hsa_geometric.interactions import along, between, heaviest, near, siblings
from hsa_geometric.kernels.call import Call
from hsa_geometric.lists import InteractionLists
from hsa_geometric.report._table import number, table
from hsa_geometric.report.fidelity import call_of, exact_rows, prediction, row_mass
from hsa_geometric.surgery._check import check_hierarchy

ROWS = 64  # that are compared with softmax before lists are chosen


@dataclass(frozen=True, eq=False)
class Choice:
    """What :func:`choose_lists` found. Print it.

    Attributes:
        lists: the cheapest whose predicted gap is within the tolerance.
        name: how they were made.
        predicted: ``[H]`` their gap, as predicted.
        tried: name, logits per leaf and predicted mean gap of all that were tried.
    """

    lists: InteractionLists
    name: str
    predicted: Tensor
    tried: list[tuple[str, float, float]]

    def __str__(self) -> str:
        rows = [["lists", "logits per leaf", "predicted gap, nats", ""]]
        for name, cost, gap in self.tried:
            chosen = "chosen" if name == self.name else ""
            rows.append([name, number(cost), number(gap), chosen])
        return table(rows)


@torch.no_grad()
def choose_lists(
    h: Hierarchy,
    q: Tensor,
    k: Tensor,
    *,
    tolerance: float = 0.05,
    scale: float | None = None,
) -> Choice:
    r"""Find the cheapest of the builders' lists whose attention is near enough to softmax.

    Tried are siblings; pairs along the edges, if :obj:`h` has ``edge_index``; pairs near each other
    at ever smaller angles, if it has ``pos``; and the heaviest at ever greater budgets. The gap is
    predicted, see :func:`fidelity`; the mean over heads counts. Where nearly all weight is on few
    keys the prediction is too good: so that of 64 rows, drawn by mass, must not contradict it.

    Args:
        h: the hierarchy, with its masses; a sample or a batch.
        q: ``[N, H, D]`` queries of the leaves, of the layer that the lists are for.
        k: ``[N, H, D]`` keys.
        tolerance: the greatest gap in nats.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)

    Returns:
        :class:`Choice`, which prints as a table.

    Raises:
        TypeError, ValueError: if :obj:`h` is no valid hierarchy, or an argument does not fit it.

    Cost: a prediction for each of some ten or twenty lists, and 12 attentions for each budget.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> h = from_parent([4, 4, 5, 5, 6, 6, 6])
        >>> q = k = torch.tensor([1.0, 0.5, -1, -0.5]).view(4, 1, 1)
        >>> print(choose_lists(h, q, k, tolerance=0.02))
        lists     logits per leaf  predicted gap, nats
        siblings              2.5               0.0184  chosen
    """
    check_hierarchy(h)
    check_positive(tolerance, "tolerance")
    tried: list[tuple[str, float, float]] = []
    best: tuple[InteractionLists, str, Tensor] | None = None
    families = _siblings(h), _along(h), _near(h), _heaviest(h, q, k, scale), _everything(h)
    for i, family in enumerate(families, 1):
        if best is not None and i == len(families):
            break
        for name, lists in family:
            if best is not None and lists.num_logits >= best[0].num_logits:
                break
            call = call_of(h, q, k, lists, None, scale)
            predicted = prediction(call, lists)[0]
            tried.append((name, lists.logits_per_leaf, float(predicted.mean())))
            if predicted.mean() <= tolerance and _not_contradicted(call, lists, tolerance):
                best = lists, name, predicted
                break
    assert best is not None  # with everything opened the gap is 0
    return Choice(*best, sorted(tried, key=lambda x: x[1]))


def _not_contradicted(call: Call, lists: InteractionLists, tolerance: float) -> bool:
    """Whether the mean divergence of some rows is within the tolerance, give or take two errors."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.multinomial(row_mass(call).cpu(), ROWS, True, generator=generator)
    found = exact_rows(call, lists, rows.to(call.q.device))[0].mean(1)
    return bool(found.mean() - 2 * found.std() / ROWS**0.5 <= tolerance)


Family = Iterator[tuple[str, InteractionLists]]


def _siblings(h: Hierarchy) -> Family:
    yield "siblings", siblings(h.tree)


def _along(h: Hierarchy) -> Family:
    if h.get("edge_index") is not None:
        yield "along", along(h.tree, h.edge_index)


def _near(h: Hierarchy) -> Family:
    if h.get("pos") is None:
        return
    angle, last = 2.0, 0
    while angle > 0.05:
        lists = near(h.tree, h.pos, angle=angle)
        if lists.num_logits > last:
            yield f"near, angle {angle:.2g}", lists
        last, angle = lists.num_logits, 0.8 * angle


def _heaviest(h: Hierarchy, q: Tensor, k: Tensor, scale: float | None) -> Family:
    budget = 1.25 * siblings(h.tree).logits_per_leaf
    most = int(h.tree.count[: h.tree.num_trees].max())
    while budget < most:
        yield (
            f"heaviest, budget {budget:.3g}",
            heaviest(h.tree, q, k, budget=budget, mass=h.mass, scale=scale),
        )
        budget *= 1.4


def _everything(h: Hierarchy) -> Family:
    yield "everything", between(h.tree, h.tree, levels=None)
