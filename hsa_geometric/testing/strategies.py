"""Random forests for hypothesis, which is imported only when a strategy is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def forests(
    *, min_nodes: int = 1, max_nodes: int = 24, max_trees: int | None = None, shuffle: bool = True
) -> SearchStrategy[Tensor]:
    """Parent vectors: one tree or many, of any shape, ids in any order.

    One-child nodes, chains, stars and single nodes are all among them; examples shrink towards
    fewer nodes, flatter trees and ids in order.

    Args:
        min_nodes: least number of nodes.
        max_nodes: greatest number of nodes.
        max_trees: greatest number of trees; by default as many as there are nodes.
        shuffle: hand out ids in any order; otherwise parents come before children.

    Raises:
        ImportError: if hypothesis is not installed.

    Example:
        >>> from hypothesis import given
        >>> @given(forests(max_trees=1))
        ... def test_a_tree_has_one_root(parent):
        ...     assert (parent == torch.arange(parent.numel())).sum() == 1
        >>> test_a_tree_has_one_root()
    """
    from hypothesis import strategies as st

    @st.composite
    def draw_forest(draw) -> Tensor:
        num_nodes = draw(st.integers(min_nodes, max_nodes))
        parent, trees = [0], 1
        for node in range(1, num_nodes):
            # The value after all earlier nodes stands for the node itself: a new root.
            free = max_trees is None or trees < max_trees
            parent.append(draw(st.integers(0, node if free else node - 1)))
            trees += parent[-1] == node
        if not shuffle:
            return torch.tensor(parent)
        new_id = draw(st.permutations(range(num_nodes)))
        renumbered = [0] * num_nodes
        for node, above in enumerate(parent):
            renumbered[new_id[node]] = new_id[above]
        return torch.tensor(renumbered)

    return draw_forest()
