"""Families of one and of two have a way of their own; it must be the others'."""

import pytest
import torch
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.eager import blocks, couples
from hsa_geometric.kernels.eager.plan import Plan
from hsa_geometric.testing import attention_inputs, balanced, chain, forest, random_parent

TREES = {
    "binary": lambda: balanced(2, 4),  # pairs stand together
    "pairs and wide": lambda: forest(balanced(2, 3), balanced(5, 2), balanced(2, 2)),
    "only children": lambda: forest(chain(3), balanced(2, 2), chain(1)),
    "random": lambda: forest(*(random_parent(9, reach=3, seed=i) for i in range(6))),
}


def run(tree, inputs, cotangent=None, **zeros):
    learned = {n: x.clone().requires_grad_(n != "mass") for n, x in inputs.items()}
    out, f = hierarchical_attention(**learned, **zeros, tree=tree, return_evidence=True)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    score = (out * cotangent).sum() + f[f.isfinite()].sin().sum()
    return [out, f, *torch.autograd.grad(score, [x for n, x in learned.items() if n != "mass"])]


@pytest.mark.parametrize("price", [0, None, 10**9], ids=["apart", "by default", "padded"])
@pytest.mark.parametrize("mass", [None, "zeros"])
@pytest.mark.parametrize("name", TREES)
def test_they_equal_the_way_of_larger_families(monkeypatch, name, mass, price):
    if price is not None:  # of a block: families of one and of two in one block, or each its own
        monkeypatch.setattr(blocks, "PER_BLOCK", price)
    monkeypatch.setattr(blocks, "CHUNK_ELEMENTS", 64)
    blocks.groups.cache_clear()
    calls = []
    attend = couples.attend
    monkeypatch.setattr(couples, "attend", lambda *args: (calls.append(1), attend(*args)))
    parent = TREES[name]()
    tree, other = TreeIndex.from_parent(parent), TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree, mass=mass)
    actual = run(tree, inputs)
    assert calls or price != 0
    zero = inputs["q"].new_zeros(tree.num_nodes, inputs["q"].shape[1], 1)
    calls.clear()
    for x, y in zip(actual, run(other, inputs, pos_q=zero, pos_k=zero), strict=True):
        assert_close(x, y)
    assert not calls
    blocks.groups.cache_clear()


def test_those_that_stand_together_are_read_in_place():
    plan = Plan.of(TreeIndex.from_parent(balanced(2, 12)).tensors)
    (*_, bundle) = list(blocks.bundles(plan, 4, 32))
    assert bundle.couples and bundle.start > 0
    x = torch.arange(plan.num_nodes).view(-1, 1)
    assert bundle.take_rows(x).data_ptr() == x[bundle.start :].data_ptr()
    assert torch.equal(bundle.take_rows(x, sibling=True), bundle.take_rows(x).flip(1))


def test_nothing_comes_from_a_sibling_without_mass():
    # Of the families {0, 1} and {2, 3} one member each is padding, which holds NaN.
    tree = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 4, 2, 3, dtype=torch.float64))
    mass = torch.tensor([1.0, 0.0, 0.0, 2.0])
    with torch.no_grad():
        for x in (q, k, v):
            x[1:3] = float("nan")
    out = hierarchical_attention(q, k, v, tree, mass=mass)
    assert out[[0, 3]].isfinite().all()
    for grad in torch.autograd.grad(out[[0, 3]].sum(), (q, k, v)):
        assert grad.isfinite().all() and not grad[1:3].any()
