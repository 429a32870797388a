"""The registry of shapes: a name, a number of leaves and a seed give a parent vector.

All builders are tensor code, so that trees of a million leaves take less than a second. Leaves come
first within each tree, and each root is the last node of its tree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

DEEP_LEVELS = 3000  # of the caterpillar, where it has so many leaves
ATOMS, GROUPS, FRAGMENTS = 25, 10, 5  # of each molecule


def balanced(num_leaves: int, branching: int, seed: int = 0) -> Tensor:
    """Families of :obj:`branching`, all leaves at one level; a level's last family is what is left.

    Example:
        >>> balanced(4, 2)
        tensor([4, 4, 5, 5, 6, 6, 6])
    """
    levels, start, width = [], 0, num_leaves
    while width > 1 or start == 0:
        levels.append(start + width + torch.arange(width) // branching)
        start += width
        width = -(-width // branching)
    return torch.cat([*levels, torch.tensor([start])])


def ragged(num_leaves: int, seed: int = 0, smallest: int = 2, largest: int = 20) -> Tensor:
    """Random families of 2 to 20 and leaves at unequal levels, as clustering leaves them.

    From the leaves up, four of five nodes of a level are grouped with their neighbours in order;
    the fifth waits for a later level. Only the root's family may be smaller than asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    parent = torch.arange(num_leaves)
    pool = torch.arange(num_leaves)  # subtrees without a parent, in the order of their leaves
    while pool.numel() > largest:
        joins = torch.rand(pool.numel(), generator=generator) < 0.8
        members = pool[joins]
        count = members.numel()
        draw = torch.randint(smallest, largest + 1, (count // smallest + 1,), generator=generator)
        last = draw.cumsum(0)
        number = torch.searchsorted(last, torch.arange(count), right=True)
        rest = number == number[-1:]
        if int(rest.sum()) < smallest:  # the last family was cut short: it waits too
            joins[joins.nonzero().view(-1)[rest]] = False
            members, number = pool[joins], number[~rest]
        if members.numel() == 0:
            continue
        new = parent.numel() + torch.arange(int(number[-1]) + 1)
        parent[members] = parent.numel() + number
        parent = torch.cat([parent, new])
        # A new node stands where its first member stood.
        starts = torch.ones_like(number, dtype=torch.bool)
        starts[1:] = number[1:] != number[:-1]
        place = torch.cat([(~joins).nonzero(), joins.nonzero()[starts]]).view(-1)
        pool = torch.cat([pool[~joins], new])[place.argsort()]
    if num_leaves == 1:
        return torch.tensor([0])
    root = parent.numel()
    parent[pool] = root
    return torch.cat([parent, torch.tensor([root])])


def star(num_leaves: int, seed: int = 0) -> Tensor:
    """One family of all leaves, where hierarchical attention is softmax attention."""
    return torch.full((num_leaves + 1,), num_leaves)


def deep(num_leaves: int, seed: int = 0) -> Tensor:
    """A caterpillar 3,000 deep (or one level for each leaf, if fewer), its leaves spread evenly."""
    depth = min(DEEP_LEVELS, num_leaves)
    leaves = num_leaves + torch.arange(num_leaves) * depth // num_leaves
    spine = num_leaves + torch.arange(1, depth + 1).clamp(max=depth - 1)
    return torch.cat([leaves, spine])


def molecules(num_leaves: int, seed: int = 0) -> Tensor:
    """A batch of molecules as PyG would collate it: 25 atoms in 10 groups in 5 fragments in a root.

    Cuts between groups are drawn anew for each molecule. As many molecules as fit
    :obj:`num_leaves`, at least one.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, num_leaves // ATOMS)
    draw = torch.rand(batch, ATOMS - 1, generator=generator).argsort(1)
    cut = torch.zeros(batch, ATOMS, dtype=torch.long)
    cut[:, 1:] = (draw < GROUPS - 1).long()  # nine cuts among the 24 places between atoms
    group = cut.cumsum(1)
    first_fragment = ATOMS + GROUPS
    root = first_fragment + FRAGMENTS
    inner = torch.cat(
        [
            first_fragment + torch.arange(GROUPS) * FRAGMENTS // GROUPS,
            torch.full((FRAGMENTS + 1,), root),
        ]
    )
    parent = torch.cat([ATOMS + group, inner.expand(batch, -1)], dim=1)
    return (parent + torch.arange(batch).unsqueeze(1) * (root + 1)).flatten()


@dataclass(frozen=True)
class Shape:
    """An entry of the registry.

    Attributes:
        build: takes ``num_leaves`` and ``seed``, returns a parent vector.
        about: one line for ``--list``.
        largest: the most leaves in a default run, which should take minutes.
    """

    build: Callable[..., Tensor]
    about: str
    largest: int


SIZES = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)

SHAPES: dict[str, Shape] = {
    "balanced": Shape(partial(balanced, branching=8), "balanced, families of 8", SIZES[-1]),
    "ragged": Shape(ragged, "random families of 2-20, leaves at unequal levels", SIZES[-2]),
    "molecules": Shape(molecules, "a batch of trees of 25 atoms, depth 3", SIZES[-3]),
    "deep": Shape(deep, f"a caterpillar, {DEEP_LEVELS:,} deep", SIZES[-4]),
    "star": Shape(star, "one family: softmax attention", SIZES[2]),
    "balanced-2": Shape(partial(balanced, branching=2), "balanced, families of 2", SIZES[-3]),
    "balanced-16": Shape(partial(balanced, branching=16), "balanced, families of 16", SIZES[-3]),
    "balanced-64": Shape(partial(balanced, branching=64), "balanced, families of 64", SIZES[-3]),
}
DEFAULT_SHAPES = ("balanced", "ragged", "molecules", "deep", "star")


def build(name: str, num_leaves: int, seed: int = 0) -> Tensor:
    """The parent vector of a shape.

    Raises:
        ValueError: if there is no shape of that name.
    """
    if name not in SHAPES:
        raise ValueError(f"Expected 'name' to be one of {list(SHAPES)} (got '{name}')")
    return SHAPES[name].build(num_leaves, seed=seed)
