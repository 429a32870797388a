"""Small named trees, and the functions that build them.

A tree is a parent vector, as everywhere in this package: entry :obj:`a` is the id of the parent of
node :obj:`a`, and a root is its own parent. Builders number leaves first where that is natural;
:func:`shuffled` takes that comfort away.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def star(num_leaves: int) -> Tensor:
    """A root with :obj:`num_leaves` leaves: attention over it is flat.

    Example:
        >>> star(3)
        tensor([3, 3, 3, 3])
    """
    return torch.full((num_leaves + 1,), num_leaves)


def chain(depth: int) -> Tensor:
    """One leaf below :obj:`depth` one-child nodes: as good as the leaf alone.

    Example:
        >>> chain(3)
        tensor([1, 2, 3, 3])
    """
    return torch.arange(1, depth + 2).clamp(max=depth)


def caterpillar(depth: int) -> Tensor:
    """A spine of :obj:`depth` nodes with one leaf each, and one leaf more at the last.

    Example:
        >>> caterpillar(2)  # leaves 0 and 1 below node 3, leaf 2 beside it below the root 4
        tensor([3, 3, 4, 4, 4])
    """
    spine = torch.arange(depth + 1, 2 * depth + 1)
    above = torch.cat([spine[1:], spine[-1:]])
    return torch.cat([spine[:1], spine, above])


def balanced(branching: int, depth: int) -> Tensor:
    """All leaves at level :obj:`depth`, every family of :obj:`branching`.

    Example:
        >>> balanced(2, 2)
        tensor([4, 4, 5, 5, 6, 6, 6])
    """
    levels, start = [], 0
    for level in range(depth, 0, -1):
        size = branching**level
        levels.append(start + size + torch.arange(size) // branching)
        start += size
    return torch.cat([*levels, torch.tensor([start])])


def forest(*parents: Tensor) -> Tensor:
    """Several trees side by side, as a batch of them is: ids of each shifted past the former.

    Example:
        >>> forest(star(1), star(2))
        tensor([1, 1, 4, 4, 4])
    """
    shifted, total = [], 0
    for parent in parents:
        shifted.append(parent + total)
        total += parent.numel()
    return torch.cat(shifted)


def random_parent(
    num_nodes: int,
    *,
    num_trees: int = 1,
    reach: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
) -> Tensor:
    """A random forest, drawn without a loop: each node hangs below an earlier one.

    Args:
        num_nodes: nodes of all trees together.
        num_trees: number of trees; some may be one node.
        reach: choose each parent among the last :obj:`reach` nodes, which makes trees deep
            (1: a chain); by default among all, which makes them logarithmic in depth.
        shuffle: hand out ids at random.
        seed: of the generator; the same seed gives the same tree.

    Raises:
        ValueError: if there are fewer nodes than trees.

    Example:
        >>> random_parent(5, reach=1, shuffle=False)
        tensor([0, 0, 1, 2, 3])
    """
    if not 1 <= num_trees <= num_nodes:
        raise ValueError(
            f"Expected 'num_trees' to be in [1, {num_nodes}], one node a tree (got {num_trees})"
        )
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(num_nodes)
    width = ids if reach is None else ids.clamp(max=reach)
    draw = torch.rand(num_nodes, generator=generator, dtype=torch.float64)
    parent = ids - 1 - (draw * width).long()
    parent[:num_trees] = ids[:num_trees]
    return shuffled(parent, seed=seed) if shuffle else parent


def renumber(parent: Tensor, new_id: Tensor) -> tuple[Tensor, Tensor]:
    """The same tree with other node ids.

    Args:
        parent: ``[T]`` parent vector.
        new_id: ``[T]`` new id of each node, a permutation.

    Returns:
        The new parent vector, and the new row of each old leaf row: leaf rows follow the ids, so
        ``x_new[row] = x`` moves the leaf features along.

    Example:
        >>> renumber(star(2), torch.tensor([2, 1, 0]))
        (tensor([0, 0, 0]), tensor([1, 0]))
    """
    renumbered = torch.empty_like(parent)
    renumbered[new_id] = new_id[parent]
    inner = torch.zeros(parent.numel(), dtype=torch.bool)
    inner[parent[parent != torch.arange(parent.numel())]] = True
    leaf = new_id[~inner]
    return renumbered, leaf.argsort().argsort()


def shuffled(parent: Tensor, *, seed: int = 0) -> Tensor:
    """The same tree with random node ids.

    Example:
        >>> shuffled(star(9)).unique().numel()  # still one root, wherever it is
        1
    """
    generator = torch.Generator().manual_seed(seed)
    return renumber(parent, torch.randperm(parent.numel(), generator=generator))[0]


def collapse_chains(parent: Tensor) -> Tensor:
    """The tree without its one-child nodes: leaf rows keep their order.

    Written with plain loops, as something to compare with.

    Example:
        >>> collapse_chains(chain(3)), collapse_chains(balanced(1, 1))
        (tensor([0]), tensor([0]))
    """
    above = parent.tolist()
    children: list[list[int]] = [[] for _ in above]
    for node, up in enumerate(above):
        if up != node:
            children[up].append(node)
    kept = [node for node, below in enumerate(children) if len(below) != 1]
    new_id = {node: i for i, node in enumerate(kept)}
    collapsed = []
    for node in kept:
        up = node
        while above[up] != up:
            up = above[up]
            if up in new_id:
                break
        collapsed.append(new_id.get(up, new_id[node]))
    return torch.tensor(collapsed)


_BUILDERS: dict[str, Callable[[], Tensor]] = {
    "one_node": lambda: torch.tensor([0]),
    "single_leaf": lambda: star(1),
    "chain": lambda: chain(4),
    "star": lambda: star(7),
    "caterpillar": lambda: caterpillar(5),
    "two_levels": lambda: balanced(3, 2),
    "binary": lambda: balanced(2, 3),
    # Leaves at levels 1, 2 and 3; families of 3, 2 and 2.
    "unequal_depths": lambda: torch.tensor([7, 7, 5, 6, 6, 7, 5, 7]),
    # A one-child node at the root, one inside, and one above a leaf.
    "one_child_nodes": lambda: torch.tensor([4, 4, 5, 6, 7, 8, 7, 8, 9, 9]),
    "ragged": lambda: random_parent(16, seed=3, shuffle=False),
    "deep": lambda: random_parent(16, reach=2, seed=5, shuffle=False),
    "shuffled": lambda: random_parent(15, seed=8),
    "single_nodes": lambda: torch.arange(3),
    "forest": lambda: forest(
        star(4), torch.tensor([0]), caterpillar(3), chain(2), balanced(2, 2), star(1)
    ),
    "shuffled_forest": lambda: random_parent(18, num_trees=4, seed=2),
}

ZOO: tuple[str, ...] = tuple(_BUILDERS)
"""Names of the trees that :func:`zoo` knows: to parametrise a test with."""


def zoo(name: str) -> Tensor:
    """One of the trees named in :data:`ZOO`, freshly built. None has more than 25 nodes.

    Raises:
        ValueError: if there is no tree of that name.

    Example:
        >>> zoo("star")
        tensor([7, 7, 7, 7, 7, 7, 7, 7])
    """
    if name not in _BUILDERS:
        raise ValueError(f"Expected 'name' to be one of {list(ZOO)} (got '{name}')")
    return _BUILDERS[name]()
