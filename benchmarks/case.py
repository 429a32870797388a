"""What every method is given: one tree with queries, keys, values and node features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hsa_geometric import TreeIndex

from . import shapes


class Skipped(Exception):
    """A method cannot do this case; the message says why and is printed with the results."""


@dataclass
class Prepared:
    """A method made ready for one case: only ``function()`` is timed.

    Attributes:
        function: computes the output from tensors that it holds.
        wrt: what a backward pass is taken with respect to (q, k, v where the method has them);
            empty where there is nothing to differentiate.
        direction: of the gradient; drawn at the first backward pass.
    """

    function: Callable[[], Tensor]
    wrt: tuple[Tensor, ...] = ()
    direction: Tensor | None = None

    def call(self, which: str) -> Callable[[], object]:
        """The pass of that name: 'both' or 'forward'."""
        return self.both if which == "both" else self.forward

    def forward(self) -> Tensor:
        """Output without a graph."""
        with torch.no_grad():
            return self.function()

    def both(self) -> tuple[Tensor, ...]:
        """Output and gradients."""
        if not self.wrt:
            return (self.function(),)
        out = self.function()
        if self.direction is None:
            generator = torch.Generator().manual_seed(1)
            draw = torch.randn(out.shape, generator=generator, dtype=torch.float32)
            self.direction = draw.to(out)
        grads = torch.autograd.grad(out, self.wrt, self.direction, materialize_grads=True)
        return (out, *grads)


@dataclass(frozen=True)
class Case:
    """One tree and random inputs on it.

    Shapes: ``parent`` ``[T]``; ``q, k, v`` ``[N, H, D]``; ``x`` ``[N, H * D]``.
    """

    parent: Tensor
    heads: int = 4
    channels: int = 32
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    seed: int = 0

    @classmethod
    def of(cls, shape: str, num_leaves: int, seed: int = 0, **options) -> Case:
        """A case on a shape of the registry."""
        return cls(shapes.build(shape, num_leaves, seed), seed=seed, **options)

    @cached_property
    def tree(self) -> TreeIndex:
        """The index, on the device."""
        return TreeIndex.from_parent(self.parent).to(self.device)

    @cached_property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        q, k, v = (self._draw(i, self.heads, self.channels) for i in range(3))
        return q, k, v

    @cached_property
    def x(self) -> Tensor:
        """Features of the leaves, for layers."""
        return self._draw(3, self.heads * self.channels)

    def learned(self, grad: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors themselves, or ones to take gradients of."""
        return tuple(t.detach().requires_grad_() for t in tensors) if grad else tensors

    def _draw(self, number: int, *shape: int) -> Tensor:
        # Each drawn from a seed of its own, so that none depends on which were asked for first.
        generator = torch.Generator().manual_seed(4 * self.seed + number)
        rows = self.tree.num_leaves
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        draw = torch.randn(rows, *shape, generator=generator, dtype=dtype)
        return draw.to(self.device, self.dtype)

    @cached_property
    def siblings(self) -> Tensor:
        """``[2, E]`` ordered pairs (B, A) of node ids, B ≠ A siblings: messages from B to A."""
        size = self.tree.family_ptr.diff()
        many = size.repeat_interleave(size)  # siblings, itself included, of each node
        first = self.tree.family_ptr[:-1].repeat_interleave(size)
        member = torch.arange(len(many), device=size.device) + self.tree.num_trees
        a = member.repeat_interleave(many)
        start = many.cumsum(0) - many
        step = torch.arange(len(a), device=size.device) - start.repeat_interleave(many)
        b = first.repeat_interleave(many) + step
        return self.tree.order[torch.stack([b, a])[:, a != b]]

    @cached_property
    def num_pairs(self) -> int:
        """Number of sibling pairs, a node with itself included: Σ b²."""
        return int(self.tree.family_ptr.diff().square().sum())

    @cached_property
    def batch(self) -> Tensor:
        """``[N]`` the tree of each leaf; trees in the order of their roots' ids."""
        root = self.tree.parent
        while not torch.equal(root, root[root]):
            root = root[root]
        return root[self.tree.leaf_ids].unique(return_inverse=True)[1]

    @cached_property
    def dense_batch(self) -> tuple[int, int]:
        """Number of trees and leaves in each, where the rows are trees of one size in order."""
        count = self.batch.bincount()
        if (count != count[0]).any() or (self.batch.diff() < 0).any():
            raise Skipped("flat attention here needs trees of one size, in order")
        return len(count), int(count[0])
