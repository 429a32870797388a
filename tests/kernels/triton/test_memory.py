"""Peak memory of a call, counted in what it asks the allocator for: the same on any device."""

import weakref

import pytest
import torch
from attending import families, watch
from helpers import DEVICE
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import attention_inputs, balanced

TREES = {
    "balanced": lambda: TreeIndex.from_parent(balanced(8, 4)).to(DEVICE),
    "ragged": lambda: families(*[*range(2, 21)] * 20),
}


class Allocations(TorchDispatchMode):
    """Counts bytes of living storages that were made while it is on, and their ``peak``."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {x.untyped_storage()._cdata for x in self.tensors((args, kwargs))}
        result = func(*args, **kwargs)
        for x in self.tensors(result):
            storage = x.untyped_storage()
            if storage._cdata not in given | self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def freed(self, key, size):
        self.known.discard(key)
        self.now -= size

    @staticmethod
    def tensors(tree):
        return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def test_what_is_counted():
    with Allocations() as count:
        x = torch.ones(10)
        y = x[2:] + 1
        del y
        x.add_(1)
    assert (count.now, count.peak) == (40, 72)


@pytest.mark.parametrize("which, most", [("forward", 1.0), ("both", 2.3)])
@pytest.mark.parametrize("name", TREES)
def test_it_stays_below_a_small_multiple_of_inputs_and_output(monkeypatch, name, which, most):
    watch(monkeypatch, lambda *args, **meta: None)  # the kernels need none
    tree = TREES[name]()
    inputs = attention_inputs(
        tree, heads=8, channels=32, value_channels=32, dtype=torch.bfloat16
    )  # fmt: skip
    inputs = {n: x.requires_grad_(which == "both") for n, x in inputs.items()}
    grad = torch.ones_like(inputs["v"])

    def run():
        out = hierarchical_attention(**inputs, tree=tree, backend="triton")
        return torch.autograd.grad(out, list(inputs.values()), grad) if which == "both" else out

    run()  # what follows from the tree is kept
    with Allocations() as count:
        kept = run()
    assert count.peak / (4 * grad.nbytes) < most
    assert count.now >= (3 if which == "both" else 1) * grad.nbytes  # what it returned
    del kept
    assert count.now < grad.nbytes
