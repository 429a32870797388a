r"""Attention within families, as padded tiles.

.. math::
    S_A = \mathrm{logsumexp}_{B} \, s_{AB}, \quad
    M_A = \sum_{B} \mathrm{softmax}_B(s_{AB}) \, \bar v_B, \quad
    s_{AB} = \log|B| + q_A \cdot k_B

over the siblings :math:`B \ne A` of positive mass. Families of about one size stand in one tile; a
large family is cut by queries, and its logits are forgotten and computed again in backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..call import Call
from ..dropout import factors
from .tiles import tiles

LOGITS = 9 << 20  # so many at a time: larger tiles are cut by families, then by queries
WIDE = 128  # from this width on logits, more than the rows they come from, are not kept


def siblings(
    query: Tensor, key: Tensor, value: Tensor, mass: Tensor, call: Call
) -> tuple[Tensor, Tensor]:
    """S ``[T, H]`` and M ``[T, H, Dv]`` from ``[T, H, *]``: −∞ and 0 where there is nobody."""
    table = tiles(call.tree)
    log_mass = torch.where(table.seen, mass.index_select(0, table.member).log(), -torch.inf)
    slots = [x.index_select(0, table.member) for x in (query, key, value)]
    slots += [log_mass, table.member]
    heads, sizes = query.shape[1], [families * width for families, width in table.shapes]
    totals, averages = [], []
    for (_, width), *tile in zip(table.shapes, *(x.split(sizes) for x in slots), strict=True):
        step = max(1, LOGITS // (heads * width * width))
        tile = [x.unflatten(0, (-1, width)).split(step) for x in tile]
        for total, average in map(by_queries, *tile, [call] * len(tile[0])):
            totals.append(total.flatten(0, 1))
            averages.append(average.flatten(0, 1))
    # One slot more is for those without siblings.
    totals.append(query.new_full((1, heads), -torch.inf))
    averages.append(value.new_zeros(1, *value.shape[1:]))
    total, average = (torch.cat(x).index_select(0, table.slot) for x in (totals, averages))
    return total, average


def by_queries(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, at: Tensor, call: Call
) -> tuple[Tensor, Tensor]:
    """:func:`attend` for all members ``[F, b, H, *]`` of some families, a few queries at a time."""
    families, width, heads, _ = k.shape
    # torch.func has no place for what checkpoint does: it needs the memory of all logits.
    if width < WIDE or torch._C._are_functorch_transforms_active():
        return attend(q, k, v, bias, at, 0, call)
    # Small results among the large temporaries would keep the C library from giving out their
    # memory again: so they are written into place, and a piece is of more than the 32 MB from which
    # on it asks the system for each.
    total, average = q.new_empty(families, width, heads), v.new_empty(v.shape)
    step = max(1, LOGITS // (families * heads * width))
    for i in range(0, width, step):
        part = slice(i, i + step)
        total[:, part], average[:, part] = checkpoint(
            attend, q[:, part], k, v, bias, at[:, part], i, call,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return total, average


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, at: Tensor, first: int, call: Call
) -> tuple[Tensor, Tensor]:
    """Softmax of all members but oneself, of log mass ``bias [F, b]`` above −∞."""
    place = torch.arange(k.shape[1], device=k.device)
    oneself = place == first + torch.arange(q.shape[1], device=k.device).unsqueeze(1)
    hidden = (oneself | bias.isneginf().unsqueeze(1)).unsqueeze(1)  # [F, 1, n, b]
    nobody = hidden.all(-1, keepdim=True)
    logits = torch.einsum("fqhd,fkhd->fhqk", q, k) + bias[:, None, None]
    # A row without any logit would have no derivative: it gets zeros, then the result is hidden.
    logits = torch.where(hidden, torch.where(nobody, 0, -torch.inf), logits)
    total = logits.logsumexp(-1).masked_fill(nobody.squeeze(-1), -torch.inf)
    weight = logits.softmax(-1)
    if call.seed is not None:
        head = torch.arange(k.shape[2], device=k.device).view(-1, 1, 1)
        query = at[:, None, :, None]
        weight = weight * factors(call.dropout_p, call.seed, head, query, place, weight.dtype)
    average = torch.einsum("fhqk,fkhd->fqhd", weight, v).masked_fill(nobody.transpose(1, 2), 0)
    return total.transpose(1, 2), average
