"""The dropout masks of the kernels, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..eager.blocks import Block
from ..eager.siblings import Operands, kept_scale
from ._jit import cover, launch, load

STEP = 1024


class CountedDropout:
    """Masks that depend on the pair alone, for the pieces of the torch backend."""

    def __init__(self, p: float, seed: Tensor):
        self.p, self.seed = p, seed

    def mask(self, block: Block, x: Operands, start: int) -> Tensor | None:
        """Zeros, and elsewhere 1 / (1 − p), for the logits of a piece."""
        (both, keys, _), queries = x.k.shape, x.q.shape[1]
        out = x.q.new_empty(both, keys, queries)
        launch(
            load("dropout_kernels").mask, (cover(out.numel(), STEP),), out.device,
            out, block.members[:, start : start + queries].contiguous(), self.seed,
            out.numel(), self.p, kept_scale(self.p),
            HEADS=both // block.members.shape[0], QUERIES=queries, KEYS=keys, BLOCK=STEP,
        )  # fmt: skip
        return out

    def own(self, leaf: Tensor, like: Tensor) -> Tensor:
        """The same for the own weights ``like [N, H]`` of leaves at positions ``leaf``."""
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        launch(
            load("dropout_kernels").own_mask, (cover(out.numel(), STEP),), out.device,
            out, leaf, self.seed, out.numel(), self.p, kept_scale(self.p),
            HEADS=like.shape[1], BLOCK=STEP,
        )  # fmt: skip
        return out
