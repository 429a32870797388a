"""Attention in two halves: trees whose roots hang below nodes that are elsewhere.

Up gives the roots' means and log evidence; what is elsewhere makes Z and W of them; down gives the
output. Backward goes up with the output's gradient to those of Z and W, then down with those of
means and evidence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .call import NUM_LEARNED, Call
from .operator import TREE


class Halves:
    """One call of a backend that has ``Forward`` and ``Backward``."""

    def __init__(self, module: Any, call: Call):
        self.module, self.call = module, call
        self.forward: Any = None
        self.backward: Any = None

    def up(self) -> tuple[Tensor, Tensor]:
        """Means ``[R, H, 2 D + Dv]`` and log evidence ``[R, H]`` of the roots."""
        means, f = Up.apply(self, *self.call.learned)
        return means, f

    def down(self, z: Tensor, w: Tensor) -> Tensor:
        """The output, for Z ``[R, H, Dv]`` and W ``[R, H]``."""
        out: Tensor = Down.apply(self, z, w)
        return out

    def saved(self, tensors: tuple[Tensor, ...]) -> tuple[Call, list[Tensor]]:
        """The call and what forward kept, from the tensors that autograd did."""
        call = Call._make([*tensors[:TREE], *self.call[TREE:]])
        return call, list(tensors[TREE:])


class Up(torch.autograd.Function):
    """The first half; its backward is the second half of backward."""

    @staticmethod
    def forward(ctx: Any, halves: Halves, *learned: Tensor | None) -> tuple[Tensor, Tensor]:
        """Means and log evidence of the roots."""
        call = halves.call
        halves.forward = walk = halves.module.Forward(call, any(ctx.needs_input_grad))
        means, f = walk.up()
        ctx.halves = halves
        ctx.save_for_backward(*learned, call.mass, call.seed, *walk.saved)
        return means, f

    @staticmethod
    def backward(ctx: Any, grad_means: Tensor, grad_f: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, pos_q, pos_k, temperature and bias."""
        check_once()
        halves = ctx.halves
        walk, halves.backward = halves.backward, None
        if walk is None:  # nobody asked for the output
            call, saved = halves.saved(ctx.saved_tensors)
            w = torch.zeros_like(grad_f)
            walk = halves.module.Backward(call, saved, None, w)
            walk.up()
        return None, *walk.down(grad_means, grad_f)


class Down(torch.autograd.Function):
    """The second half; its backward is the first half of backward."""

    @staticmethod
    def forward(ctx: Any, halves: Halves, z: Tensor, w: Tensor) -> Tensor:
        """The output."""
        walk, halves.forward = halves.forward, None
        call = halves.call
        ctx.halves = halves
        ctx.save_for_backward(*call.learned, call.mass, call.seed, *walk.saved, w)
        nothing: dict[str, Any] = dict.fromkeys(Call._fields[:NUM_LEARNED])
        halves.call = call._replace(**nothing)
        out: Tensor = walk.down(z, w)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of Z and W."""
        check_once()
        *tensors, w = ctx.saved_tensors
        call, saved = ctx.halves.saved(tuple(tensors))
        ctx.halves.backward = walk = ctx.halves.module.Backward(call, saved, grad, w)
        return None, *walk.up()


def check_once() -> None:
    """Only first derivatives are there."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "backend='cpu' has no second derivatives on a shard of a tree (use backend='scatter')"
        )
