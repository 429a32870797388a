r"""Attention within all families at once, one launch for all levels.

The operators of :mod:`hsa_geometric.kernels.eager.siblings`, with their arguments and results:
``triton_siblings`` and ``triton_siblings_backward``. Tiles of queries run over the keys of their
families with a running log-sum-exp, so a family of any size takes :math:`O(b)` memory, and the
backward recomputes the weights from S. Sums are taken in the dtype of ``qkv``, float32 or float64,
products without TF32. Nothing is added atomically: equal input gives equal bits.

Second derivatives go through the torch backend, piece by piece.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..eager.blocks import Block
from ..eager.operator import tree_operator
from ..eager.plan import Plan
from ..eager.siblings import Operands, differentiate, kept_scale
from ._jit import cover, launch, load, power_of_two

# Positions and offsets are int32 below this number of entries.
INT32_LIMIT = 1 << 31

# Queries and keys of a tile. Larger ones spill registers: products in full float32 are no work for
# tensor cores.
SMALL_TILE, LARGE_TILE = 16, 32


def segments(plan: Plan) -> tuple[Tensor, Tensor]:
    """Start and end ``[T]`` of the family of the node at each position; of a root, an empty one."""
    position = torch.arange(plan.num_nodes, device=plan.up.device)
    family = torch.searchsorted(plan.family_ptr, position[plan.num_roots :], right=True)
    roots = position[: plan.num_roots]
    starts = torch.cat([roots, plan.family_ptr[family - 1]])
    ends = torch.cat([roots, plan.family_ptr[family]])
    if position.shape[0] < INT32_LIMIT:
        starts, ends = starts.int(), ends.int()
    return starts, ends


def tile_size(plan: Plan, width: int) -> int:
    """Queries and keys of a tile, by the family that the average node is in."""
    nodes = pairs = 0
    for size, start, stop, _ in plan.sizes:
        nodes += size * (stop - start)
        pairs += size * size * (stop - start)
    return SMALL_TILE if pairs <= SMALL_TILE * nodes or width > 64 else LARGE_TILE


class Launch:
    """What all kernels of one call have in common."""

    def __init__(
        self,
        qkv: Tensor,
        pos_q: Tensor | None,
        pos_k: Tensor | None,
        log_mass: Tensor,
        heads: int,
        width: int,
        scale: float,
        dropout_p: float,
        seed: Tensor | None,
        tree: list[Tensor],
    ):
        if qkv.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"Expected 'qkv' to be float32 or float64 (got {qkv.dtype})")
        plan, kernels = Plan.of(tree), load("siblings_kernels")
        self.kernels, self.qkv, self.heads = kernels, qkv, heads
        values = qkv.shape[1] // heads - 2 * width
        features = 0 if pos_q is None else pos_q.shape[-1]
        widest = max(padded(width), padded(values))
        tile = tile_size(plan, widest)
        shift = -plan.num_roots % tile
        nodes = qkv.shape[0]
        self.grid = (cover(nodes + shift, tile) * heads,)
        if dropout_p > 0.0 and seed is not None:
            seed = seed.to(qkv.device)
        self.tensors = [
            qkv.contiguous(),
            *(qkv if x is None else x.contiguous() for x in (pos_q, pos_k)),
            log_mass.contiguous(),
            *plan.once("segments", lambda: segments(plan)),
            plan.leaf if seed is None else seed,
        ]
        high = float(torch.tensor(scale, dtype=torch.float32))
        self.scalars = [nodes, shift, high, scale - high, dropout_p, kept_scale(dropout_p)]
        self.meta: dict[str, Any] = {
            "HEADS": heads,
            "D": width,
            "V": values,
            "P": features,
            "D_PAD": padded(width),
            "V_PAD": padded(values),
            "P_PAD": padded(features),
            "BLOCK": tile,
            "DROPOUT": dropout_p > 0.0,
            "WIDE": nodes * max(qkv.shape[1], heads * features) >= INT32_LIMIT,
            # So that compiled for an H100 the float32 kernels spill few registers or none.
            "num_warps": min(8, tile * widest // 256),
            "num_stages": 2 if widest <= 64 else 1,
        }

    def __call__(self, name: str, *tensors: Tensor | None) -> None:
        """Launch the kernel :obj:`name`; those of :obj:`tensors` that are None it does not use."""
        given = [self.qkv if x is None else x for x in tensors]
        launch(
            getattr(self.kernels, name),
            self.grid, self.qkv.device, *self.tensors, *given, *self.scalars, **self.meta,
        )  # fmt: skip


def padded(width: int) -> int:
    """The next power of two, of which Triton multiplies 16 at least."""
    return max(16, power_of_two(width))


@tree_operator("hsa_geometric::triton_siblings")
def siblings(
    qkv: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    heads: int,
    width: int,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """M ``[T, H, Dv]``, S and own logits ``[T, H]`` from node means q, k, v beside each other."""
    run = Launch(qkv, pos_q, pos_k, log_mass, heads, width, scale, dropout_p, seed, tree)
    nodes = qkv.shape[0]
    mean = qkv.new_empty(nodes, heads, qkv.shape[1] // heads - 2 * width)
    total, own = qkv.new_empty(nodes, heads), qkv.new_empty(nodes, heads)
    run("forward", mean, total, own)
    return mean, total, own


@tree_operator("hsa_geometric::triton_siblings_backward")
def siblings_backward(
    grad_mean: Tensor,
    grad_total: Tensor,
    grad_own: Tensor,
    mean: Tensor,
    total: Tensor,
    qkv: Tensor,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    log_mass: Tensor,
    heads: int,
    width: int,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    tree: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv and of the two position embeddings (empty without any)."""
    run = Launch(qkv, pos_q, pos_k, log_mass, heads, width, scale, dropout_p, seed, tree)
    grad_mean, grad_total, grad_own, mean, total = (
        x.contiguous() for x in (grad_mean, grad_total, grad_own, mean, total)
    )
    grad_qkv, shared = qkv.new_empty(qkv.shape), total.new_empty(total.shape)
    grad_pq, grad_pk = (None if x is None else x.new_empty(x.shape) for x in (pos_q, pos_k))
    run(
        "backward_queries",
        *(mean, total, grad_mean, grad_total, grad_own),
        *(grad_qkv, grad_pq, shared),
    )
    run("backward_keys", total, grad_mean, grad_own, shared, grad_qkv, grad_pk)
    empty = qkv.new_empty(0)
    return (
        grad_qkv,
        empty if grad_pq is None else grad_pq,
        empty.clone() if grad_pk is None else grad_pk,
    )


class Mask:
    """The dropout masks of the kernels, for the pieces of the torch backend."""

    def __init__(self, p: float, seed: Tensor | None):
        self.p, self.seed = p, seed

    def __call__(self, block: Block, x: Operands, start: int) -> Tensor | None:
        """Zeros, and elsewhere 1 / (1 − p), for the logits of a piece; None to drop nothing."""
        if self.p == 0.0 or self.seed is None:
            return None
        (both, keys, _), queries = x.k.shape, x.q.shape[1]
        out = x.q.new_empty(both, keys, queries)
        launch(
            load("siblings_kernels").dropout_mask,
            (cover(out.numel(), 1024),), out.device,
            out, block.members[:, start : start + queries].contiguous(), self.seed.to(out.device),
            out.numel(), self.p, kept_scale(self.p),
            HEADS=both // block.members.shape[0], QUERIES=queries, KEYS=keys, BLOCK=1024,
        )  # fmt: skip
        return out


differentiate(siblings, siblings_backward, Mask)
