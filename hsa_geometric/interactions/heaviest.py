"""Nodes whose attention is large and uneven meet."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.checks import as_tree
from ..functional.options import check_positive
from ..kernels.call import Call
from ..kernels.scatter.lists import block_weights
from ..lists import InteractionLists, PairCodes, Side, meeting
from ..tree import TreeIndex
from ._call import float64_call
from .between import between
from .siblings import siblings

ROUNDS = 12


@torch.no_grad()
def heaviest(
    tree: TreeIndex | Tensor,
    q: Tensor,
    k: Tensor,
    *,
    budget: float,
    key_tree: TreeIndex | Tensor | None = None,
    mass: Tensor | None = None,
    key_mass: Tensor | None = None,
    scale: float | None = None,
) -> InteractionLists:
    r"""Open pairs of nodes greedily where it brings attention nearest to softmax.

    From where siblings meet (or two roots, of two trees) on, a block :math:`(A, B)` is worth

    .. math::
        \frac{|A|}{M} \, \theta_{AB} \cdot \tfrac{1}{2} \mathrm{Var}(s_{cd}) \quad \text{over}
        \quad c \in \mathrm{chd}(A), \; d \in \mathrm{chd}(B)

    the divergence that opening it takes away, to second order, for each logit more. In rounds the
    best are opened, and weights are computed anew, until the budget is spent. Heads share the
    lists; for one of its own, give the queries and keys of one head.

    Args:
        tree: the query tree, a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        q: ``[N, H, D]`` queries of its leaves, of the layer that the lists are for.
        k: ``[N, H, D]`` keys, of the leaves of :obj:`key_tree` if there is one.
        budget: how many logits to compute for each leaf of the query tree, and head.
        key_tree: the tree of the keys. (default: :obj:`tree`)
        mass: ``[N]`` mass of each query leaf.
        key_mass: mass of each leaf of :obj:`key_tree`.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if queries and keys do not fit the trees, or :obj:`budget` is less than what
            there is before anything is opened.

    Cost: 12 attentions in float64, and the logits of as many blocks as remain.

    Example:
        >>> tree = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> q = k = torch.tensor([3.0, -3, 3, 1]).view(4, 1, 1)
        >>> lists = heaviest(tree, q, k, budget=3.5)
        >>> lists
        InteractionLists(opened=4, blocks=13, hidden=0, logits per leaf=3.25)
    """
    tree = as_tree(tree)
    check_positive(budget, "budget")
    other = tree if key_tree is None else as_tree(key_tree)
    lists = siblings(tree) if other is tree else between(tree, other)
    total = int(budget * tree.num_leaves)
    if lists.num_logits > total:
        raise ValueError(
            f"Expected 'budget' to be at least the {lists.logits_per_leaf:.4g} logits per leaf "
            f"before anything is opened (got {budget})"
        )
    call = float64_call(q, k, lists, mass, key_mass, scale)
    both = PairCodes(tree, other)
    for i in range(ROUNDS):
        code, gain, cost = _gains(call._replace(lists=lists), lists, both)
        left = total - lists.num_logits
        allowed = left if i + 1 == ROUNDS else left // (ROUNDS - i)
        order = (gain / cost).argsort(descending=True, stable=True)
        order = order[gain[order] > 0]
        spent = cost[order].cumsum(0)
        taken = order[spent <= max(allowed, int(cost[order[:1]].sum()))]
        taken = taken[: int((spent <= left).sum())]
        if taken.numel() == 0:
            break
        opened = torch.cat([lists.opened, both.ids(code[taken])], 1)
        lists = InteractionLists.from_opened(tree, opened, key_tree=other)
    return lists


def _gains(call: Call, lists: InteractionLists, both: PairCodes) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks that can be opened, as codes; their worth, meaned over heads; and logits more."""
    _, weight, _, nodes = block_weights(call, lists)
    one, other = Side.of(lists.query_tree), Side.of(lists.key_tree)
    query, key = lists.blocks
    cost = one.degree[query] * other.degree[key] - 1
    can = (cost > 0) & (weight.sum(1) > 0)
    query, key, cost, weight = query[can], key[can], cost[can], weight[can]
    spread = torch.zeros_like(weight)
    for part in torch.arange(query.numel(), device=query.device).split(1 << 15):
        c, d, pair = meeting(query[part], key[part], one, other)
        logit = (nodes.query[c] * nodes.key[d]).sum(-1)
        w = (nodes.mass[c] * nodes.key_mass[d]).unsqueeze(1)
        sums = torch.cat([w, w * logit, w * logit.square()], 1)
        sums = sums.new_zeros(part.numel(), sums.shape[1]).index_add(0, pair, sums)
        norm = sums[:, :1].clamp(min=torch.finfo(sums.dtype).tiny)
        first, second = (sums[:, 1:] / norm).chunk(2, 1)
        spread[part] = (second - first.square()).clamp(min=0)
    share = nodes.mass / nodes.mass[: lists.query_tree.num_trees].sum()
    gain = (share[query].unsqueeze(1) * weight * spread).mean(1) / 2
    return both.code(query, key), gain, cost
