"""Families in order."""

from __future__ import annotations

import torch
from torch import Tensor

from ...functional.options import check_integer, check_positive
from ...functional.sibling_rank import sibling_rank
from .domain import DomainEncoding, Where, register_domain


def _places(where: Where) -> Tensor:
    """Column 0 of ``tree_pos``, or else the rank among siblings."""
    if where.tree_pos is not None:
        return where.given("sequence", 1)[:, 0]
    return where.of(sibling_rank(where.tree)).float()


@register_domain("sequence")
class SequenceEncoding(DomainEncoding):
    r"""Sines and cosines of the rank, as in `"Attention Is All You Need"
    <https://arxiv.org/abs/1706.03762>`_.

    .. math::
        \phi(p) = \sqrt{2 / F} \; \big[ \sin(p / \lambda_j),\; \cos(p / \lambda_j) \big]_j,
        \qquad \lambda_j = \lambda^{2j / F}

    The place :math:`p` is the rank among the siblings, by
    :func:`~hsa_geometric.functional.sibling_rank`, or column 0 of :obj:`tree_pos` where it is
    given.

    Args:
        out_channels: number of features :math:`F`, even. (default: :obj:`16`)
        max_period: longest :math:`\lambda`; families of words, sentences and sections are shorter
            than whole texts. (default: :obj:`1000.0`)
    """

    def __init__(self, out_channels: int = 16, max_period: float = 1000.0):
        super().__init__()
        check_integer(out_channels, "out_channels", 2)
        if out_channels % 2:
            raise ValueError(f"Expected 'out_channels' to be even (got {out_channels})")
        check_positive(max_period, "max_period")
        self.out_channels = out_channels
        half = out_channels // 2
        rate = max_period ** -(torch.arange(half, dtype=torch.float64) / half)
        self.rate: Tensor
        self.register_buffer("rate", rate.float(), persistent=False)

    def forward(self, where: Where) -> Tensor:
        """Features ``[n, out_channels]``."""
        angle = _places(where)[:, None] * self.rate
        return torch.cat([angle.sin(), angle.cos()], dim=1) * (2 / self.out_channels) ** 0.5


@register_domain("ranks")
class RankEncoding(DomainEncoding):
    r"""A learned vector for each rank among siblings; ranks from the last one on share it.

    Args:
        num_ranks: number of vectors.
        out_channels: their size. (default: :obj:`16`)
    """

    def __init__(self, num_ranks: int = 64, out_channels: int = 16):
        super().__init__()
        check_integer(num_ranks, "num_ranks", 1)
        check_integer(out_channels, "out_channels", 1)
        self.out_channels = out_channels
        self.table = torch.nn.Embedding(num_ranks, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew, about as long as those of the other domains."""
        torch.nn.init.normal_(self.table.weight, std=self.out_channels**-0.5)

    def forward(self, where: Where) -> Tensor:
        """Features ``[n, out_channels]``."""
        place = _places(where).long().clamp(0, self.table.num_embeddings - 1)
        out: Tensor = self.table(place)
        return out
