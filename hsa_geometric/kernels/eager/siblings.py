r"""Attention within all families at once.

.. math::
    S_A = \mathrm{logsumexp}_{B} \, s_{AB}, \quad
    M_A = \sum_{B} \mathrm{softmax}_B(s_{AB}) \, \bar v_B, \quad
    s_{AB} = \log|B| + \mathrm{scale} \cdot \bar q_A \cdot \bar k_B + \epsilon_A \cdot \epsilon_B

over the siblings :math:`B \ne A`. Families of one size form dense blocks; a block is cut into
pieces whose logits stay below :data:`LOGITS`, by families and, in a large family, by queries. The
backward recomputes the logits of a piece, so that nothing of size b² is ever kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .plan import NO_GRAD, Plan
from .sweeps import CHUNK_ELEMENTS, chunks

LOGITS = 1 << 20  # logits held at a time


Rows = slice | Tensor


class Operands(NamedTuple):
    """What a piece reads: ``[F, H, n, *]`` of its queries, ``[F, H, b, *]`` of its members."""

    q: Tensor
    k: Tensor
    v: Tensor
    pos_q: Tensor | None
    pos_k: Tensor | None
    log_mass: Tensor


class Piece(NamedTuple):
    """Queries ``start:stop`` of each of ``families`` families of ``size`` members."""

    families: int
    size: int
    start: int
    stop: int
    members: Rows
    queries: Rows

    def take(self, x: Tensor, rows: Rows) -> Tensor:
        """Rows of ``x [T, H, D]`` as ``[families, H, members or queries, D]``."""
        x = x[rows] if isinstance(rows, slice) else x.index_select(0, rows)
        return x.unflatten(0, (self.families, -1)).transpose(1, 2)

    def operands(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pos_q: Tensor | None,
        pos_k: Tensor | None,
        log_mass: Tensor,
    ) -> Operands:
        """The operands of this piece: views where its families are consecutive."""
        return Operands(
            self.take(q, self.queries),
            self.take(k, self.members),
            self.take(v, self.members),
            None if pos_q is None else self.take(pos_q, self.queries),
            None if pos_k is None else self.take(pos_k, self.members),
            self.take(log_mass.view(-1, 1, 1), self.members),
        )


def as_rows(x: Tensor) -> Tensor:
    """``[F, H, n, D]`` back to rows ``[F * n, H, D]``; undoes :meth:`Piece.take`."""
    return x.transpose(1, 2).flatten(0, 1)


def pieces(plan: Plan, heads: int, channels: int) -> Iterator[Piece]:
    """All families of two or more members, in an order that depends on the tree alone."""
    for b, g0, g1, start in plan.sizes.tolist():
        if b == 1:
            continue
        if heads * b * b > LOGITS:  # one family at a time, cut by queries
            step, queries = 1, max(1, LOGITS // (heads * b))
        else:
            step, queries = LOGITS // (heads * b * b), b
            step = max(1, min(step, CHUNK_ELEMENTS // (b * heads * channels)))
        for lo, hi in chunks(g0, g1, step):
            members: Rows
            if start >= 0:
                members = slice(start + (lo - g0) * b, start + (hi - g0) * b)
            else:
                first = plan.family_ptr[plan.family_order[lo:hi]]
                members = (first.unsqueeze(1) + torch.arange(b, device=first.device)).view(-1)
            for q0, q1 in chunks(0, b, queries):
                asking = members
                if queries < b:
                    base = members.start if isinstance(members, slice) else int(members[0])
                    asking = slice(base + q0, base + q1)
                yield Piece(hi - lo, b, q0, q1, members, asking)


def logits(piece: Piece, x: Operands, scale: float) -> Tensor:
    """Logits ``[F, H, n, b]`` of a piece; −∞ on the diagonal."""
    s = torch.matmul(x.q * scale, x.k.transpose(-1, -2))
    if x.pos_q is not None and x.pos_k is not None:
        s = s + torch.matmul(x.pos_q, x.pos_k.transpose(-1, -2))
    s = s + x.log_mass.transpose(-1, -2)
    own = torch.arange(piece.start, piece.stop, device=s.device).unsqueeze(1)
    return s.masked_fill(own == torch.arange(piece.size, device=s.device), float("-inf"))


def probabilities(s: Tensor, total: Tensor) -> Tensor:
    """exp(s − total), 0 in a row without any sibling of positive mass."""
    return torch.exp(s - torch.where(total.isneginf(), 0.0, total).unsqueeze(-1))


class Dropout:
    """Masks drawn in the order of the pieces: equal seeds give equal masks, forward or back."""

    def __init__(self, p: float, seed: Tensor | None, device: torch.device):
        self.p = p
        self.generator = None
        if p > 0.0 and seed is not None:
            self.generator = torch.Generator(device).manual_seed(int(seed))

    def mask(self, piece: Piece, q: Tensor) -> Tensor | None:
        """Zeros, and elsewhere 1 / (1 − p), for the logits of a piece; None to drop nothing."""
        if self.generator is None:
            return None
        draw = torch.rand(*q.shape[:3], piece.size, generator=self.generator, device=q.device)
        return (draw >= self.p).to(q.dtype) / max(1.0 - self.p, 1e-30)


def attend(piece: Piece, x: Operands, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """M and S of one piece, in plain differentiable operations."""
    s = logits(piece, x, scale)
    # logsumexp of an empty row is -inf as it should be, but its derivative is NaN: hide the row.
    empty = s.detach().amax(-1, keepdim=True).isneginf()
    total = s.masked_fill(empty, 0.0).logsumexp(-1).masked_fill(empty.squeeze(-1), float("-inf"))
    p = probabilities(s, total)
    return torch.matmul(p if mask is None else p * mask, x.v), total


@torch.library.custom_op("hsa_geometric::siblings", mutates_args=())
def siblings(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """M ``[T, H, Dv]`` and S ``[T, H]`` from node means ``[T, H, D]``."""
    mean = torch.zeros_like(v)
    total = torch.full_like(q[..., 0], float("-inf"))
    drop = Dropout(dropout_p, seed, q.device)
    with torch.autocast(q.device.type, enabled=False):
        for piece in pieces(Plan(*tree), q.shape[1], q.shape[2]):
            x = piece.operands(q, k, v, pos_q, pos_k, log_mass)
            m, s = attend(piece, x, scale, drop.mask(piece, x.q))
            mean[piece.queries] = as_rows(m)
            total[piece.queries] = as_rows(s.unsqueeze(-1)).squeeze(-1)
    return mean, total


@torch.library.custom_op("hsa_geometric::siblings_backward", mutates_args=())
def siblings_backward(
    grad_mean: Tensor,
    grad_total: Tensor,
    mean: Tensor,
    total: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""Gradients of q, k, v and the two position embeddings (empty without any).

        .. math::
            \partial s_{AB} = p_{AB} \left( \partial M_A \cdot ar v_B - \partial M_A \cdot M_A
            + \partial S_A
    ight)
    """
    grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    grad_pq = q.new_zeros(0) if pos_q is None else torch.zeros_like(pos_q)
    grad_pk = q.new_zeros(0) if pos_k is None else torch.zeros_like(pos_k)
    # What every logit of a row shares: its derivative of S, less the mean of the others.
    shared = (grad_total - (grad_mean * mean).sum(-1)).unsqueeze(-1)
    drop = Dropout(dropout_p, seed, q.device)
    with torch.autocast(q.device.type, enabled=False):
        for piece in pieces(Plan(*tree), q.shape[1], q.shape[2]):
            x = piece.operands(q, k, v, pos_q, pos_k, log_mass)
            p = probabilities(
                logits(piece, x, scale),
                piece.take(total.unsqueeze(-1), piece.queries).squeeze(-1),
            )
            mask = drop.mask(piece, x.q)
            g = piece.take(grad_mean, piece.queries)
            ds = torch.matmul(g, x.v.transpose(-1, -2))
            if mask is not None:
                ds *= mask
            ds += piece.take(shared, piece.queries)
            ds *= p
            p = p if mask is None else p * mask
            grad_v[piece.members] += as_rows(torch.matmul(p.transpose(-1, -2), g))
            grad_q[piece.queries] = as_rows(torch.matmul(ds, x.k).mul_(scale))
            grad_k[piece.members] += as_rows(torch.matmul(ds.transpose(-1, -2), x.q).mul_(scale))
            if x.pos_q is not None and x.pos_k is not None:
                grad_pq[piece.queries] = as_rows(torch.matmul(ds, x.pos_k))
                grad_pk[piece.members] += as_rows(torch.matmul(ds.transpose(-1, -2), x.pos_q))
    return grad_q, grad_k, grad_v, grad_pq, grad_pk


def siblings_double_backward(
    grads: list[Tensor],
    grad_mean: Tensor,
    grad_total: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> list[Tensor]:
    """The vector-Jacobian product of :func:`siblings_backward`, piece by piece by autograd.

    Runs where autograd does, not inside an operator, and so has derivatives of its own.
    """
    again = torch.is_grad_enabled()
    inputs = [grad_mean, grad_total.unsqueeze(-1), q, k, v]
    inputs += [] if pos_q is None or pos_k is None else [pos_q, pos_k]
    result = [torch.zeros_like(x) for x in inputs]
    drop = Dropout(dropout_p, seed, q.device)
    with torch.autocast(q.device.type, enabled=False):
        for piece in pieces(Plan(*tree), q.shape[1], q.shape[2]):
            by_query = (piece.queries, piece.queries, piece.queries, piece.members, piece.members)
            rows = (*by_query, piece.queries, piece.members)[: len(inputs)]
            with torch.enable_grad():
                taken = [piece.take(x, r) for x, r in zip(inputs, rows, strict=True)]
                taken = [
                    x if again and x.requires_grad else x.detach().requires_grad_() for x in taken
                ]
                pos_q_p, pos_k_p = taken[5:] or (None, None)
                lm = piece.take(log_mass.view(-1, 1, 1), piece.members)
                x = Operands(taken[2], taken[3], taken[4], pos_q_p, pos_k_p, lm)
                m, s = attend(piece, x, scale, drop.mask(piece, x.q))
                first = torch.autograd.grad(
                    (m, s), taken[2:], (taken[0], taken[1].squeeze(-1)), create_graph=True
                )
                given = [piece.take(x, r) for x, r in zip(grads, rows[2:], strict=True)]
                second = torch.autograd.grad(
                    first, taken, given, create_graph=again, allow_unused=True
                )
            for out, r, grad in zip(result, rows, second, strict=True):
                if grad is not None:
                    out[r] += as_rows(grad)
    result[1] = result[1].squeeze(-1)
    return result


@siblings.register_fake
def _(q, k, v, pos_q, pos_k, log_mass, scale, dropout_p, seed, tree):
    return torch.empty_like(v), q.new_empty(q.shape[:2])


@siblings_backward.register_fake
def _(grad_mean, grad_total, mean, total, q, k, v, pos_q, pos_k, *rest):
    empty = [q.new_empty(0) if x is None else torch.empty_like(x) for x in (pos_q, pos_k)]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), *empty


def _setup(ctx, inputs, output) -> None:
    q, k, v, pos_q, pos_k, log_mass, ctx.scale, ctx.dropout_p, seed, tree = inputs
    ctx.save_for_backward(*output, q, k, v, pos_q, pos_k, log_mass, seed, *tree)


def _backward(ctx, grad_mean, grad_total):
    mean, total, q, k, v, pos_q, pos_k, log_mass, seed, *tree = ctx.saved_tensors
    *grads, grad_pq, grad_pk = siblings_backward(
        grad_mean.contiguous(), grad_total.contiguous(), mean, total,
        q, k, v, pos_q, pos_k, log_mass, ctx.scale, ctx.dropout_p, seed, tree,
    )  # fmt: skip
    position = (None, None) if pos_q is None else (grad_pq, grad_pk)
    return *grads, *position, None, None, None, None, NO_GRAD


def _setup_backward(ctx, inputs, output) -> None:
    gm, gt, _, _, q, k, v, pos_q, pos_k, log_mass, ctx.scale, ctx.dropout_p, seed, tree = inputs
    ctx.save_for_backward(gm, gt, q, k, v, pos_q, pos_k, log_mass, seed, *tree)


def _backward_of_backward(ctx, *grads):
    gm, gt, q, k, v, pos_q, pos_k, log_mass, seed, *tree = ctx.saved_tensors
    given = zip(grads, (q, k, v, pos_q, pos_k), strict=True)
    given = [torch.zeros_like(x) if g is None else g for g, x in given if x is not None]
    ggm, ggt, *rest = siblings_double_backward(
        given, gm, gt, q, k, v, pos_q, pos_k, log_mass, ctx.scale, ctx.dropout_p, seed, tree
    )
    # mean and total are functions of q, k and v: their share is already in `rest`.
    rest += [None] * (5 - len(rest))
    return ggm, ggt, None, None, *rest, None, None, None, None, NO_GRAD


siblings.register_autograd(_backward, setup_context=_setup)
siblings_backward.register_autograd(_backward_of_backward, setup_context=_setup_backward)
