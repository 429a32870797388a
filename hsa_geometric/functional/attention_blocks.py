"""The attention matrix as the blocks that it consists of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.scatter.sweeps import down, up
from ..kernels.scatter.weights import block_weights, num_blocks
from ..lists import InteractionLists
from ..tree import TreeIndex
from .attention import checked_call
from .checks import check_tensor
from .options import check_integer

MAX_BLOCKS = 100_000_000


@dataclass(frozen=True, eq=False)
class AttentionBlocks:
    r"""The matrix :math:`\theta` of :func:`hierarchical_attention` as its blocks.

    All leaves below a query node :math:`A` give the leaves below a key node :math:`B` together the
    weight :math:`\theta_{AB}`, shared out by mass:

    .. math::
        \theta_{ij} = \frac{m_j}{|B|} \, \theta_{AB} \qquad \text{for } i \in A, \; j \in B .

    Each query finds each key of its tree in one block at most, and the weights of the blocks of a
    leaf and its ancestors sum to one. :func:`attention_blocks` makes it. As an operator it costs
    as much as there are blocks: no matrix is formed.

    Attributes:
        query_tree: the tree of the queries.
        key_tree: the tree of the keys; the same object where a tree attends to itself.
        blocks: ``[2, M]`` **positions** of query node and key node, sorted by them.
        weight: ``[H, M]`` :math:`\theta_{AB}` of each head; 0 where nobody is seen.
        mass: ``[N]`` mass of each query, or :obj:`None` where all are 1.
        key_mass: the same of the keys.

    Example:
        >>> import torch
        >>> q = k = torch.tensor([1.0, 0.5, -1, -0.5]).view(4, 1, 1)
        >>> blocks = attention_blocks(q, k, torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> blocks
        AttentionBlocks(blocks=10, heads=1, queries=4, keys=4)
        >>> blocks.attention_from(0)
        tensor([[0.4721, 0.2864, 0.1208, 0.1208]])
        >>> blocks.matmul(torch.ones(4))
        tensor([[1., 1., 1., 1.]])
    """

    query_tree: TreeIndex
    key_tree: TreeIndex
    blocks: Tensor
    weight: Tensor
    mass: Tensor | None = None
    key_mass: Tensor | None = None

    @property
    def num_blocks(self) -> int:
        """How many blocks there are: weights of each head."""
        return self.weight.shape[1]

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return self.weight.shape[0]

    @property
    def block_ids(self) -> Tensor:
        """``[2, M]`` **ids** of query node and key node of each block."""
        query, key = self.blocks
        return torch.stack([self.query_tree.order[query], self.key_tree.order[key]])

    @property
    def density(self) -> Tensor:
        r"""``[H, M]`` weight per unit of mass, :math:`\theta_{AB} / |B|`; 0 where there is none."""
        return self.weight * self._per_mass[self.blocks[1]]

    @cached_property
    def _leaf_mass(self) -> Tensor:
        """``[N]`` masses of the keys."""
        if self.key_mass is None:
            return self.weight.new_ones(self.key_tree.num_leaves)
        return self.key_mass.detach().to(self.weight.dtype)

    @cached_property
    def _per_mass(self) -> Tensor:
        """``[T]`` one over the mass of each key node."""
        mass = up(self._leaf_mass, self.key_tree)
        return torch.where(mass > 0, 1 / mass, 0)

    def attention_from(self, leaf: int) -> Tensor:
        r"""What a leaf attends to: its row :math:`\theta_{\mathrm{leaf}, \cdot}`.

        Args:
            leaf: row of the query.

        Shapes:
            - **output:** :math:`(H, N_k)`

        Raises:
            TypeError: if :obj:`leaf` is no integer.
            ValueError: if there is no such leaf.

        Cost: one look at each block, and :math:`O(T H)`.
        """
        return self.rmatmul(self._one(leaf, self.query_tree))

    def attention_to(self, leaf: int) -> Tensor:
        r"""Who attends to a leaf: its column :math:`\theta_{\cdot, \mathrm{leaf}}`.

        Args:
            leaf: row of the key.

        Shapes:
            - **output:** :math:`(H, N_q)`

        Raises:
            TypeError: if :obj:`leaf` is no integer.
            ValueError: if there is no such leaf.

        Cost: one look at each block, and :math:`O(T H)`.
        """
        return self.matmul(self._one(leaf, self.key_tree))

    def matmul(self, x: Tensor) -> Tensor:
        r"""What queries receive: :math:`y_i = \sum_j \theta_{ij} x_j`.

        Args:
            x: a number for each key, of each head or for all of them.

        Shapes:
            - **input:** x :math:`(N_k)` or :math:`(H, N_k)`
            - **output:** :math:`(H, N_q)`

        Raises:
            ValueError: if :obj:`x` has another shape.

        Cost: :math:`O((M + T) H)` for :math:`M` blocks.
        """
        x, mass = self._rows(x, self.key_tree), self._leaf_mass.unsqueeze(1)
        x = torch.where(mass > 0, x, 0) * mass  # padding may hold anything
        mean = up(x, self.key_tree) * self._per_mass.unsqueeze(1)
        return down(self._through(mean, 1, 0, self.query_tree), self.query_tree).t()

    def rmatmul(self, x: Tensor) -> Tensor:
        r"""What keys are given: :math:`y_j = \sum_i x_i \theta_{ij}`.

        Args:
            x: a number for each query, of each head or for all of them.

        Shapes:
            - **input:** x :math:`(N_q)` or :math:`(H, N_q)`
            - **output:** :math:`(H, N_k)`

        Raises:
            ValueError: if :obj:`x` has another shape.

        Cost: :math:`O((M + T) H)` for :math:`M` blocks.
        """
        total = up(self._rows(x, self.query_tree), self.query_tree)
        total = self._through(total, 0, 1, self.key_tree) * self._per_mass.unsqueeze(1)
        return (down(total, self.key_tree) * self._leaf_mass.unsqueeze(1)).t()

    def to_dense(self) -> Tensor:
        r"""The matrix :math:`\theta` ``[H, N_q, N_k]``, for small trees.

        Cost: :math:`O(H \, T^2)` time and memory.
        """
        query, key = self.query_tree, self.key_tree
        theta = self.weight.new_zeros(query.num_nodes, key.num_nodes, self.heads)
        theta = theta.index_put(tuple(self.blocks), self.density.t())
        theta = down(down(theta, query).transpose(0, 1), key)  # [N_k, N_q, H]
        return (theta * self._leaf_mass.view(-1, 1, 1)).permute(2, 1, 0)

    def _through(self, x: Tensor, start: int, end: int, tree: TreeIndex) -> Tensor:
        """Values ``[T, H or 1]`` of one side's nodes, weighted and summed at the other's."""
        # Of a single leaf few nodes have a value, so few blocks count.
        seen = (x != 0).any(1)[self.blocks[start]]
        some = slice(None) if bool(seen.all()) else seen.nonzero().squeeze(1)
        at, to = (self.blocks[side][some] for side in (start, end))
        zeros, each = self.weight.new_zeros(tree.num_nodes), x.t().expand(self.heads, -1)
        pairs = zip(self.weight, each, strict=True)
        return torch.stack([zeros.index_add(0, to, w[some] * y[at]) for w, y in pairs], 1)

    def _rows(self, x: Tensor, tree: TreeIndex) -> Tensor:
        """``[N, H or 1]`` numbers in the weights' dtype."""
        check_tensor(x, "x", like=self.weight)
        shapes = (tree.num_leaves,), (self.heads, tree.num_leaves)
        if x.shape not in shapes:
            raise ValueError(
                f"Expected 'x' to have shape {list(shapes[0])} or {list(shapes[1])} "
                f"(got {list(x.shape)})"
            )
        return x.to(self.weight.dtype).view(-1, tree.num_leaves).t()

    def _one(self, leaf: int, tree: TreeIndex) -> Tensor:
        check_leaf(leaf, tree)
        x = self.weight.new_zeros(tree.num_leaves)
        x[leaf] = 1
        return x

    def __repr__(self) -> str:
        return (
            f"AttentionBlocks(blocks={self.num_blocks}, heads={self.heads}, "
            f"queries={self.query_tree.num_leaves}, keys={self.key_tree.num_leaves})"
        )


def attention_blocks(
    q: Tensor,
    k: Tensor,
    tree: TreeIndex | Tensor,
    *,
    lists: InteractionLists | None = None,
    key_tree: TreeIndex | Tensor | None = None,
    scale: float | None = None,
    pos_q: Tensor | None = None,
    pos_k: Tensor | None = None,
    mass: Tensor | None = None,
    key_mass: Tensor | None = None,
    temperature: Tensor | None = None,
    bias: Tensor | None = None,
    self_loop: bool = True,
    max_blocks: int = MAX_BLOCKS,
) -> AttentionBlocks:
    r"""The matrix :math:`\theta` of :func:`hierarchical_attention` as its blocks, at linear cost.

    Arguments, equation and errors are those of :func:`hierarchical_attention`. Without
    :obj:`lists` the blocks are the ordered pairs of siblings and each leaf with itself.

    Args:
        max_blocks: how many blocks there may be. Each takes 16 bytes and a number for each head.

    Returns:
        :class:`AttentionBlocks`, without gradient.

    Raises:
        TypeError, ValueError: those of :func:`hierarchical_attention`; if there are more blocks
            than :obj:`max_blocks`, as in a family of very many members.

    Cost: :math:`O(M D H)` time and :math:`O(M H + T D H)` memory for :math:`M` blocks:
    :math:`\sum b^2` at most for families of size :math:`b`.

    Example:
        >>> import torch
        >>> q, k = torch.zeros(2, 3, 1, 4).unbind(0)
        >>> blocks = attention_blocks(q, k, torch.tensor([3, 3, 4, 4, 4]))
        >>> blocks.block_ids
        tensor([[2, 2, 3, 0, 0, 1, 1],
                [2, 3, 2, 0, 1, 0, 1]])
    """
    call = checked_call(
        q, k, k[..., :1] if isinstance(k, Tensor) else k, tree, lists, key_tree, scale, pos_q,
        pos_k, mass, key_mass, temperature, bias, self_loop,
    )  # fmt: skip
    check_integer(max_blocks, "max_blocks", 1)
    _check_number(call.tree, call.lists, max_blocks)
    with torch.autocast(q.device.type, enabled=False):
        blocks, weight = block_weights(call)
    other = call.tree if call.lists is None else call.lists.key_tree
    return AttentionBlocks(call.tree, other, blocks, weight, call.mass, call.mass_of_keys)


def _check_number(tree: TreeIndex, lists: InteractionLists | None, most: int) -> None:
    count = num_blocks(tree) if lists is None else lists.num_logits
    if count <= most:
        return
    if lists is not None:
        raise ValueError(
            f"Expected at most max_blocks={most:,} blocks (got lists of {count:,}; open fewer "
            f"pairs, or raise 'max_blocks')"
        )
    size, family = tree.family_ptr.diff().max(0)
    raise ValueError(
        f"Expected at most max_blocks={most:,} blocks (got {count:,}; the largest family, of node "
        f"{int(tree.order[tree.family_parent[family]])}, has {int(size):,} members: "
        f"surgery.rebalance bounds them; or raise 'max_blocks')"
    )


def check_leaf(leaf: int, tree: TreeIndex, name: str = "leaf") -> None:
    """The row of a leaf that is there."""
    check_integer(leaf, name)
    if not 0 <= leaf < tree.num_leaves:
        raise ValueError(
            f"Expected '{name}' to be the row of one of the {tree.num_leaves} leaves, in "
            f"[0, {tree.num_leaves - 1}] (got {leaf})"
        )
