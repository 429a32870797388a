r"""The scalar recursion: log evidence of every subtree (the paper's eq. 8, f = −φ).

.. math::
    f_C = \sum_{A \in \mathrm{chd}(C)} w_A \, \mathrm{logaddexp}(f_A, S_A), \qquad w_A = |A| / |C|

A weight of 0 hides its term even if that is −∞, and a node of mass 0 has f = −∞.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operator import NO_GRAD, tree_operator
from .plan import Plan
from .sweeps import below_root, scan_down, segment_sum


@tree_operator("hsa_geometric::evidence")
def evidence(
    leaf_f: Tensor, sibling: Tensor, weight: Tensor, log_mass: Tensor | None, tree: list[Tensor]
) -> Tensor:
    """f ``[T, H]`` from leaf values ``[N, H]``, S ``[T, H]``, w ``[T]`` and log mass ``[T]``.

    Without log mass no node has mass 0.
    """
    plan = Plan.of(tree)
    f = sibling.new_empty(sibling.shape)
    f.index_copy_(0, plan.leaf, leaf_f)
    if not plan.levels:
        return f
    # All leaves at once, then inner nodes alone.
    inner = plan.inner
    rows, members, ptr = plan.leaf_members
    w_leaf = weight.index_select(0, members)
    term = torch.logaddexp(leaf_f, sibling.index_select(0, plan.leaf))
    if log_mass is not None:
        term.masked_fill_((weight.index_select(0, plan.leaf) == 0).unsqueeze(1), 0.0)
    by_family = segment_sum(term, ptr, w_leaf, rows)
    f_inner = torch.empty_like(by_family).index_copy_(0, plan.family_inner, by_family)
    w_inner, s_inner = weight.index_select(0, inner), sibling.index_select(0, inner)
    if log_mass is not None:
        f_inner.masked_fill_(log_mass.index_select(0, inner).isneginf().unsqueeze(1), -math.inf)
        s_inner.masked_fill_((w_inner == 0).unsqueeze(1), 0.0)
    # Slices one by one: a list of all, of thousands in a deep tree, would set off Python's garbage
    # collector at each call.
    for level in reversed(plan.levels):
        lo, hi = level.lo, level.hi
        if lo == hi:
            continue
        term, w = torch.logaddexp(f_inner[lo:hi], s_inner[lo:hi]), w_inner[lo:hi]
        if level.f1 - level.f0 > 1:
            total = segment_sum(term, level.inner_ptr, w)
            f_inner.index_add_(0, level.inner_parents, total)
        else:  # deep trees are made of such levels; the parent is the one inner node above
            above = f_inner[lo - 1 : lo]
            if hi - lo > 1:
                above += (term * w.unsqueeze(1)).sum(0)
            else:
                above.addcmul_(term, w.unsqueeze(1))
    return f.index_copy_(0, inner, f_inner)


def inside(f: Tensor, sibling: Tensor) -> Tensor:
    """g = exp(f − Z): the fraction of its attention that a leaf below keeps inside the node."""
    return torch.sigmoid(torch.where(f.isneginf(), f, f - sibling))


@evidence.register_fake
def _(leaf_f, sibling, weight, log_mass, tree):
    return sibling.new_empty(sibling.shape)


def _setup(ctx, inputs, output) -> None:
    _, sibling, weight, _, tree = inputs
    ctx.save_for_backward(output, sibling, weight, *tree)


def _backward(ctx, grad):
    f, sibling, weight, *tree = ctx.saved_tensors
    keep, weight = inside(f, sibling), weight.unsqueeze(1)
    # d f_root / d f_A is a product of w g along the path: the downward sweep once more.
    grad = scan_down(grad.contiguous(), weight * keep, tree)
    grad_sibling = grad.index_select(0, tree[0]) * weight * (1 - keep)
    return (
        grad.index_select(0, tree[1]), below_root(grad_sibling, tree), None, None, NO_GRAD
    )  # fmt: skip


evidence.register_autograd(_backward, setup_context=_setup)
