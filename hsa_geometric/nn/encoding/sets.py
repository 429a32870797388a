"""Unordered families."""

from __future__ import annotations

from torch import Tensor

from .domain import DomainEncoding, Where, register_domain


@register_domain("set")
class SetEncoding(DomainEncoding):
    """No place at all: siblings may change places, and nothing else changes."""

    def forward(self, where: Where) -> Tensor:
        """Features ``[n, 0]``."""
        tree = where.tree
        rows = tree.num_nodes if where.node is None else where.node.numel()
        return tree.parent.new_empty(rows, 0).float()
