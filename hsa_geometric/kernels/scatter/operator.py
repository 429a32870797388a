"""The sweeps as one operator, so that ``torch.compile`` makes one graph for every tree."""

from __future__ import annotations

import torch
from torch import Tensor

from ...tree import TreeIndex
from . import sweeps

torch.library.define("hsa_geometric::sweep", "(Tensor x, bool down, Tensor[] tree) -> Tensor")


def sweep(x: Tensor, down: bool, tree: TreeIndex) -> Tensor:
    """:func:`~.sweeps.down` or :func:`~.sweeps.up`; where a graph is made, as one node of it."""
    if torch.compiler.is_compiling():
        return torch.ops.hsa_geometric.sweep(x, down, tree.tensors)
    return sweeps.down(x, tree) if down else sweeps.up(x, tree)


@torch.library.impl("hsa_geometric::sweep", "default")
def _(x, down, tree):
    index = TreeIndex(*tree)
    return sweeps.down(x, index) if down else sweeps.up(x, index)


@torch.library.register_fake("hsa_geometric::sweep")
def _(x, down, tree):
    index = TreeIndex(*tree)
    return x.new_empty(index.num_leaves if down else index.num_nodes, *x.shape[1:])


def _setup(ctx, inputs, output):
    _, ctx.down, tree = inputs
    ctx.save_for_backward(*tree)


def _backward(ctx, grad):
    tree = list(ctx.saved_tensors)
    return torch.ops.hsa_geometric.sweep(grad, not ctx.down, tree), None, [None] * len(tree)


torch.library.register_autograd("hsa_geometric::sweep", _backward, setup_context=_setup)
