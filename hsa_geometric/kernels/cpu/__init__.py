"""Backend ``'cpu'``: one fused kernel, forward and backward, for every processor.

====================  ===========================================================================
``walk``              in which order the kernel visits a tree, and masses
``call``              its arguments
``lists``             the same by interaction lists
``native/src``        the kernel itself, in C++
====================  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...native import kernel
from ...tree import TreeIndex
from ..call import Call, accumulator
from . import lists
from .call import BOTH, NO_ROWS, NOTHING, Half, address, beside, like, node_values, pack, rows, run
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

    U of the leaves, as v is; and means of the families, their U and f, and S and g by node.
    """
    if call.lists is not None:
        return lists.saved_like(call)
    nodes, families, heads, means, values = _sizes(call)
    kept = families * heads * (means + values + 1) + 2 * nodes * heads
    return [call.v.new_empty(call.v.shape), call.q.new_empty(kept, dtype=accumulator(call.q.dtype))]


def forward(call: Call, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output ``[N, H, Dv]``, log evidence ``[trees, H]``, and what :func:`backward` needs."""
    if call.lists is not None:
        return lists.forward(call, save)
    walk, out, evidence, saved, _ = _forward(call, save)
    walk(BOTH)
    return out, evidence, saved


def backward(
    call: Call, saved: list[Tensor], grad: Tensor | None, grad_evidence: Tensor | None
) -> list[Tensor | None]:
    """Gradients of q, k, v, pos_q, pos_k, temperature and bias; None for those that are None."""
    if call.lists is not None:
        return lists.backward(call, saved, grad, grad_evidence)
    walk, found, _ = _backward(call, saved, grad)
    walk(BOTH, grad_evidence)
    return found()


def _forward(call: Call, save: bool) -> tuple[Any, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The walk, to be called for both ways or for one; what it writes, and where it stays."""
    q, k, v = beside(call.q), beside(call.k), beside(call.v)
    dtype, tree = accumulator(q.dtype), call.tree
    walk, mass = Walk.of(tree), masses(call.mass, tree, dtype)
    given = node_values(call, dtype)
    nodes, inner, trees = walk.head[2:5]
    (_, heads, width), families, values = q.shape, inner + trees, v.shape[2]
    means = 2 * width + values
    out, per = v.new_empty(v.shape), families * heads
    evidence = q.new_empty((trees, heads), dtype=dtype)
    saved = saved_like(call) if save else []
    # What nobody needs afterwards: Z, W, and parts of f of large families. Without backward that is
    # what would be saved too: g is kept by family then, and U of leaves stands in the output.
    parts = (walk.widest // 64 + 1) * heads
    more = 0 if save else per * (means + values + 2)
    own = q.new_empty(per * (values + 1) + parts + more, dtype=dtype)
    size = mass.element_size()
    at_means = saved[1].data_ptr() if save else own.data_ptr()
    at_u = at_means + per * means * size
    at_z = own.data_ptr() if save else at_u + per * values * size
    at_w = at_z + per * values * size
    at_parts = at_w + per * size
    at_f = at_u + per * values * size if save else at_parts + parts * size
    at_g = at_f + per * size
    leaves = [rows(q), rows(k), rows(v), rows(out), rows(saved[0]) if save else NO_ROWS]

    def run_walk(half: Half) -> None:
        addresses = (
            evidence.data_ptr(), 0,
            at_means, at_u, at_z, at_f, at_g, at_w, at_g + nodes * heads * size,
            0, 0, 0, 0, 0, at_parts,
        )  # fmt: skip
        packed = pack(
            call, walk, mass, given, leaves + [NO_ROWS] * 4, NOTHING, addresses, save, half=half
        )
        run(kernel().hsa_forward, packed)

    return run_walk, out, evidence, saved, [saved[1] if save else own, own, q, k, v]


def _backward(
    call: Call, saved: list[Tensor], grad: Tensor | None
) -> tuple[Any, Callable[[], list[Tensor | None]], list[Tensor]]:
    """As :func:`_forward`: the walk, what it finds, and where it stays."""
    nodes, families, heads, means, values = _sizes(call)
    q, k, v = beside(call.q), beside(call.k), beside(call.v)
    dtype, tree = accumulator(q.dtype), call.tree
    walk, mass = Walk.of(tree), masses(call.mass, tree, dtype)
    given = node_values(call, dtype)
    grad = v.new_zeros(v.shape) if grad is None else beside(grad)
    dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    learned = [None if x is None else torch.zeros_like(x) for x in given]

    leaf, kept = saved
    # Sums of gradients by family, gradients of means, W and f by family, and two scalars by node;
    # gradients of keys and values of one large family for each head and thread.
    per = families * heads
    width = q.shape[2] + (0 if given[0] is None else given[0].shape[2]) + values + 32  # padded
    threads = walk.threads(heads, means)
    parts = -(-threads // heads) * heads * (walk.widest + 8) * width if walk.tops else 0
    own = q.new_empty(per * (values + means + 2) + 2 * nodes * heads + parts, dtype=dtype)
    size = own.element_size()
    at_means, at_sums = kept.data_ptr(), own.data_ptr()
    at_u = at_means + per * means * size
    at_f = at_u + per * values * size
    at_g, at_z = at_f + per * size, at_sums + per * values * size
    at_w = at_z + per * means * size
    at_df = at_w + per * size
    at_dw = at_df + per * size
    at_mu = at_dw + nodes * heads * size
    leaves = [rows(q), rows(k), rows(v), NO_ROWS, *map(rows, (leaf, grad, dq, dk, dv))]

    def run_walk(half: Half, grad_evidence: Tensor | None) -> None:
        if grad_evidence is not None:
            grad_evidence = grad_evidence.to(dtype).contiguous()
        addresses = (
            0, address(grad_evidence),
            at_means, at_u, 0, at_f, at_g, at_w,
            at_g + nodes * heads * size, at_sums, at_dw, at_df, at_z, at_mu,
            at_mu + nodes * heads * size,
        )  # fmt: skip
        packed = pack(call, walk, mass, given, leaves, learned, addresses, True, half=half)
        run(kernel().hsa_backward, packed)

    def found() -> list[Tensor | None]:
        return [dq, dk, dv, *like(learned, call.learned[3:])]

    return run_walk, found, [own, q, k, v, grad, leaf, kept]


class Forward:
    """A call in two halves, of trees that hang below nodes that are elsewhere.

    They are climbed first; what comes down to their roots, Z and W, may depend on what was found.
    """

    def __init__(self, call: Call, save: bool):
        self.call = call
        self.walk, self.out, self.evidence, self.saved, self.rooms = _forward(call, save)

    def up(self) -> tuple[Tensor, Tensor]:
        """Means ``[R, H, 2 D + Dv]`` and f ``[R, H]`` of the roots."""
        self.walk((0, 0, 0, 1))
        _, families, heads, means, _ = _sizes(self.call)
        of_families = self.rooms[0][: families * heads * means].view(families, heads, means)
        return of_families.index_select(0, _roots(self.call.tree)), self.evidence

    def down(self, z: Tensor, w: Tensor) -> Tensor:
        """The output, with Z ``[R, H, Dv]`` and W ``[R, H]`` of the roots."""
        z, w = z.contiguous(), w.contiguous()
        self.walk((z.data_ptr(), w.data_ptr(), 0, 2))
        return self.out


class Backward:
    """As :class:`Forward`: up with sums of gradients, down with those of means and evidence."""

    def __init__(self, call: Call, saved: list[Tensor], grad: Tensor | None, w: Tensor):
        self.call, self.w = call, w.contiguous()
        self.walk, self.found, self.rooms = _backward(call, saved, grad)

    def up(self) -> tuple[Tensor, Tensor]:
        """Gradients ``[R, H, Dv]`` of Z and ``[R, H]`` of W of the roots."""
        self.walk((0, 0, 0, 1), None)
        _, families, heads, means, values = _sizes(self.call)
        per, root, own = families * heads, _roots(self.call.tree), self.rooms[0]
        sums = own[: per * values].view(families, heads, values)
        at = per * (values + means + 1)  # where those of f come later
        by_w = own[at : at + per].view(families, heads)
        return sums.index_select(0, root), by_w.index_select(0, root)

    def down(self, grad_means: Tensor, grad_evidence: Tensor) -> list[Tensor | None]:
        """Gradients of the call, with those of the roots' means and f."""
        grad_means = grad_means.contiguous()
        self.walk((0, self.w.data_ptr(), grad_means.data_ptr(), 2), grad_evidence)
        return self.found()


def _roots(tree: TreeIndex) -> Tensor:
    """``[R]`` the family of each root, in the order of the walk."""

    def make() -> Tensor:
        walk, most = Walk.of(tree), tree.num_nodes - tree.num_leaves + tree.num_trees
        number = walk.packed[2 * most : 2 * most + walk.families].long()
        root = (number >= 0).nonzero().view(-1)
        return torch.empty_like(root).index_copy_(0, number[root], root)

    return tree.once("cpu roots", make)
