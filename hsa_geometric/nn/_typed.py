"""Linear maps of rows of several types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import HeteroLinear


class Parts(torch.autograd.Function):
    """Rows of each part; that parts are disjoint makes :class:`Joined` its transpose."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """``x[r]`` of each r."""
        return tuple(x.index_select(0, r) for r in rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        """The rows."""
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The parts of the gradient, joined."""
        rows = ctx.saved_tensors
        return Joined.apply(len(rows), *rows, *grads), *[None] * len(rows)


class Joined(torch.autograd.Function):
    """Disjoint parts that together are all rows, as one tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, *both: Tensor) -> Tensor:
        """``count`` vectors of rows, then so many parts."""
        rows, parts = both[:count], both[count:]
        out = parts[0].new_empty(sum(r.numel() for r in rows), parts[0].shape[1])
        for r, part in zip(rows, parts, strict=True):
            out.index_copy_(0, r, part)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The rows."""
        count, *both = inputs
        ctx.save_for_backward(*both[:count])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient's parts."""
        rows = ctx.saved_tensors
        return None, *[None] * len(rows), *Parts.apply(grad, *rows)


def sorted_linear(lin: HeteroLinear, x: Tensor, sizes: list[int]) -> Tensor:
    """The map of each type of its rows, which stand type after type: so many of each."""
    parts = zip(x.split(sizes), lin.weight, lin.bias, strict=False)
    return torch.cat([torch.nn.functional.linear(x, w.t(), b) for x, w, b in parts])


def typed_linear(lins: Sequence[HeteroLinear], x: Tensor, types: Tensor) -> Sequence[Tensor]:
    """What several maps of one width give, by one product for each type.

    PyG's own forward sorts at each call, and writes into slices, of which backward makes copies.
    """
    if any(lin.in_channels == -1 for lin in lins):  # they learn their width in PyG's forward
        return [lin(x, types) for lin in lins]
    types = types.long()
    sizes = torch.bincount(types, minlength=lins[0].num_types).tolist()
    rows = types.argsort(stable=True).split(sizes)
    weight = torch.cat([lin.weight for lin in lins], dim=2)
    bias = torch.cat([lin.bias for lin in lins], dim=1)
    maps = zip(Parts.apply(x, *rows), weight, bias, strict=True)
    parts = [torch.nn.functional.linear(x, w.t(), b) for x, w, b in maps]
    out: Tensor = Joined.apply(len(rows), *rows, *parts)
    return out.chunk(len(lins), dim=1)
