"""Linear maps of rows of several types, which are sorted once for several maps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import HeteroLinear


def sorted_linear(lin: HeteroLinear, x: Tensor, sizes: list[int]) -> Tensor:
    """The map of each type of its rows, which stand type after type: so many of each.

    PyG's own forward sorts at each call, and writes into slices, of which backward makes copies.
    """
    parts = zip(x.split(sizes), lin.weight, lin.bias, strict=False)
    return torch.cat([torch.nn.functional.linear(x, w.t(), b) for x, w, b in parts])


def typed_linear(lins: Iterable[HeteroLinear], x: Tensor, types: Tensor) -> list[Tensor]:
    """Each map's rows, in the order of ``x``."""
    lins = list(lins)
    if any(lin.in_channels == -1 for lin in lins):  # they learn their width in PyG's forward
        return [lin(x, types) for lin in lins]
    types = types.long()
    order = types.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device)
    sizes = torch.bincount(types, minlength=lins[0].num_types).tolist()
    rows = x.index_select(0, order)
    return [sorted_linear(lin, rows, sizes).index_select(0, place) for lin in lins]
