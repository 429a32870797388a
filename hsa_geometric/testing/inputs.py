"""Random arguments for :func:`~hsa_geometric.functional.hierarchical_attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tree import TreeIndex
from .assertions import tree_of_leaf

MASSES = (None, "random", "zeros")


def attention_inputs(
    tree: TreeIndex,
    *,
    heads: int = 2,
    channels: int = 3,
    value_channels: int = 4,
    pos_channels: int | None = None,
    node_scalars: bool = False,
    mass: str | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Named arguments of one attention, normally distributed; the same seed gives the same.

    Args:
        tree: the tree.
        heads: number of heads.
        channels: width of queries and keys.
        value_channels: width of values, another one by default.
        pos_channels: width of ``pos_q`` and ``pos_k``, or none of them.
        node_scalars: whether to draw ``temperature`` (around 1) and ``bias``.
        mass: no masses, ``'random'`` positive ones, or ``'zeros'``: positive ones but for every
            third leaf and, in a forest, all leaves of the last tree.
        dtype: of all of them.
        seed: of the generator.

    Raises:
        ValueError: if :obj:`mass` is none of these.

    Example:
        >>> tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4]))
        >>> {name: list(x.shape) for name, x in attention_inputs(tree).items()}
        {'q': [3, 2, 3], 'k': [3, 2, 3], 'v': [3, 2, 4]}
    """
    if mass not in MASSES:
        raise ValueError(f"Expected 'mass' to be one of {list(MASSES)} (got '{mass}')")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    leaves, nodes = tree.num_leaves, tree.num_nodes
    inputs = {
        "q": draw(leaves, heads, channels),
        "k": draw(leaves, heads, channels),
        "v": draw(leaves, heads, value_channels),
    }
    if pos_channels is not None:
        inputs["pos_q"] = draw(nodes, heads, pos_channels)
        inputs["pos_k"] = draw(nodes, heads, pos_channels)
    if node_scalars:
        inputs["temperature"] = 1 + 0.3 * draw(nodes, heads)
        inputs["bias"] = draw(nodes, heads)
    if mass is not None:
        inputs["mass"] = 0.2 + draw(leaves).abs()
        if mass == "zeros":
            inputs["mass"][::3] = 0
            if tree.num_trees > 1:
                inputs["mass"][tree_of_leaf(tree) == tree.num_trees - 1] = 0
    return {name: x.to(tree.device, dtype) for name, x in inputs.items()}
