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
from ..call import Call, accumulator
from . import lists
from .call import NO_ROWS, NOTHING, address, beside, like, node_values, pack, rows, run
from .walk import Walk, masses

__all__ = ["LISTS", "backward", "check", "forward", "saved_like"]

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
    packed = pack(
        call, walk, mass, given,
        [rows(q), rows(k), rows(v), rows(out), rows(saved[0]) if save else NO_ROWS, *[NO_ROWS] * 4],
        NOTHING,
        (
            evidence.data_ptr(), 0,
            at_means, at_u, at_z, at_f, at_g, at_w, at_g + nodes * heads * size,
            0, 0, 0, 0, 0, at_parts,
        ),
        save,
    )  # fmt: skip
    run(kernel().hsa_forward, packed)
    return out, evidence, saved


def backward(
    call: Call, saved: list[Tensor], grad: Tensor | None, grad_evidence: Tensor | None
) -> list[Tensor | None]:
    """Gradients of q, k, v, pos_q, pos_k, temperature and bias; None for those that are None."""
    if call.lists is not None:
        return lists.backward(call, saved, grad, grad_evidence)
    nodes, families, heads, means, values = _sizes(call)
    q, k, v = beside(call.q), beside(call.k), beside(call.v)
    dtype, tree = accumulator(q.dtype), call.tree
    walk, mass = Walk.of(tree), masses(call.mass, tree, dtype)
    given = node_values(call, dtype)
    grad = v.new_zeros(v.shape) if grad is None else beside(grad)
    if grad_evidence is not None:
        grad_evidence = grad_evidence.to(dtype).contiguous()
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
    packed = pack(
        call, walk, mass, given,
        [rows(q), rows(k), rows(v), NO_ROWS, *map(rows, (leaf, grad, dq, dk, dv))], learned,
        (
            0, address(grad_evidence),
            at_means, at_u, 0, at_f, at_g, at_w,
            at_g + nodes * heads * size, at_sums, at_dw, at_df, at_z, at_mu,
            at_mu + nodes * heads * size,
        ),
        True,
    )  # fmt: skip
    run(kernel().hsa_backward, packed)
    return [dq, dk, dv, *like(learned, call.learned[3:])]
