"""The blocks of attention over a hierarchy."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hsa_geometric import functional
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional import AttentionBlocks
from hsa_geometric.surgery._check import check_hierarchy
from hsa_geometric.tree import TreeIndex


def attention_blocks(
    h: Hierarchy | TreeIndex | Tensor, q: Tensor, k: Tensor, **options: Any
) -> AttentionBlocks:
    r"""Attention over a hierarchy as sparse blocks, to look at, at linear cost.

    Args:
        h: a sample or a batch, whose masses count unless :obj:`mass` is given; or a tree alone.
        q: ``[N, H, D]`` queries of the leaves.
        k: ``[N, H, D]`` keys.
        **options: as for :func:`hsa_geometric.functional.attention_blocks`: :obj:`mass`,
            :obj:`lists`, :obj:`self_loop`, :obj:`max_blocks` …

    Raises:
        TypeError, ValueError: as there, or if :obj:`h` is no valid hierarchy.

    Cost: as there.

    Example:
        >>> import torch
        >>> from hsa_geometric.builders import from_parent
        >>> h = from_parent([3, 3, 4, 4, 4], mass=torch.tensor([1.0, 1.0, 2.0]))
        >>> q = k = torch.zeros(3, 1, 4)
        >>> attention_blocks(h, q, k).attention_from(0)
        tensor([[0.2500, 0.2500, 0.5000]])
    """
    if isinstance(h, (TreeIndex, Tensor)):
        return functional.attention_blocks(q, k, h, **options)
    check_hierarchy(h)
    options.setdefault("mass", None if h.mass is None else h.mass.detach())
    return functional.attention_blocks(q, k, h.tree, **options)
