r"""The two sweeps in a constant number of launches for shallow trees.

The same operators as :mod:`hsa_geometric.kernels.eager.sweeps`, whose recursions these are.

**Upward**, one launch does a whole tree. One program takes one family and a block of channels and
writes the parent's row; it goes on to the parent's own family if all others below that are done,
which a counter tells (so LBVHs are built: Karras, 2012). Each row is read once, right after it was
written, and leaf rows are copied from where they are on the way. A family is summed by one program
even if it is long: that costs less than the attention within it, which is quadratic.

**Downward**, every row adds up its ancestors by itself, for at most :data:`LEVELS` levels a
launch; rows of the same family read the same ancestors, from the cache.

Levels of deep, thin trees are paired as in the eager backend, with one launch a pass.

These kernels have run in Triton's interpreter and been compiled for NVIDIA GPUs, but have never
run on one: the sizes below are guesses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..eager import attention as eager_attention
from ..eager.operator import tree_operator
from ..eager.plan import Plan, accumulator
from ..eager.sweeps import along_passes, differentiate, from_leaves, sweep_down, sweep_leaves
from ._jit import cover, launch, load, power_of_two

# Elements of a tile; rows of a tile where families are long, and what is long.
TILE = 2048
ROWS, LONG_ROWS, LONG = 16, 64, 1024
# Levels that a launch goes down: of rows with many channels, and of scalars.
LEVELS, SCALAR_LEVELS = 8, 32
# Leaves walk all the way up where that reads at most as many elements: a launch takes as long.
WALK_ELEMENTS = 1 << 22

# Whether one launch goes up all levels. It relies on the order of memory operations of different
# programs; one launch a level does not, and computes the same to the last bit.
ONE_LAUNCH = True


def tile(channels: int, longest: int) -> dict[str, int]:
    """Rows and channels of a tile, for families of at most ``longest`` members."""
    rows = min(power_of_two(longest), ROWS if longest <= LONG else LONG_ROWS)
    block = min(power_of_two(channels), TILE // rows)
    rows = min(power_of_two(longest), TILE // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, min(4, rows * block // 256))}


def inverses(plan: Plan) -> tuple[Tensor, Tensor]:
    """Leaf row ``[T]`` of each node, -1 for inner ones; and family ``[F]`` below each inner one."""
    row, family = torch.full_like(plan.up, -1), torch.empty_like(plan.inner)
    count = torch.arange(plan.num_nodes, device=row.device)
    row.index_copy_(0, plan.leaf, count[: plan.leaf.shape[0]])
    return row, family.index_copy_(0, plan.family_inner, count[: family.shape[0]])


def longest_family(plan: Plan) -> int:
    """Members of the longest family."""
    return plan.sizes[-1][0]


# --- upward --------------------------------------------------------------------------------------


def climb(
    y: Tensor,
    plan: Plan,
    kind: str,
    weight: Tensor | None,
    leaves: list[Tensor] | None = None,
    sibling: Tensor | None = None,
    log_mass: Tensor | None = None,
) -> Tensor:
    """Fill ``y [T, C]`` from ``leaves [N, C_i]``, or sweep it upward in place.

    Args:
        y: node values.
        plan: the tree.
        kind: ``'LEAVES'``, ``'SCAN'`` or ``'EVIDENCE'``.
        weight: ``[T]`` or ``[T, C]`` weights of the edges.
        leaves: one to three tensors of leaf values, not for ``'SCAN'``.
        sibling: S ``[T, C]``, for ``'EVIDENCE'`` alone.
        log_mass: ``[T]`` for ``'EVIDENCE'`` alone.
    """
    kernels, channels, device = load("sweeps_kernels"), y.shape[1], y.device
    if channels == 0:
        return y
    families, roots = plan.family_parent.shape[0], plan.num_roots
    sizes = tile(channels, longest_family(plan))
    blocks = cover(channels, sizes["BLOCK"])
    xs = [x.contiguous() for x in leaves] if leaves else [y]
    tail = roots if leaves else 0  # programs for roots that are leaves

    row, family = plan.once("inverses", lambda: inverses(plan))
    pending = torch.zeros(families * blocks if ONE_LAUNCH else 0, dtype=torch.int32, device=device)

    def go(first: int, count: int, more: int) -> None:
        launch(
            kernels.climb, (count + more, blocks), device,
            xs[0], xs[min(1, len(xs) - 1)], xs[-1],
            y if weight is None else weight,
            y if sibling is None else sibling,
            y if log_mass is None else log_mass,
            y, row, family, pending,
            plan.family_ptr, plan.family_parent, plan.inner_ptr, plan.above,
            first, count, roots, channels, xs[0].shape[1], xs[min(1, len(xs) - 1)].shape[1],
            KIND=getattr(kernels, kind).value, SOURCES=len(xs),
            WEIGHTS=0 if weight is None else weight.dim(), CLIMB=ONE_LAUNCH, **sizes,
        )  # fmt: skip

    if ONE_LAUNCH:
        go(0, families, tail)
    else:
        for level in reversed(plan.levels):
            go(level.f0, level.f1 - level.f0, tail if level.f0 == 0 else 0)
        if not plan.levels:
            go(0, 0, tail)
    return y


def passes_up(y: Tensor, plan: Plan, weight: Tensor | None) -> Tensor:
    """Sweep ``y [T, C]`` of a deep tree upward in place, one launch a pass."""
    kernels, channels = load("sweeps_kernels"), y.shape[1]
    factor = None if weight is None else along_passes(weight, plan)
    sizes = tile(channels, longest_family(plan))
    for _, _, m0, m1, _ in plan.passes:
        launch(
            kernels.give, (m1 - m0, cover(channels, sizes["BLOCK"])), y.device,
            y, y if factor is None else factor, plan.pass_child, plan.pass_parent, plan.pass_ptr,
            m0, channels, WEIGHTS=0 if factor is None else factor.dim(), **sizes,
        )  # fmt: skip
    return y


# --- downward ------------------------------------------------------------------------------------


def descend(
    x: Tensor,
    plan: Plan,
    factor: Tensor | None,
    share: bool = False,
    own: tuple[Tensor, Tensor] | None = None,
    leaves: bool = True,
) -> Tensor:
    """Sum ``x [T, C]`` over each leaf's (or node's) ancestors; see the kernel of this name.

    Args:
        x: node values.
        plan: the tree.
        factor: weights of the edges or, with :obj:`share`, of the nodes' own values, ``[T, H]``
            where H divides C.
        share: what :obj:`factor` is.
        own: leaf values ``[N, C]`` and their factors ``[N, H]``, added in the end.
        leaves: whether leaves alone are wanted.
    """
    kernels, channels, device = load("sweeps_kernels"), x.shape[1], x.device
    dtype = accumulator(x.dtype)
    rows = plan.leaf if leaves else plan.up
    out = torch.empty(rows.shape[0], channels, dtype=dtype, device=device)
    if channels == 0:
        return out
    heads = 1 if factor is None else factor.shape[1]
    block = min(power_of_two(channels), 256)
    meta = {"BLOCK": block, "ROWS": TILE // block}

    def go(
        to: Tensor, index: Tensor | None, first: int, stop: int, done: int, reach: int, z: Tensor
    ) -> None:
        final = own if to is out else None
        launch(
            kernels.descend, (cover(stop - first, meta["ROWS"]), cover(channels, block)), device,
            x, x if factor is None else factor, z,
            x if final is None else final[0], x if final is None else final[1],
            to, plan.up if index is None else index, plan.up, plan.above if leaves else plan.up,
            first, stop, done, reach, plan.num_roots, channels, heads, channels // heads,
            KIND=(kernels.PLAIN if factor is None else kernels.SHARE if share else
                  kernels.WEIGHT).value,
            INDEX=index is not None, FINISHED=done > 0, OWN=final is not None, **meta,
        )  # fmt: skip

    levels, nodes = plan.levels, plan.num_nodes
    depth = len(levels)
    # First position of each level, and first of its rows in what the launches write.
    starts = [0, *(level.n0 for level in levels), nodes]
    if not leaves:
        for top in range(0, depth + 1, SCALAR_LEVELS):
            stop = starts[min(top + SCALAR_LEVELS, depth + 1)]
            go(out, None, starts[top], stop, starts[top], SCALAR_LEVELS, out)
        return out
    if depth < SCALAR_LEVELS and out.numel() * depth <= WALK_ELEMENTS:
        go(out, plan.leaf, 0, rows.shape[0], 0, depth + 1, out)
        return out
    z = torch.empty(plan.inner.shape[0], channels, dtype=dtype, device=device)
    ends = [levels[0].lo, *(level.hi for level in levels)] if levels else [0]
    for top in range(0, depth, LEVELS):  # the last level has no inner nodes
        first, stop = 0 if top == 0 else ends[top - 1], ends[min(top + LEVELS, depth) - 1]
        go(z, plan.inner, first, stop, starts[top], LEVELS, z)
    go(out, plan.leaf, 0, rows.shape[0], nodes, 1, z)
    return out


# --- the operators -------------------------------------------------------------------------------


@tree_operator("hsa_geometric::triton_up")
def up(xs: list[Tensor], weight: Tensor | None, tree: list[Tensor]) -> Tensor:
    """Leaf values ``[N, C_i]`` to node values ``[T, sum C_i]``, ``weight [T]`` a constant."""
    plan, dtype = Plan.of(tree), accumulator(xs[0].dtype)
    weight = None if weight is None else weight.to(dtype).contiguous()
    if plan.deep:
        y = from_leaves(xs, plan).index_fill_(0, plan.family_parent, 0)
        return passes_up(y, plan, weight)
    if len(xs) > 3:
        xs = [torch.cat(xs, dim=1)]
    y = xs[0].new_empty(plan.num_nodes, sum(x.shape[1] for x in xs), dtype=dtype)
    return climb(y, plan, "LEAVES", weight, xs)


@tree_operator("hsa_geometric::triton_down")
def down(z: Tensor, weight: Tensor | None, tree: list[Tensor]) -> Tensor:
    """Node values ``[T, C]`` to leaf values ``[N, C]``, ``weight [T]`` a constant."""
    plan = Plan.of(tree)
    weight = None if weight is None else weight.unsqueeze(1)
    if plan.deep:
        return sweep_leaves(z, plan, weight)
    weight = None if weight is None else weight.to(accumulator(z.dtype)).contiguous()
    return descend(z.contiguous(), plan, weight)


@tree_operator("hsa_geometric::triton_scan_up")
def scan_up(x: Tensor, weight: Tensor, tree: list[Tensor]) -> Tensor:
    """Upward sweep of node values ``[T, H]`` with differentiable weights ``[T, H]``."""
    plan, y = Plan.of(tree), x.clone(memory_format=torch.contiguous_format)
    if plan.deep:
        return passes_up(y, plan, weight)
    return climb(y, plan, "SCAN", weight.contiguous())


@tree_operator("hsa_geometric::triton_scan_down")
def scan_down(x: Tensor, weight: Tensor, tree: list[Tensor]) -> Tensor:
    """Downward sweep of node values ``[T, H]`` with differentiable weights ``[T, H]``."""
    plan = Plan.of(tree)
    if plan.deep:
        return sweep_down(x, plan, weight)
    return descend(x.contiguous(), plan, weight.contiguous(), leaves=False)


@tree_operator("hsa_geometric::triton_mix")
def mix(mean: Tensor, share: Tensor, v: Tensor, own: Tensor, tree: list[Tensor]) -> Tensor:
    """Sum of share · M over each leaf and its ancestors, plus own · v: ``[N, H, D]``."""
    plan = Plan.of(tree)
    if plan.deep:
        return eager_attention.mix(mean, share, v, own, tree)
    last = (v.contiguous().flatten(1), own.contiguous())
    out = descend(mean.contiguous().flatten(1), plan, share.contiguous(), share=True, own=last)
    return out.view(v.shape)


@torch.library.custom_op("hsa_geometric::triton_row_dot", mutates_args=())
def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot products ``[N, H]`` of the rows of two ``[N, H, D]``."""
    out = a.new_empty(a.shape[:-1], dtype=torch.promote_types(a.dtype, b.dtype))
    width = a.shape[-1]
    block = min(power_of_two(width), 256)
    rows = TILE // block
    launch(
        load("sweeps_kernels").dot, (cover(out.numel(), rows),), a.device,
        a.contiguous(), b.contiguous(), out, out.numel(), width, ROWS=rows, BLOCK=block,
    )  # fmt: skip
    return out


differentiate(up, down, scan_up, scan_down)
eager_attention.differentiate(mix, row_dot, up)
