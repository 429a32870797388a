"""What operators remember of a tree: made once, the same for all, gone with the tree."""

import gc
import weakref

import pytest
import torch
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.eager.operator import tree_operator
from hsa_geometric.kernels.eager.plan import Plan
from hsa_geometric.testing import ZOO, attention_inputs, balanced, caterpillar, zoo


@pytest.mark.parametrize("name", [*ZOO, "thin"])
def test_a_plan_holds_what_the_index_holds(name):
    tree = TreeIndex.from_parent(caterpillar(100) if name == "thin" else zoo(name))
    plan = Plan.of(tree.tensors)
    for field in ("up", "leaf"):
        assert torch.equal(getattr(plan, field), getattr(tree, field)), field
    for field in tree.layout._fields[:7]:
        assert torch.equal(getattr(plan, field), getattr(tree.layout, field)), field
    for field in ("child", "above", "parent", "ptr"):
        assert torch.equal(getattr(plan, f"pass_{field}"), getattr(tree.layout.passes, field)), (
            field
        )
    assert plan.sizes == [tuple(row) for row in tree.layout.sizes.tolist()]
    assert plan.passes == [tuple(row) for row in tree.layout.passes.table.tolist()]
    assert [plan.num_roots, plan.first_leaf] == [*tree.layout[-2:]]
    assert plan.deep == (name == "thin")


@pytest.mark.parametrize("name", ZOO)
def test_levels_are_slices_of_the_index(name):
    tree = TreeIndex.from_parent(zoo(name))
    levels = Plan.of(tree.tensors).levels
    assert [list(level[:8]) for level in levels] == tree.layout.levels.tolist()
    for level in levels:
        families = slice(level.f0, level.f1 + 1)
        assert torch.equal(level.above, tree.up[level.n0 : level.n1])
        assert torch.equal(level.parents, tree.family_parent[level.f0 : level.f1])
        assert torch.equal(level.inner_parents, tree.layout.family_inner[level.f0 : level.f1])
        assert torch.equal(level.ptr + level.n0, tree.family_ptr[families])
        assert torch.equal(level.inner_ptr + level.lo, tree.layout.inner_ptr[families])


@pytest.mark.parametrize("name", ZOO)
def test_leaves_by_family(name):
    tree = TreeIndex.from_parent(zoo(name))
    row, position, ptr = Plan.of(tree.tensors).leaf_members
    assert torch.equal(tree.leaf[row], position)
    for f in range(tree.family_parent.numel()):
        members = range(int(tree.family_ptr[f]), int(tree.family_ptr[f + 1]))
        leaves = set(tree.leaf.tolist()) & set(members)
        assert position[ptr[f] : ptr[f + 1]].tolist() == sorted(leaves)


def test_a_tree_has_one_plan_and_every_tree_its_own():
    a, b = (TreeIndex.from_parent(zoo("forest")) for _ in range(2))
    assert Plan.of(a.tensors) is Plan.of(list(a.tensors))
    assert Plan.of(a.tensors) is not Plan.of(b.tensors)
    assert Plan.of(a.to("cpu").tensors) is not Plan.of(a.tensors)


def test_a_plan_goes_with_its_tree():
    tree = TreeIndex.from_parent(zoo("forest"))
    inputs = {n: x.requires_grad_() for n, x in attention_inputs(tree).items()}
    hierarchical_attention(**inputs, tree=tree).sum().backward()
    plan = weakref.ref(Plan.of(tree.tensors))
    assert plan().memo
    del tree
    gc.collect()
    assert plan() is None


def test_what_was_remembered_in_inference_serves_training():
    parent = balanced(3, 3)
    inputs = attention_inputs(TreeIndex.from_parent(parent), pos_channels=2)

    def second_derivatives(tree):
        learned = [x.clone().requires_grad_() for x in inputs.values()]
        out = hierarchical_attention(**dict(zip(inputs, learned, strict=True)), tree=tree)
        first = torch.autograd.grad(out.square().sum(), learned, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), learned)

    tree = TreeIndex.from_parent(parent)
    with torch.inference_mode():
        hierarchical_attention(**inputs, tree=tree)
    assert_close(second_derivatives(tree), second_derivatives(TreeIndex.from_parent(parent)))


def test_an_operator_needs_a_tree_in_the_end():
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    with pytest.raises(TypeError, match="last argument of 'hsa_geometric::none' to be a tree"):
        tree_operator("hsa_geometric::none")(function)
