"""Random interaction lists."""

from __future__ import annotations

import torch
from torch import Tensor

from ..interactions._descend import descend
from ..lists import InteractionLists
from ..tree import TreeIndex


def random_lists(
    query_tree: TreeIndex,
    key_tree: TreeIndex | None = None,
    *,
    opened: float = 0.5,
    hidden: float = 0.0,
    itself: bool = False,
    seed: int = 0,
) -> InteractionLists:
    """Lists whose pairs are opened, or hidden, by chance; the same seed gives the same.

    Args:
        query_tree: the tree of the queries.
        key_tree: the tree of the keys. (default: :obj:`query_tree`)
        opened: probability of opening a pair that meets and has children.
        hidden: probability of hiding one that is not opened.
        itself: whether each node's pair with itself is opened always and hidden never.
        seed: of the generator.

    Example:
        >>> tree = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> random_lists(tree, opened=1.0)
        InteractionLists(opened=5, blocks=16, hidden=0, logits per leaf=4)
    """
    key_tree = query_tree if key_tree is None else key_tree
    generator = torch.Generator().manual_seed(seed)

    def drawn(query: Tensor, key: Tensor, p: float, own: bool) -> Tensor:
        chance = torch.rand(query.shape[0], generator=generator).to(query.device) < p
        return torch.where(query == key, own, chance) if itself else chance

    return descend(
        query_tree,
        key_tree,
        lambda query, key: drawn(query, key, opened, True),
        (lambda query, key: drawn(query, key, hidden, False)) if hidden else None,
    )
