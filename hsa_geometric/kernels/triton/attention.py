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
attention is computed anew from S. Second derivatives are those of the torch backend.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..eager import attention as eager
from ..eager.operator import NO_GRAD, tree_operator
from ..eager.plan import Plan, accumulator
from . import scalars, siblings, sweeps
from .call import Call


@tree_operator("hsa_geometric::triton_attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    temperature: Tensor | None,
    bias: Tensor | None,
    weight: Tensor,
    log_mass: Tensor,
    scale: float,
    self_loop: bool,
    dropout_p: float,
    seed: Tensor | None,
    num_trees: int,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output ``[N, H, Dv]`` and log evidence ``[num_trees, H]``; then what backward reads.

    These are M of leaves ``[N, H, Dv]`` and of inner nodes ``[F, H, Dv]``, the means of inner nodes
    ``[F, 2 H D + H Dv]``, f and S ``[T, H]``, and W of inner nodes ``[F, H]``.
    """
    x = Call.of(q, k, v, pos_q, pos_k, temperature, bias, weight, log_mass, scale, self_loop,
                dropout_p, seed, tree)  # fmt: skip
    means = sweeps.sums([y.flatten(1) for y in (x.q, x.k, x.v)], x.weight, x.plan)
    mean, mean_inner, total, f = siblings.forward(x, means)
    scalars.climb(x, f, total)
    reach = scalars.descend(x, f, total)
    z = sweeps.descend(mean_inner.flatten(1), x.heads, x.plan, None, (f, total, reach))
    out = sweeps.finish(x, mean, z, reach, f, total)
    return out, f[:num_trees].clone(), mean, mean_inner, means, f, total, reach


@tree_operator("hsa_geometric::triton_attention_backward")
def attention_backward(
    grad: Tensor,
    grad_evidence: Tensor,
    mean: Tensor,
    mean_inner: Tensor,
    means: Tensor,
    f: Tensor,
    total: Tensor,
    reach: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    temperature: Tensor | None,
    bias: Tensor | None,
    weight: Tensor,
    log_mass: Tensor,
    scale: float,
    self_loop: bool,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first seven arguments of the operator; of those that are None, empty."""
    x = Call.of(q, k, v, pos_q, pos_k, temperature, bias, weight, log_mass, scale, self_loop,
                dropout_p, seed, tree)  # fmt: skip
    grad, grad_evidence = grad.contiguous(), grad_evidence.contiguous()
    grad_inner = sweeps.sums([grad.flatten(1)], None, x.plan)
    by_mean, by_inside = sweeps.dots(x, grad, grad_inner, mean, mean_inner)
    scalars.climb(x, by_inside, total, f, by_mean)
    by, by_bias = scalars.gradients(x, f, total, reach, by_mean, by_inside, grad_evidence)
    backward = siblings.Backward(x, means, total, grad, grad_inner, by)
    backward.leaves(sweeps.descend(backward.inner(), 1, x.plan, x.weight))

    def result(y: Tensor | None) -> Tensor:
        return q.new_empty(0) if y is None else y

    return (
        backward.q, backward.k, backward.v, result(backward.pos_q), result(backward.pos_k),
        result(backward.temperature), result(by_bias),
    )  # fmt: skip


@attention.register_fake
def _(q, k, v, pos_q, pos_k, temperature, bias, weight, log_mass, scale, self_loop, dropout_p,
      seed, num_trees, tree):  # fmt: skip
    dtype, nodes = accumulator(q.dtype), tree[0].shape[0]
    inner, heads, values = nodes - q.shape[0], v.shape[1], v.shape[2]

    def empty(*shape: int) -> Tensor:
        return q.new_empty(shape, dtype=dtype)

    return (
        v.new_empty(v.shape), empty(num_trees, heads),
        v.new_empty(v.shape), empty(inner, heads, values),
        empty(inner, heads * (2 * q.shape[2] + values)),
        empty(nodes, heads), empty(nodes, heads), empty(inner, heads),
    )  # fmt: skip


@attention_backward.register_fake
def _(grad, grad_evidence, mean, mean_inner, means, f, total, reach, q, k, v, *rest):
    given = [q.new_empty(0) if x is None else x.new_empty(x.shape) for x in rest[:4]]
    return (*(x.new_empty(x.shape) for x in (q, k, v)), *given)


def _setup(ctx, inputs, output) -> None:
    *learned, weight, log_mass, scale, self_loop, dropout_p, seed, _, tree = inputs
    out, evidence, *kept = output
    ctx.options = scale, self_loop, dropout_p
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)
    ctx.like = out.shape, out.dtype, evidence.shape, evidence.dtype
    ctx.save_for_backward(*kept, *learned, weight, log_mass, seed, *tree)


def _backward(ctx, grad, grad_evidence, *_):
    *given, seed, up, leaf, packed, numbers = ctx.saved_tensors
    tree, learned = [up, leaf, packed, numbers], given[6:13]
    shape, dtype, evidence_shape, evidence_dtype = ctx.like
    if grad is None:
        grad = given[0].new_zeros(shape, dtype=dtype)
    if grad_evidence is None:
        grad_evidence = grad.new_zeros(evidence_shape, dtype=evidence_dtype)
    grads = attention_backward(grad, grad_evidence, *given, *ctx.options, seed, tree)
    grads = [None if x is None else g for g, x in zip(grads, learned, strict=True)]
    return (*grads, *[None] * 7, NO_GRAD)


def _setup_backward(ctx, inputs, output) -> None:
    grad, grad_evidence, *_ = inputs
    *learned, weight, log_mass, scale, self_loop, dropout_p, seed, tree = inputs[8:]
    ctx.options = scale, self_loop, dropout_p
    ctx.save_for_backward(grad, grad_evidence, *learned, weight, log_mass, seed, *tree)


def _double_backward(ctx, *cotangents):
    """Gradients of the gradients, by those of the torch backend.

    What forward kept for backward counts as a constant here: it follows from the other arguments,
    with respect to which all is differentiated.
    """
    grad, grad_evidence, *learned, weight, log_mass, seed = ctx.saved_tensors[:-4]
    tree = list(ctx.saved_tensors[-4:])
    scale, self_loop, dropout_p = ctx.options
    again = torch.is_grad_enabled()

    def leaf(x: Tensor) -> Tensor:
        # A node of its own, for the gradient that is given may depend on the arguments as well.
        return x.view_as(x) if again and x.requires_grad else x.detach().requires_grad_()

    with torch.enable_grad():
        grads = [leaf(grad), leaf(grad_evidence)]
        learned = [None if x is None else leaf(x) for x in learned]
        outputs = eager.attend(
            *learned, weight, log_mass, scale, self_loop, dropout_p, seed,
            grad_evidence.shape[0], tree,
        )  # fmt: skip
        inputs = [x for x in learned if x is not None]
        outputs = [x.to(g.dtype) for x, g in zip(outputs, grads, strict=True)]
        options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        first = torch.autograd.grad(outputs, inputs, grads, **options)
        given = [c for c, x in zip(cotangents, learned, strict=True) if x is not None]
        options["create_graph"] = again
        second = list(torch.autograd.grad(first, [*grads, *inputs], given, **options))
    result = [second.pop(0), second.pop(0), *[None] * 6]
    result += [None if x is None else second.pop(0) for x in learned]
    return (*result, *[None] * 6, NO_GRAD)


attention.register_autograd(_backward, setup_context=_setup)
attention_backward.register_autograd(_double_backward, setup_context=_setup_backward)


@torch.library.custom_op("hsa_geometric::triton_masses", mutates_args=())
def _masses(mass: Tensor, up: Tensor, leaf: Tensor, packed: Tensor, numbers: Tensor) -> Tensor:
    plan = Plan.of([up, leaf, packed, numbers])
    below = sweeps.sums([mass.contiguous().unsqueeze(1)], None, plan)
    total = mass.new_empty(plan.num_nodes)
    return total.index_copy_(0, plan.leaf, mass).index_copy_(0, plan.inner, below.squeeze(1))


@_masses.register_fake
def _(mass, up, leaf, packed, numbers):
    return mass.new_empty(up.shape)


def aggregate(mass: Tensor, tree: list[Tensor]) -> Tensor:
    """Mass ``[T]`` of every node, from that of the leaves ``[N]``."""
    return _masses(mass, *tree)


def attend(*args: Any, positive: bool) -> tuple[Tensor, Tensor]:
    """Output and log evidence; kernels look themselves which masses are :obj:`positive`."""
    out, evidence, *_ = attention(*args)
    return out, evidence


def draw_seed(device: torch.device) -> Tensor:
    """A seed for dropout, ``[1]`` on the device, where kernels read it."""
    return torch.randint(1 << 62, (1,), dtype=torch.long, device=device)


hierarchical_attention = partial(
    eager.hierarchical_attention, attend=attend, aggregate=aggregate, draw_seed=draw_seed
)
