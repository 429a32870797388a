"""The scalar recursion for the log evidence f, in one launch for the whole forest.

The same operator as :mod:`hsa_geometric.kernels.eager.evidence`, whose recursion this is. It goes
up the tree as the upward sweep does, see :mod:`.sweeps`: one launch at any depth. Its backward is
a downward sweep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..eager.evidence import _setup, inside
from ..eager.plan import NO_GRAD, Plan
from ..eager.sweeps import _below_root
from .sweeps import climb, scan_down


@torch.library.custom_op("hsa_geometric::triton_evidence", mutates_args=())
def evidence(
    leaf_f: Tensor, sibling: Tensor, weight: Tensor, log_mass: Tensor, tree: list[Tensor]
) -> Tensor:
    """f ``[T, H]`` from leaf values ``[N, H]``, S ``[T, H]``, w ``[T]`` and log mass ``[T]``."""
    return climb(
        sibling.new_empty(sibling.shape),
        Plan(*tree),
        "EVIDENCE",
        weight.contiguous(),
        leaves=[leaf_f],
        sibling=sibling.contiguous(),
        log_mass=log_mass.contiguous(),
    )


@evidence.register_fake
def _(leaf_f, sibling, weight, log_mass, tree):
    return sibling.new_empty(sibling.shape)


def _backward(ctx, grad):
    f, sibling, weight, *tree = ctx.saved_tensors
    keep, weight = inside(f, sibling), weight.unsqueeze(1)
    # d f_root / d f_A is a product of w g along the path: the downward sweep once more.
    grad = scan_down(grad.contiguous(), weight * keep, tree)
    grad_sibling = _below_root(grad[tree[0]] * weight * (1 - keep), tree)
    return grad[tree[1]], grad_sibling, None, None, NO_GRAD


evidence.register_autograd(_backward, setup_context=_setup)
