"""Families in space: points and grids."""

from __future__ import annotations

import torch
from torch import Tensor

from ...functional.options import check_integer, check_positive
from ...functional.sweeps import aggregate
from ...tree import TreeIndex
from .domain import DomainEncoding, Where, register_domain


def relative_positions(pos: Tensor, tree: TreeIndex, mass: Tensor | None = None) -> Tensor:
    r"""``[T, d]`` centres relative to the parent's, in units of the family's rms radius.

    .. math::
        p_A = \frac{c_A - c_C}{r_C}, \qquad
        r_C^2 = \sum_{A \in \mathrm{chd}(C)} \frac{|A|}{|C|} \| c_A - c_C \|^2

    with the mean position :math:`c` of the leaves below a node, weighted by mass. A node of mass 0,
    a root and a member of a family in one place have 0.
    """
    if mass is None:
        total = tree.count[tree.position].to(pos.dtype)
        sums = aggregate(pos, tree)
    else:
        weight = mass.to(pos.dtype)
        pos = pos.masked_fill((weight == 0)[:, None], 0.0)  # whatever padding holds
        total = aggregate(weight, tree)
        sums = aggregate(pos * weight[:, None], tree)
    centre = sums / torch.where(total > 0, total, 1.0)[:, None]
    above = centre[tree.parent]
    offset = (centre - above).masked_fill((total == 0)[:, None], 0.0)
    share = total / torch.where(total > 0, total, 1.0)[tree.parent]
    square = share * offset.square().sum(1)
    radius = torch.zeros_like(square).index_add_(0, tree.parent, square).sqrt()[tree.parent]
    # Members that differ by rounding alone are in one place.
    least = 16 * torch.finfo(pos.dtype).eps * above.abs().amax(1)
    apart = radius > least.clamp(min=torch.finfo(pos.dtype).tiny)
    return torch.where(apart[:, None], offset / torch.where(apart, radius, 1.0)[:, None], 0.0)


@register_domain("points")
class PointEncoding(DomainEncoding):
    r"""Random Fourier features of coordinates (appendix C of `the paper
    <https://arxiv.org/abs/2509.15448>`_; `Rahimi and Recht, 2007
    <https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines>`_).

    .. math::
        \phi(p) = \sqrt{2 / F} \; \big[ \cos(\Omega p),\; \sin(\Omega p) \big], \qquad
        \Omega_{jk} \sim \mathcal N(0, 1 / \ell^2)

    so that before projection :math:`\phi(p) \cdot \phi(p')` is about
    :math:`\exp(-\|p - p'\|^2 / 2 \ell^2)`. The place :math:`p` is :obj:`tree_pos` where it is
    given; otherwise the mean of :obj:`pos` over the leaves below a node, relative to that of its
    parent, in units of the family's root mean square radius. :math:`\Omega` is drawn once and kept
    with the weights.

    Args:
        dim: number of coordinates. (default: :obj:`3`)
        out_channels: number of features :math:`F`, even. (default: :obj:`16`)
        length: the length :math:`\ell` within which places are alike. (default: :obj:`1.0`)
    """

    name = "points"

    def __init__(self, dim: int = 3, out_channels: int = 16, length: float = 1.0):
        super().__init__()
        check_integer(dim, "dim", 1)
        check_integer(out_channels, "out_channels", 2)
        check_positive(length, "length")
        if out_channels % 2:
            raise ValueError(f"Expected 'out_channels' to be even (got {out_channels})")
        self.dim = dim
        self.out_channels = out_channels
        self.length = length
        self.frequency: Tensor
        self.register_buffer("frequency", torch.empty(dim, out_channels // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the frequencies anew."""
        self.frequency.normal_(std=1 / self.length)

    def forward(self, where: Where) -> Tensor:
        """Features ``[n, out_channels]``."""
        if where.tree_pos is None and where.pos is not None:
            if where.pos.shape[1] != self.dim:
                raise ValueError(
                    f"Expected 'pos' to have {self.dim} columns for the domain '{self.name}' "
                    f"(got {where.pos.shape[1]})"
                )
            place = where.of(relative_positions(where.pos, where.tree, where.mass))
        else:
            place = where.given(self.name, self.dim, " or 'pos'")
        angle = place.to(self.frequency.dtype) @ self.frequency
        return torch.cat([angle.cos(), angle.sin()], dim=1) * (2 / self.out_channels) ** 0.5


@register_domain("grid")
class GridEncoding(PointEncoding):
    """:class:`PointEncoding` of cells of a grid: of their row and column, unless said otherwise.

    Args:
        dim: number of axes. (default: :obj:`2`)
        out_channels: number of features, even. (default: :obj:`16`)
        length: the distance within which places are alike, in cells where :obj:`tree_pos` counts
            them. (default: :obj:`1.0`)
    """

    name = "grid"

    def __init__(self, dim: int = 2, out_channels: int = 16, length: float = 1.0):
        super().__init__(dim, out_channels, length)
