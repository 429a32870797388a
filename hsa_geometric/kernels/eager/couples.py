r"""Attention in families of one and of two, where the softmax of the only sibling's logit is 1.

.. math::
    M_A = \bar v_B, \qquad S_A = \log|B| + \mathrm{scale} \cdot \bar q_A \cdot \bar k_B

for siblings A and B; an only child has M = 0 and S = −∞. There is nothing to share between heads
or to multiply as matrices, so rows move whole. Molecules and dendrograms are full of such families.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .blocks import Bundle


def attend(
    bundle: Bundle,
    qkv: Tensor,
    log_mass: Tensor,
    heads: int,
    width: int,
    scale: float,
    mean: Tensor,
    total: Tensor,
    own: Tensor,
) -> None:
    """Write M, S and own logits of the bundle's members to ``mean [T + 1, H Dv]`` and the others.

    ``log_mass [T + 1]`` ends with −∞, as members are absent of whom the last row is the target.
    """
    ((_, target),) = bundle.blocks
    families, size = target.shape
    q, k = bundle.take_rows(qkv[:, : 2 * heads * width]).unflatten(-1, (2, heads, -1)).unbind(2)
    bias = log_mass.index_select(0, target.view(-1)).view(families, size, 1)
    # [F, b, b, H], and of the b * b pairs those of a member with itself.
    s = (q.unsqueeze(2) * k.unsqueeze(1)).sum(-1).view(families, -1, heads)
    bundle.put_rows(own, torch.add(bias, s[:, :: size + 1], alpha=scale))
    if size == 1:
        bundle.put_rows(total, s.new_full(s.shape, -math.inf))
        bundle.put_rows(mean, mean.new_zeros(families, 1, mean.shape[1]))
        return
    s = torch.add(bias.flip(1), s[:, 1:3], alpha=scale)
    bundle.put_rows(total, s)
    v = bundle.take_rows(qkv[:, 2 * heads * width :], sibling=True).unflatten(-1, (heads, -1))
    bundle.put_rows(mean, v.masked_fill_(s.isneginf().unsqueeze(-1), 0.0).flatten(2))


def differentiate(
    bundle: Bundle,
    grad_mean: Tensor,
    grad_total: Tensor,
    grad_own: Tensor,
    total: Tensor,
    qkv: Tensor,
    heads: int,
    width: int,
    scale: float,
    grad_qkv: Tensor,
) -> None:
    """Write the gradients of the bundle's members to ``grad_qkv [T + 1, C]``.

    Gradients and ``total`` are ``[T, *]``.
    """
    q, k = bundle.take_rows(qkv[:, : 2 * heads * width]).unflatten(-1, (2, heads, -1)).unbind(2)
    grad = q.new_empty(*q.shape[:2], qkv.shape[1])
    grad_q, grad_k = grad[..., : 2 * heads * width].unflatten(-1, (2, heads, -1)).unbind(2)
    grad_v = grad[..., 2 * heads * width :].unflatten(-1, (heads, -1))
    by_own = (bundle.take_rows(grad_own) * scale).unsqueeze(-1)
    torch.mul(k, by_own, out=grad_q)
    torch.mul(q, by_own, out=grad_k)
    if q.shape[1] == 1:
        grad_v.zero_()
    else:
        alone = bundle.take_rows(total).isneginf().unsqueeze(-1)
        by_logit = (bundle.take_rows(grad_total) * scale).unsqueeze(-1).masked_fill_(alone, 0.0)
        for a, b in ((0, 1), (1, 0)):
            grad_q[:, a].addcmul_(k[:, b], by_logit[:, a])
            grad_k[:, b].addcmul_(q[:, a], by_logit[:, a])
        by_mean = bundle.take_rows(grad_mean, sibling=True).unflatten(-1, (heads, -1))
        torch.mul(by_mean, alone.flip(1).logical_not(), out=grad_v)
    bundle.put_rows(grad_qkv, grad)
