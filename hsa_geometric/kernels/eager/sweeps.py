r"""Two adjoint sweeps over the tree, level by level, in place on slices.

With a weight :math:`w_A` on the edge from node :math:`A` to its parent,

.. math::
    \text{up:}\quad y_C = x_C + \sum_{A \in \mathrm{chd}(C)} w_A \, y_A \qquad\qquad
    \text{down:}\quad z_A = x_A + w_A \, z_{\mathrm{parent}(A)}

The matrix of one is the transpose of the other's. ``scan_up`` and ``scan_down`` read and write all
nodes and differentiate the weights, which differ by head; ``up`` reads leaves and ``down`` writes
leaves, with weights that are data. Nodes are in storage order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
import torch_geometric.typing
from torch import Tensor
from torch_geometric.utils import segment

from .operator import NO_GRAD, tree_operator
from .plan import Level, Plan, accumulator

# Rows moved at a time where a level needs a temporary: small enough to stay in the cache and to
# come from memory that the allocator already holds (fresh pages cost more than the copy).
CHUNK_ELEMENTS = 1 << 19

# Numbers of a level below which the fewest calls are the fastest.
SMALL = 1 << 14


def segment_sum(
    x: Tensor, ptr: Tensor, weight: Tensor | None, rows: Tensor | None = None
) -> Tensor:
    """Sum the rows ``x[ptr[i]:ptr[i + 1]]``, each times its weight, for every segment ``i``.

    With :obj:`rows` it is ``x[rows]`` whose rows are summed.

    For float32 on the CPU ``embedding_bag`` is one fused, vectorised pass: on one core, 262,144
    rows of 128 floats in segments of 2-20 take 4 ms, weighted or not, where torch-scatter's
    ``segment_csr`` takes 18 (73 weighted), ``index_add`` 7 and ``segment_reduce`` 50. Elsewhere
    ``segment_csr`` is used where it is installed; unlike ``index_add`` it needs no atomics.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32:
        # The operator itself: F.embedding_bag takes as long to check its arguments as a small sum.
        rows = counting(x.shape[0]) if rows is None else rows
        return torch.embedding_bag(x, rows, ptr, False, 0, False, weight, True)[0]
    x = x if rows is None else x.index_select(0, rows)
    if weight is not None:
        x = x * weight.unsqueeze(-1)
    if torch_geometric.typing.WITH_TORCH_SCATTER:
        return segment(x, ptr, reduce="sum")
    index = torch.repeat_interleave(ptr.diff(), output_size=x.shape[0])
    return x.new_zeros(ptr.numel() - 1, x.shape[1]).index_add_(0, index, x)


def counting(n: int) -> Tensor:
    """``arange(n)`` on the CPU, remembered where making it would take as long as using it."""
    return _counting(n) if n <= SMALL else torch.arange(n)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _counting(n: int) -> Tensor:
    return torch.arange(n)


def add_to_parents(
    y: Tensor, level: Level, x: Tensor, weight: Tensor | None, write: bool = False
) -> None:
    """Add to the parents' rows of ``y [T, C]`` the sums over their families of a level's ``x``.

    Args:
        y: node values.
        level: one of :attr:`Plan.levels`.
        x: values of the level's nodes.
        weight: weights of the level's nodes.
        write: overwrite the parents' rows, whatever they hold.
    """
    families, p0 = level.f1 - level.f0, level.p0
    if families == 1:  # deep trees are made of such levels: spare them all that segments need
        # (no matrix product, which autocast would do in half precision)
        x = x if weight is None else x * weight.unsqueeze(1)
        total = x.sum(0, keepdim=True)
    else:
        total = segment_sum(x, level.ptr, weight)
    if p0 >= 0:
        rows = y[p0 : p0 + families]
        rows.copy_(total) if write else rows.add_(total)
    elif write:
        y.index_copy_(0, level.parents, total)
    else:
        y.index_add_(0, level.parents, total)


def up_(y: Tensor, plan: Plan, weight: Tensor | None, write: bool = False) -> Tensor:
    """Sweep ``y [T, C]`` upward in place; ``weight`` is ``[T]`` or, by channel, ``[T, C]``.

    With :obj:`write` inner nodes count as 0, whatever they hold.
    """
    by_node = weight is not None and weight.dim() == 1
    if plan.deep:
        if write:
            y.index_fill_(0, plan.family_parent, 0)
        factor = None if weight is None else along_passes(weight, plan)
        for k0, k1, m0, m1, _ in plan.passes:
            child, ptr = plan.pass_child[k0:k1], plan.pass_ptr[m0 : m1 + 1] - k0
            if factor is None or by_node:
                total = segment_sum(y, ptr, None if factor is None else factor[k0:k1], child)
            else:
                total = segment_sum(y.index_select(0, child) * factor[k0:k1], ptr, None)
            y.index_add_(0, plan.pass_parent[m0:m1], total)
        return y
    for level in reversed(plan.levels):
        rows = slice(level.n0, level.n1)
        below, w = y[rows], None if weight is None else weight[rows]
        if by_node or w is None:
            add_to_parents(y, level, below, w, write)
        else:
            add_to_parents(y, level, below * w, None, write)
    return y


def along_passes(weight: Tensor, plan: Plan) -> Tensor:
    """Product ``[K, ...]`` of the edge weights ``[T, ...]`` from each giver to its receiver."""
    table, jump = plan.passes, plan.up
    out = weight.new_empty(plan.pass_child.shape[0], *weight.shape[1:])
    for exponent in range(max(row[4] for row in table) + 1):
        for k0, k1, _, _, r in table:
            if r == exponent:
                out[k0:k1] = weight.index_select(0, plan.pass_child[k0:k1])
        weight = weight * weight.index_select(0, jump)
        jump = jump[jump]
    return out


def sweep_down(
    x: Tensor, plan: Plan, weight: Tensor | None = None, share: Tensor | None = None
) -> Tensor:
    """``z`` with z_A = share_A x_A + w_A z_parent for ``x [T, ...]``, each level written once.

    At most one of ``weight`` and ``share`` is given, of a shape that broadcasts with ``x``.
    """
    if plan.deep:
        z = (x if share is None else x * share).to(accumulator(x.dtype), copy=share is None)
        factor = None if weight is None else along_passes(weight, plan)
        for k0, k1, *_ in reversed(plan.passes):
            given = z.index_select(0, plan.pass_above[k0:k1])
            given = given if factor is None else given * factor[k0:k1]
            z.index_add_(0, plan.pass_child[k0:k1], given)
        return z
    z = x.new_empty(x.shape, dtype=accumulator(x.dtype))
    step = max(1, CHUNK_ELEMENTS // max(1, x[0].numel()))
    factor, shared = share if weight is None else weight, share is not None
    rows = [t.split(plan.rows) for t in (z, x, factor) if t is not None]
    top, *levels = zip(*rows, strict=True)
    top[0].copy_(top[1] * top[2] if shared else top[1])
    for level, (out, *rest) in zip(plan.levels, levels, strict=True):
        families = level.f1 - level.f0
        if families == 1:
            join(out, z[level.p0 : level.p0 + 1], shared, *rest)
        elif level.size > 0 and level.p0 >= 0 and out.numel() > SMALL:
            # Families of one size below consecutive parents: one broadcast.
            shape = (families, level.size)
            above = z[level.p0 : level.p0 + families].unsqueeze(1)
            join(out.unflatten(0, shape), above, shared, *(t.unflatten(0, shape) for t in rest))
        elif out.shape[0] <= step:
            join(out, z.index_select(0, level.above), shared, *rest)
        else:
            for parts in zip(*(t.split(step) for t in (level.above, out, *rest)), strict=True):
                join(parts[1], z.index_select(0, parts[0]), shared, *parts[2:])
    return z


def join(
    out: Tensor, above: Tensor, shared: bool, here: Tensor, factor: Tensor | None = None
) -> None:
    """Write z: the nodes' own values and those ``above`` them, of which one has a factor."""
    if factor is None:
        torch.add(here, above, out=out)
    elif shared:
        torch.addcmul(above, here, factor, out=out)
    else:
        torch.addcmul(here, above, factor, out=out)


def sweep_leaves(
    x: Tensor,
    plan: Plan,
    weight: Tensor | None = None,
    share: Tensor | None = None,
    finish: Callable[[Tensor, int, int], Any] | None = None,
) -> Tensor:
    """:func:`sweep_down` to the leaves alone, ``[N, ...]`` in the order of their rows.

    ``finish(rows, lo, hi)`` is called on rows ``lo:hi`` of the result while they are in the cache.
    """
    rows, step = plan.leaf.shape[0], max(1, CHUNK_ELEMENTS // max(1, x[0].numel()))
    given, shared = [t for t in (x, weight, share) if t is not None], share is not None
    if plan.deep or isinstance(plan.leaf_rows, slice) or rows <= step:
        out, inner = plan.take_leaves(sweep_down(x, plan, weight, share)), None
    else:  # spare the leaves a second copy, which would be fresh memory
        inner = sweep_inner(given, plan, shared)
        out = x.new_empty(rows, *x.shape[1:], dtype=inner.dtype)
    for lo, hi in chunks(0, rows, step):
        write = out[lo:hi]
        if inner is not None:
            torch.index_select(inner, 0, plan.leaf_above[lo:hi], out=write)
            join(write, write, shared, *(t.index_select(0, plan.leaf[lo:hi]) for t in given))
        if finish is not None:
            finish(write, lo, hi)
    return out


def sweep_inner(given: list[Tensor], plan: Plan, shared: bool) -> Tensor:
    """:func:`sweep_down` at inner nodes alone: ``z [F + 1, ...]``, the last row 0 for roots."""
    x, above = given[0], plan.above.index_select(0, plan.inner)
    z = x.new_empty(plan.inner.shape[0] + 1, *x.shape[1:], dtype=accumulator(x.dtype))
    z[-1:].zero_()
    step = max(1, CHUNK_ELEMENTS // max(1, x[0].numel()))
    first = plan.levels[0].lo if plan.levels else 0
    for start, stop in [(0, first), *((level.lo, level.hi) for level in plan.levels)]:
        for lo, hi in chunks(start, stop, step):
            here = (t.index_select(0, plan.inner[lo:hi]) for t in given)
            join(z[lo:hi], z.index_select(0, above[lo:hi]), shared, *here)
    return z


def chunks(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Consecutive ``(lo, hi)`` ranges that cover ``start:stop``."""
    for lo in range(start, stop, step):
        yield lo, min(lo + step, stop)


def from_leaves(xs: list[Tensor], plan: Plan) -> Tensor:
    """Leaf rows ``[N, C_i]`` beside each other as node rows ``[T, sum C_i]``; inner ones unset."""
    width = sum(x.shape[1] for x in xs)
    y = xs[0].new_empty(plan.up.shape[0], width, dtype=accumulator(xs[0].dtype))
    rows = plan.leaf_rows
    if isinstance(rows, slice):
        torch.cat([x.to(y.dtype) for x in xs], dim=1, out=y[rows])
        return y
    for x, part in zip(xs, y.split([x.shape[1] for x in xs], dim=1), strict=True):
        part.index_copy_(0, rows, x.to(y.dtype))
    return y


# --- the operators -------------------------------------------------------------------------------


@tree_operator("hsa_geometric::up")
def up(xs: list[Tensor], weight: Tensor | None, tree: list[Tensor]) -> Tensor:
    """Leaf values ``[N, C_i]`` to node values ``[T, sum C_i]``, ``weight [T]`` a constant."""
    plan = Plan.of(tree)
    return up_(from_leaves(xs, plan), plan, weight, write=True)


@tree_operator("hsa_geometric::down")
def down(z: Tensor, weight: Tensor | None, tree: list[Tensor]) -> Tensor:
    """Node values ``[T, C]`` to leaf values ``[N, C]``, ``weight [T]`` a constant."""
    plan = Plan.of(tree)
    return sweep_leaves(z, plan, None if weight is None else weight.unsqueeze(1))


@tree_operator("hsa_geometric::scan_up")
def scan_up(x: Tensor, weight: Tensor, tree: list[Tensor]) -> Tensor:
    """Upward sweep of node values ``[T, H]`` with differentiable weights ``[T, H]``."""
    return up_(x.clone(memory_format=torch.contiguous_format), Plan.of(tree), weight)


@tree_operator("hsa_geometric::scan_down")
def scan_down(x: Tensor, weight: Tensor, tree: list[Tensor]) -> Tensor:
    """Downward sweep of node values ``[T, H]`` with differentiable weights ``[T, H]``."""
    return sweep_down(x, Plan.of(tree), weight)


@up.register_fake
def _(xs, weight, tree):
    width = sum(x.shape[1] for x in xs)
    return xs[0].new_empty(tree[0].shape[0], width, dtype=accumulator(xs[0].dtype))


@down.register_fake
def _(z, weight, tree):
    return z.new_empty(tree[1].shape[0], z.shape[1], dtype=accumulator(z.dtype))


@scan_up.register_fake
@scan_down.register_fake
def _(x, weight, tree):
    return x.new_empty(x.shape)


def _save_constants(ctx, inputs, output) -> None:
    xs, weight, tree = inputs
    ctx.weighted = weight is not None
    xs = xs if isinstance(xs, list) else [xs]
    ctx.widths, ctx.dtypes = [x.shape[1] for x in xs], [x.dtype for x in xs]
    ctx.save_for_backward(*(() if weight is None else (weight,)), *tree)


def _constants(ctx) -> tuple[Tensor | None, list[Tensor]]:
    saved = list(ctx.saved_tensors)
    return (saved[0], saved[1:]) if ctx.weighted else (None, saved)


def _up_backward(ctx, grad):
    weight, tree = _constants(ctx)
    parts = down(grad.contiguous(), weight, tree).split(ctx.widths, dim=1)
    return [x.to(d) for x, d in zip(parts, ctx.dtypes, strict=True)], None, NO_GRAD


def _down_backward(ctx, grad):
    weight, tree = _constants(ctx)
    return up([grad.contiguous()], weight, tree).to(ctx.dtypes[0]), None, NO_GRAD


def _save_scan(ctx, inputs, output) -> None:
    _, weight, tree = inputs
    ctx.save_for_backward(output, weight, *tree)


def _scan_up_backward(ctx, grad):
    y, weight, *tree = ctx.saved_tensors
    grad = scan_down(grad.contiguous(), weight, tree)
    return grad, below_root(y * grad.index_select(0, tree[0]), tree), NO_GRAD


def _scan_down_backward(ctx, grad):
    z, weight, *tree = ctx.saved_tensors
    grad = scan_up(grad.contiguous(), weight, tree)
    return grad, below_root(grad * z.index_select(0, tree[0]), tree), NO_GRAD


up.register_autograd(_up_backward, setup_context=_save_constants)
down.register_autograd(_down_backward, setup_context=_save_constants)
scan_up.register_autograd(_scan_up_backward, setup_context=_save_scan)
scan_down.register_autograd(_scan_down_backward, setup_context=_save_scan)


def below_root(x: Tensor, tree: list[Tensor]) -> Tensor:
    """Zero where there is no edge: a root is stored as its own parent."""
    up = tree[0]
    return x.masked_fill((up == torch.arange(up.shape[0], device=up.device)).unsqueeze(1), 0.0)


def aggregate(x: Tensor, tree: list[Tensor]) -> Tensor:
    """Sum ``x [N, ...]`` over the leaves of each node: ``[T, ...]`` in storage order."""
    return up([_as_matrix(x)], None, tree).view(tree[0].shape[0], *x.shape[1:]).to(x.dtype)


def distribute(z: Tensor, tree: list[Tensor]) -> Tensor:
    """Sum ``z [T, ...]`` (storage order) over each leaf and its ancestors: ``[N, ...]``."""
    return down(_as_matrix(z), None, tree).view(tree[1].shape[0], *z.shape[1:]).to(z.dtype)


def _as_matrix(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
