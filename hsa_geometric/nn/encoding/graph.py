"""Families whose members are joined by edges."""

from __future__ import annotations

import torch
from torch import Tensor

from ...functional.clusters import climb
from ...functional.edges import check_edge_index, check_range
from ...functional.options import check_integer
from ...tree import TreeIndex
from .domain import DomainEncoding, Where, register_domain


def sibling_edges(tree: TreeIndex, edge_index: Tensor) -> Tensor:
    r"""The edges of leaves as edges of siblings: each joins the two children of the node where the
    paths upward from its ends meet.

    Args:
        tree: the tree.
        edge_index: ``[2, E]`` rows of leaves.

    Returns:
        ``[2, E']`` ids of siblings, sorted, each pair once; edges between trees, and of a leaf to
        itself, join none.

    Cost: :math:`O((E + T) \log \text{depth})`, by binary strides.
    """
    edge_index = check_edge_index(edge_index)
    check_range(edge_index, tree.num_leaves)
    jumps = [tree.up]
    for _ in range(max(tree.depth, 1).bit_length()):
        jumps.append(jumps[-1][jumps[-1]])
    level = tree.level[tree.order]  # by position
    a, b = tree.leaf[edge_index]
    high = torch.minimum(level[a], level[b])
    a, b = (climb(tree.up, end, level[end] - high) for end in (a, b))  # to one level
    for jump in reversed(jumps):
        apart = jump[a] != jump[b]
        a, b = torch.where(apart, jump[a], a), torch.where(apart, jump[b], b)
    siblings = (a != b) & (tree.up[a] == tree.up[b]) & (a >= tree.num_trees)
    pairs = torch.stack([tree.order[a], tree.order[b]])[:, siblings]
    return torch.unique(pairs, dim=1)


def random_walk_positions(tree: TreeIndex, edge_index: Tensor, steps: int) -> Tensor:
    r"""``[T, steps]`` probability that a random walk among the siblings of a node is back at it
    after 1, 2, … steps: the random-walk encoding of `"Graph Neural Networks with Learnable
    Structural and Positional Representations" <https://arxiv.org/abs/2110.07875>`_, in each family.
    """
    num = tree.num_nodes
    row, col = sibling_edges(tree, torch.cat([edge_index, edge_index.flip(0)], dim=1))
    degree = torch.bincount(row, minlength=num)
    walk = torch.sparse_coo_tensor(
        torch.stack([row, col]), 1.0 / degree[row], (num, num), check_invariants=False
    ).coalesce()
    power, out = walk, torch.zeros(num, steps, device=tree.device)
    for step in range(steps):
        index, value = power.indices(), power.values()
        home = index[0] == index[1]
        out[index[0][home], step] = value[home]
        if step + 1 < steps:
            power = torch.sparse.mm(power, walk).coalesce()
    return out


@register_domain("graph")
class GraphEncoding(DomainEncoding):
    r"""Random-walk positions in the graph of the siblings.

    Two siblings are joined if an edge joins a leaf of the one and a leaf of the other. The place is
    the probability of being back after :math:`1, \dots, F` steps of a random walk on that graph,
    worked out from :obj:`edge_index`; without edges it is :obj:`tree_pos` (Laplacian eigenvectors,
    for example).

    Args:
        out_channels: number of steps :math:`F`, hence of features. (default: :obj:`8`)
    """

    def __init__(self, out_channels: int = 8):
        super().__init__()
        check_integer(out_channels, "out_channels", 1)
        self.out_channels = out_channels

    def forward(self, where: Where) -> Tensor:
        """Features ``[n, out_channels]``."""
        if where.edge_index is not None:
            with torch.no_grad():
                place = random_walk_positions(where.tree, where.edge_index, self.out_channels)
            return where.of(place)
        return where.given("graph", self.out_channels, " or 'edge_index'").float()
