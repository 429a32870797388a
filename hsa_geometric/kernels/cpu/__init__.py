"""Backend ``'cpu'``: one fused kernel, forward and backward, for every processor.

====================  ===========================================================================
``walk``              in which order the kernel visits a tree, and masses
``call``              its arguments
``native/src``        the kernel itself, in C++
====================  ===========================================================================
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ...native import library, why_not
from ..call import Call, accumulator
from .call import Arguments, beside, rows
from .walk import Walk, masses

__all__ = ["backward", "check", "forward", "saved_like"]


def check(device: torch.device) -> None:
    """Whether the backend can compute there.

    Raises:
        ImportError: if the kernel is not there; says why and what to do.
        ValueError: if the device is no CPU.
    """
    if device.type != "cpu":
        raise ValueError(f"Expected tensors on the CPU for backend='cpu' (got {device})")
    if library() is None:
        raise ImportError(f"backend='cpu' has no kernel: {why_not()}")


def _sizes(call: Call) -> tuple[int, int, int, int, int]:
    """Nodes, families at most, heads, channels of means, values."""
    tree, (_, heads, width), values = call.tree, call.q.shape, call.v.shape[2]
    families = tree.num_nodes - tree.num_leaves + tree.num_trees
    return tree.num_nodes, families, heads, 2 * width + values, values


def saved_like(call: Call) -> list[Tensor]:
    """Empty tensors of what :func:`forward` keeps for :func:`backward`.

    U of the leaves, as v is; means of the families and their U; and S, g by node and f by family.
    """
    nodes, families, heads, means, values = _sizes(call)
    dtype, new = accumulator(call.q.dtype), call.q.new_empty
    return [
        call.v.new_empty(call.v.shape),
        new(families * heads * (means + values), dtype=dtype),
        new((2 * nodes + families) * heads, dtype=dtype),
    ]


def _node_values(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.detach().to(dtype).contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _arguments(
    call: Call, q: Tensor, k: Tensor, v: Tensor, walk: Walk, mass: Tensor, given: list[Tensor | None]
) -> Arguments:
    tree, (_, heads, width), values = call.tree, q.shape, v.shape[2]
    pos = given[0]
    a = Arguments(
        walk.packed.data_ptr(), tree.order.data_ptr(), tree.num_nodes,
        tree.num_nodes - tree.num_leaves, tree.num_trees, walk.families, walk.tasks, walk.tops,
        walk.widest, walk.cost, heads, width, values, 0 if pos is None else pos.shape[2],
        rows(q), rows(k), rows(v),
    )  # fmt: skip
    a.pos_q, a.pos_k, a.temperature, a.bias = map(_address, given)
    a.weight = mass.data_ptr()
    a.log_mass = a.weight + mass.stride(0) * mass.element_size()
    a.masses, a.self_loop = call.mass is not None, call.self_loop
    a.precise = mass.dtype == torch.float64
    a.scale, a.dropout = call.scale, call.dropout_p
    if call.seed is not None and call.dropout_p > 0:
        a.seed = int(call.seed)
    a.threads = walk.threads(heads, 2 * width + values)
    return a


def forward(call: Call, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output ``[N, H, Dv]``, log evidence ``[trees, H]``, and what :func:`backward` needs."""
    nodes, families, heads, means, values = _sizes(call)
    q, k, v = beside(call.q), beside(call.k), beside(call.v)
    dtype, tree = accumulator(q.dtype), call.tree
    walk, mass = Walk.of(tree), masses(call.mass, tree, dtype)
    given = [_node_values(x, dtype) for x in (call.pos_q, call.pos_k, call.temperature, call.bias)]
    out = v.new_empty(v.shape)
    evidence = torch.empty(tree.num_trees, heads, dtype=dtype)
    saved = saved_like(call) if save else []
    if save:
        leaf, inner, scalars = saved
    else:
        inner = torch.empty(families * heads * (means + values), dtype=dtype)
        scalars = torch.empty(2 * families * heads, dtype=dtype)
    # What nobody needs afterwards: Z, W, and parts of f of large families.
    tiles = (walk.widest // 64 + 1) * heads
    own = torch.empty(families * heads * (values + 1) + tiles, dtype=dtype)

    a = _arguments(call, q, k, v, walk, mass, given)
    a.out = rows(out)
    a.evidence = evidence.data_ptr()
    size, per = inner.element_size(), families * heads
    a.means = inner.data_ptr()
    a.U = a.means + per * means * size
    a.f = scalars.data_ptr()
    a.g = a.f + per * size
    a.save = save
    if save:
        a.U_leaf = rows(leaf)
        a.S = a.g + nodes * heads * size
    a.Z = own.data_ptr()
    a.W = a.Z + per * values * size
    a.parts = a.W + per * size
    _run(library().hsa_forward, a)
    return out, evidence, saved


def backward(
    call: Call, saved: list[Tensor], grad: Tensor | None, grad_evidence: Tensor | None
) -> list[Tensor | None]:
    """Gradients of q, k, v, pos_q, pos_k, temperature and bias; None for those that are None."""
    nodes, families, heads, means, values = _sizes(call)
    q, k, v = beside(call.q), beside(call.k), beside(call.v)
    dtype, tree = accumulator(q.dtype), call.tree
    walk, mass = Walk.of(tree), masses(call.mass, tree, dtype)
    optional = (call.pos_q, call.pos_k, call.temperature, call.bias)
    given = [_node_values(x, dtype) for x in optional]
    grad = v.new_zeros(v.shape) if grad is None else beside(grad)
    if grad_evidence is not None:
        grad_evidence = grad_evidence.to(dtype).contiguous()
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    learned = [None if x is None else torch.zeros_like(x) for x in given]

    a = _arguments(call, q, k, v, walk, mass, given)
    leaf, inner, scalars = saved
    a.U_leaf, a.grad, a.dq, a.dk, a.dv = map(rows, (leaf, grad, dq, dk, dv))
    a.d_pos_q, a.d_pos_k, a.d_temperature, a.d_bias = map(_address, learned)
    a.grad_evidence = _address(grad_evidence)
    size, per = inner.element_size(), families * heads
    a.means = inner.data_ptr()
    a.U = a.means + per * means * size
    a.f = scalars.data_ptr()
    a.g = a.f + per * size
    a.S = a.g + nodes * heads * size
    a.save = True
    # Sums of gradients by family, gradients of means, W and f by family, and two scalars by node.
    width = q.shape[2] + (0 if given[0] is None else given[0].shape[2]) + values + 32  # padded
    parts = -(-a.threads // heads) * heads * (walk.widest + 8) * width if walk.tops else 0
    own = torch.empty(per * (values + means + 2) + 2 * nodes * heads + parts, dtype=dtype)
    a.G = own.data_ptr()
    a.z = a.G + per * values * size
    a.W = a.z + per * means * size
    a.df = a.W + per * size
    a.dW = a.df + per * size
    a.mu = a.dW + nodes * heads * size
    a.parts = a.mu + nodes * heads * size
    _run(library().hsa_backward, a)
    grads = [None if x is None else x.to(y.dtype) for x, y in zip(learned, optional, strict=True)]
    return [dq, dk, dv, *grads]


def _run(function, arguments: Arguments) -> None:
    if function(ctypes.addressof(arguments)):
        raise MemoryError("backend='cpu' found no memory for the rows of a tile")
