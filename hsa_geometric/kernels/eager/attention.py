"""Hierarchical self-attention: up-sweep, sibling attention, scalar recursion, down-sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tree import TreeIndex
from .evidence import evidence, inside
from .operator import NO_GRAD, tree_operator
from .plan import Plan, accumulator
from .siblings import siblings
from .sweeps import CHUNK_ELEMENTS, chunks, scan_down, sweep_leaves, up


@tree_operator("hsa_geometric::mix")
def mix(mean: Tensor, share: Tensor, v: Tensor, own: Tensor, tree: list[Tensor]) -> Tensor:
    """Sum of share · M over each leaf and its ancestors, plus own · v: ``[N, H, D]``."""

    def finish(rows: Tensor, lo: int, hi: int) -> None:
        rows.addcmul_(v[lo:hi].to(rows.dtype), own[lo:hi].unsqueeze(-1))

    return sweep_leaves(mean, Plan.of(tree), share=share.unsqueeze(-1), finish=finish)


@torch.library.custom_op("hsa_geometric::row_dot", mutates_args=())
def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot products ``[N, H]`` of the rows of two ``[N, H, D]``, without a buffer of their size."""
    out = a.new_empty(a.shape[:-1], dtype=torch.promote_types(a.dtype, b.dtype))
    for lo, hi in chunks(0, a.shape[0], max(1, CHUNK_ELEMENTS // a[0].numel())):
        out[lo:hi] = (a[lo:hi] * b[lo:hi]).sum(-1)
    return out


def differentiate(mix: Any, row_dot: Any, up: Any) -> None:
    """Register the shapes and derivatives of a backend's two operators, by its upward sweep."""

    @mix.register_fake
    def _(mean, share, v, own, tree):
        return mean.new_empty(v.shape)

    @row_dot.register_fake
    def _(a, b):
        return a.new_empty(a.shape[:-1], dtype=torch.promote_types(a.dtype, b.dtype))

    def setup(ctx, inputs, output) -> None:
        mean, share, v, own, tree = inputs
        ctx.save_for_backward(mean, share, v, own, *tree)

    def mix_backward(ctx, grad):
        mean, share, v, own, *tree = ctx.saved_tensors
        above = up([grad.flatten(1)], None, tree).unflatten(1, grad.shape[1:])
        grad_share = row_dot(above, mean)
        return (
            torch.mul(above, share.unsqueeze(-1), out=None if torch.is_grad_enabled() else above),
            grad_share,
            (grad * own.unsqueeze(-1)).to(v.dtype),
            row_dot(grad, v),
            NO_GRAD,
        )

    def setup_dot(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    def dot_backward(ctx, grad):
        a, b = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return (grad * b).to(a.dtype), (grad * a).to(b.dtype)

    mix.register_autograd(mix_backward, setup_context=setup)
    row_dot.register_autograd(dot_backward, setup_context=setup_dot)


differentiate(mix, row_dot, up)


class Operators(NamedTuple):
    """What a backend computes with; the operators named so in this package define each.

    ``seed_device`` is where the seed of dropout is drawn; None is where the queries are.
    """

    up: Callable[..., Any] = up
    siblings: Callable[..., Any] = siblings
    evidence: Callable[..., Any] = evidence
    scan_down: Callable[..., Any] = scan_down
    mix: Callable[..., Any] = mix
    seed_device: str | None = "cpu"


TORCH = Operators()


def proportions(total: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Each node's share of its parent's mass, and its log mass, from its mass ``[T]``."""
    above = total.index_select(0, up).clamp(min=torch.finfo(total.dtype).tiny)
    return total / above, total.log()


def unit_mass(tree: TreeIndex, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The :func:`proportions` where every leaf has mass 1; remembered by the tree's plan."""
    if torch.compiler.is_compiling():
        return proportions(tree.count.to(dtype), tree.up)
    plan = Plan.of(tree.tensors)
    return plan.once(("unit mass", dtype), lambda: proportions(tree.count.to(dtype), tree.up))


def hierarchical_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tree: TreeIndex,
    *,
    scale: float,
    pos_q: Tensor | None = None,
    pos_k: Tensor | None = None,
    mass: Tensor | None = None,
    temperature: Tensor | None = None,
    bias: Tensor | None = None,
    self_loop: bool = True,
    dropout_p: float = 0.0,
    operators: Operators = TORCH,
) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` and log evidence ``[trees, H]``; arguments are already checked."""
    dtype, tensors, device = accumulator(q.dtype), tree.tensors, q.device
    if mass is None:
        weight, log_mass = unit_mass(tree, dtype)
    else:
        total = operators.up([mass.detach().to(dtype).unsqueeze(1)], None, tensors).squeeze(1)
        weight, log_mass = proportions(total, tree.up)
    seen = None if mass is None else (mass > 0).view(-1, 1, 1)

    if seen is not None:  # padding may hold anything, and its means are 0
        q, k, v = (torch.where(seen, x, 0) for x in (q, k, v))
    qkv = operators.up([q.flatten(1), k.flatten(1), v.flatten(1)], weight, tensors)
    if pos_q is not None and pos_k is not None:
        pos_q, pos_k = pos_q.to(dtype)[tree.order], pos_k.to(dtype)[tree.order]
    if temperature is not None:
        temperature = temperature.to(dtype)[tree.order].unsqueeze(-1)
        queries, rest = qkv.tensor_split([q[0].numel()], dim=1)
        queries = queries.unflatten(1, q.shape[1:]) * temperature
        qkv = torch.cat([queries.flatten(1), rest], dim=1)
        pos_q = None if pos_q is None else pos_q * temperature
    if bias is not None:  # one more position feature, which every sibling has as 1
        bias = bias.to(dtype)[tree.order].unsqueeze(-1)
        one = torch.ones_like(bias)
        pos_q = bias if pos_q is None else torch.cat([pos_q, bias], -1)
        pos_k = one if pos_k is None else torch.cat([pos_k, one], -1)

    seed = None
    if dropout_p > 0.0:
        where = operators.seed_device or device
        seed = torch.randint(1 << 62, (), dtype=torch.long, device=where)
    average, sibling, own = operators.siblings(
        qkv, pos_q, pos_k, log_mass, *q.shape[1:], scale, dropout_p, seed, tensors
    )
    del qkv  # the largest of all; without gradients what follows may have its memory
    if bias is not None:
        own = own - bias.squeeze(-1)
    if self_loop:
        own = own.index_select(0, tree.leaf)
    else:
        own = own.new_full((tree.num_leaves, 1), -math.inf)
    own = own.expand(-1, q.shape[1])
    f = operators.evidence(own, sibling, weight, None if mass is None else log_mass, tensors)

    # W_A = W_parent g_A down the tree, W_root = g_root: 1 unless a tree holds no evidence at all.
    keep = inside(f, sibling)
    top = F.pad(keep[: tree.num_trees], (0, 0, 0, tree.num_nodes - tree.num_trees))
    reach = operators.scan_down(top, keep, tensors)
    share = reach.index_select(0, tree.up) * (1.0 - keep)
    alone = reach.index_select(0, tree.leaf)
    alone = F.dropout(alone, dropout_p) if dropout_p > 0.0 else alone
    return operators.mix(average, share, v, alone, tensors), f[: tree.num_trees]
