r"""The scalar recursion: log evidence of every subtree (the paper's eq. 8, f = −φ).

.. math::
    f_C = \sum_{A \in \mathrm{chd}(C)} w_A \, \mathrm{logaddexp}(f_A, S_A), \qquad w_A = |A| / |C|

A weight of 0 hides its term even if that is −∞, and a node of mass 0 has f = −∞.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import NO_GRAD, Plan
from .sweeps import _below_root, add_to_parents, scan_down


@torch.library.custom_op("hsa_geometric::evidence", mutates_args=())
def evidence(
    leaf_f: Tensor, sibling: Tensor, weight: Tensor, log_mass: Tensor, tree: list[Tensor]
) -> Tensor:
    """f ``[T, H]`` from leaf values ``[N, H]``, S ``[T, H]``, w ``[T]`` and log mass ``[T]``."""
    plan = Plan(*tree)
    dead = log_mass.isneginf()
    f = torch.where(dead, log_mass, 0.0).unsqueeze(1).repeat(1, leaf_f.shape[1])
    f[plan.leaf] = leaf_f
    hidden = weight == 0
    any_hidden = bool(hidden.any())
    for level in reversed(plan.levels.tolist()):
        rows = slice(level[2], level[3])
        total = torch.logaddexp(f[rows], sibling[rows])
        if any_hidden:
            total.masked_fill_(hidden[rows].unsqueeze(1), 0.0)
        # Adding to the 0 or -inf that stands there keeps nodes without mass at -inf.
        add_to_parents(f, plan, level, total, weight[rows])
    return f


@evidence.register_fake
def _(leaf_f, sibling, weight, log_mass, tree):
    return torch.empty_like(sibling)


def inside(f: Tensor, sibling: Tensor) -> Tensor:
    """g = exp(f − Z): the fraction of its attention that a leaf below keeps inside the node."""
    return torch.sigmoid(torch.where(f.isneginf(), f, f - sibling))


def _setup(ctx, inputs, output) -> None:
    _, sibling, weight, _, tree = inputs
    ctx.save_for_backward(output, sibling, weight, *tree)


def _backward(ctx, grad):
    f, sibling, weight, *tree = ctx.saved_tensors
    keep, weight = inside(f, sibling), weight.unsqueeze(1)
    # d f_root / d f_A is a product of w g along the path: the downward sweep once more.
    grad = scan_down(grad.contiguous(), weight * keep, tree)
    grad_sibling = _below_root(grad[tree[0]] * weight * (1 - keep), tree)
    return grad[tree[1]], grad_sibling, None, None, NO_GRAD


evidence.register_autograd(_backward, setup_context=_setup)
