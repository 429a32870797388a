r"""Attention within all families at once.

.. math::
    S_A = \mathrm{logsumexp}_{B} \, s_{AB}, \quad
    M_A = \sum_{B} \mathrm{softmax}_B(s_{AB}) \, \bar v_B, \quad
    s_{AB} = \log|B| + \mathrm{scale} \cdot \bar q_A \cdot \bar k_B + \epsilon_A \cdot \epsilon_B

over the siblings :math:`B \ne A`. Families are dense :class:`~.blocks.Block`, whose queries are
cut into pieces where a family is large. The backward recomputes the logits of a piece, so that
nothing of size b² is ever kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import FEWEST_PRODUCTS, Block, blocks, pieces
from .operator import NO_GRAD, tree_operator
from .plan import Plan

# Below this number of logits fewer calls are faster than vectorised ones.
BY_HALVES = 1 << 14


class Operands(NamedTuple):
    """What the families of a block hold: ``[F H, b, *]``; of a piece, fewer queries.

    ``bias`` is the log mass of who answers, ``[F H, b]``: −∞ where a member is absent.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor
    pos_q: Tensor | None
    pos_k: Tensor | None

    def queries(self, start: int, stop: int) -> Operands:
        """The piece that asks for queries ``start:stop``; all members answer."""
        if stop - start == self.q.shape[1]:
            return self
        return self._replace(
            q=self.q[:, start:stop],
            pos_q=None if self.pos_q is None else self.pos_q[:, start:stop],
        )


def operands(
    block: Block,
    qkv: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    heads: int,
    width: int,
) -> Operands:
    """All that attention in a block reads.

    Rows of ``qkv`` are ``H D + H D + H Dv`` numbers; ``log_mass [T + 1]`` ends with −∞.
    """
    q, k, v = block.take_parts(qkv, heads, (width, width, qkv.shape[1] // heads - 2 * width))
    bias = block.take_for_all(log_mass, heads)
    position = (None if x is None else block.take(x.flatten(1), heads) for x in (pos_q, pos_k))
    return Operands(q, k, v, bias, *position)


def ended(x: Tensor, value: float) -> Tensor:
    """``x [T, ...]`` and a row more: what holds for members that a block repeats."""
    return F.pad(x, (*[0] * (2 * x.dim() - 1), 1), value=value)


def product(p: Tensor, v: Tensor) -> Tensor:
    """``p [G, n, b]`` times ``v [G, b, D]``; term by term where torch would be slow."""
    terms = p.shape[2]
    if p.device.type != "cpu" or p.shape[1] * terms * v.shape[2] >= FEWEST_PRODUCTS:
        return torch.bmm(p, v)
    out = p[..., :1] * v[:, :1]
    for j in range(1, terms):
        out = out.addcmul_(p[..., j : j + 1], v[:, j : j + 1])
    return out


def logits(x: Operands, start: int, scale: float) -> tuple[Tensor, Tensor]:
    """Logits ``[G, b, n]`` of a piece, −∞ on the diagonal, and the diagonal ``[G, n, 1]``.

    Keys come before queries: sums over short last dimensions are not vectorised.
    """
    s = torch.bmm(x.k, x.q.transpose(1, 2))
    s = torch.add(x.bias.unsqueeze(2), s, alpha=scale, out=None if s.requires_grad else s)
    if x.pos_q is not None and x.pos_k is not None:
        s = s.baddbmm_(x.pos_k, x.pos_q.transpose(1, 2))
    diagonal = s.diagonal(-start, 1, 2)[:, : s.shape[2]]
    own = diagonal.clone().unsqueeze(2)
    diagonal.fill_(-math.inf)
    return s, own


def highest(s: Tensor) -> Tensor:
    """The maximum ``[G, 1, n]`` of ``s [G, b, n]``, by halves where torch is not vectorised."""
    if s.shape[2] >= 32 or s.numel() < BY_HALVES or s.device.type != "cpu":
        return s.amax(1, keepdim=True)
    while s.shape[1] > 1:
        half = (s.shape[1] + 1) // 2
        s = torch.maximum(s[:, :half], s[:, -half:])
    return s


class Dropout:
    """Masks drawn in the order of the pieces: equal seeds give equal masks, forward or back."""

    def __init__(self, p: float, seed: Tensor | None, device: torch.device):
        self.p = p
        self.generator = None
        if p > 0.0 and seed is not None:
            self.generator = torch.Generator(device).manual_seed(int(seed))

    def mask(self, x: Operands) -> Tensor | None:
        """Zeros, and elsewhere 1 / (1 − p), for the logits of a piece; None to drop nothing."""
        if self.generator is None:
            return None
        shape = (x.k.shape[0], x.k.shape[1], x.q.shape[1])
        draw = torch.rand(shape, generator=self.generator, device=x.q.device)
        return (draw >= self.p).to(x.q.dtype) * kept_scale(self.p)


def kept_scale(p: float) -> float:
    """By what dropout multiplies the weights that it keeps."""
    return 1.0 / max(1.0 - p, 1e-30)


# The dropout mask of a block's piece from a query on; and what makes one from p and the seed.
Mask = Callable[[Block, Operands, int], Tensor | None]
MaskOf = Callable[[float, Tensor | None], Mask]


def attend(
    x: Operands, start: int, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """M ``[G, n, Dv]``, S and the diagonal ``[G, n, 1]``, in differentiable operations."""
    s, own = logits(x, start, scale)
    if in_pairs(x):
        return *attend_in_pairs(s, x.v, mask), own
    top = highest(s.detach()).clamp(min=torch.finfo(s.dtype).min)
    p = s.sub_(top).exp_()
    # The sum is at least 1, or 0 where there is no sibling of positive mass: M = 0 and S = -inf,
    # whose derivatives are hidden, not NaN.
    total = p.sum(1, keepdim=True)
    some = total.clamp(min=0.5)
    log_total = (some.log() + top).masked_fill(total == 0, -math.inf)
    p = p if mask is None else p * mask
    mean = product(p.transpose(1, 2), x.v).div_(some.transpose(1, 2))
    return mean, log_total.transpose(1, 2), own


def in_pairs(x: Operands) -> bool:
    """Whether families have two members: binary trees have no others."""
    return x.k.shape[1] == x.q.shape[1] == 2


def attend_in_pairs(s: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """M and S of :func:`attend` where each sees the other alone: the softmax of one logit is 1."""
    total = other(s).unsqueeze(2)
    mean = v.flip(1) if mask is None else v.flip(1) * other(mask).unsqueeze(2)
    return mean.masked_fill(total.isneginf(), 0.0), total


def other(s: Tensor) -> Tensor:
    """What ``s [G, 2, 2]`` holds of each query's only sibling, ``[G, 2]``."""
    return torch.stack([s[:, 1, 0], s[:, 0, 1]], dim=1)


def crosswise(x: Tensor) -> Tensor:
    """The ``[G, 2, 2]`` whose :func:`other` is ``x [G, 2]`` and whose diagonal is 0."""
    out = x.new_zeros(x.shape[0], 2, 2)
    out[:, 1, 0], out[:, 0, 1] = x[:, 0], x[:, 1]
    return out


@tree_operator("hsa_geometric::siblings")
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
    nodes, log_mass = qkv.shape[0], ended(log_mass, -math.inf)
    mean = qkv.new_empty(nodes + 1, qkv.shape[1] - 2 * heads * width)
    total, own = qkv.new_empty(nodes + 1, heads), qkv.new_empty(nodes + 1, heads)
    drop = Dropout(dropout_p, seed, qkv.device)
    with torch.autocast(qkv.device.type, enabled=False):
        for block in blocks(Plan.of(tree), heads, width):
            every = operands(block, qkv, pos_q, pos_k, log_mass, heads, width)
            for start, stop in pieces(heads, every.k.shape[1]):
                x = every.queries(start, stop)
                m, s, o = attend(x, start, scale, drop.mask(x))
                block.put(mean, m, first=start)
                block.put(total, s, first=start)
                block.put(own, o, first=start)
    return mean[:nodes].unflatten(1, (heads, -1)), total[:nodes], own[:nodes]


@tree_operator("hsa_geometric::siblings_backward")
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
    nodes, log_mass = qkv.shape[0], ended(log_mass, -math.inf)
    grad_qkv = qkv.new_empty(nodes + 1, qkv.shape[1])
    grad_pq = None if pos_q is None else qkv.new_empty(nodes + 1, pos_q[0].numel())
    grad_pk = None if pos_k is None else qkv.new_empty(nodes + 1, pos_k[0].numel())
    drop = Dropout(dropout_p, seed, qkv.device)
    grad_mean, mean = grad_mean.flatten(1), mean.flatten(1)
    # Absent members, as if they attended to nobody: weights exp(s - inf).
    lowest = torch.finfo(qkv.dtype).min
    total = ended(total.clamp(min=lowest), math.inf)
    with torch.autocast(qkv.device.type, enabled=False):
        for block in blocks(Plan.of(tree), heads, width):
            every = operands(block, qkv, pos_q, pos_k, log_mass, heads, width)
            by_mean, by_own = block.take(grad_mean, heads), block.take(grad_own, heads)
            # What every logit of a row shares: the derivative of S, less the mean of the others.
            shared = block.take(grad_total, heads)
            cuts = list(pieces(heads, every.k.shape[1]))
            pairs = in_pairs(every.queries(*cuts[0]))
            if not pairs:
                shared -= (by_mean * block.take(mean, heads)).sum(-1, keepdim=True)
            shared = shared.transpose(1, 2)
            top = block.take(total, heads, ended=True).transpose(1, 2)
            sums: list[Tensor] = []
            for start, stop in cuts:
                x, g = every.queries(start, stop), by_mean[:, start:stop]
                mask = drop.mask(x)
                if pairs:  # the weight is 1, or 0 where there is nobody of positive mass
                    p = ((top > lowest) & (top < math.inf)).to(g.dtype)
                    p, ds = crosswise(p[:, 0]), crosswise((p * shared)[:, 0])
                else:
                    p, _ = logits(x, start, scale)
                    p = p.sub_(top[..., start:stop]).exp_()
                    ds = torch.bmm(x.v, g.transpose(1, 2))
                    if mask is not None:
                        ds *= mask
                    ds += shared[..., start:stop]
                    ds *= p
                diagonal = ds.diagonal(-start, 1, 2)[:, : stop - start]
                diagonal += by_own[:, start:stop, 0]
                p = p if mask is None else p * mask
                back = ds.transpose(1, 2)
                position = []
                if grad_pq is not None and x.pos_q is not None and x.pos_k is not None:
                    block.put(grad_pq, product(back, x.pos_k), first=start)
                    position = [product(ds, x.pos_q)]
                ds *= scale
                block.put(grad_qkv, product(back, x.k), first=start)
                piece = [product(ds, x.q), product(p, g), *position]
                sums = [a.add_(b) for a, b in zip(sums, piece, strict=True)] if sums else piece
            block.put(grad_qkv, sums[0], at=heads * width)
            block.put(grad_qkv, sums[1], at=2 * heads * width)
            if grad_pk is not None:
                block.put(grad_pk, sums[2])
    empty = qkv.new_empty(0)
    return (
        grad_qkv[:nodes],
        empty if grad_pq is None or pos_q is None else grad_pq[:nodes].view_as(pos_q),
        empty.clone() if grad_pk is None or pos_k is None else grad_pk[:nodes].view_as(pos_k),
    )


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
    mask: Mask | None = None,
) -> list[Tensor]:
    """The vector-Jacobian product of :func:`siblings_backward`, piece by piece by autograd.

    Runs where autograd does, not inside an operator, and so has derivatives of its own. A backend
    with dropout masks of its own gives the :obj:`mask` of a block's piece from a query on.
    """
    again = torch.is_grad_enabled()
    log_mass = ended(log_mass, -math.inf)
    given = [ended(x, 0.0) for x in (grad_mean.flatten(1), grad_total, grad_own)]
    position = [] if pos_q is None or pos_k is None else [pos_q.flatten(1), pos_k.flatten(1)]
    read = ["q", "k", "v", "pos_q", "pos_k"][: 5 if position else 3]
    by_pos_q, by_pos_k = grads[1:] or (None, None)
    result = [torch.zeros_like(x) for x in given]
    result += [x.new_zeros(x.shape[0] + 1, *x.shape[1:]) for x in [qkv, *position]]
    if mask is None:
        drop = Dropout(dropout_p, seed, qkv.device)

        def mask(block: Block, x: Operands, start: int) -> Tensor | None:
            return drop.mask(x)

    def leaf(x: Tensor) -> Tensor:
        return x if again and x.requires_grad else x.detach().requires_grad_()

    with torch.autocast(qkv.device.type, enabled=False):
        for block in blocks(Plan.of(tree), heads, width):
            for start, stop in pieces(heads, block.members.shape[1]):
                with torch.enable_grad():
                    cotangents = [
                        leaf(block.take(x, heads, ended=True)[:, start:stop]) for x in given
                    ]
                    x = operands(block, qkv, pos_q, pos_k, log_mass, heads, width).queries(
                        start, stop
                    )
                    x = x._replace(**{n: leaf(getattr(x, n)) for n in read})
                    inputs = [getattr(x, n) for n in read]
                    outputs = attend(x, start, scale, mask(block, x, start))
                    first = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True)
                    by = operands(block, grads[0], by_pos_q, by_pos_k, log_mass, heads, width)
                    by = by.queries(start, stop)
                    second = torch.autograd.grad(
                        first,
                        [*cotangents, *inputs],
                        [getattr(by, n) for n in read],
                        create_graph=again,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                for out, grad in zip(result[:3], second[:3], strict=True):
                    block.put(out, grad, first=start, add=True)
                block.put(result[3], second[3], first=start, add=True)
                block.put(result[3], second[4], at=heads * width, add=True)
                block.put(result[3], second[5], at=2 * heads * width, add=True)
                if position:
                    block.put(result[4], second[6], first=start, add=True)
                    block.put(result[5], second[7], add=True)
    like = [grad_mean, grad_total, grad_own, qkv]
    like += [] if pos_q is None or pos_k is None else [pos_q, pos_k]
    return [x[:-1].view_as(y) for x, y in zip(result, like, strict=True)]


def differentiate(siblings: Any, siblings_backward: Any, mask: MaskOf | None = None) -> None:
    """Register the shapes and derivatives of a backend's two operators.

    Args:
        siblings: the operator.
        siblings_backward: the operator for its gradients.
        mask: makes the ``mask`` of :func:`siblings_double_backward` from p and the seed.
    """

    @siblings.register_fake
    def _(qkv, pos_q, pos_k, log_mass, heads, width, *rest):
        mean = qkv.new_empty(qkv.shape[0], heads, qkv.shape[1] // heads - 2 * width)
        return mean, qkv.new_empty(mean.shape[:2]), qkv.new_empty(mean.shape[:2])

    @siblings_backward.register_fake
    def _(grad_mean, grad_total, grad_own, mean, total, qkv, pos_q, pos_k, *rest):
        empty = [qkv.new_empty(0) if x is None else x.new_empty(x.shape) for x in (pos_q, pos_k)]
        return qkv.new_empty(qkv.shape), *empty

    def setup(ctx, inputs, output) -> None:
        qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree = inputs
        ctx.save_for_backward(*output[:2], qkv, pos_q, pos_k, log_mass, seed, *tree)

    def backward(ctx, *given):
        mean, total, qkv, pos_q, pos_k, log_mass, seed, *tree = ctx.saved_tensors
        grad_qkv, grad_pq, grad_pk = siblings_backward(
            *given, mean, total, qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree
        )
        position = (None, None) if pos_q is None else (grad_pq, grad_pk)
        return grad_qkv, *position, *[None] * 6, NO_GRAD

    def setup_backward(ctx, inputs, output) -> None:
        gm, gt, go, _, _, qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree = inputs
        ctx.save_for_backward(gm, gt, go, qkv, pos_q, pos_k, log_mass, seed, *tree)

    def backward_of_backward(ctx, *grads):
        gm, gt, go, qkv, pos_q, pos_k, log_mass, seed, *tree = ctx.saved_tensors
        pairs = zip(grads, (qkv, pos_q, pos_k), strict=True)
        grads = [torch.zeros_like(x) if g is None else g for g, x in pairs if x is not None]
        *_, dropout_p = ctx.options
        ggm, ggt, ggo, *rest = siblings_double_backward(
            grads, gm, gt, go, qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree,
            mask=None if mask is None else mask(dropout_p, seed),
        )  # fmt: skip
        # mean and total are functions of qkv: their share is already in `rest`.
        rest += [None] * (3 - len(rest))
        return ggm, ggt, ggo, None, None, *rest, *[None] * 6, NO_GRAD

    siblings.register_autograd(backward, setup_context=setup)
    siblings_backward.register_autograd(backward_of_backward, setup_context=setup_backward)


differentiate(siblings, siblings_backward)
