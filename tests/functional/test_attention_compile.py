"""torch.compile: whole graphs, and one for all trees.

The backend 'aot_eager' traces forward and backward as 'inductor' does but needs no C++ compiler.
"""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import (
    aggregate,
    distribute,
    hierarchical_attention,
)
from hsa_geometric.testing import attention_inputs, balanced, forest, random_parent, star, zoo

OPTIONS = {
    "plain": {},
    "all options": {"pos_channels": 2, "node_scalars": True, "mass": "zeros"},
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(function, inputs, tree, **options):
    """Output, evidence and gradients."""
    inputs = {n: x.detach().clone().requires_grad_(n != "mass") for n, x in inputs.items()}
    out, evidence = function(**inputs, tree=tree, return_evidence=True, **options)
    learned = [x for n, x in inputs.items() if n != "mass"]
    loss = out.square().sum() + evidence[evidence.isfinite()].sum()
    return out.detach(), evidence.detach(), torch.autograd.grad(loss, learned)


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["star", "unequal_depths", "shuffled_forest"])
def test_it_is_one_graph_with_the_same_result_and_gradients(name, options, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(tree, **OPTIONS[options])
    compiled = torch.compile(hierarchical_attention, fullgraph=True, backend="aot_eager")
    assert_close(
        step(compiled, inputs, tree, self_loop=self_loop),
        step(hierarchical_attention, inputs, tree, self_loop=self_loop),
    )


def compare_over(compiled, parents, **options):
    for number, parent in enumerate(parents):
        tree = TreeIndex.from_parent(parent)
        inputs = attention_inputs(tree, **options)
        assert_close(
            step(compiled, inputs, tree),
            step(hierarchical_attention, inputs, tree),
            msg=lambda m, number=number: f"tree {number}: {m}",
        )


@pytest.mark.parametrize("num_trees", [1, 12])
@pytest.mark.parametrize("options", OPTIONS)
def test_different_trees_share_a_compiled_graph(options, num_trees):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(hierarchical_attention, fullgraph=True, backend=counter)
    # The first tree's sizes are taken for constants, until others show which ones are not. A size
    # of one stays a constant: one tree and many have graphs of their own.
    first = [
        random_parent(200, num_trees=num_trees, reach=12, seed=2),
        random_parent(300, num_trees=2 * num_trees - 1, seed=1),
    ]
    compare_over(compiled, first, **OPTIONS[options])
    seen = counter.frame_count
    assert seen <= 2
    others = [
        random_parent(30 + 7 * seed, num_trees=max(1, num_trees - seed), seed=seed, reach=reach)
        for seed, reach in enumerate([None, 30, 12, 7, 5])
    ]
    compare_over(compiled, others, **OPTIONS[options])
    assert counter.frame_count == seen


def test_dropout_is_compiled_and_drawn_anew_at_each_call():
    tree = TreeIndex.from_parent(zoo("forest"))
    inputs = attention_inputs(tree)
    compiled = torch.compile(hierarchical_attention, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    outs = [compiled(**inputs, tree=tree, dropout_p=0.5, training=True).detach() for _ in range(3)]
    assert not torch.equal(outs[0], outs[1]) and not torch.equal(outs[1], outs[2])
    learned = [x.requires_grad_() for x in inputs.values()]
    out = compiled(*learned, tree=tree, dropout_p=0.5, training=True)
    # Linear in the values for the masks of this call, forward and backward alike.
    (grad,) = torch.autograd.grad(out.sum(), learned[2])
    assert_close((grad * inputs["v"]).sum(), out.sum())


def test_the_sweeps_are_one_graph():
    tree = TreeIndex.from_parent(zoo("forest"))

    def function(x):
        return distribute(aggregate(x, tree), tree)

    x = torch.randn(tree.num_leaves, 3, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    out = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    out.square().sum().backward()
    function(y).square().sum().backward()
    assert_close((out, x.grad), (function(y), y.grad))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor on the CPU needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_inductor_gives_the_same_over_several_trees():
    compiled = torch.compile(hierarchical_attention, fullgraph=True, dynamic=True)
    for parent in (zoo("forest"), forest(star(5), balanced(2, 3))):
        tree = TreeIndex.from_parent(parent)
        inputs = attention_inputs(tree, dtype=torch.float32)
        assert_close(
            step(compiled, inputs, tree), step(hierarchical_attention, inputs, tree),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
