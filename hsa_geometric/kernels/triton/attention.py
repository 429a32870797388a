r"""Hierarchical self-attention in a few launches, forward and backward.

The numbers of a node's row are read and written a small constant number of times:

====================  =====================================  =====================================
forward               reads                                  writes
====================  =====================================  =====================================
``sums``              q, k, v                                means of inner nodes
``siblings``          q, k, v, means                         M, S, and f of leaves
``scalars``           S, f                                   f, W of inner nodes
``sweeps``            M, v                                   sums of inner nodes, the output
====================  =====================================  =====================================

Backward goes up once more with the output's gradient and down with that of the means, in between
attention is computed anew from S.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call, accumulator
from . import scalars, siblings, sweeps
from .call import Arguments
from .plan import Plan


def forward(call: Call, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output ``[N, H, Dv]``, log evidence ``[trees, H]``, and what backward reads.

    These are M of leaves ``[N, H, Dv]`` and of inner nodes ``[F, H, Dv]``, the means of inner nodes
    ``[F, 2 H D + H Dv]``, f and S ``[T, H]``, and W of inner nodes ``[F, H]``.
    """
    x = arguments(call)
    means = sweeps.sums([y.flatten(1) for y in (x.q, x.k, x.v)], x.weight, x.plan)
    mean, mean_inner, total, f = siblings.forward(x, means)
    scalars.climb(x, f, total)
    reach = scalars.descend(x, f, total)
    z = sweeps.descend(mean_inner.flatten(1), x.heads, x.plan, None, (f, total, reach))
    out = sweeps.finish(x, mean, z, reach, f, total)
    kept = [mean, mean_inner, means, f, total, reach] if save else []
    return out, f[: x.plan.num_roots].clone(), kept


def backward(
    call: Call, saved: list[Tensor], grad: Tensor, grad_evidence: Tensor
) -> list[Tensor | None]:
    """Gradients of q, k, v, pos_q, pos_k, temperature and bias, where they are given."""
    x = arguments(call)
    mean, mean_inner, means, f, total, reach = saved
    grad, grad_evidence = grad.contiguous(), grad_evidence.contiguous()
    grad_inner = sweeps.sums([grad.flatten(1)], None, x.plan)
    by_mean, by_inside = sweeps.dots(x, grad, grad_inner, mean, mean_inner)
    scalars.climb(x, by_inside, total, f, by_mean)
    by, by_bias = scalars.gradients(x, f, total, reach, by_mean, by_inside, grad_evidence)
    found = siblings.Backward(x, means, total, grad, grad_inner, by)
    found.leaves(sweeps.descend(found.inner(), 1, x.plan, x.weight))
    of_leaves = [found.q, found.k, found.v]
    if x.seen is not None:
        of_leaves = [torch.where(x.seen, g, 0) for g in of_leaves]
    given = zip(
        (found.pos_q, found.pos_k, found.temperature, by_bias), call.learned[3:], strict=True
    )
    of_nodes = [
        None if g is None or y is None else g.index_select(0, call.tree.position).to(y.dtype)
        for g, y in given
    ]
    return [*of_leaves, *of_nodes]


def saved_like(call: Call) -> list[Tensor]:
    """Empty tensors like those that :func:`forward` saves."""
    dtype, nodes = accumulator(call.q.dtype), call.tree.num_nodes
    inner, (_, heads, values) = call.tree.family_parent.shape[0], call.v.shape

    def empty(*shape: int) -> Tensor:
        return call.q.new_empty(shape, dtype=dtype)

    return [
        call.v.new_empty(call.v.shape), empty(inner, heads, values),
        empty(inner, heads * (2 * call.q.shape[2] + values)),
        empty(nodes, heads), empty(nodes, heads), empty(inner, heads),
    ]  # fmt: skip


def arguments(call: Call) -> Arguments:
    """The call in storage order, and masses of all nodes."""
    tree, dtype = call.tree, accumulator(call.q.dtype)
    if call.mass is None:
        key = ("triton unit mass", dtype)
        weight, log_mass = tree.once(key, lambda: proportions(tree.count.to(dtype), tree.up))
    else:
        weight, log_mass = proportions(masses(call.mass.to(dtype), Plan.of(tree)), tree.up)
    return Arguments.of(call, weight, log_mass)


def masses(mass: Tensor, plan: Plan) -> Tensor:
    """Mass ``[T]`` of every node, from that of the leaves ``[N]``."""
    below = sweeps.sums([mass.contiguous().unsqueeze(1)], None, plan)
    total = mass.new_empty(plan.num_nodes)
    return total.index_copy_(0, plan.leaf, mass).index_copy_(0, plan.inner, below.squeeze(1))


def proportions(total: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Each node's share of its parent's mass, and its log mass, from its mass ``[T]``."""
    above = total.index_select(0, up).clamp(min=torch.finfo(total.dtype).tiny)
    return total / above, total.log()
