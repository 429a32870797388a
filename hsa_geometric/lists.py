r"""Which nodes meet: :class:`InteractionLists` of a query tree and a key tree.

Words. Two nodes **meet** where somebody must decide how the queries below one attend to the keys
below the other; first the two roots. A pair that is **opened** passes this on: the children of one
meet the children of the other, a leaf standing for itself. A pair that meets and is not opened is
a **block**: all queries below one share one weight per unit of mass below the other. A pair that is
**hidden** is no block either: nobody there attends to anybody there.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .once import Once, plainly
from .tree import TreeIndex


@dataclass(frozen=True, eq=False)
class InteractionLists(Once):
    r"""Pairs of nodes of a query tree and a key tree that are opened, and the blocks that remain.

    :meth:`from_opened` builds and checks it; the constructor takes the finished tensors of
    :obj:`P` opened pairs, :obj:`K` hidden ones and :obj:`M` blocks. Tree number :math:`r` of the
    query forest meets tree number :math:`r` of the key forest, and no other. With every pair of
    one node with itself opened, siblings meet; with everything opened, all leaves do.

    Every query leaf finds every key leaf of its tree in exactly one block, or in one hidden pair:
    of the pairs that meet and contain both, each that is opened contains exactly one that follows.

    Attributes:
        query_tree: the tree of the queries.
        key_tree: the tree of the keys; the same object where a tree attends to itself.
        opened: ``[2, P]`` **ids** of query node and key node of each opened pair, sorted by the
            position of the query node, then of the key node.
        hidden: ``[2, K]`` ids of the hidden pairs, sorted alike.
        blocks: ``[2, M]`` **positions** of query node and key node of each block, sorted by them.
        ptr: ``[T + 1]`` the blocks of the query node at position ``p`` are ``ptr[p]:ptr[p + 1]``.
        key: a random number, always on the CPU, that all copies share; see :meth:`once`.

    Example:
        >>> import torch
        >>> tree = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> lists = InteractionLists.from_opened(tree, torch.tensor([[6, 4, 5, 4], [6, 4, 5, 5]]))
        >>> lists
        InteractionLists(opened=4, blocks=13, hidden=0, logits per leaf=3.25)
        >>> lists.block_ids[:, 0]  # node 5 attends to node 4 as a whole
        tensor([5, 4])
    """

    query_tree: TreeIndex
    key_tree: TreeIndex
    opened: Tensor
    hidden: Tensor
    blocks: Tensor
    ptr: Tensor
    key: Tensor

    @classmethod
    def from_opened(
        cls,
        query_tree: TreeIndex,
        opened: Tensor,
        *,
        key_tree: TreeIndex | None = None,
        hidden: Tensor | None = None,
    ) -> InteractionLists:
        r"""Check the pairs, and find the blocks.

        Let :math:`a, b` be the levels of :math:`A, B`. The pair :math:`(A, B)` can meet if
        :math:`a = b`, or if the one of lesser level is a leaf, which then stands for itself. It
        meets if its parent pair is opened: the pair of the parents if :math:`a = b`, else of the
        leaf and the other's parent. Roots meet always.

        Args:
            query_tree: the tree of the queries.
            opened: ``[2, P]`` ids of query node and key node of each opened pair, in any order.
            key_tree: the tree of the keys. (default: :obj:`query_tree`)
            hidden: ``[2, K]`` ids of the pairs in which nobody attends to anybody. (default: none)

        Raises:
            TypeError: if a tree is no TreeIndex or pairs are no integer tensor.
            ValueError: naming the pair: if it is out of range, there twice, of two samples of a
                batch or of two leaves, or does not meet; if two roots are not opened (but where
                both are leaves); if a hidden pair is opened or does not meet. If the forests
                have different numbers of trees, or tensors are on different devices.

        Cost: :math:`O((P + M) \log(P + M))`, and no loop over nodes or pairs.
        """
        key_tree = query_tree if key_tree is None else key_tree
        for tree, name in ((query_tree, "query_tree"), (key_tree, "key_tree")):
            if not isinstance(tree, TreeIndex):
                raise TypeError(f"Expected '{name}' to be a TreeIndex (got {type(tree).__name__})")
        if int(query_tree.key) == int(key_tree.key):
            key_tree = query_tree
        if query_tree.num_trees != key_tree.num_trees:
            raise ValueError(
                f"Expected 'key_tree' to have the {query_tree.num_trees} trees of 'query_tree' "
                f"(got {key_tree.num_trees})"
            )
        none = query_tree.parent.new_empty(2, 0)
        both = PairCodes(query_tree, key_tree)
        tensors = both.tensors(
            both.codes(opened, "opened"), both.codes(none if hidden is None else hidden, "hidden")
        )
        key = torch.tensor(secrets.randbits(62), device="cpu")
        return cls(query_tree, key_tree, *[*tensors, key])

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors beside those of the trees, in the order of the constructor."""
        return [self.opened, self.hidden, self.blocks, self.ptr, self.key]

    @property
    def block_ids(self) -> Tensor:
        """``[2, M]`` ids of query node and key node of each block."""
        query, key = self.blocks
        return torch.stack([self.query_tree.order[query], self.key_tree.order[key]])

    @property
    def num_logits(self) -> int:
        """Number of blocks: logits to compute for each head."""
        return self.blocks.shape[1]

    @property
    def logits_per_leaf(self) -> float:
        """Blocks for each leaf of the query tree."""
        return self.num_logits / self.query_tree.num_leaves

    @property
    def of_one_tree(self) -> bool:
        """Whether a tree attends to itself."""
        return self.query_tree is self.key_tree

    @property
    def are_siblings(self) -> bool:
        """Whether these are the pairs of each node with itself: siblings meet, and nothing else."""

        def make() -> bool:
            inner = self.query_tree.num_nodes - self.query_tree.num_leaves
            alone = self.of_one_tree and self.hidden.shape[1] == 0 and self.opened.shape[1] == inner
            return alone and bool((self.opened[0] == self.opened[1]).all())

        return self.once("are siblings", make)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.blocks.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> InteractionLists:
        """The same lists, trees included, on another device; :attr:`key` stays on the CPU."""
        query_tree = self.query_tree.to(device, non_blocking)
        key_tree = query_tree if self.of_one_tree else self.key_tree.to(device, non_blocking)
        moved = [x.to(device, non_blocking=non_blocking) for x in self.tensors[:-1]]
        return InteractionLists(query_tree, key_tree, *[*moved, self.key])

    def __reduce__(self) -> tuple[type, tuple[TreeIndex | Tensor, ...]]:
        return InteractionLists, (self.query_tree, self.key_tree, *self.tensors)

    def __repr__(self) -> str:
        return (
            f"InteractionLists(opened={self.opened.shape[1]}, blocks={self.num_logits}, "
            f"hidden={self.hidden.shape[1]}, logits per leaf={self.logits_per_leaf:.3g})"
        )


FIELDS = tuple(field.name for field in fields(InteractionLists))
torch.export.register_dataclass(
    InteractionLists, serialized_type_name="hsa_geometric.InteractionLists"
)


class Side:
    """What is asked of one tree, by position.

    Attributes:
        level: ``[T]`` distance from the root.
        trees: ``[T]`` number of the tree.
        first: ``[T]`` position of the first child; a leaf's own.
        degree: ``[T]`` number of children; 1 for a leaf, which stands for itself.
        is_leaf: ``[T]`` whether it has no children.
    """

    def __init__(self, tree: TreeIndex):
        places = torch.arange(tree.num_nodes, device=tree.device)
        self.tree, self.up = tree, tree.up
        self.level = torch.searchsorted(tree.starts, places, right=True)
        self.trees = tree.up
        for _ in range(tree.depth.bit_length()):
            self.trees = self.trees[self.trees]
        self.first, self.degree = places.clone(), torch.ones_like(places)
        self.first[tree.family_parent] = tree.family_ptr[:-1]
        self.degree[tree.family_parent] = tree.family_ptr.diff()
        self.is_leaf = torch.ones_like(places, dtype=torch.bool)
        self.is_leaf[tree.family_parent] = False

    @classmethod
    def of(cls, tree: TreeIndex) -> Side:
        """Worked out once for a tree."""
        return tree.once("side of lists", lambda: cls(tree))


def meeting(query: Tensor, key: Tensor, one: Side, other: Side) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of all pairs that meet where these, by position, are opened; and of which each."""
    width = other.degree[key]
    count = one.degree[query] * width
    pair = torch.repeat_interleave(count)
    place = torch.arange(pair.shape[0], device=pair.device)
    place = place - (count.cumsum(0) - count)[pair]
    width = width[pair]
    i = torch.div(place, width, rounding_mode="floor")
    return one.first[query][pair] + i, other.first[key][pair] + (place - i * width), pair


class PairCodes:
    """Pairs of nodes as one number, position of the query node first; their checks."""

    def __init__(self, query_tree: TreeIndex, key_tree: TreeIndex):
        self.query_tree, self.key_tree = query_tree, key_tree
        self.one, self.other = Side.of(query_tree), Side.of(key_tree)
        self.size = key_tree.num_nodes

    def code(self, query: Tensor, key: Tensor) -> Tensor:
        """One number for each pair of positions."""
        return query * self.size + key

    def pairs(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of each number's query node and key node."""
        query = torch.div(code, self.size, rounding_mode="floor")
        return query, code - query * self.size

    def ids(self, code: Tensor) -> Tensor:
        """``[2, n]`` ids of each number's nodes."""
        query, key = self.pairs(code)
        return torch.stack([self.query_tree.order[query], self.key_tree.order[key]])

    def name(self, code: Tensor) -> str:
        """The first of some pairs, for a message."""
        return str(tuple(self.ids(code[:1]).flatten().tolist()))

    def codes(self, pairs: Tensor, name: str) -> Tensor:
        """The pairs of an argument as ascending numbers; checked but for whether they meet."""
        if not isinstance(pairs, Tensor):
            raise TypeError(f"Expected '{name}' to be a tensor (got {type(pairs).__name__})")
        if pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool:
            raise TypeError(f"Expected '{name}' to hold integers (got {pairs.dtype})")
        if pairs.dim() != 2 or pairs.shape[0] != 2:
            raise ValueError(f"Expected '{name}' to be of shape [2, P] (got {list(pairs.shape)})")
        for tree, which in ((self.query_tree, "query_tree"), (self.key_tree, "key_tree")):
            if pairs.device != tree.device:
                raise ValueError(
                    f"Expected '{name}' and '{which}' on one device "
                    f"(got {pairs.device} and {tree.device})"
                )
        pairs = pairs.long()
        for ids, tree, which in zip(
            pairs, (self.query_tree, self.key_tree), ("query", "key"), strict=True
        ):
            outside = (ids < 0) | (ids >= tree.num_nodes)
            if outside.any():
                at = int(outside.nonzero()[0])
                raise ValueError(
                    f"Expected '{name}' to hold ids of {which} nodes in [0, {tree.num_nodes - 1}] "
                    f"(got the pair {tuple(pairs[:, at].tolist())})"
                )
        query, key = self.query_tree.position[pairs[0]], self.key_tree.position[pairs[1]]
        self._refuse(
            self.code(query, key)[self.one.trees[query] != self.other.trees[key]],
            f"Expected '{name}' to hold pairs of one sample of the batch (got the pair {{}})",
        )
        code = self.code(query, key).sort().values
        self._refuse(
            code[1:][code[1:] == code[:-1]],
            f"Expected each pair once in '{name}' (got the pair {{}} twice)",
        )
        return code

    def _refuse(self, code: Tensor, message: str) -> None:
        if code.numel():
            raise ValueError(message.format(self.name(code)))

    def parents(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """The parent pair of each pair, and whether the pair can meet at all."""
        query, key = self.pairs(code)
        a, b = self.one.level[query], self.other.level[key]
        above = self.code(
            torch.where(a >= b, self.one.up[query], query),
            torch.where(b >= a, self.other.up[key], key),
        )
        alike = (a == b) | torch.where(a < b, self.one.is_leaf[query], self.other.is_leaf[key])
        return above, alike

    @plainly()
    def tensors(self, opened: Tensor, hidden: Tensor) -> list[Tensor]:
        """``opened``, ``hidden``, ``blocks`` and ``ptr`` of a list of checked pairs."""
        roots = torch.arange(self.query_tree.num_trees, device=opened.device)
        roots = self.code(roots, roots)
        query, key = self.pairs(opened)
        self._refuse(
            opened[self.one.is_leaf[query] & self.other.is_leaf[key]],
            "Expected 'opened' to hold pairs with children (got the pair {}, two leaves)",
        )
        for code, name in ((opened, "opened"), (hidden, "hidden")):
            above, alike = self.parents(code)
            meets = alike & (_isin(above, opened) | _isin(code, roots))
            self._refuse(
                code[~meets],
                f"Expected '{name}' to hold pairs that meet (got the pair {{}}, whose parent pair "
                f"is not opened; the pair of both parents, or of a leaf and the other's parent)",
            )
        query, key = self.pairs(roots)
        lone = self.one.is_leaf[query] & self.other.is_leaf[key]
        self._refuse(
            roots[~lone & ~_isin(roots, opened)],
            "Expected 'opened' to hold every pair of two roots (got none of the pair {})",
        )
        self._refuse(
            hidden[_isin(hidden, opened)],
            "Expected 'hidden' to hold pairs that are not opened (got the pair {})",
        )
        query, key, _ = meeting(*self.pairs(opened), self.one, self.other)
        code = torch.cat([roots[lone], self.code(query, key)])
        code = code[~(_isin(code, opened) | _isin(code, hidden))].sort().values
        blocks = torch.stack(self.pairs(code))
        ends = torch.arange(self.query_tree.num_nodes + 1, device=code.device)
        ptr = torch.searchsorted(blocks[0], ends)
        return [self.ids(opened), self.ids(hidden), blocks, ptr]


def _isin(code: Tensor, ascending: Tensor) -> Tensor:
    """Which numbers are among ascending ones."""
    if ascending.numel() == 0:
        return torch.zeros_like(code, dtype=torch.bool)
    at = torch.searchsorted(ascending, code).clamp(max=ascending.numel() - 1)
    return ascending[at] == code
