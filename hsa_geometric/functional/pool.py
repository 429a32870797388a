"""Leaf values, or those of a finer level, to the clusters of a level."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.call import accumulator
from ..tree import TreeIndex
from .checks import as_tree, check_mass_values, check_tensor
from .clusters import clusters_at
from .lift import check_cluster_rows, cluster_map
from .options import check_choice

REDUCTIONS = ("mean", "sum", "max", "attention")


def pool(
    x: Tensor,
    tree: TreeIndex | Tensor,
    level: int,
    *,
    from_level: int = -1,
    reduce: str = "mean",
    mass: Tensor | None = None,
    score: Tensor | None = None,
) -> Tensor:
    r"""Reduce the leaf values of every cluster at a level to one.

    With the clusters :math:`\ell(A)` of :func:`clusters_at`\ ``(tree, level)`` and masses
    :math:`m_i`, 1 unless given,

    .. math::
        \text{mean:}\;\; \frac{\sum_{i \in \ell(A)} m_i x_i}{\sum_{i \in \ell(A)} m_i} \qquad
        \text{sum:}\;\; \sum_{i \in \ell(A)} m_i x_i \qquad
        \text{max:}\;\; \max_{i \in \ell(A),\, m_i > 0} x_i \qquad
        \text{attention:}\;\; \frac{\sum_{i \in \ell(A)} m_i e^{s_i} x_i}
        {\sum_{i \in \ell(A)} m_i e^{s_i}}

    So a leaf of mass 2 equals two leaves, a leaf of mass 0 (padding) is not seen, and a cluster of
    mass 0 gets 0. ``attention`` is the global attention pooling of `"Gated Graph Sequence Neural
    Networks" <https://arxiv.org/abs/1511.05493>`_ within each cluster, for scores
    :math:`s_i`.

    Means of means are means, and sums of sums are sums, if each step gets the right masses: a
    mean those of its own rows (``pool(mass, tree, from_level, reduce='sum')``), and a sum only in
    its first step.

    Args:
        x: values of the leaves, or of the clusters at :obj:`from_level` in the order of
            :func:`clusters_at`.
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        level: level of the output, as for :func:`clusters_at`.
        from_level: level of :obj:`x`, at least as fine. (default: the leaves)
        reduce: ``'mean'``, ``'sum'``, ``'max'`` or ``'attention'``.
        mass: weight of each row of :obj:`x`. (default: every row weighs 1)
        score: logits for ``reduce='attention'``, one for each row of :obj:`x` or, with several
            heads, for each row and head.

    Shapes:
        - **input:** x :math:`(N, *)`, mass :math:`(N)`, score :math:`(N)` or, for x
          :math:`(N, H, *)`, :math:`(N, H)`: the leading shape of x. With :obj:`from_level`,
          :math:`N` is the number of its clusters
        - **output:** :math:`(K, *)`, one row for each cluster at :obj:`level`

    Raises:
        TypeError: if a tensor holds no floating-point numbers or a level is no integer.
        ValueError: if :obj:`reduce` is unknown, a tensor has the wrong shape or device, a mass
            is negative, infinite, NaN or requires a gradient, :obj:`score` is missing or not
            used, or some cluster at :obj:`from_level` does not lie within one at :obj:`level`
            (levels of different signs cross where trees are ragged).

    Cost: the clusters, and one pass over the :math:`O(N)` rows. Sums are taken in float32 at least;
    on CUDA their order, hence the last bit, may differ between runs. The number of clusters
    depends on data, so ``torch.compile`` breaks its graph here.

    Example:
        >>> import torch
        >>> parent = torch.tensor([3, 3, 4, 4, 4])  # leaves 0 and 1 below node 3, leaf 2 beside it
        >>> x = torch.tensor([1.0, 3.0, 8.0])
        >>> pool(x, parent, level=1)
        tensor([2., 8.])
        >>> pool(x, parent, level=1, mass=torch.tensor([3.0, 1.0, 0.0]))
        tensor([1.5000, 0.0000])
        >>> pool(pool(x, parent, 1, reduce="max"), parent, 0, from_level=1, reduce="max")
        tensor([8.])
    """
    tree = as_tree(tree, sharded=True)
    check_tensor(x, "x")
    check_choice(reduce, "reduce", REDUCTIONS)
    coarse = clusters_at(tree, level)
    index = cluster_map(tree, coarse, level, from_level, "from_level")
    check_cluster_rows(x, "x", index.numel(), from_level, tree)
    if mass is not None:
        _check_mass(mass, x)
        check_cluster_rows(mass, "mass", index.numel(), from_level, tree)
    _check_score(score, x, reduce)
    return pool_rows(x, index, coarse.num_clusters, reduce=reduce, mass=mass, score=score)


def pool_rows(
    x: Tensor,
    index: Tensor,
    size: int,
    *,
    reduce: str = "mean",
    mass: Tensor | None = None,
    score: Tensor | None = None,
) -> Tensor:
    """:func:`pool` of the rows with the same entry in ``index``, unchecked."""
    dtype = accumulator(x.dtype)
    if reduce == "max":
        return _max(x, index, size, mass)
    y, weight = x.to(dtype), None
    if mass is not None:
        weight = mass.to(dtype)
        y = y.masked_fill(_like(mass == 0, y), 0.0)  # whatever padding holds, NaN too
    if reduce == "attention":
        assert score is not None
        weight = _exponential(score.to(dtype), index, size, weight)
    out = _sum(y if weight is None else y * _like(weight, y), index, size)
    if reduce != "sum":
        total = _sum(y.new_ones(index.numel()) if weight is None else weight, index, size)
        out = out / _like(torch.where(total > 0, total, 1.0), out)
    return out.to(x.dtype)


def _like(weight: Tensor, x: Tensor) -> Tensor:
    """``weight`` with as many dimensions as ``x``, of which it has the first ones."""
    return weight.view(weight.shape + (1,) * (x.dim() - weight.dim()))


def _sum(x: Tensor, index: Tensor, size: int) -> Tensor:
    return x.new_zeros(size, *x.shape[1:]).index_add(0, index, x)


def _max(x: Tensor, index: Tensor, size: int, mass: Tensor | None = None) -> Tensor:
    if mass is not None:
        x = x.masked_fill(_like(mass == 0, x), -torch.inf)
    at = _like(index, x).expand_as(x)
    out = x.new_zeros(size, *x.shape[1:]).scatter_reduce(0, at, x, "amax", include_self=False)
    if mass is not None:
        out = out.masked_fill(_like(_sum(mass, index, size) == 0, out), 0.0)
    return out


def _exponential(score: Tensor, index: Tensor, size: int, mass: Tensor | None) -> Tensor:
    """``mass * exp(score)``, each cluster scaled so that its greatest score counts 1."""
    seen = score if mass is None else score.masked_fill(_like(mass == 0, score), -torch.inf)
    highest = _max(seen.detach(), index, size)
    highest = torch.where(highest.isfinite(), highest, 0.0)  # nobody is seen
    weight = (seen - highest[index]).exp()
    return weight if mass is None else weight * _like(mass, weight)


def _check_mass(mass: Tensor, x: Tensor) -> None:
    check_tensor(mass, "mass", 1)
    if mass.requires_grad:
        raise ValueError(
            "Expected 'mass' to be data without gradient (got requires_grad=True; detach it)"
        )
    check_mass_values(mass, accumulator(x.dtype))


def _check_score(score: Tensor | None, x: Tensor, reduce: str) -> None:
    if (score is not None) != (reduce == "attention"):
        expected, got = ("a", "None") if score is None else ("no", "a tensor")
        raise ValueError(f"Expected {expected} 'score' for reduce='{reduce}' (got {got})")
    if score is None:
        return
    check_tensor(score, "score", like=x)
    if score.dim() == 0 or score.shape != x.shape[: score.dim()]:
        raise ValueError(
            f"Expected 'score' to have the leading shape of 'x', {list(x.shape)} "
            f"(got {list(score.shape)})"
        )
