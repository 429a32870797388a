r"""The two recursions of scalars, by levels.

.. math::
    f_C = \sum_{A \in \mathrm{chd}(C)} w_A \, \mathrm{logaddexp}(f_A, S_A) \qquad\qquad
    W_A = W_{\mathrm{parent}(A)} \, g_A
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...tree import TreeIndex
from .sweeps import add_to_parents, from_parents, levels_of, spread


def evidence(leaf_f: Tensor, total: Tensor, share: Tensor, tree: TreeIndex) -> Tensor:
    """f ``[T, H]`` from that of leaves ``[N, H]``, S ``[T, H]`` and w ``[T]``.

    A weight of 0 hides its term even where that is −∞.
    """
    f = levels_of(spread(leaf_f, tree), tree)
    s, w = levels_of(total, tree), levels_of(share.unsqueeze(-1), tree)
    for i in reversed(range(1, len(f))):
        term = torch.where(w[i] > 0, w[i] * log_add(f[i], s[i]), 0)
        f[i - 1] = add_to_parents(f[i - 1], term, i, tree)
    return torch.cat(f)


def log_add(a: Tensor, b: Tensor) -> Tensor:
    """log(eᵃ + eᵇ), which has derivatives where one is −∞ or both: that of the other, and any."""
    lost = a.isneginf() | b.isneginf()
    both = torch.logaddexp(a.masked_fill(lost, 0), b.masked_fill(lost, 0))
    return torch.where(lost, torch.maximum(a, b), both)


def product_down(keep: Tensor, tree: TreeIndex) -> Tensor:
    """W ``[T, H]``, the product of g ``[T, H]`` over each node and its ancestors."""
    w = levels_of(keep, tree)
    for i in range(1, len(w)):
        w[i] = w[i] * from_parents(w[i - 1], i, tree)
    return torch.cat(w)
