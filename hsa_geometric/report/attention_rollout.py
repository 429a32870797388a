"""Attention through several layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hsa_geometric.functional import AttentionBlocks
from hsa_geometric.functional.attention_blocks import check_leaf
from hsa_geometric.functional.checks import check_tensor


@torch.no_grad()
def attention_rollout(
    layers: Sequence[AttentionBlocks], leaf: int | Tensor, *, residual: float = 0.5
) -> Tensor:
    r"""What a leaf attends to through a stack of layers, after `"Quantifying Attention Flow in
    Transformers" <https://arxiv.org/abs/2005.00928>`_.

    .. math::
        y = x^{\top} A_L \cdots A_2 A_1, \qquad
        A_l = r \, I + (1 - r) \, \tfrac{1}{H} \sum_h \theta^{(h)}_l

    where :math:`x` is 1 at the leaf. As rows of :math:`\theta` sum to one, :math:`y` does.

    Args:
        layers: blocks of each layer, in the order in which the model runs them; see
            :func:`attention_blocks` and ``return_attention_weights='blocks'``.
        leaf: row of a leaf, or a number for each leaf ``[N]`` to start from.
        residual: :math:`r`, how much goes past attention.

    Shapes:
        - **output:** :math:`(N)`

    Raises:
        TypeError: if a layer is no AttentionBlocks.
        ValueError: if there are no layers, or they do not fit each other; if there is no such leaf;
            if :obj:`residual` is not in [0, 1].

    Cost: :math:`O((M + T) H)` for each layer of :math:`M` blocks.

    Example:
        >>> import torch
        >>> q = k = torch.zeros(4, 1, 2)
        >>> from hsa_geometric.functional import attention_blocks
        >>> blocks = attention_blocks(q, k, torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> attention_rollout([blocks, blocks], 0)
        tensor([0.4375, 0.1875, 0.1875, 0.1875])
    """
    if not isinstance(layers, Sequence):
        raise TypeError(f"Expected 'layers' to be a sequence (got {type(layers).__name__})")
    if not layers:
        raise ValueError("Expected 'layers' to hold at least one (got none)")
    for i, blocks in enumerate(layers):
        if not isinstance(blocks, AttentionBlocks):
            raise TypeError(
                f"Expected 'layers' to hold AttentionBlocks (got {type(blocks).__name__} at {i})"
            )
        leaves = {blocks.query_tree.num_leaves, blocks.key_tree.num_leaves}
        if len(leaves | {layers[0].query_tree.num_leaves}) > 1:
            raise ValueError(f"Expected 'layers' over the same leaves (got others at {i})")
    if not 0.0 <= residual <= 1.0:
        raise ValueError(f"Expected 'residual' to be in [0, 1] (got {residual})")
    last = layers[-1]
    if isinstance(leaf, Tensor):
        check_tensor(leaf, "leaf", 1, like=last.weight)
        if leaf.shape[0] != last.query_tree.num_leaves:
            raise ValueError(
                f"Expected 'leaf' to have a number for each of the "
                f"{last.query_tree.num_leaves} leaves (got {leaf.shape[0]})"
            )
        x = leaf.to(last.weight.dtype)
    else:
        check_leaf(leaf, last.query_tree)
        x = last.weight.new_zeros(last.query_tree.num_leaves)
        x[leaf] = 1
    for blocks in reversed(layers):
        x = residual * x + (1 - residual) * blocks.rmatmul(x).mean(0)
    return x
