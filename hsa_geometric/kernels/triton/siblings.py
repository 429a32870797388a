r"""Attention within all families at once, one launch for all levels.

Tiles of queries run over the keys of their families with a running log-sum-exp, so a family of any
size takes :math:`O(b)` memory, and the backward recomputes the weights from S. Sums are taken in
float32 or float64. Products of float32 rows are exact to float32; of rows in half precision, which
TF32 holds without rounding, they go to tensor cores. Nothing is added atomically: equal input gives
equal bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import plan as plans
from ._jit import cover, launch, load, power_of_two
from .call import Arguments
from .plan import Plan
from .scalars import Gradients

# Queries and keys of a tile: counted in instructions, larger ones cost more for families up to 20.
SMALL_TILE, LARGE_TILE = 16, 32


def tile_size(plan: Plan, width: int) -> int:
    """Queries and keys of a tile, by the family that the average node is in."""
    nodes = pairs = 0
    for size, count in plan.sizes:
        nodes += size * count
        pairs += size * size * count
    return SMALL_TILE if pairs <= SMALL_TILE * nodes or width > 64 else LARGE_TILE


def others(plan: Plan, tile: int) -> int:
    """Keys of a tile of queries: more where families are cut, as their tiles need more than one."""
    cut = sum(size * count for size, count in plan.sizes if tile % size)
    return 2 * tile if tile == SMALL_TILE and 8 * cut > plan.num_nodes else tile


def aligned(plan: Plan) -> int:
    """First position of the widest level: a tile begins there."""
    widths = [last - first for first, last in (level.nodes for level in plan.levels)]
    return plan.levels[widths.index(max(widths))].nodes[0] if widths else 0


def padded(width: int) -> int:
    """The next power of two, of which Triton multiplies 16 at least."""
    return max(16, power_of_two(width))


class Tiles:
    """What the three kernels of one call have in common."""

    def __init__(self, x: Arguments, means: Tensor):
        plan = x.plan
        width, values = x.q.shape[2], x.v.shape[2]
        features = 0 if x.pos_q is None else x.pos_q.shape[2]
        widest = max(padded(width), padded(values))
        self.call, self.nodes, self.kernels = x, plan.num_nodes, load("siblings_kernels")
        self.tile = tile_size(plan, widest)
        self.shift = -aligned(plan) % self.tile
        optional = (x.pos_q, x.pos_k, x.temperature, x.bias)
        self.tensors = [
            *(x.q, x.k, x.v, means),
            *(x.log_mass if y is None else y for y in optional),
            *(x.log_mass, plan.source, plan.starts, plan.ends),
            plan.leaf if x.seed is None else x.seed,
        ]
        high = float(torch.tensor(x.scale, dtype=torch.float32))
        self.strides = [y.stride(0) for y in (x.q, x.k, x.v)]
        self.scalars = [self.shift, high, x.scale - high, *x.dropout]
        halves = all(y.dtype in (torch.float16, torch.bfloat16) for y in (x.q, x.k, x.v))
        keys = others(plan, self.tile)
        row = max(x.heads * (2 * width + values), x.heads * features, *self.strides)
        self.meta: dict[str, Any] = {
            "HEADS": x.heads,
            "D": width,
            "V": values,
            "P": features,
            "D_PAD": padded(width),
            "V_PAD": padded(values),
            "P_PAD": padded(features),
            "BLOCK": self.tile,
            "OTHERS": keys,
            "TEMPERATURE": x.temperature is not None,
            "BIAS": x.bias is not None,
            "SELF_LOOP": x.self_loop,
            "DROPOUT": x.dropout_p > 0.0,
            "WIDE": self.nodes * row >= plans.INT32_LIMIT,
            "PRECISION": "tf32" if halves else "ieee",
            # So that compiled for an H100 hardly any registers are spilled.
            "num_warps": max(1, min(8, self.tile * keys * widest // (8192 if halves else 4096))),
            "num_stages": 1,
        }

    def run(self, name: str, start: int, stop: int, *tensors: Tensor | None, **meta: Any) -> None:
        """Launch the kernel :obj:`name` for positions ``start:stop``.

        Those of :obj:`tensors` that are None it does not use.
        """
        first = (start + self.shift) // self.tile
        tiles = cover(stop + self.shift, self.tile) - first
        launch(
            getattr(self.kernels, name), (tiles * self.call.heads,), self.call.q.device,
            *self.tensors, *(self.call.q if x is None else x for x in tensors),
            *self.strides, self.nodes, self.call.plan.num_roots, first, *self.scalars,
            **self.meta, **meta,
        )  # fmt: skip


def forward(x: Arguments, means: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """M of leaves ``[N, H, V]`` and inner nodes ``[F, H, V]``, S, and f at leaves ``[T, H]``."""
    mean = torch.empty_like(x.v)
    mean_inner = x.empty(x.plan.inner.shape[0], *x.v.shape[1:])
    total, f = x.scalars(), x.scalars()
    tiles = Tiles(x, means)
    tiles.run("forward", 0, tiles.nodes, mean, mean_inner, total, f)
    return mean, mean_inner, total, f


class Backward:
    """Gradients, first of inner nodes, then of leaves, to which those above them are added."""

    def __init__(
        self,
        x: Arguments,
        means: Tensor,
        total: Tensor,
        grad: Tensor,
        grad_inner: Tensor,
        by: Gradients,
    ):
        self.x, self.tiles = x, Tiles(x, means)
        self.given = [total, grad, grad_inner, by.share, by.shared, by.by_own, by.alone, x.weight]
        self.q, self.k, self.v, self.means = map(torch.empty_like, (x.q, x.k, x.v, means))
        optional = (x.pos_q, x.pos_k, x.temperature)
        self.pos_q, self.pos_k, self.temperature = (
            None if y is None else torch.empty_like(y) for y in optional
        )

    def inner(self) -> Tensor:
        """The gradient of the means ``[F, H D + H D + H V]``."""
        levels = self.x.plan.levels  # no inner nodes are on the last one
        self._run(0, levels[-1].nodes[0] if levels else 0, self.means, False)
        return self.means

    def leaves(self, z: Tensor) -> None:
        """Gradients of q, k and v; ``z`` are those of the means, summed over all above."""
        self._run(self.x.plan.first_leaf, self.tiles.nodes, z, True)

    def _run(self, start: int, stop: int, z: Tensor, leaves: bool) -> None:
        given, run = [*self.given, z, self.x.plan.above], self.tiles.run
        results = self.q, self.means, self.pos_q, self.temperature
        run("backward_queries", start, stop, *given, *results, LEAVES=leaves)
        results = self.k, self.v, self.means, self.pos_k
        run("backward_keys", start, stop, *given, *results, LEAVES=leaves)
