"""What compiled methods need. FlexAttention is one of them: run eagerly it is a dense matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .case import Case, Skipped


@cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention as flex

    allow_recompiles()
    # With dynamic=True, torch 2.13 writes C++ for the block mask that does not compile.
    return torch.compile(flex, dynamic=False)


def flex_attention(case: Case, grad: bool) -> tuple[Callable[..., Tensor], Callable]:
    """FlexAttention and ``create_block_mask``, if they run here."""
    if case.device == "cpu" and grad:
        raise Skipped("torch: FlexAttention does not support backward on CPU")
    if case.device == "cpu" and case.dtype == torch.float64:
        raise Skipped("FlexAttention on CPU has no float64")
    from torch.nn.attention.flex_attention import create_block_mask

    return _compiled(), create_block_mask


def allow_recompiles() -> None:
    """Every case compiles anew, more often than Dynamo's limit of eight allows by default."""
    torch._dynamo.config.recompile_limit = 256
