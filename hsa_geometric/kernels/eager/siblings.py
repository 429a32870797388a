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

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import couples
from .blocks import FEWEST_PRODUCTS, Block, Bundle, bundles, joined, pieces
from .operator import NO_GRAD, tree_operator
from .plan import Plan

if TYPE_CHECKING:
    from ..triton.dropout import CountedDropout

LOG2_E, LN_2 = math.log2(math.e), math.log(2)


class Operands(NamedTuple):
    """What the families of a block hold: ``[F H, b, *]``; of a piece, fewer queries.

    ``bias`` is the log mass of who answers, ``[F H, b, 1]``: −∞ where a member is absent.
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
    bundle: Bundle,
    qkv: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    heads: int,
    width: int,
) -> Iterator[Operands]:
    """All that attention reads, for one block after another.

    Rows of ``qkv`` are ``H D + H D + H Dv`` numbers; ``log_mass [T + 1]`` ends with −∞.
    """
    found: list[Any] = bundle.take_parts(
        qkv, heads, (width, width, qkv.shape[1] // heads - 2 * width)
    )
    found.append(bundle.take_for_all(log_mass, heads))
    for x in (pos_q, pos_k):
        none = [None] * len(bundle.blocks)
        found.append(none if x is None else bundle.take(x.flatten(1), heads))
    return itertools.starmap(Operands, zip(*found, strict=True))


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


def products(x: Operands, scale: float) -> tuple[Tensor, float]:
    """Products ``[G, b, n]`` of all members and the queries, and their factor.

    Times it, plus ``x.bias``, they are logits in base 2; torch's powers of two are several times
    faster than its powers of e.
    """
    s = torch.bmm(x.k, x.q.transpose(1, 2))
    if x.pos_q is None or x.pos_k is None:
        return s, scale * LOG2_E
    return torch.baddbmm(s, x.pos_k, x.pos_q.transpose(1, 2), beta=scale), LOG2_E


class Dropout:
    """Masks drawn in the order of the pieces: equal seeds give equal masks, forward or back."""

    def __init__(self, p: float, seed: Tensor | None, device: torch.device):
        self.p = p
        self.generator = None
        if p > 0.0 and seed is not None:
            self.generator = torch.Generator(device).manual_seed(int(seed))

    @classmethod
    def of(cls, p: float, seed: Tensor | None, device: torch.device) -> Dropout | CountedDropout:
        """The masks of a seed; of a seed ``[1]`` those of the Triton backend's kernels."""
        if seed is None or not counted(seed):
            return cls(p, seed, device)
        from ..triton.dropout import CountedDropout

        return CountedDropout(p, seed)

    def mask(self, block: Block, x: Operands, start: int) -> Tensor | None:
        """Zeros, and elsewhere 1 / (1 − p), for the logits of a piece; None to drop nothing."""
        if self.generator is None:
            return None
        shape = (x.k.shape[0], x.k.shape[1], x.q.shape[1])
        draw = torch.rand(shape, generator=self.generator, device=x.q.device)
        return (draw >= self.p).to(x.q.dtype) * kept_scale(self.p)


def counted(seed: Tensor) -> bool:
    """Whether the seed is of masks that depend on the pair alone, as the Triton backend's do."""
    return seed.dim() == 1


def own_mask(p: float, seed: Tensor, like: Tensor, leaf: Tensor) -> Tensor:
    """Zeros, and elsewhere 1 / (1 − p), for the own weights ``like [N, H]`` of leaves."""
    if not counted(seed):
        return F.dropout(torch.ones_like(like), p)
    from ..triton.dropout import CountedDropout

    return CountedDropout(p, seed).own(leaf, like)


def kept_scale(p: float) -> float:
    """By what dropout multiplies the weights that it keeps."""
    return 1.0 / max(1.0 - p, 1e-30)


class Sums(NamedTuple):
    """What attention adds up over the siblings of each member: values of a block or a bundle.

    ``mean [G, n, Dv]`` is the sum of v by weights that add up to ``total``, relative to the power
    of two ``top``; ``own`` is the logit of a member to itself in base 2. These are ``[G, n]``.
    """

    mean: Tensor
    total: Tensor
    top: Tensor
    own: Tensor


def attend(x: Operands, start: int, scale: float, mask: Tensor | None) -> Sums:
    """Sums of a piece whose first query is member ``start``, in differentiable operations."""
    s, factor = products(x, scale)
    s, bias = s.transpose(0, 1), x.bias.transpose(0, 1)
    # Where the last dimension is short, sums are vectorised over the first alone.
    out = s if s.shape[2] >= 32 else s.new_empty(s.shape)
    s = torch.add(bias, s, alpha=factor, out=None if s.requires_grad else out)
    diagonal = s.diagonal(-start, 0, 2)
    own = diagonal.clone()
    diagonal.fill_(-math.inf)
    top = s.detach().amax(0).clamp(min=torch.finfo(s.dtype).min)
    p = s.sub_(top).exp2_()
    total = p.sum(0)
    p = p if mask is None else p * mask.transpose(0, 1)
    return Sums(product(p.permute(1, 2, 0), x.v), total, top, own)


class Whole:
    """Results of the pieces of a block, put together to results ``[G, b, *]`` of the block."""

    def __init__(self, members: int):
        self.members = members
        self.asked: Sequence[Tensor] = ()
        self.answered: Sequence[Tensor] = ()

    def add(
        self, start: int, stop: int, asked: Sequence[Tensor], answered: Sequence[Tensor] = ()
    ) -> None:
        """Results of the queries ``start:stop``, and their share in those of all who answer."""
        if stop - start == self.members:
            self.asked, self.answered = asked, answered
            return
        if not self.asked:
            self.asked = [x.new_empty(x.shape[0], self.members, *x.shape[2:]) for x in asked]
            self.answered = [torch.zeros_like(x) for x in answered]
        for out, x in zip(self.asked, asked, strict=True):
            out[:, start:stop] = x
        for out, x in zip(self.answered, answered, strict=True):
            out += x

    def results(self) -> list[Tensor]:
        """Those of the queries, then the others."""
        return [*self.asked, *self.answered]


def divided(x: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """M, S and the own logits in base e."""
    # The sum is at least 1, or 0 where there is no sibling of positive mass: M = 0 and S = -inf,
    # whose derivatives are hidden, not NaN.
    some = x.total.clamp(min=0.5)
    log_total = ((some.log2() + x.top) * LN_2).masked_fill(x.total == 0, -math.inf)
    return x.mean.div_(some.unsqueeze(-1)), log_total, x.own * LN_2


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
    log2_mass = log_mass * LOG2_E
    mean = qkv.new_empty(nodes + 1, qkv.shape[1] - 2 * heads * width)
    total, own = qkv.new_empty(nodes + 1, heads), qkv.new_empty(nodes + 1, heads)
    drop, plain = Dropout.of(dropout_p, seed, qkv.device), pos_q is None and dropout_p == 0.0
    with torch.autocast(qkv.device.type, enabled=False):
        for bundle in bundles(Plan.of(tree), heads, width):
            if plain and bundle.couples:
                couples.attend(bundle, qkv, log_mass, heads, width, scale, mean, total, own)
                continue
            found = []
            read = operands(bundle, qkv, pos_q, pos_k, log2_mass, heads, width)
            for block, every in zip(bundle.blocks, read, strict=True):
                whole = Whole(every.k.shape[1])
                for start, stop in pieces(heads, every.k.shape[1]):
                    x = every.queries(start, stop)
                    whole.add(start, stop, attend(x, start, scale, drop.mask(block, x, start)))
                found.append(whole.results())
            m, s, o = divided(Sums(*(joined(x) for x in zip(*found, strict=True))))
            bundle.put(mean, m, heads)
            bundle.put(total, s, heads)
            bundle.put(own, o, heads)
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
    nodes, log_mass = qkv.shape[0], ended(log_mass * LOG2_E, -math.inf)
    grad_qkv = qkv.new_empty(nodes + 1, qkv.shape[1])
    grad_pq = None if pos_q is None else qkv.new_empty(nodes + 1, pos_q[0].numel())
    grad_pk = None if pos_k is None else qkv.new_empty(nodes + 1, pos_k[0].numel())
    drop, plain = Dropout.of(dropout_p, seed, qkv.device), pos_q is None and dropout_p == 0.0
    grad_mean, mean = grad_mean.flatten(1), mean.flatten(1)
    # Absent members, as if they attended to nobody: weights of 2 to the power of -inf.
    lowest = torch.finfo(qkv.dtype).min
    log2_total = ended((total * LOG2_E).clamp(min=lowest), math.inf)
    with torch.autocast(qkv.device.type, enabled=False):
        for bundle in bundles(Plan.of(tree), heads, width):
            if plain and bundle.couples:
                couples.differentiate(
                    bundle, grad_mean, grad_total, grad_own, total,
                    qkv, heads, width, scale, grad_qkv,
                )  # fmt: skip
                continue
            found = []
            given = [bundle.take(x, heads) for x in (grad_mean, mean, grad_own, grad_total)]
            given.append(bundle.take(log2_total, heads, ended=True))
            read = operands(bundle, qkv, pos_q, pos_k, log_mass, heads, width)
            for block, every, by_mean, m, by_own, by_total, top in zip(
                bundle.blocks, read, *given, strict=True
            ):
                top = top.transpose(1, 2)
                # What every logit of a row shares.
                shared = by_total - (by_mean * m).sum(-1, keepdim=True)
                shared = shared.transpose(1, 2)
                whole = Whole(every.k.shape[1])
                for start, stop in pieces(heads, every.k.shape[1]):
                    x, g = every.queries(start, stop), by_mean[:, start:stop]
                    mask = drop.mask(block, x, start)
                    p, factor = products(x, scale)
                    p = torch.add(x.bias, p, alpha=factor, out=p)
                    p.diagonal(-start, 1, 2).fill_(-math.inf)
                    p = p.sub_(top[..., start:stop]).exp2_()
                    ds = torch.bmm(x.v, g.transpose(1, 2))
                    if mask is not None:
                        ds *= mask
                    ds += shared[..., start:stop]
                    ds *= p
                    diagonal = ds.diagonal(-start, 1, 2)
                    diagonal += by_own[:, start:stop, 0]
                    p = p if mask is None else p * mask
                    back = ds.transpose(1, 2)
                    asks, answers = [], [product(p, g)]
                    if x.pos_q is not None and x.pos_k is not None:
                        asks, answers = [product(back, x.pos_k)], [*answers, product(ds, x.pos_q)]
                    ds *= scale
                    asks, answers = [product(back, x.k), *asks], [product(ds, x.q), *answers]
                    whole.add(start, stop, asks, answers)
                found.append(whole.results())
            sums = [joined(x) for x in zip(*found, strict=True)]
            if grad_pq is not None and grad_pk is not None:
                bundle.put(grad_pk, sums.pop(), heads)
                bundle.put(grad_pq, sums.pop(1), heads)
            for i, x in enumerate(sums):
                bundle.put(grad_qkv, x, heads, at=i * heads * width)
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
) -> list[Tensor]:
    """The vector-Jacobian product of :func:`siblings_backward`, piece by piece by autograd.

    Runs where autograd does, not inside an operator, and so has derivatives of its own.
    """
    again = torch.is_grad_enabled()
    log_mass = ended(log_mass * LOG2_E, -math.inf)
    given = [ended(x, 0.0) for x in (grad_mean.flatten(1), grad_total, grad_own)]
    position = [] if pos_q is None or pos_k is None else [pos_q.flatten(1), pos_k.flatten(1)]
    read = ["q", "pos_q", "k", "v", "pos_k"] if position else ["q", "k", "v"]
    by_pos_q, by_pos_k = grads[1:] or (None, None)
    result = [torch.zeros_like(x) for x in given]
    result += [x.new_zeros(x.shape[0] + 1, *x.shape[1:]) for x in [qkv, *position]]
    drop = Dropout.of(dropout_p, seed, qkv.device)

    def leaf(x: Tensor) -> Tensor:
        return x if again and x.requires_grad else x.detach().requires_grad_()

    def piece(
        block: Block, x: Operands, by: Operands, cotangents: list[Tensor], start: int, stop: int
    ) -> list[Tensor]:
        """Of the cotangents, q and pos_q for the queries; of k, v and pos_k for all members."""
        with torch.enable_grad():
            mean, *rest = (leaf(y[:, start:stop]) for y in cotangents)
            x = x.queries(start, stop)
            x = x._replace(**{n: leaf(getattr(x, n)) for n in read})
            inputs = [getattr(x, n) for n in read]
            outputs = divided(attend(x, start, scale, drop.mask(block, x, start)))
            given = [mean, *(y.squeeze(2) for y in rest)]
            first = torch.autograd.grad(outputs, inputs, given, create_graph=True)
            by = by.queries(start, stop)
            return list(
                torch.autograd.grad(
                    first,
                    [mean, *rest, *inputs],
                    [getattr(by, n) for n in read],
                    create_graph=again,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )

    with torch.autocast(qkv.device.type, enabled=False):
        for bundle in bundles(Plan.of(tree), heads, width):
            found = []
            every = operands(bundle, qkv, pos_q, pos_k, log_mass, heads, width)
            by_every = operands(bundle, grads[0], by_pos_q, by_pos_k, log_mass, heads, width)
            by_result = (bundle.take(x, heads, ended=True) for x in given)
            for block, x, by, *cotangents in zip(
                bundle.blocks, every, by_every, *by_result, strict=True
            ):
                whole, asked = Whole(x.k.shape[1]), 5 if position else 4
                for start, stop in pieces(heads, x.k.shape[1]):
                    part = piece(block, x, by, cotangents, start, stop)
                    whole.add(start, stop, part[:asked], part[asked:])
                found.append(whole.results())
            sums = [joined(x) for x in zip(*found, strict=True)]
            if position:
                bundle.put(result[5], sums.pop(), heads, add=True)
                bundle.put(result[4], sums.pop(4), heads, add=True)
            for out, x in zip(result[:3], sums[:3], strict=True):
                bundle.put(out, x, heads, add=True)
            for i, x in enumerate(sums[3:]):
                bundle.put(result[3], x, heads, at=i * heads * width, add=True)
    like = [grad_mean, grad_total, grad_own, qkv]
    like += [] if pos_q is None or pos_k is None else [pos_q, pos_k]
    return [x[:-1].view_as(y) for x, y in zip(result, like, strict=True)]


@siblings.register_fake
def _(qkv, pos_q, pos_k, log_mass, heads, width, *rest):
    mean = qkv.new_empty(qkv.shape[0], heads, qkv.shape[1] // heads - 2 * width)
    return mean, qkv.new_empty(mean.shape[:2]), qkv.new_empty(mean.shape[:2])


@siblings_backward.register_fake
def _(grad_mean, grad_total, grad_own, mean, total, qkv, pos_q, pos_k, *rest):
    empty = [qkv.new_empty(0) if x is None else x.new_empty(x.shape) for x in (pos_q, pos_k)]
    return qkv.new_empty(qkv.shape), *empty


def _setup(ctx, inputs, output) -> None:
    qkv, pos_q, pos_k, log_mass, *ctx.options, seed, tree = inputs
    ctx.save_for_backward(*output[:2], qkv, pos_q, pos_k, log_mass, seed, *tree)


def _backward(ctx, *given):
    mean, total, qkv, pos_q, pos_k, log_mass, seed, *tree = ctx.saved_tensors
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
    )  # fmt: skip
    # mean and total are functions of qkv: their share is already in `rest`.
    rest += [None] * (3 - len(rest))
    return ggm, ggt, ggo, None, None, *rest, *[None] * 6, NO_GRAD


siblings.register_autograd(_backward, setup_context=_setup)
siblings_backward.register_autograd(_backward_of_backward, setup_context=_setup_backward)
