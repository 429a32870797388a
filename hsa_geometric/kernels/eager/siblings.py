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

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .plan import NO_GRAD, Plan
from .sweeps import CHUNK_ELEMENTS, chunks

LOGITS = 1 << 20  # logits held at a time


Rows = slice | Tensor


class Operands(NamedTuple):
    """What attention reads: of all nodes ``[T, H, *]``, or of a piece ``[F, H, members, *]``."""

    q: Tensor
    k: Tensor
    v: Tensor
    pos_q: Tensor | None
    pos_k: Tensor | None
    log_mass: Tensor


def unpack(qkv: Tensor, heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views ``[T, H, D]``, ``[T, H, D]`` and ``[T, H, Dv]`` of ``[T, H D + H D + H Dv]``."""
    parts = qkv.tensor_split([heads * width, 2 * heads * width], dim=1)
    q, k, v = (x.unflatten(1, (heads, -1)) for x in parts)
    return q, k, v


class Piece(NamedTuple):
    """Queries ``start:stop`` of each of ``families`` families of ``size`` members."""

    families: int
    size: int
    start: int
    stop: int
    members: Rows
    queries: Rows

    def take(self, x: Tensor, rows: Rows) -> Tensor:
        """Rows of ``x [T, H, D]`` as ``[families, H, members or queries, D]``, contiguous.

        Whole rows are copied here, once; a product with a strided transpose would copy numbers.
        """
        x = x[rows] if isinstance(rows, slice) else x.index_select(0, rows)
        return x.unflatten(0, (self.families, -1)).transpose(1, 2).contiguous()

    def operands(self, x: Operands) -> Operands:
        """What the piece reads of ``x``."""
        q, k, v, pos_q, pos_k, log_mass = x
        return Operands(
            self.take(q, self.queries),
            self.take(k, self.members),
            self.take(v, self.members),
            None if pos_q is None else self.take(pos_q, self.queries),
            None if pos_k is None else self.take(pos_k, self.members),
            self.take(log_mass, self.members),
        )


def as_rows(x: Tensor) -> Tensor:
    """``[F, H, n, D]`` back to rows ``[F * n, H, D]``; undoes :meth:`Piece.take`."""
    return x.transpose(1, 2).flatten(0, 1)


def put(out: Tensor, rows: Rows, x: Tensor, add: int = 0) -> None:
    """Write ``x [F, H, n, D]`` to its rows of ``out``, or add to what an earlier piece wrote."""
    if isinstance(rows, slice):  # one strided copy, without an intermediate
        here = out[rows].unflatten(0, (x.shape[0], -1)).transpose(1, 2)
        here.add_(x) if add else here.copy_(x)
    elif add:
        out.index_add_(0, rows, as_rows(x))
    else:
        out.index_copy_(0, rows, as_rows(x))


def pieces(plan: Plan, heads: int, channels: int) -> Iterator[Piece]:
    """All nodes once, in an order that depends on the tree alone; a root is its own family."""
    roots = plan.num_roots
    yield Piece(roots, 1, 0, 1, slice(0, roots), slice(0, roots))
    for b, g0, g1, start in plan.sizes.tolist():
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


def logits(piece: Piece, x: Operands, scale: float) -> tuple[Tensor, Tensor]:
    """Logits ``[F, H, n, b]`` of a piece, −∞ on the diagonal, and the diagonal ``[F, H, n]``."""
    s = torch.matmul(x.q, x.k.transpose(-1, -2)).mul_(scale)
    if x.pos_q is not None and x.pos_k is not None:
        s += torch.matmul(x.pos_q, x.pos_k.transpose(-1, -2))
    s += x.log_mass.transpose(-1, -2)
    own = s.diagonal(piece.start, -2, -1)[..., : piece.stop - piece.start].clone()
    s.diagonal(piece.start, -2, -1)[..., : piece.stop - piece.start].fill_(-math.inf)
    return s, own


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


def attend(
    piece: Piece, x: Operands, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """M, S and the diagonal of one piece, in differentiable operations."""
    s, own = logits(piece, x, scale)
    top = s.detach().amax(-1, keepdim=True)
    top = torch.where(top.isneginf(), 0.0, top)
    p = s.sub_(top).exp_()
    # The sum is at least 1, or 0 where there is no sibling of positive mass: M = 0 and S = -inf,
    # whose derivatives are hidden, not NaN.
    total = p.sum(-1, keepdim=True)
    some = total.clamp(min=0.5)
    log_total = (some.log() + top).masked_fill(total == 0, -math.inf).squeeze(-1)
    p = p if mask is None else p * mask
    return torch.matmul(p, x.v) / some, log_total, own


@torch.library.custom_op("hsa_geometric::siblings", mutates_args=())
def siblings(
    qkv: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    heads: int,
    width: int,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """M ``[T, H, Dv]``, S and own logits ``[T, H]`` from node means q, k, v beside each other."""
    nodes = Operands(*unpack(qkv, heads, width), pos_q, pos_k, log_mass.view(-1, 1, 1))
    mean = qkv.new_empty(nodes.v.shape)
    total, own = qkv.new_empty(nodes.v.shape[:2]), qkv.new_empty(nodes.v.shape[:2])
    drop = Dropout(dropout_p, seed, qkv.device)
    with torch.autocast(qkv.device.type, enabled=False):
        for piece in pieces(Plan(*tree), heads, width):
            x = piece.operands(nodes)
            m, s, o = attend(piece, x, scale, drop.mask(piece, x.q))
            put(mean, piece.queries, m)
            put(total.unsqueeze(-1), piece.queries, s.unsqueeze(-1))
            put(own.unsqueeze(-1), piece.queries, o.unsqueeze(-1))
    return mean, total, own


@torch.library.custom_op("hsa_geometric::siblings_backward", mutates_args=())
def siblings_backward(
    grad_mean: Tensor,
    grad_total: Tensor,
    grad_own: Tensor,
    mean: Tensor,
    total: Tensor,
    qkv: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    heads: int,
    width: int,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Gradients of qkv and of the two position embeddings (empty without any).

    .. math::
        \partial s_{AB} = p_{AB} \left( \partial M_A \cdot \bar v_B - \partial M_A \cdot M_A
        + \partial S_A \right)
    """
    nodes = Operands(*unpack(qkv, heads, width), pos_q, pos_k, log_mass.view(-1, 1, 1))
    grad_qkv = torch.empty_like(qkv)
    grad_q, grad_k, grad_v = unpack(grad_qkv, heads, width)
    grad_pq = qkv.new_empty(0) if pos_q is None else torch.empty_like(pos_q)
    grad_pk = qkv.new_empty(0) if pos_k is None else torch.empty_like(pos_k)
    total, grad_own = total.unsqueeze(-1), grad_own.unsqueeze(-1)
    grad_total = grad_total.unsqueeze(-1)
    drop = Dropout(dropout_p, seed, qkv.device)
    with torch.autocast(qkv.device.type, enabled=False):
        for piece in pieces(Plan(*tree), heads, width):
            x = piece.operands(nodes)
            p, _ = logits(piece, x, scale)
            top = piece.take(total, piece.queries)
            p = p.sub_(torch.where(top.isneginf(), 0.0, top)).exp_()
            mask = drop.mask(piece, x.q)
            g = piece.take(grad_mean, piece.queries)
            ds = torch.matmul(g, x.v.transpose(-1, -2))
            if mask is not None:
                ds *= mask
            # What every logit of a row shares: the derivative of S, less the mean of the others.
            shared = (g * piece.take(mean, piece.queries)).sum(-1, keepdim=True)
            ds += piece.take(grad_total, piece.queries) - shared
            ds *= p
            diagonal = ds.diagonal(piece.start, -2, -1)[..., : piece.stop - piece.start]
            diagonal += piece.take(grad_own, piece.queries).squeeze(-1)
            p = p if mask is None else p * mask
            put(grad_v, piece.members, torch.matmul(p.transpose(-1, -2), g), piece.start)
            put(grad_q, piece.queries, torch.matmul(ds, x.k).mul_(scale))
            back = ds.transpose(-1, -2)
            put(grad_k, piece.members, torch.matmul(back, x.q).mul_(scale), piece.start)
            if x.pos_q is not None and x.pos_k is not None:
                put(grad_pq, piece.queries, torch.matmul(ds, x.pos_k))
                put(grad_pk, piece.members, torch.matmul(back, x.pos_q), piece.start)
    return grad_qkv, grad_pq, grad_pk


def siblings_double_backward(
    grads: list[Tensor],
    grad_mean: Tensor,
    grad_total: Tensor,
    grad_own: Tensor,
    qkv: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    heads: int,
    width: int,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> list[Tensor]:
    """The vector-Jacobian product of :func:`siblings_backward`, piece by piece by autograd.

    Runs where autograd does, not inside an operator, and so has derivatives of its own.
    """
    again = torch.is_grad_enabled()
    inputs = [grad_mean, grad_total.unsqueeze(-1), grad_own.unsqueeze(-1)]
    inputs += unpack(qkv, heads, width)
    given = list(unpack(grads[0], heads, width)) + grads[1:]
    inputs += [] if pos_q is None or pos_k is None else [pos_q, pos_k]
    result = [torch.zeros_like(x) for x in inputs]
    drop = Dropout(dropout_p, seed, qkv.device)
    with torch.autocast(qkv.device.type, enabled=False):
        for piece in pieces(Plan(*tree), heads, width):
            asking, answering = piece.queries, piece.members
            rows: list[Rows] = [asking] * 4 + [answering] * 2 + [asking, answering]
            rows = rows[: len(inputs)]
            with torch.enable_grad():
                taken = [piece.take(x, r) for x, r in zip(inputs, rows, strict=True)]
                taken = [
                    x if again and x.requires_grad else x.detach().requires_grad_() for x in taken
                ]
                pos_q_p, pos_k_p = taken[6:] or (None, None)
                lm = piece.take(log_mass.view(-1, 1, 1), piece.members)
                x = Operands(taken[3], taken[4], taken[5], pos_q_p, pos_k_p, lm)
                outputs = attend(piece, x, scale, drop.mask(piece, x.q))
                first = torch.autograd.grad(
                    outputs,
                    taken[3:],
                    (taken[0], taken[1].squeeze(-1), taken[2].squeeze(-1)),
                    create_graph=True,
                )
                by = [piece.take(x, r) for x, r in zip(given, rows[3:], strict=True)]
                second = torch.autograd.grad(
                    first, taken, by, create_graph=again, allow_unused=True
                )
            for out, r, grad in zip(result, rows, second, strict=True):
                if grad is not None:
                    out[r] += as_rows(grad)
    mean, total, own, *rest = result
    qkv = torch.cat([x.flatten(1) for x in rest[:3]], dim=1)
    return [mean, total.squeeze(-1), own.squeeze(-1), qkv, *rest[3:]]


@siblings.register_fake
def _(qkv, pos_q, pos_k, log_mass, heads, width, *rest):
    mean = qkv.new_empty(unpack(qkv, heads, width)[2].shape)
    return mean, qkv.new_empty(mean.shape[:2]), qkv.new_empty(mean.shape[:2])


@siblings_backward.register_fake
def _(grad_mean, grad_total, grad_own, mean, total, qkv, pos_q, pos_k, *rest):
    empty = [qkv.new_empty(0) if x is None else torch.empty_like(x) for x in (pos_q, pos_k)]
    return torch.empty_like(qkv), *empty


def _setup(ctx, inputs, output) -> None:
    qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree = inputs
    ctx.save_for_backward(*output[:2], qkv, pos_q, pos_k, log_mass, seed, *tree)


def _backward(ctx, *given):
    mean, total, qkv, pos_q, pos_k, log_mass, seed, *tree = ctx.saved_tensors
    given = [x.contiguous() for x in given]
    grad_qkv, grad_pq, grad_pk = siblings_backward(
        *given, mean, total, qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree
    )
    position = (None, None) if pos_q is None else (grad_pq, grad_pk)
    return grad_qkv, *position, *[None] * 6, NO_GRAD


def _setup_backward(ctx, inputs, output) -> None:
    gm, gt, go, _, _, qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree = inputs
    ctx.save_for_backward(gm, gt, go, qkv, pos_q, pos_k, log_mass, seed, *tree)


def _backward_of_backward(ctx, *grads):
    gm, gt, go, qkv, pos_q, pos_k, log_mass, seed, *tree = ctx.saved_tensors
    pairs = zip(grads, (qkv, pos_q, pos_k), strict=True)
    grads = [torch.zeros_like(x) if g is None else g for g, x in pairs if x is not None]
    ggm, ggt, ggo, *rest = siblings_double_backward(
        grads, gm, gt, go, qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree
    )
    # mean and total are functions of qkv: their share is already in `rest`.
    rest += [None] * (3 - len(rest))
    return ggm, ggt, ggo, None, None, *rest, *[None] * 6, NO_GRAD


siblings.register_autograd(_backward, setup_context=_setup)
siblings_backward.register_autograd(_backward_of_backward, setup_context=_setup_backward)
