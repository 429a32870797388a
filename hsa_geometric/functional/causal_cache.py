"""Causal attention token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.call import accumulator
from ..lists import InteractionLists
from .checks import check_dtype, check_tensor
from .layout import over_subtrees
from .list_checks import check_lists


class CausalCache:
    r"""Attention to the past, one leaf after another, as sequences are generated.

    It holds the sums of keys and values below each node of the key tree, as far as leaves have
    come. A leaf reads those of its blocks, :math:`O(b \log N)` beside its window, and adds to those
    of its ancestors. The results equal those of :func:`hierarchical_attention` with the same lists.

    Args:
        lists: lists of one tree in which queries are single leaves that see no later leaf, from
            :func:`hsa_geometric.interactions.causal`; the tree is for as many leaves as may come.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)

    Attributes:
        length: how many leaves have come.

    Raises:
        TypeError: if :obj:`lists` are none.
        ValueError: if :obj:`lists` are of several trees, or some query is no leaf or sees what
            comes later.

    Example:
        >>> from hsa_geometric.interactions import causal
        >>> cache = CausalCache(causal(torch.tensor([4, 4, 5, 5, 6, 6, 6])))
        >>> q, k, v = torch.randn(3, 2, 1, 8).unbind(0)  # two sequences, one head
        >>> cache.append(q, k, v).shape, cache.length
        (torch.Size([2, 1, 8]), 1)
    """

    def __init__(self, lists: InteractionLists, *, scale: float | None = None):
        query, tree = check_lists(lists).query_tree, lists.key_tree
        if tree.num_trees != 1:
            raise ValueError(
                f"Expected 'lists' of one tree, whose leaves all sequences share "
                f"(got {tree.num_trees} trees)"
            )
        row = torch.full_like(query.up, -1)
        row[query.leaf] = torch.arange(query.num_leaves, device=query.device)
        last = torch.full_like(tree.parent, -1)
        last[tree.leaf_ids] = torch.arange(tree.num_leaves, device=tree.device)
        last = over_subtrees(last, tree.parent, "amax")[tree.order]
        late = (last[lists.blocks[1]] > row[lists.blocks[0]]).nonzero()
        if late.numel():
            one, other = lists.block_ids[:, late[0, 0]].tolist()
            raise ValueError(
                f"Expected 'lists' in which leaves see no later leaf "
                f"(got a block of query node {one} and key node {other})"
            )
        self.lists, self.scale, self.length = lists, scale, 0
        self._size = tree.count
        self._up, self._leaf = tree.up.tolist(), tree.leaf.tolist()
        ends = lists.ptr.tolist()
        self._ends = [(ends[p], ends[p + 1]) for p in query.leaf.tolist()]
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Take the next leaf of each sequence in, and return what it attends to.

        Args:
            q: ``[B, H, D]`` query of the next leaf of each of :obj:`B` sequences.
            k: ``[B, H, D]`` key.
            v: ``[B, H, Dv]`` value.

        Returns:
            ``[B, H, Dv]`` in the dtype of :obj:`v`.

        Raises:
            ValueError: if the tree has no leaf left, or shapes are not those of the first leaf.
        """
        for x, name in ((q, "q"), (k, "k"), (v, "v")):
            check_tensor(x, name, 3, like=q)
            check_dtype(x, name, q)
        if q.shape != k.shape or q.shape[:2] != v.shape[:2]:
            raise ValueError(
                f"Expected 'q', 'k' and 'v' of one leaf for each sequence and head "
                f"(got {list(q.shape)}, {list(k.shape)} and {list(v.shape)})"
            )
        if self.length == len(self._leaf):
            raise ValueError(
                f"Expected at most the {self.length} leaves of the tree (got one more)"
            )
        dtype, nodes = accumulator(q.dtype), len(self._up)
        if self._keys is None or self._values is None:
            self._keys = k.new_zeros(nodes, *k.shape, dtype=dtype)
            self._values = v.new_zeros(nodes, *v.shape, dtype=dtype)
        if self._keys.shape[1:] != k.shape or self._values.shape[1:] != v.shape:
            raise ValueError(
                f"Expected as many sequences, heads and channels as before "
                f"(got {list(k.shape)} after {list(self._keys.shape[1:])})"
            )
        path = [self._leaf[self.length]]
        while self._up[path[-1]] != path[-1]:
            path.append(self._up[path[-1]])
        at = torch.tensor(path, device=q.device)
        # Out of place where a graph is kept: what was read before must not change.
        learned = (k, v, self._keys, self._values)
        if torch.is_grad_enabled() and any(x.requires_grad for x in learned):
            self._keys = self._keys.index_add(0, at, k.to(dtype).expand(len(path), *k.shape))
            self._values = self._values.index_add(0, at, v.to(dtype).expand(len(path), *v.shape))
        else:
            self._keys[at] += k.to(dtype)
            self._values[at] += v.to(dtype)
        lo, hi = self._ends[self.length]
        self.length += 1
        seen = self.lists.blocks[1, lo:hi]
        size = self._size[seen].to(dtype).view(-1, 1, 1)
        key, value = self._keys[seen] / size.unsqueeze(-1), self._values[seen] / size.unsqueeze(-1)
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        weight = (scale * (q.to(dtype) * key).sum(-1) + size.log()).softmax(0)
        return (weight.unsqueeze(-1) * value).sum(0).to(v.dtype)
