"""Forward mode, torch.func, inference mode, changes in place, and tensors without numbers."""

import pytest
import torch
import torch.autograd.forward_ad as fw
from helpers import LINEAR
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.nn import HierarchicalAttentionConv
from hsa_geometric.testing import attention_inputs, zoo

EVERYTHING = {"pos_channels": 2, "node_scalars": True, "mass": "zeros"}
BACKENDS = ["auto", "scatter"]
KERNELS = [name for name in LINEAR if name != "scatter"]


@pytest.fixture
def tree():
    return TreeIndex.from_parent(zoo("ragged"))


def conv_for(backend="auto", **options):
    torch.manual_seed(0)
    return HierarchicalAttentionConv(3, 4, heads=2, backend=backend, **options)


def rows(tree, *batch, **options):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*batch, tree.num_leaves, 3, generator=generator).to(**options)


# --- forward mode and torch.func -----------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"pos_channels": 2, "node_scalars": True, "mass": "zeros"}]
)
@pytest.mark.parametrize("how", ["torch.func.jvp", "forward_ad"])
def test_forward_derivatives_are_the_slope(tree, backend, options, how):
    inputs = attention_inputs(tree, **options)
    names = [n for n in inputs if n != "mass"]
    at = tuple(inputs[n] for n in names)
    way = tuple(torch.randn(x.shape, dtype=x.dtype) for x in at)

    def function(*args):
        given = {**inputs, **dict(zip(names, args, strict=True))}
        return hierarchical_attention(**given, tree=tree, backend=backend)

    if how == "forward_ad":
        with fw.dual_level():
            out = function(*map(fw.make_dual, at, way))
            slope = fw.unpack_dual(out).tangent
    else:
        _, slope = torch.func.jvp(function, at, way)
    step = 1e-6
    high, low = (
        function(*(x + s * w for x, w in zip(at, way, strict=True))) for s in (step, -step)
    )
    assert slope is not None and slope.abs().max() > 1e-3
    assert_close(slope, (high - low) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_named_kernel_refuses_what_it_does_not_know(tree, backend):
    inputs = attention_inputs(tree)
    message = f"backend='{backend}' \\(use 'scatter' or 'auto' there\\)"

    def function(q):
        given = {**inputs, "q": q}
        return hierarchical_attention(**given, tree=tree, backend=backend).sum()

    with fw.dual_level(), pytest.raises(ValueError, match=message):
        function(fw.make_dual(inputs["q"], inputs["q"]))
    with pytest.raises(ValueError, match=message):
        torch.func.grad(function)(inputs["q"])
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(function)(torch.stack([inputs["q"]] * 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_func_grad_over_a_layer_gives_what_backward_gives(tree, backend):
    conv, x = conv_for(backend), rows(tree)
    parameters = dict(conv.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(conv, parameters, (x, tree)).square().sum()

    grads = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        assert_close(grads[name], parameter.grad, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_over_the_features_of_one_tree(tree, backend):
    conv, xs = conv_for(backend, num_levels=2), rows(tree, 3)
    mass = torch.rand(tree.num_leaves)
    for given in (tree, tree.parent):
        batch = torch.func.vmap(lambda x, t=given: conv(x, t, mass=mass))(xs)
        assert_close(batch, torch.stack([conv(x, tree, mass=mass) for x in xs]))


# --- inference mode and changes in place ---------------------------------------------------------


@pytest.mark.parametrize("backend", [*BACKENDS, *KERNELS])
def test_a_tree_first_used_in_inference_mode_can_be_trained_on(backend):
    conv = conv_for(backend)
    with torch.inference_mode():
        tree = TreeIndex.from_parent(zoo("ragged"))
        expected = conv(rows(tree), tree, mass=torch.ones(tree.num_leaves))
    out = conv(rows(tree), tree, mass=torch.ones(tree.num_leaves))
    out.sum().backward()
    assert_close(out, expected)
    assert conv.lin_query.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("backend", [*BACKENDS, *KERNELS])
def test_results_can_be_changed_in_place_before_backward(tree, backend):
    x, grads = rows(tree), []
    for relu in (torch.relu, torch.relu_):
        conv = conv_for(backend, bias=False)
        relu(conv(x, tree)).square().sum().backward()
        grads.append([p.grad for p in conv.parameters()])
    assert_close(*grads)

    inputs = {n: x.requires_grad_() for n, x in attention_inputs(tree).items()}
    given = {**inputs, "tree": tree, "backend": backend, "return_evidence": True}
    out, evidence = hierarchical_attention(**given)
    expected = torch.autograd.grad((2 * out).sum() + (3 * evidence).sum(), list(inputs.values()))
    out, evidence = hierarchical_attention(**given)
    loss = out.mul_(2).sum() + evidence.mul_(3).sum()
    assert_close(torch.autograd.grad(loss, list(inputs.values())), expected)


# --- without numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [*BACKENDS, *KERNELS])
def test_the_meta_device_gives_shapes_forward_and_backward(tree, backend):
    there = tree.to("meta")
    conv = conv_for(backend, num_levels=2, pos_dim=2).to("meta")
    mass = torch.ones(tree.num_leaves, device="meta")
    pos = torch.empty(tree.num_nodes, 2, device="meta")
    out = conv(rows(tree, device="meta"), there, mass=mass, tree_pos=pos)
    assert out.shape == (tree.num_leaves, 8) and out.is_meta
    out.sum().backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in conv.parameters())
    inputs = {n: x.to("meta") for n, x in attention_inputs(tree).items()}
    _, evidence = hierarchical_attention(
        **inputs, tree=there, backend=backend, return_evidence=True
    )  # fmt: skip
    assert evidence.shape == (tree.num_trees, 2) and evidence.dtype == torch.float64


@pytest.mark.parametrize("backend", [*BACKENDS, *KERNELS])
@pytest.mark.parametrize("given", ["index", "fake index", "parent", "fake parent"])
def test_fake_tensors_outside_of_compile_give_shapes(tree, backend, given):
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        conv = conv_for(backend, num_levels=2)
        arguments = {
            "index": lambda: tree,
            "fake index": lambda: TreeIndex(*map(mode.from_tensor, tree.tensors)),
            "parent": lambda: tree.parent,
            "fake parent": lambda: mode.from_tensor(tree.parent),
        }
        out = conv(torch.empty(tree.num_leaves, 3), arguments[given]())
        assert isinstance(out, FakeTensor) and out.shape == (tree.num_leaves, 8)
        out.sum().backward()
        assert all(p.grad.shape == p.shape for p in conv.parameters())


def test_a_tree_seen_by_fake_tensors_is_as_good_as_new(tree):
    conv = conv_for()
    expected = conv_for()(rows(tree), TreeIndex.from_parent(tree.parent))
    with FakeTensorMode(allow_non_fake_inputs=True):
        conv_for()(torch.empty(tree.num_leaves, 3), tree)
    assert_close(conv(rows(tree), tree), expected)


# --- masses that float32 cannot add up -----------------------------------------------------------


@pytest.mark.parametrize("backend", [*BACKENDS, "reference", *KERNELS])
def test_masses_whose_sum_overflows_are_refused(tree, backend):
    inputs = attention_inputs(tree, dtype=torch.float32)
    inputs["mass"] = torch.full((tree.num_leaves,), 3e38)
    with pytest.raises(ValueError, match=r"Expected 'mass' to have a sum within the range of"):
        hierarchical_attention(**inputs, tree=tree, backend=backend)
    inputs["mass"] = inputs["mass"] / inputs["mass"].max()
    assert hierarchical_attention(**inputs, tree=tree, backend=backend).isfinite().all()


@pytest.mark.parametrize("backend", [*BACKENDS, *KERNELS])
def test_masses_of_float64_that_float32_takes_for_0_are_refused(tree, backend):
    inputs = attention_inputs(tree, dtype=torch.float32)
    inputs["mass"] = torch.full((tree.num_leaves,), 1e-60, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"tell from 0 \(got mass\[0\] = 1e-60; divide"):
        hierarchical_attention(**inputs, tree=tree, backend=backend)


# --- names ---------------------------------------------------------------------------------------


def test_the_old_name_of_scatter_still_works(tree):
    inputs = attention_inputs(tree)
    with pytest.warns(DeprecationWarning, match="backend='torch' is now called 'scatter'"):
        out = hierarchical_attention(**inputs, tree=tree, backend="torch")
    assert_close(out, hierarchical_attention(**inputs, tree=tree, backend="scatter"))
