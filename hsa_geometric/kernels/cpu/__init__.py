"""Backend ``'cpu'``: one fused kernel, forward and backward, for every processor.

====================  ===========================================================================
``walk``              in which order the kernel visits a tree, and masses
``call``              its arguments
``lists``             the same by interaction lists
``native/src``        the kernel itself, in C++
====================  ===========================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...native import kernel
from ...tree import TreeIndex
from ..call import Call, accumulator
from . import lists
from .call import BOTH, NO_ROWS, NOTHING, address, beside, like, node_values, pack, rows, run
from .walk import Walk, masses

__all__ = ["LISTS", "Backward", "Forward", "backward", "check", "forward", "saved_like"]

LISTS = True  # interaction lists are taken


def check(device: torch.device) -> None:
    """Whether the backend can compute there.

    Raises:
        ImportError: if the kernel is not there; says why and what to do.
        ValueError: if the device is no CPU.
    """
    if device.type != "cpu":
        raise ValueError(f"Expected tensors on the CPU for backend='cpu' (got {device})")
    kernel()


def _sizes(call: Call) -> tuple[int, int, int, int, int]:
    """Nodes, families at most, heads, channels of means, values."""
    tree, (_, heads, width), values = call.tree, call.q.shape, call.v.shape[2]
    families = tree.num_nodes - tree.num_leaves + tree.num_trees
    return tree.num_nodes, families, heads, 2 * width + values, values


def saved_like(call: Call) -> list[Tensor]:
    """Empty tensors of what :func:`forward` keeps for :func:`backward`.

    U of the leaves, as v is; means of the families and their U; and S, g by node and f by family.
    """
    if call.lists is not None:
        return lists.saved_like(call)
    nodes, families, heads, means, values = _sizes(call)
    dtype, new = accumulator(call.q.dtype), call.q.new_empty
    return [
        call.v.new_empty(call.v.shape),
        new(families * heads * (means + values), dtype=dtype),
        new((2 * nodes + families) * heads, dtype=dtype),
    ]


def forward(call: Call, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output ``[N, H, Dv]``, log evidence ``[trees, H]``, and what :func:`backward` needs."""
    if call.lists is not None:
        return lists.forward(call, save)
    walk = Forward(call, save)
    walk.run(BOTH)
    return walk.out, walk.evidence, walk.saved


def backward(
    call: Call, saved: list[Tensor], grad: Tensor | None, grad_evidence: Tensor | None
) -> list[Tensor | None]:
    """Gradients of q, k, v, pos_q, pos_k, temperature and bias; None for those that are None."""
    if call.lists is not None:
        return lists.backward(call, saved, grad, grad_evidence)
    walk = Backward(call, saved, grad)
    walk.run(BOTH, grad_evidence)
    return walk.grads


class Forward:
    """The rooms of a call, up and down, which may be two calls of the kernel.

    Trees that hang below nodes that are elsewhere are climbed first; what comes down to their
    roots, Z and W, may depend on what was found there.
    """

    def __init__(self, call: Call, save: bool):
        nodes, families, heads, means, values = _sizes(call)
        self.call, self.save = call, save
        self.leaves = q, k, v = beside(call.q), beside(call.k), beside(call.v)
        dtype, tree = accumulator(q.dtype), call.tree
        self.walk, self.mass = Walk.of(tree), masses(call.mass, tree, dtype)
        self.given = node_values(call, dtype)
        self.out, per = torch.empty(v.shape, dtype=v.dtype), families * heads
        self.evidence = torch.empty(tree.num_trees, heads, dtype=dtype)
        self.saved = saved_like(call) if save else []
        # Without backward g is kept by family, and U of leaves stands in the output.
        self.inner, self.scalars = self.saved[1:] or (
            torch.empty(per * (means + values), dtype=dtype), torch.empty(2 * per, dtype=dtype)
        )  # fmt: skip
        # What nobody needs afterwards: Z, W, and parts of f of large families.
        self.own = torch.empty(
            per * (values + 1) + (self.walk.widest // 64 + 1) * heads, dtype=dtype
        )

    def run(self, half: tuple[int, int, int, int]) -> None:
        """Both ways or one; then also Z and W of the roots."""
        nodes, families, heads, means, values = _sizes(self.call)
        per, size = families * heads, self.own.element_size()
        at_means, at_f, at_z = (x.data_ptr() for x in (self.inner, self.scalars, self.own))
        at_u, at_g = at_means + per * means * size, at_f + per * size
        at_w = at_z + per * values * size
        leaves = [*map(rows, self.leaves), rows(self.out)]
        leaves.append(rows(self.saved[0]) if self.save else NO_ROWS)
        packed = pack(
            self.call, self.walk, self.mass, self.given, leaves + [NO_ROWS] * 4, NOTHING,
            (
                self.evidence.data_ptr(), 0,
                at_means, at_u, at_z, at_f, at_g, at_w, at_g + nodes * heads * size,
                0, 0, 0, 0, 0, at_w + per * size,
            ),
            self.save, half=half,
        )  # fmt: skip
        run(kernel().hsa_forward, packed)

    def up(self) -> tuple[Tensor, Tensor]:
        """Means ``[R, H, 2 D + Dv]`` and f ``[R, H]`` of the roots."""
        self.run((0, 0, 0, 1))
        _, families, heads, means, _ = _sizes(self.call)
        of_families = self.inner[: families * heads * means].view(families, heads, means)
        return of_families.index_select(0, _roots(self.call.tree)), self.evidence

    def down(self, z: Tensor, w: Tensor) -> Tensor:
        """The output, with Z ``[R, H, Dv]`` and W ``[R, H]`` of the roots."""
        z, w = z.contiguous(), w.contiguous()
        self.run((z.data_ptr(), w.data_ptr(), 0, 2))
        return self.out


class Backward:
    """As :class:`Forward`: up with sums of gradients, down with those of means and evidence."""

    def __init__(
        self, call: Call, saved: list[Tensor], grad: Tensor | None, w: Tensor | None = None
    ):
        nodes, families, heads, means, values = _sizes(call)
        self.call, self.saved = call, saved
        q, k, v = self.leaves = beside(call.q), beside(call.k), beside(call.v)
        dtype, tree = accumulator(q.dtype), call.tree
        self.walk, self.mass = Walk.of(tree), masses(call.mass, tree, dtype)
        self.given = node_values(call, dtype)
        self.grad = v.new_zeros(v.shape) if grad is None else beside(grad)
        self.w = None if w is None else w.contiguous()
        self.to = tuple(torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
        self.learned = [None if x is None else torch.zeros_like(x) for x in self.given]

        # Sums of gradients by family, gradients of means, W and f by family, and two scalars by
        # node; gradients of keys and values of one large family for each head and thread.
        walk, per = self.walk, families * heads
        features = 0 if self.given[0] is None else self.given[0].shape[2]
        width = q.shape[2] + features + values + 32  # padded
        threads = walk.threads(heads, means)
        parts = -(-threads // heads) * heads * (walk.widest + 8) * width if walk.tops else 0
        self.own = torch.empty(per * (values + means + 2) + 2 * nodes * heads + parts, dtype=dtype)

    def run(self, half: tuple[int, int, int, int], grad_evidence: Tensor | None = None) -> None:
        """Both ways or one; then also W of the roots and the gradients of their means."""
        nodes, families, heads, means, values = _sizes(self.call)
        if grad_evidence is not None:
            grad_evidence = grad_evidence.to(self.own.dtype).contiguous()
        leaf, inner, scalars = self.saved
        per, size = families * heads, self.own.element_size()
        at_means, at_f, at_sums = inner.data_ptr(), scalars.data_ptr(), self.own.data_ptr()
        at_g, at_z = at_f + per * size, at_sums + per * values * size
        at_w = at_z + per * means * size
        at_df = at_w + per * size
        at_dw = at_df + per * size
        at_mu = at_dw + nodes * heads * size
        packed = pack(
            self.call, self.walk, self.mass, self.given,
            [*map(rows, self.leaves), NO_ROWS, *map(rows, (leaf, self.grad, *self.to))],
            self.learned,
            (
                0, address(grad_evidence),
                at_means, at_means + per * means * size, 0, at_f, at_g, at_w,
                at_g + nodes * heads * size, at_sums, at_dw, at_df, at_z, at_mu,
                at_mu + nodes * heads * size,
            ),
            True, half=half,
        )  # fmt: skip
        run(kernel().hsa_backward, packed)

    def up(self) -> tuple[Tensor, Tensor]:
        """Gradients ``[R, H, Dv]`` of Z and ``[R, H]`` of W of the roots."""
        self.run((0, 0, 0, 1))
        _, families, heads, means, values = _sizes(self.call)
        per, root = families * heads, _roots(self.call.tree)
        sums = self.own[: per * values].view(families, heads, values)
        at = per * (values + means + 1)  # where those of f come later
        by_w = self.own[at : at + per].view(families, heads)
        return sums.index_select(0, root), by_w.index_select(0, root)

    def down(self, grad_means: Tensor, grad_evidence: Tensor) -> list[Tensor | None]:
        """Gradients of the call, with those of the roots' means and f."""
        assert self.w is not None
        grad_means = grad_means.contiguous()
        self.run((0, self.w.data_ptr(), grad_means.data_ptr(), 2), grad_evidence)
        return self.grads

    @property
    def grads(self) -> list[Tensor | None]:
        """Those of q, k, v, pos_q, pos_k, temperature and bias."""
        return [*self.to, *like(self.learned, self.call.learned[3:])]


def _roots(tree: TreeIndex) -> Tensor:
    """``[R]`` the family of each root, in the order of the walk."""

    def make() -> Tensor:
        walk, most = Walk.of(tree), tree.num_nodes - tree.num_leaves + tree.num_trees
        number = walk.packed[2 * most : 2 * most + walk.families].long()
        root = (number >= 0).nonzero().view(-1)
        return torch.empty_like(root).index_copy_(0, number[root], root)

    return tree.once("cpu roots", make)
