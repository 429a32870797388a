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

LOGITS = 1 << 21  # so many at a time: larger tiles are cut by families, then by queries
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
        step = max(1, LOGITS // (heads * width * width))  # families
        piece = max(1, LOGITS // (heads * width)) if step == 1 else width  # queries
        tile = [x.unflatten(0, (-1, width)).split(step) for x in tile]
        for q, k, v, bias, at in zip(*tile, strict=True):
            found = [
                tile_softmax(asking, k, v, bias, position, i * piece, call)
                for i, (asking, position) in enumerate(zip(q.split(piece, 1), at.split(piece, 1)))
            ]
            total, average = (torch.cat(x, dim=1).flatten(0, 1) for x in zip(*found))
            totals.append(total)
            averages.append(average)
    # One slot more is for those without siblings.
    totals.append(query.new_full((1, heads), -torch.inf))
    averages.append(value.new_zeros(1, *value.shape[1:]))
    return tuple(torch.cat(x).index_select(0, table.slot) for x in (totals, averages))


def tile_softmax(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, at: Tensor, first: int, call: Call
) -> tuple[Tensor, Tensor]:
    """S ``[F, n, H]`` and M ``[F, n, H, Dv]`` of queries ``first:first + n`` of each family."""
    given = (q, k, v, bias, at, first, call)
    # torch.func has no place for what checkpoint does; its memory is for all logits.
    if k.shape[1] < WIDE or torch._C._are_functorch_transforms_active():
        return attend(*given)
    return checkpoint(attend, *given, use_reentrant=False, preserve_rng_state=False)


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
    weight = logits.softmax(-1).masked_fill(nobody, 0)
    if call.seed is not None:
        head = torch.arange(k.shape[2], device=k.device).view(-1, 1, 1)
        query = at[:, None, :, None]
        weight = weight * factors(call.dropout_p, call.seed, head, query, place, weight.dtype)
    return total.transpose(1, 2), torch.einsum("fhqk,fkhd->fqhd", weight, v)
