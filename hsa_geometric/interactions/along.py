"""Leaves that an edge joins meet."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.checks import as_tree
from ..functional.edges import check_edge_index, check_range, check_samples
from ..functional.layout import root_of
from ..lists import InteractionLists
from ..tree import TreeIndex
from ._above import opened_above


def along(tree: TreeIndex | Tensor, edge_index: Tensor) -> InteractionLists:
    r"""Open the pairs of nodes that edges cross, so that leaves joined by an edge meet one by one.

    An edge from :math:`j` to :math:`i` lets :math:`i` attend to :math:`j`, as messages go in PyG,
    with a weight of its own. Each node is opened with itself too, so that there is no less than
    where siblings meet.

    Args:
        tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        edge_index: ``[2, E]`` rows of leaves; undirected edges stand there twice.

    Raises:
        TypeError: if :obj:`tree` is none or edges are no integer tensor.
        ValueError: if edges have another shape, rows that there are not, or join two samples.

    Cost: a sort of at most :math:`E` pairs for each level.

    Example:
        >>> tree = torch.tensor([4, 4, 5, 5, 6, 6, 6])
        >>> lists = along(tree, torch.tensor([[2], [1]]))  # leaf 1 attends to leaf 2
        >>> lists.block_ids[:, lists.block_ids[0] == 1]
        tensor([[1, 1, 1, 1],
                [0, 1, 2, 3]])
    """
    tree = as_tree(tree)
    edge_index = check_edge_index(edge_index)
    check_range(edge_index, tree.num_leaves)
    check_samples(edge_index, tree.position[root_of(tree)][tree.leaf_ids])
    inner = tree.order[tree.family_parent]
    return opened_above(tree, tree, edge_index.flip(0), torch.stack([inner, inner]))
