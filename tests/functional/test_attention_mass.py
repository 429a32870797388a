"""Leaf masses: weights, padding, and trees in which there is nothing to see."""

import pytest
import torch
from helpers import LINEAR
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import ZOO, attention_inputs, forest, forests, star, tree_of_leaf, zoo

# Tensors are on the CPU here, where Triton's kernels run only if they are interpreted.
BACKENDS = [*LINEAR, "reference"]


def attend(inputs, tree, backend, cotangent=None, **options):
    """Output, evidence and gradients of q, k and v."""
    inputs = {n: x.detach().clone() for n, x in inputs.items()}
    learned = [inputs[n].requires_grad_() for n in "qkv"]
    out, evidence = hierarchical_attention(
        **inputs, tree=tree, backend=backend, return_evidence=True, **options
    )
    cotangent = torch.ones_like(out) if cotangent is None else cotangent
    loss = (out.tanh() * cotangent).sum() + evidence[evidence.isfinite()].sum()
    grads = torch.autograd.grad(loss, learned, allow_unused=True)
    grads = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, learned, strict=True)]
    return out.detach(), evidence.detach(), grads


def doubled(parent, leaf):
    """The tree where a leaf is a family of two copies of it; and the row of each new leaf."""
    new = parent.numel()
    tree = TreeIndex.from_parent(parent)
    rows = tree.leaf_ids.tolist().index(leaf)
    copies = torch.cat([parent, torch.tensor([leaf, leaf])])
    rest = [r for r in range(tree.num_leaves) if r != rows]
    assert TreeIndex.from_parent(copies).leaf_ids[-2:].tolist() == [new, new + 1]
    return copies, torch.tensor([*rest, rows, rows])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ZOO)
def test_a_leaf_of_mass_two_equals_a_family_of_two_copies(name, backend):
    parent = zoo(name)
    tree = TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree)
    for row, leaf in list(enumerate(tree.leaf_ids.tolist()))[:3]:
        copies, rows = doubled(parent, leaf)
        mass = torch.ones(tree.num_leaves, dtype=torch.float64)
        mass[row] = 2
        out, evidence, _ = attend(inputs | {"mass": mass}, tree, backend)
        twice = {n: x[rows] for n, x in inputs.items()}
        actual, score, _ = attend(twice, TreeIndex.from_parent(copies), backend)
        assert_close(actual, out[rows], rtol=1e-10, atol=1e-10)
        assert_close(score, evidence, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_leaf_of_mass_two_equals_two_leaves_of_its_family(backend):
    inputs = attention_inputs(TreeIndex.from_parent(star(4)))
    mass = torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    out, evidence, _ = attend(inputs | {"mass": mass}, star(4), backend)
    rows = torch.tensor([0, 1, 2, 3, 3])
    actual, score, _ = attend({n: x[rows] for n, x in inputs.items()}, star(5), backend)
    assert_close(actual, out[rows], rtol=1e-10, atol=1e-10)
    assert_close(score, evidence, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scaling_all_masses_of_a_tree_changes_no_output(factor, backend):
    tree = TreeIndex.from_parent(zoo("forest"))
    inputs = attention_inputs(tree, mass="zeros")
    number = tree_of_leaf(tree)
    expected, before, grads = attend(inputs, tree, backend)
    inputs["mass"] = torch.where(number == 0, factor * inputs["mass"], inputs["mass"])
    actual, after, scaled = attend(inputs, tree, backend)
    assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    assert_close(scaled, grads, rtol=1e-9, atol=1e-10)
    shift = torch.zeros_like(before)
    shift[0] = torch.tensor(factor).double().log()
    assert_close(after, before + shift)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("name", ZOO)
def test_padding_is_seen_by_nobody_and_harms_nobody(name, self_loop, backend):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(tree, mass="zeros")
    real = inputs["mass"] > 0
    out, evidence, grads = attend(inputs, tree, backend, self_loop=self_loop)
    assert out.isfinite().all() and not evidence.isnan().any()
    assert all(g.isfinite().all() for g in grads)

    other = dict(inputs)
    for n in "qkv":
        other[n] = inputs[n].clone()
        other[n][~real] = 5 + 100 * other[n][~real]
    # The padding rows themselves take no part in the loss here: only what others see of them.
    cotangent = real.double().view(-1, 1, 1).expand_as(out)
    first = attend(inputs, tree, backend, cotangent, self_loop=self_loop)
    second = attend(other, tree, backend, cotangent, self_loop=self_loop)
    assert torch.equal(second[0][real], first[0][real])
    assert torch.equal(second[1], first[1])
    for a, b in zip(first[2], second[2], strict=True):
        assert_close(b[real], a[real], rtol=1e-12, atol=1e-12)
        assert not a[~real].any() and not b[~real].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("filling", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["star", "unequal_depths", "one_child_nodes", "forest"])
def test_padding_rows_may_hold_anything(name, filling, self_loop, backend):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(tree, mass="zeros")
    real = inputs["mass"] > 0
    cotangent = real.double().view(-1, 1, 1).expand_as(inputs["v"])
    expected = attend(inputs, tree, backend, cotangent, self_loop=self_loop)
    for n in "qkv":
        inputs[n] = inputs[n].masked_fill(~real.view(-1, 1, 1), filling)
    actual = attend(inputs, tree, backend, cotangent, self_loop=self_loop)
    assert_close(actual[0][real], expected[0][real])
    assert_close(actual[1], expected[1])
    for name, a, b in zip("qkv", expected[2], actual[2], strict=True):
        assert_close(b[real], a[real], msg=lambda m, name=name: f"gradient of {name}: {m}")
        assert b.isfinite().all(), f"gradient of {name} in padding rows"
    assert actual[0].isfinite().all(), "output in padding rows"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("self_loop", [True, False])
def test_padding_leaves_equal_no_leaves(self_loop, backend):
    parent = zoo("unequal_depths")
    tree = TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree)
    # Two leaves of mass 0 more below the root, and a subtree of three more below node 5.
    more = torch.tensor([7, 7, 5, 10, 10, 10])
    padded = TreeIndex.from_parent(torch.cat([parent, more]))
    extra = padded.num_leaves - tree.num_leaves
    wide = {n: torch.cat([x, torch.full_like(x[:extra], 3.0)]) for n, x in inputs.items()}
    mass = torch.ones(padded.num_leaves, dtype=torch.float64)
    mass[tree.num_leaves :] = 0
    assert padded.leaf_ids[: tree.num_leaves].tolist() == tree.leaf_ids.tolist()
    expected, score, grads = attend(inputs, tree, backend, self_loop=self_loop)
    cotangent = mass.view(-1, 1, 1).expand_as(wide["v"])
    actual, padded_score, padded_grads = attend(
        wide | {"mass": mass}, padded, backend, cotangent, self_loop=self_loop
    )
    assert_close(actual[: tree.num_leaves], expected)
    assert_close(padded_score, score)
    for a, b in zip(grads, padded_grads, strict=True):
        assert_close(b[: tree.num_leaves], a)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("name", ZOO)
def test_a_forest_without_any_mass_gives_zeros(name, self_loop, backend):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(tree)
    inputs["mass"] = torch.zeros(tree.num_leaves, dtype=torch.float64)
    out, evidence, grads = attend(inputs, tree, backend, self_loop=self_loop)
    assert not out.any() and evidence.isneginf().all()
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["one_node", "single_leaf", "chain", "single_nodes"])
def test_a_leaf_alone_without_self_loop_gets_zero_and_no_nan(name, backend):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True)
    out, evidence, grads = attend(inputs, tree, backend, self_loop=False)
    assert not out.any() and evidence.isneginf().all()
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_leaf_alone_beside_a_larger_tree_changes_nothing_there(backend):
    tree = TreeIndex.from_parent(forest(torch.tensor([0]), star(3), torch.tensor([1, 1])))
    inputs = attention_inputs(tree)
    out, _, grads = attend(inputs, tree, backend, self_loop=False)
    expected, _, star_grads = attend(
        {n: x[1:4] for n, x in inputs.items()}, star(3), backend, self_loop=False
    )
    assert_close(out, torch.cat([out[:1] * 0, expected, out[:1] * 0]))
    for a, b in zip(grads, star_grads, strict=True):
        assert a.isfinite().all()
        assert_close(a[1:4], b)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(forests(max_nodes=18), st.booleans(), st.data())
def test_no_nan_for_any_pattern_of_padding(parent, self_loop, data):
    tree = TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True)
    masses = st.lists(
        st.sampled_from([0.0, 1e-30, 1.0, 2.5]), min_size=tree.num_leaves, max_size=tree.num_leaves
    )
    inputs["mass"] = torch.tensor(data.draw(masses), dtype=torch.float64)
    results = [attend(inputs, tree, b, self_loop=self_loop) for b in BACKENDS]
    for out, evidence, grads in results:
        assert out.isfinite().all() and not evidence.isnan().any()
        assert all(g.isfinite().all() for g in grads)
    for other in results[1:]:
        assert_close(other, results[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mass", [1e-20, 1e20])
def test_masses_of_any_size_are_fine_in_float32(mass):
    tree = TreeIndex.from_parent(zoo("unequal_depths"))
    inputs = attention_inputs(tree, dtype=torch.float32)
    expected = attend(inputs, tree, "scatter")
    inputs["mass"] = torch.full((tree.num_leaves,), mass)
    out, _, grads = attend(inputs, tree, "scatter")
    assert_close(out, expected[0], rtol=1e-4, atol=1e-4)
    assert_close(grads, expected[2], rtol=1e-4, atol=1e-4)
