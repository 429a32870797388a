"""Compiled and exported layers that are given trees: how many graphs they take."""

import gc

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from hsa_geometric import TreeIndex, once
from hsa_geometric.nn import HierarchicalAttentionConv, HierarchicalUNet
from hsa_geometric.testing import random_parent, zoo

PARENTS = [random_parent(n, seed=n, num_trees=2) for n in (30, 47, 61, 33)]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graphs(model, parents, as_index, **options):
    """How many the compiled model takes; its results and gradients are the model's."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, **options)
    for parent in parents:
        index = TreeIndex.from_parent(parent)
        x, tree = torch.randn(index.num_leaves, 3), index if as_index else parent
        results = []
        for function in (compiled, model):
            model.zero_grad()
            out = function(x, tree)
            out.square().sum().backward()
            results.append([out.detach(), *(p.grad for p in model.parameters())])
        assert_close(*results)
    # The compiler also counts empty ones.
    return sum(any(x.op.startswith("call") for x in g.graph.nodes) for g in counter.graphs)


MODELS = {
    "conv": lambda: HierarchicalAttentionConv(3, 4, heads=2, num_levels=3),
    "unet": lambda: HierarchicalUNet(3, 8, 2, heads=2),
}


@pytest.mark.parametrize("as_index", [True, False], ids=["TreeIndex", "parent"])
@pytest.mark.parametrize("name", MODELS)
def test_one_graph_serves_every_tree(name, as_index):
    assert graphs(MODELS[name](), PARENTS, as_index, fullgraph=True, dynamic=True) == 1


@pytest.mark.parametrize("name", MODELS)
def test_without_asking_for_one_graph_they_do_not_grow_with_the_trees(name):
    model = MODELS[name]()
    few = graphs(model, PARENTS[:2], False)
    torch._dynamo.reset()
    assert graphs(model, PARENTS, False) == few <= 6


def test_a_parent_vector_of_another_size_is_refused_by_a_compiled_layer():
    compiled = torch.compile(MODELS["conv"](), backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match=r"one row for each of the 8 leaves \(got 7 rows\)"):
        compiled(torch.randn(7, 3), zoo("ragged"))


def test_what_is_worked_out_about_a_compiled_tree_is_kept_for_the_next_layer(monkeypatch):
    gc.collect()
    before, made = len(once._FOUND), []
    original = TreeIndex.once

    def counted(self, name, make):
        return original(self, name, lambda: made.append(name) or make())

    monkeypatch.setattr(TreeIndex, "once", counted)
    model = torch.nn.ModuleList([MODELS["conv"](), HierarchicalAttentionConv(8, 4, heads=2)])

    def both(x, parent):
        tree = TreeIndex.from_parent(parent, num_leaves=x.shape[0])
        return model[1](model[0](x, tree), tree)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    tree = TreeIndex.from_parent(zoo("ragged"))
    compiled(torch.randn(tree.num_leaves, 3), tree.parent).sum().backward()
    assert made and len(set(made)) == len(made)
    assert len(once._FOUND) <= before + 2 + len(made)


class Exported(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = MODELS["conv"]()

    def forward(self, x, tree):
        return self.conv(x, tree)


@pytest.mark.parametrize("strict", [True, False])
def test_an_index_is_an_argument_of_an_exported_layer(strict):
    model = Exported()
    trees = [TreeIndex.from_parent(random_parent(n, num_trees=3, seed=n)) for n in (30, 50)]
    xs = [torch.randn(tree.num_leaves, 3) for tree in trees]
    auto = torch.export.Dim.AUTO
    sizes = [{0: auto} if x.dim() else {} for x in trees[0].tensors]
    exported = torch.export.export(
        model, (xs[0], trees[0]), strict=strict, dynamic_shapes=({0: auto}, sizes)
    )
    for x, tree in zip(xs, trees, strict=True):
        assert_close(exported.module()(x, tree), model(x, tree))
