"""The recursions for numbers of a node and head: f upward, W downward, and their gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import call
from ._jit import cover, launch, load
from .call import Arguments
from .sweeps import downward, upward

STEP = 1024
ROWS = 256


def climb(
    x: Arguments, y: Tensor, total: Tensor, f: Tensor | None = None, by_mean: Tensor | None = None
) -> Tensor:
    """Fill ``y [T, H]`` at inner nodes from what it holds at leaves.

    ``y`` is f; or, where f is given, what the output's gradient finds inside a subtree.
    """
    kernels, plan = load("scalars_kernels"), x.plan

    def go(pending: Tensor, first: int, count: int, blocks: int, sizes: dict[str, int]) -> None:
        launch(
            kernels.climb, (count, blocks), y.device,
            y, y if f is None else f, total, y if by_mean is None else by_mean,
            x.weight, x.log_mass,
            plan.family, pending,
            plan.family_ptr, plan.family_parent, plan.inner_ptr, plan.above,
            first, count, plan.num_roots,
            HEADS=x.heads, EVIDENCE=f is None, CLIMB=call.ONE_LAUNCH, **sizes,
        )  # fmt: skip

    upward(plan, [x.heads], go)
    return y


def descend(x: Arguments, f: Tensor, total: Tensor, given: tuple[Tensor, ...] = ()) -> Tensor:
    """W ``[F, H]`` of inner nodes, or the gradient of f.

    Args:
        x: the call.
        f: log evidence.
        total: S.
        given: for the gradient of f: W, the two dot products, and the gradient of the evidence.
    """
    out, plan, steps = x.empty(x.plan.inner.shape[0], x.heads), x.plan, call.MANY_LEVELS
    reach, by_mean, by_inside, by_evidence = given or (f, f, f, f)
    for first, stop, done in downward(plan, steps):
        launch(
            load("scalars_kernels").descend, (cover((stop - first) * x.heads, ROWS),), f.device,
            out, f, total, reach, by_mean, by_inside, x.weight, by_evidence,
            plan.inner, plan.above,
            first, stop, done, steps, plan.num_roots,
            HEADS=x.heads, REACH=not given, FINISHED=done > 0, ROWS=ROWS,
        )  # fmt: skip
    return out


class Gradients(NamedTuple):
    """What attention within families needs for its gradients, ``[T, H]`` each."""

    share: Tensor
    shared: Tensor
    by_own: Tensor
    alone: Tensor


def gradients(
    x: Arguments, f: Tensor, total: Tensor, reach: Tensor, by_mean: Tensor, by_inside: Tensor,
    by_evidence: Tensor,
) -> tuple[Gradients, Tensor | None]:  # fmt: skip
    """See the kernel of this name; and the gradient of the bias, if there is one."""
    by_f = descend(x, f, total, (reach, by_mean, by_inside, by_evidence))
    result = Gradients(x.scalars(), x.scalars(), x.scalars(), x.scalars())
    by_bias = None if x.bias is None else x.scalars()
    launch(
        load("scalars_kernels").gradients, (cover(f.numel(), STEP),), f.device,
        f, total, reach, by_mean, by_inside, by_f, x.weight, by_evidence,
        f if x.seed is None else x.seed,
        *result, f if by_bias is None else by_bias,
        x.plan.source, x.plan.above,
        f.numel(), x.plan.num_roots, *x.dropout,
        HEADS=x.heads, SELF_LOOP=x.self_loop, BIAS=x.bias is not None,
        DROPOUT=x.dropout_p > 0, BLOCK=STEP,
    )  # fmt: skip
    return result, by_bias
