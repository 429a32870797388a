"""Hierarchical self-attention: up-sweep, sibling attention, scalar recursion, down-sweep."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tree import TreeIndex
from .evidence import evidence, inside
from .operator import NO_GRAD, tree_operator
from .plan import Plan, accumulator
from .siblings import own_mask, siblings
from .sweeps import CHUNK_ELEMENTS, aggregate, chunks, scan_down, sweep_leaves, up


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


@mix.register_fake
def _(mean, share, v, own, tree):
    return mean.new_empty(v.shape)


@row_dot.register_fake
def _(a, b):
    return a.new_empty(a.shape[:-1], dtype=torch.promote_types(a.dtype, b.dtype))


def _setup(ctx, inputs, output) -> None:
    mean, share, v, own, tree = inputs
    ctx.save_for_backward(mean, share, v, own, *tree)


def _mix_backward(ctx, grad):
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


def _setup_dot(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx, grad):
    a, b = ctx.saved_tensors
    grad = grad.unsqueeze(-1)
    return (grad * b).to(a.dtype), (grad * a).to(b.dtype)


mix.register_autograd(_mix_backward, setup_context=_setup)
row_dot.register_autograd(_dot_backward, setup_context=_setup_dot)


def draw_seed(device: torch.device) -> Tensor:
    """A seed for dropout, on the CPU."""
    return torch.randint(1 << 62, (), dtype=torch.long)


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


def attend(
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
    positive: bool = False,
) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` and log evidence ``[trees, H]``, from node values in storage order.

    :obj:`positive` says that no mass is 0.
    """
    up_to, leaf, *_ = tree
    qkv = up([q.flatten(1), k.flatten(1), v.flatten(1)], weight, tree)
    if temperature is not None:
        temperature = temperature.unsqueeze(-1)
        queries, rest = qkv.tensor_split([q[0].numel()], dim=1)
        queries = queries.unflatten(1, q.shape[1:]) * temperature
        qkv = torch.cat([queries.flatten(1), rest], dim=1)
        pos_q = None if pos_q is None else pos_q * temperature
    if bias is not None:  # one more position feature, which every sibling has as 1
        bias = bias.unsqueeze(-1)
        one = torch.ones_like(bias)
        pos_q = bias if pos_q is None else torch.cat([pos_q, bias], -1)
        pos_k = one if pos_k is None else torch.cat([pos_k, one], -1)

    average, sibling, own = siblings(
        qkv, pos_q, pos_k, log_mass, *q.shape[1:], scale, dropout_p, seed, tree
    )
    del qkv  # the largest of all; without gradients what follows may have its memory
    if bias is not None:
        own = own - bias.squeeze(-1)
    own = own.index_select(0, leaf)
    own = own if self_loop else torch.full_like(own, -math.inf)
    f = evidence(own, sibling, weight, None if positive else log_mass, tree)

    # W_A = W_parent g_A down the tree, W_root = g_root: 1 unless a tree holds no evidence at all.
    keep = inside(f, sibling)
    top = F.pad(keep[:num_trees], (0, 0, 0, f.shape[0] - num_trees))
    reach = scan_down(top, keep, tree)
    share = reach.index_select(0, up_to) * (1.0 - keep)
    alone = reach.index_select(0, leaf)
    if seed is not None:
        alone = alone * own_mask(dropout_p, seed, alone, leaf)
    return mix(average, share, v, alone, tree), f[:num_trees]


Attend = Callable[..., tuple[Tensor, Tensor]]


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
    attend: Attend = attend,
    aggregate: Callable[[Tensor, list[Tensor]], Tensor] = aggregate,
    draw_seed: Callable[[torch.device], Tensor] = draw_seed,
) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` and log evidence ``[trees, H]``; arguments are already checked.

    The last three are a backend's: what attends, sums over subtrees, and draws dropout's seed.
    """
    dtype = accumulator(q.dtype)
    if mass is None:
        weight, log_mass = unit_mass(tree, dtype)
    else:
        total = aggregate(mass.detach().to(dtype), tree.tensors)
        weight, log_mass = proportions(total, tree.up)
        seen = (mass > 0).view(-1, 1, 1)  # padding may hold anything, and its means are 0
        q, k, v = (torch.where(seen, x, 0) for x in (q, k, v))
    of_nodes = (
        None if x is None else x.to(dtype)[tree.order] for x in (pos_q, pos_k, temperature, bias)
    )
    seed = draw_seed(q.device) if dropout_p > 0.0 else None
    return attend(
        q, k, v, *of_nodes, weight, log_mass, scale, self_loop, dropout_p, seed,
        tree.num_trees, tree.tensors, positive=mass is None,
    )  # fmt: skip
