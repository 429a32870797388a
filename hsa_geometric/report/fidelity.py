"""How near attention along interaction lists is to softmax attention, and where it is not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.list_checks import as_lists, check_lists
from hsa_geometric.functional.options import check_integer
from hsa_geometric.interactions._call import float64_call
from hsa_geometric.kernels.call import Call
from hsa_geometric.kernels.scatter.lists import Nodes, attend, block_weights
from hsa_geometric.kernels.scatter.nodes import weighted
from hsa_geometric.kernels.scatter.sweeps import down, up
from hsa_geometric.lists import InteractionLists, Side
from hsa_geometric.report._table import number, table
from hsa_geometric.surgery._check import check_hierarchy
from hsa_geometric.tree import TreeIndex

NUMBERS = 1 << 22  # so many float64 at a time


@dataclass(frozen=True, eq=False)
class Fidelity:
    r"""What :func:`fidelity` found. Print it.

    Shapes:
        :obj:`H` heads, :obj:`n` blocks. All but ids are float64.

    Attributes:
        gap: ``[H]`` mean :math:`\mathrm{KL}(\theta_i \,\|\, \mathrm{softmax}_i)` in nats, exact.
        error: ``[H]`` standard error of :obj:`gap` where rows were sampled, else 0.
        predicted: ``[H]`` the same to second order, from means and covariances of nodes.
        total_variation: ``[H]`` mean half sum of :math:`|\theta_{ij} - \mathrm{softmax}_{ij}|`.
        logits_per_leaf: logits to compute for each query and head.
        blocks: ``[2, n]`` ids of query node and key node of the blocks of largest error.
        block_error: ``[n]`` share of these in the prediction before rows are normalised, in nats,
            meaned over heads.
    """

    gap: Tensor
    error: Tensor
    predicted: Tensor
    total_variation: Tensor
    logits_per_leaf: float
    blocks: Tensor
    block_error: Tensor

    def __str__(self) -> str:
        heads = range(self.gap.numel())
        rows = [["nats", "mean", *(f"head {i}" for i in heads)]]
        lines = {"KL to softmax": self.gap, "predicted": self.predicted}
        if bool((self.error > 0).any()):
            lines["standard error"] = self.error
        lines["total variation (no unit)"] = self.total_variation
        for name, x in lines.items():
            rows.append([name, *map(number, [float(x.mean()), *x.tolist()])])
        blocks = ", ".join(
            f"{a} to {b}: {number(e)}"
            for (a, b), e in zip(self.blocks.t().tolist(), self.block_error.tolist(), strict=True)
        )
        return f"{table(rows)}\nlogits per leaf: {self.logits_per_leaf:.4g}\nlargest: {blocks}"


@torch.no_grad()
def fidelity(
    h: Hierarchy,
    q: Tensor,
    k: Tensor,
    lists: InteractionLists,
    *,
    key_mass: Tensor | None = None,
    scale: float | None = None,
    sample: int | None = None,
    seed: int = 0,
    largest: int = 5,
) -> Fidelity:
    r"""Compare attention along interaction lists with softmax over all that a leaf may see.

    The divergence is found exactly, row by row, and predicted without forming rows: with
    :math:`u_{ij} = s_{ij} + \log m_j - \log \theta_{ij}`, which is constant where the two agree,

    .. math::
        \mathrm{KL}_i \approx \tfrac{1}{2} \mathrm{Var}_{j \sim \theta_i}(u_{ij}), \qquad
        \sum_i m_i \, \mathrm{E}(u_{ij}^2) = \sum_{A, B} |A| \, \theta_{AB} \,
        \big( \mathrm{Var}_{AB}(s_{ij}) + (F_A - \log W_A)^2 \big)

    and means of rows that follow from attention with keys in place of values.

    Args:
        h: the hierarchy of the queries, with its masses; a sample or a batch.
        q: ``[N, H, D]`` queries of the leaves.
        k: ``[N, H, D]`` keys of the leaves, of the lists' key tree if that is over others.
        lists: lists of the tree of :obj:`h`.
        key_mass: mass of each key where the key tree is over other leaves.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)
        sample: find the exact divergence from so many rows, drawn by mass. (default: all rows)
        seed: of that draw.
        largest: how many blocks to name.

    Raises:
        TypeError, ValueError: if :obj:`h` is no valid hierarchy, or an argument does not fit it.

    Cost: :math:`O(M D^2)` for :math:`M` blocks and :math:`O(T D^2)` memory, one head at a time; and
    :math:`O(N D)` for each row, in float64.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> from hsa_geometric.interactions import between, siblings
        >>> h = from_parent([4, 4, 5, 5, 6, 6, 6])
        >>> q = k = torch.tensor([1.0, 0.5, -1, -0.5]).view(4, 1, 1)
        >>> print(fidelity(h, q, k, siblings(h.tree), largest=2))
        nats                         mean  head 0
        KL to softmax              0.0177  0.0177
        predicted                  0.0184  0.0184
        total variation (no unit)  0.0692  0.0692
        logits per leaf: 2.5
        largest: 4 to 5: 0.00448, 5 to 4: 0.00448
        >>> bool(fidelity(h, q, k, between(h.tree, h.tree, levels=None)).gap.abs() < 1e-12)
        True
    """
    check_hierarchy(h)
    if sample is not None:
        check_integer(sample, "sample", 2)
    check_integer(largest, "largest", 0)
    call = call_of(h, q, k, lists, key_mass, scale)
    predicted, errors = prediction(call, lists)
    rows, mass = torch.arange(q.shape[0], device=q.device), row_mass(call)
    share = mass / mass.sum()
    if sample is not None and sample < q.shape[0]:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.multinomial(mass.cpu(), sample, True, generator=generator).to(q.device)
        share = torch.full_like(mass[rows], 1 / sample)
    kl, variation = exact_rows(call, lists, rows)
    weight = share.unsqueeze(1)
    gap, error = (weight * kl).sum(0), torch.zeros_like(kl[0])
    if sample is not None and sample < q.shape[0]:
        error = (kl - gap).square().sum(0).div(sample * (sample - 1)).sqrt()
    mean = errors.mean(1)
    top = mean.argsort(descending=True, stable=True)[:largest]
    return Fidelity(
        gap, error, predicted, (weight * variation).sum(0), lists.logits_per_leaf,
        lists.block_ids[:, top], mean[top],
    )  # fmt: skip


def call_of(
    h: Hierarchy,
    q: Tensor,
    k: Tensor,
    lists: InteractionLists,
    key_mass: Tensor | None,
    scale: float | None,
) -> Call:
    """The checked arguments of attention along the lists, in float64."""
    check_lists(lists)
    mass = None if h.mass is None else h.mass.detach()
    same = lists.query_tree.num_leaves == lists.key_tree.num_leaves and key_mass is None
    as_lists(lists, h.tree, None if same else lists.key_tree, q, k)
    if same and not lists.of_one_tree:
        key_mass = mass
    call = float64_call(q, k, lists, mass, key_mass, scale)
    for x, name in ((q, "q"), (k, "k")):
        if not bool(x.isfinite().all()):
            raise ValueError(f"Expected '{name}' to be finite (got NaN or infinity)")
    if not bool((row_mass(call) > 0).any()):
        raise ValueError("Expected some leaf of positive mass (got mass 0 in all)")
    return call


def row_mass(call: Call) -> Tensor:
    """``[N]`` mass of each query."""
    return call.q.new_ones(call.q.shape[0]) if call.mass is None else call.mass


def prediction(call: Call, lists: InteractionLists) -> tuple[Tensor, Tensor]:
    """The divergence to second order ``[H]``, and each block's share before rows are normalised."""
    logit, weight, offset, nodes = block_weights(call, lists)
    at, to = lists.blocks
    share = (nodes.mass / nodes.mass[: lists.query_tree.num_trees].sum()).unsqueeze(1)
    seen = weight > 0
    offset = torch.where(seen, offset[at], 0)
    mean = torch.where(seen, logit - nodes.key_mass[to].log().unsqueeze(1), 0)
    spread = torch.stack([_spread(call, lists, nodes, i) for i in range(logit.shape[1])], 1)
    weighed = share[at] * weight
    second = (weighed * (spread + offset.square())).sum(0)

    keys, _ = attend(call, lists)  # whose values are the keys
    constant = torch.zeros_like(offset[:0]).new_zeros(share.shape[0], offset.shape[1])
    constant = constant.index_add(0, at, weight * (offset - mean))
    first = call.scale * (call.q * keys).sum(-1) + down(constant, lists.query_tree)
    mass = row_mass(call)
    first = torch.where(mass.unsqueeze(1) > 0, first, 0)
    first = ((mass / mass.sum()).unsqueeze(1) * first.square()).sum(0)
    return (second - first) / 2, weighed * spread / 2


def _spread(call: Call, lists: InteractionLists, nodes: Nodes, head: int) -> Tensor:
    """``[M]`` variance of the logits of the leaves in each block."""
    q = _covariance(call.q[:, head] * call.scale, call.mass, lists.query_tree)
    k = _covariance(call.k[:, head], call.mass_of_keys, lists.key_tree)
    query, key = nodes.query[:, head], nodes.key[:, head]
    spread = query.new_zeros(lists.num_logits)
    leaf = [
        Side.of(x).is_leaf[y]
        for x, y in zip((lists.query_tree, lists.key_tree), lists.blocks, strict=True)
    ]
    for part in (~(leaf[0] & leaf[1])).nonzero().squeeze(1).split(NUMBERS // q[0].numel() + 1):
        a, b = lists.blocks[:, part]
        left, right, one, other = q[a], k[b], query[a].unsqueeze(1), key[b].unsqueeze(1)
        spread[part] = (
            (one @ right * one).sum((1, 2))
            + (other @ left * other).sum((1, 2))
            + (left * right).sum((1, 2))
        )
    return spread.clamp(min=0)


def _covariance(x: Tensor, mass: Tensor | None, tree: TreeIndex) -> Tensor:
    """``[T, D, D]`` by position, of the rows ``[N, D]`` below each node."""
    x, _, share = weighted(x.unsqueeze(1), mass, tree)
    x = x.squeeze(1)
    mean = up(x, tree, share)
    outer = up((x.unsqueeze(2) * x.unsqueeze(1)).flatten(1), tree, share)
    return outer.view(-1, x.shape[1], x.shape[1]) - mean.unsqueeze(2) * mean.unsqueeze(1)


def exact_rows(call: Call, lists: InteractionLists, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence and total variation ``[rows, H]`` of these rows."""
    _, weight, _, nodes = block_weights(call, lists)
    unit = torch.where(nodes.key_mass > 0, nodes.key_mass, 1)
    weight = weight / unit[lists.blocks[1]].unsqueeze(1)
    width = call.q.shape[1] + 1
    weight = torch.cat([weight, torch.ones_like(weight[:, :1])], 1)  # the last: is in some block
    mass = call.mass_of_keys
    mass = call.k.new_ones(call.k.shape[0]) if mass is None else mass
    k = torch.where(mass.view(-1, 1, 1) > 0, call.k, 0)
    step, found = max(1, NUMBERS // (lists.key_tree.num_nodes * width)), []
    for part in rows.split(step):
        spread = down(_by_key(part, weight, lists), lists.key_tree)  # [N, rows, H + 1]
        theta, seen = spread[..., :-1], (spread[..., -1:] > 0) & (mass.view(-1, 1, 1) > 0)
        s = call.scale * torch.einsum("rhd,nhd->nrh", call.q[part], k)
        m = mass.view(-1, 1, 1)
        total = torch.where(seen, s + m.log(), -torch.inf).logsumexp(0)
        some = seen.any(0)
        log = torch.where(theta > 0, theta, 1).log() - s
        kl = (m * theta * log).sum(0) + total
        soft = torch.where(seen, (s - total).exp(), 0)
        variation = (m * (theta - soft).abs()).sum(0) / 2
        found.append(torch.stack([torch.where(some, x, 0) for x in (kl, variation)]))
    kl, variation = torch.cat(found, 1)
    return kl, variation


def _by_key(rows: Tensor, weight: Tensor, lists: InteractionLists) -> Tensor:
    """``[T, rows, *]`` weights by key node of the blocks of these rows and their ancestors."""
    tree, count = lists.query_tree, rows.numel()
    node, row = tree.leaf[rows], torch.arange(count, device=rows.device)
    out = weight.new_zeros(lists.key_tree.num_nodes * count, weight.shape[1])
    for _ in range(tree.depth + 1):
        first, size = lists.ptr[node], lists.ptr[node + 1] - lists.ptr[node]
        which = torch.repeat_interleave(size)
        place = torch.arange(which.numel(), device=rows.device) - (size.cumsum(0) - size)[which]
        block = first[which] + place
        out.index_add_(0, lists.blocks[1, block] * count + row[which], weight[block])
        below = node >= tree.num_trees
        node, row = tree.up[node[below]], row[below]
    return out.view(-1, count, weight.shape[1])
