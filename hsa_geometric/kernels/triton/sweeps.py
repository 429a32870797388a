r"""Rows up and down the tree.

**Upward**, one launch does a whole tree. One program takes one family and a block of channels and
writes the parent's row; it goes on to the parent's own family if all others below that are done,
which a counter tells (so LBVHs are built: Karras, 2012). Each inner row is read once, right after
it was written, and leaf rows are read where they are. A family is summed by one program even if it
is long: that costs less than the attention within it, which is quadratic.

**Downward**, every inner row adds up its ancestors by itself, for at most :data:`.call.LEVELS`
levels a launch; rows of the same family read the same ancestors, from the cache. Leaves read their
parent's sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..call import accumulator
from . import call
from ._jit import cover, launch, load, power_of_two
from .call import Arguments
from .plan import Plan


def tile(channels: int, longest: int) -> dict[str, int]:
    """Rows and channels of a tile, for families of at most ``longest`` members.

    One warp has all rows of its channels, so that they are summed in registers.
    """
    rows = min(power_of_two(longest), call.ROWS if longest <= call.LONG else call.LONG_ROWS)
    block = min(power_of_two(channels), max(1, call.TILE // rows))
    return {"ROWS": rows, "BLOCK": block, "num_warps": 1 if longest <= call.LONG else 4}


def flat_tile(width: int) -> dict[str, int]:
    """Rows and channels of a tile of rows of any nodes."""
    block = min(power_of_two(width), 256, call.TILE)
    return {"ROWS": call.TILE // block, "BLOCK": block}


def upward(plan: Plan, widths: list[int], go: Callable[..., None]) -> None:
    """Call ``go(pending, first, count, blocks, sizes)`` to sum families, those below first.

    Tensors of ``widths`` channels are summed side by side, in ``blocks``.
    """
    families, device = plan.family_parent.shape[0], plan.device
    sizes = tile(max(widths), plan.sizes[-1][0])
    blocks = sum(cover(width, sizes["BLOCK"]) for width in widths)
    size = families * blocks if call.ONE_LAUNCH else 0
    pending = torch.zeros(size, dtype=torch.int32, device=device)
    levels = [] if call.ONE_LAUNCH else (level.families for level in reversed(plan.levels))
    for first, stop in [(0, families)] if call.ONE_LAUNCH else levels:
        go(pending, first, stop - first, blocks, sizes)


def downward(plan: Plan, levels: int) -> list[tuple[int, int, int]]:
    """Inner nodes ``first:stop`` of each launch, and before which of them all is done."""
    ends = [level.inner[0] for level in plan.levels[:1]] + [x.inner[1] for x in plan.levels]
    stops = [*ends[levels - 1 :: levels], *ends[-1:]]
    starts = [0, *stops]
    pairs = zip(starts, stops, strict=False)
    return [(first, stop, first) for first, stop in pairs if stop > first]


def sums(xs: list[Tensor], weight: Tensor | None, plan: Plan) -> Tensor:
    """Sums ``[F, sum C_i]`` over the inner nodes' leaves of one to three ``[N, C_i]``.

    With ``weight [T]`` every node's own sum counts so much.
    """
    kernels = load("sweeps_kernels")
    widths = [x.shape[1] for x in xs]
    y = xs[0].new_empty(plan.inner.shape[0], sum(widths), dtype=accumulator(xs[0].dtype))
    xs, widths = [*xs, y, y][:3], [*widths, 0, 0][:3]

    def go(pending: Tensor, first: int, count: int, blocks: int, sizes: dict[str, int]) -> None:
        launch(
            kernels.climb, (count, blocks), y.device,
            *xs, y if weight is None else weight, y,
            plan.source, plan.family, pending,
            plan.family_ptr, plan.family_parent, plan.inner_ptr, plan.above,
            *(x.stride(0) for x in xs), first, count, plan.num_roots,
            **{f"WIDTH{i}": width for i, width in enumerate(widths)},
            WEIGHTED=weight is not None, CLIMB=call.ONE_LAUNCH, **sizes,
        )  # fmt: skip

    upward(plan, widths, go)
    return y


def descend(
    x: Tensor, heads: int, plan: Plan, weight: Tensor | None, given: tuple[Tensor, ...] = ()
) -> Tensor:
    """Sums of ``x [F, heads · width]`` over inner nodes and their ancestors.

    Args:
        x: rows of inner nodes.
        heads: of how many parts a row is made that have weights of their own.
        plan: the tree.
        weight: ``[T]`` of the edge above each node.
        given: instead, f, S and W, by which rows count by what their nodes' siblings are given.
    """
    kernels, z, width = load("sweeps_kernels"), torch.empty_like(x), x.shape[1] // heads
    sizes = flat_tile(width)
    steps = call.MANY_LEVELS if plan.deep else call.LEVELS
    for first, stop, done in downward(plan, steps):
        grid = (cover((stop - first) * heads, sizes["ROWS"]), cover(width, sizes["BLOCK"]))
        launch(
            kernels.descend, grid, x.device,
            x, x if weight is None else weight, *(given or (x, x, x)), z,
            plan.inner, plan.above,
            first, stop, done, steps, plan.num_roots,
            HEADS=heads, WIDTH=width, SHARE=weight is None, FINISHED=done > 0, **sizes,
        )  # fmt: skip
    return z


def finish(
    x: Arguments, mean: Tensor, z: Tensor, reach: Tensor, f: Tensor, total: Tensor
) -> Tensor:
    """The output ``[N, H, V]`` from M of the leaves and the sums ``z`` above them."""
    out, width = torch.empty_like(x.v), x.v.shape[2]
    sizes, rows = flat_tile(width), out.shape[0] * x.heads
    launch(
        load("sweeps_kernels").finish,
        (cover(rows, sizes["ROWS"]), cover(width, sizes["BLOCK"])), out.device,
        x.v, mean, z, reach, f, total, x.plan.leaf if x.seed is None else x.seed, out,
        x.plan.leaf, x.plan.above,
        x.v.stride(0), rows, x.plan.num_roots, *x.dropout,
        HEADS=x.heads, WIDTH=width, DROPOUT=x.dropout_p > 0, **sizes,
    )  # fmt: skip
    return out


def dots(
    x: Arguments, grad: Tensor, grad_inner: Tensor, mean: Tensor, mean_inner: Tensor
) -> tuple[Tensor, Tensor]:
    """Dot products ``[T, H]`` of the output's gradient, summed over each subtree, and M.

    Also those with the leaves' own values, with inner nodes unset.
    """
    by_mean, by_own, width = x.scalars(), x.scalars(), x.v.shape[2]
    sizes, plan = flat_tile(width), x.plan
    for left, right, place in ((grad, mean, plan.leaf), (grad_inner, mean_inner, plan.inner)):
        rows = place.shape[0] * x.heads
        launch(
            load("sweeps_kernels").dots, (cover(rows, sizes["ROWS"]),), grad.device,
            left, right, x.v, place if x.seed is None else x.seed, by_mean, by_own,
            place, x.v.stride(0), rows, *x.dropout,
            HEADS=x.heads, WIDTH=width, LEAF=place is plan.leaf, DROPOUT=x.dropout_p > 0, **sizes,
        )  # fmt: skip
    return by_mean, by_own
