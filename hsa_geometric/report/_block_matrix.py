"""The attention matrix as an image, without the matrix."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from hsa_geometric.functional import AttentionBlocks
from hsa_geometric.functional.layout import layout
from hsa_geometric.tree import TreeIndex

BLOCKS = 1 << 20  # at a time


def block_matrix(blocks: AttentionBlocks, weight: Tensor, pixels: int) -> Tensor:
    r"""``[P_q, P_k]`` mean of :math:`\theta_{ij}` in each pixel, leaves in tree order.

    Within a block all are taken for its mean. A block covers a part of each pixel that is the
    product of a part of its row and of its column. Along an axis the parts of an interval are

    .. math:: C(b) - C(a), \qquad C(x)_p = \min(\max(x - p, 0), 1)

    and the differences of C between pixels are 0 but for two. So 16 numbers are added for each
    block, whatever its size, and summed over rows and columns at the end.
    """
    sides = [
        _ends(tree, at, pixels)
        for tree, at in zip((blocks.query_tree, blocks.key_tree), blocks.blocks, strict=True)
    ]
    (rows, _, height), (columns, keys, width) = sides
    value = weight.double() / keys
    sums = value.new_zeros((height + 2) * (width + 2))
    for lo in range(0, value.numel(), BLOCKS):
        part = slice(lo, lo + BLOCKS)
        for (i, a), (j, b) in product(_steps(rows, part), _steps(columns, part)):
            sums.index_add_(0, i * (width + 2) + j, value[part] * a * b)
    image = sums.view(height + 2, width + 2)
    for axis in (0, 1):
        image = image.flip(axis).cumsum(axis).flip(axis)
    return image[1:-1, 1:-1].clamp(min=0)


def ends_of(tree: TreeIndex, at: Tensor) -> Tensor:
    """``[2, M]`` where the leaves below the nodes at these positions begin and end."""
    start = layout(tree).start[tree.order][at]
    return torch.stack([start, start + tree.count[at]])


def _ends(tree: TreeIndex, at: Tensor, pixels: int) -> tuple[Tensor, Tensor, int]:
    """``[2, M]`` where the nodes begin and end, in pixels, their leaves, and how many pixels."""
    size = min(pixels, tree.num_leaves)
    ends = ends_of(tree, at)
    return ends.double() * size / tree.num_leaves, tree.count[at], size


def _steps(ends: Tensor, part: slice) -> list[tuple[Tensor, Tensor]]:
    """Places, counted from −1, and differences of C(b) − C(a) between one pixel and the next."""
    out = []
    for x, sign in zip(ends[:, part], (-1, 1), strict=True):
        place = x.long()
        rest = x - place
        out += [(place, sign * (1 - rest)), (place + 1, sign * rest)]
    return out
