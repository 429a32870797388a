r"""Attention within families by 1.5-entmax in place of softmax.

With the logits :math:`z` of a node for itself, :math:`f_A`, and for its siblings,
:math:`\log|B| + s_{AB}`,

.. math::
    p_A = \arg\max_p \langle p, z \rangle + H(p), \quad Z_A = \max_p \langle p, z \rangle + H(p),
    \quad H(p) = \tfrac43 \Big( 1 - \sum_j p_j^{3/2} \Big), \quad
    f_C = \sum_{A \in \mathrm{chd}(C)} w_A Z_A .

As what a node keeps depends on its own f together with its siblings, families wait for those below:
a level at a time, from the lowest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...tree import TreeIndex
from ..call import Call
from ..dropout import OWN, factors
from .attention import Prepared, prepare
from .recursion import product_down
from .siblings import LOGITS, WIDE
from .sweeps import add_to_parents, down, levels_of, spread
from .tiles import WIDTHS


class Tile(NamedTuple):
    """Families of one level and about one size, ``[F, b]``; see :class:`~.tiles.Tiles`.

    Attributes:
        member: position of the node in each slot.
        seen: whether the slot is the node's own, and not a repetition.
        real: ``[n]`` slots that are.
        node: ``[n]`` positions of their nodes.
    """

    member: Tensor
    seen: Tensor
    real: Tensor
    node: Tensor


def tiles_by_level(tree: TreeIndex) -> list[list[Tile]]:
    """The tiles of each level, worked out once for a tree; roots have none."""

    def make() -> list[list[Tile]]:
        first, size = tree.family_ptr[:-1], tree.family_ptr.diff()
        kind = torch.searchsorted(torch.tensor(WIDTHS).to(tree.device), size)
        level = torch.searchsorted(tree.starts, first, right=True)
        tiles: list[list[Tile]] = [[] for _ in range(tree.depth + 1)]
        key, which, count = torch.unique(
            level * len(WIDTHS) + kind, return_inverse=True, return_counts=True
        )
        order = which.argsort(stable=True).split(count.tolist())
        for number, families in zip(key.tolist(), order, strict=True):
            f, b = first[families].unsqueeze(1), size[families].unsqueeze(1)
            place = torch.arange(int(b.max()), device=tree.device)
            member, seen = f + place.minimum(b - 1), place < b
            real = seen.flatten().nonzero().squeeze(1)
            tile = Tile(member, seen, real, member.flatten()[real])
            tiles[number // len(WIDTHS)].append(tile)
        return tiles

    out: list[list[Tile]] = tree.once("tiles_by_level", make)
    return out


def attend(call: Call) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` in the dtype of v, and log evidence ``[trees, H]``."""
    tree, given = call.tree, prepare(call)
    f = levels_of(spread(given.own, tree), tree)
    seen = given.mass > 0
    share = levels_of(given.share.unsqueeze(-1), tree)
    keeps, averages, nodes = [], [], []
    for level in reversed(range(1, tree.depth + 1)):
        start = int(tree.num_nodes - sum(x.shape[0] for x in f[level:]))
        totals, places = [], []
        for tile in tiles_by_level(tree)[level]:
            own = torch.where(
                seen[tile.member][..., None], f[level][tile.member - start], -torch.inf
            )
            *rows, total = _families(given, tile, own, call)
            places.append(tile.node - start)
            totals.append(total[tile.real])
            keeps.append(rows[0][tile.real])
            averages.append(rows[1][tile.real])
            nodes.append(tile.node)
        total = torch.cat(totals)[torch.cat(places).argsort()]
        term = torch.where(share[level] > 0, share[level] * total, 0)
        f[level - 1] = add_to_parents(f[level - 1], term, level, tree)

    root = torch.where(seen[: tree.num_trees, None], f[0], -torch.inf)
    place = torch.cat([tree.root, *nodes]).argsort()
    keep = torch.cat([(~root.isneginf()).to(root.dtype), *keeps])[place]
    average = torch.cat([given.value[: tree.num_trees] * 0, *averages])[place]
    reach = product_down(keep, tree)
    alone = reach.index_select(0, tree.leaf)
    if call.seed is not None:
        head = torch.arange(alone.shape[1], device=alone.device)
        at = tree.leaf.unsqueeze(1)
        own_place = torch.full_like(head, OWN)
        alone = alone * factors(call.dropout_p, call.seed, head, at, own_place, alone.dtype)
    outward = reach.index_select(0, tree.up).unsqueeze(-1) * average
    out = down(outward, tree) + alone.unsqueeze(-1) * given.leaf_value
    return out.to(call.v.dtype), root.clone()


def _families(
    given: Prepared, tile: Tile, own: Tensor, call: Call
) -> tuple[Tensor, Tensor, Tensor]:
    """p of oneself, sums over siblings and Z, of all slots ``[F b, H, ...]`` of a tile."""
    q, k, v = (x[tile.member] for x in (given.query, given.key, given.value))
    bias = torch.where(tile.seen, given.mass[tile.member].log(), -torch.inf)
    shift = q.new_zeros(own.shape) if given.bias is None else given.bias[tile.member]
    families, width, heads, _ = q.shape
    parts = []
    step, rows = max(1, LOGITS // (heads * width * width)), max(1, LOGITS // (heads * width))
    for i in range(0, families, step):
        f = slice(i, i + step)
        pieces = []
        for j in range(0, width, rows):
            n = slice(j, j + rows)
            arguments = (
                q[f, n], k[f], v[f], bias[f], shift[f, n], own[f, n], tile.member[f, n], j, call
            )  # fmt: skip
            if width < WIDE or torch._C._are_functorch_transforms_active():
                pieces.append(_attend(*arguments))
            else:
                pieces.append(
                    checkpoint(_attend, *arguments, use_reentrant=False, preserve_rng_state=False)
                )
        parts.append([torch.cat(x, dim=1).flatten(0, 1) for x in zip(*pieces, strict=True)])
    keep, average, total = (torch.cat(x) for x in zip(*parts, strict=True))
    return keep, average, total


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shift: Tensor, own: Tensor, at: Tensor,
    first: int, call: Call,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of queries ``[F, n, H, *]`` among members ``[F, b, H, *]``; one's own logit is ``own``."""
    place = torch.arange(k.shape[1], device=k.device)
    oneself = place == first + torch.arange(q.shape[1], device=k.device).unsqueeze(1)
    own = own.transpose(1, 2).unsqueeze(-1)
    z = torch.einsum("fqhd,fkhd->fhqk", q, k) + bias[:, None, None]
    z = torch.where(oneself, own, z + shift.transpose(1, 2).unsqueeze(-1))
    hidden = torch.where(oneself, own.isneginf(), bias.isneginf()[:, None, None])
    p, total = entmax(z, hidden)
    keep = (p * oneself).sum(-1)
    p = p.masked_fill(oneself, 0)
    if call.seed is not None:
        head = torch.arange(k.shape[2], device=k.device).view(-1, 1, 1)
        query = at[:, None, :, None]
        p = p * factors(call.dropout_p, call.seed, head, query, place, p.dtype)
    average = torch.einsum("fhqk,fkhd->fqhd", p, v)
    return keep.transpose(1, 2), average, total.transpose(1, 2)


def entmax(z: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    r"""1.5-entmax over the last dimension, and the maximum Z that it attains.

    .. math::
        p_j = \big[ z_j / 2 - \tau \big]_+^2, \qquad \textstyle\sum_j p_j = 1

    of those that are not hidden; 0 and :math:`-\infty` where all are. The support is found by
    sorting (`Peters, Niculae and Martins, 2019 <https://arxiv.org/abs/1905.05702>`_); given it,
    :math:`\tau` is a formula, which PyTorch differentiates as often as one likes.
    """
    nobody = hidden.all(-1, keepdim=True)
    top = torch.where(hidden, -torch.inf, z.detach()).amax(-1, keepdim=True).masked_fill(nobody, 0)
    # The largest is 0 now, so tau is at least −1: what is below may as well stand at −2.
    x = ((z - top) / 2).masked_fill(hidden, -2).clamp(min=-2)
    with torch.no_grad():
        s = x.sort(dim=-1, descending=True).values
        rank = torch.arange(1, s.shape[-1] + 1, device=s.device, dtype=s.dtype)
        mean = s.cumsum(-1) / rank
        spread = (s * s).cumsum(-1) - rank * mean * mean
        tau = mean - ((1 - spread) / rank).clamp(min=0).sqrt()
        last = (tau <= s).sum(-1, keepdim=True) - 1
        inside = (x > tau.gather(-1, last)) & ~hidden
    count = inside.sum(-1, keepdim=True).clamp(min=1)
    off = (x - torch.where(inside, x, 0).sum(-1, keepdim=True) / count).masked_fill(~inside, 0)
    root = ((1 - off.square().sum(-1, keepdim=True)) / count).clamp(min=1e-30).sqrt()
    root = (off + root).clamp(min=0).masked_fill(~inside, 0)  # of each weight
    p = root.square()
    total = top + (2 * p * x).sum(-1, keepdim=True) + 4 / 3 * (1 - (p * root).sum(-1, keepdim=True))
    return p, total.masked_fill(nobody, -torch.inf).squeeze(-1)
