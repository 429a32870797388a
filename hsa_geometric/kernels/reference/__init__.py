"""Backend ``'reference'``: the dense attention matrix, written to be obviously right.

Plain loops over the nodes of the tree and ordinary differentiable tensor operations. It reads only
the caller's parent vector and pairs, so that nothing of the fast layout is needed to trust it; only
dropout's masks are told apart by positions.

=============  ==================================================================================
``siblings``   where siblings meet
``lists``      where other pairs meet, of one tree or two
``family``     a tree as lists of node ids
=============  ==================================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call
from . import lists, siblings

__all__ = ["attend", "attention_matrix"]


def attention_matrix(call: Call) -> tuple[Tensor, Tensor]:
    """Θ ``[H, N, N]`` and log evidence ``[trees, H]``; arguments are already checked."""
    return (siblings if call.lists is None else lists).attention_matrix(call)


def attend(call: Call) -> tuple[Tensor, Tensor]:
    """Output ``[N, H, Dv]`` through the dense matrix, and log evidence ``[trees, H]``."""
    theta, evidence = attention_matrix(call)
    v, mass = call.v.to(theta.dtype), call.mass_of_keys
    if mass is not None:  # padding may hold anything
        v = torch.where((mass > 0).view(-1, 1, 1), v, 0)
    return torch.einsum("hij,jhd->ihd", theta, v).to(call.v.dtype), evidence
