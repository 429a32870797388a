"""Half precisions, float32 and autocast against float64."""

import pytest
import torch
from helpers import LINEAR
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import attention_inputs, balanced, star, zoo

LOW = [torch.float32, torch.bfloat16, torch.float16]
BACKENDS = [*(x for x in LINEAR if x != "triton"), "reference"]


def run(inputs, tree, backend, cotangent, **options):
    learned = {n: x.detach().clone().requires_grad_() for n, x in inputs.items() if n != "mass"}
    mass = inputs.get("mass")
    out, evidence = hierarchical_attention(
        **learned, tree=tree, mass=mass, backend=backend, return_evidence=True, **options
    )
    grads = torch.autograd.grad(
        (out * cotangent.to(out)).sum() + evidence.sum(), list(learned.values())
    )
    return out.detach(), evidence.detach(), dict(zip(learned, grads, strict=True))


def within(actual, expected, roundings, dtype, name):
    """At most some roundings of the largest entry to the dtype, beside float32's own errors."""
    budget = roundings * torch.finfo(dtype).eps + 2e-5
    worst = (actual.double() - expected).abs().max() / expected.abs().max()
    assert worst < budget, f"{name}: {worst:.2e} of the largest entry, {budget:.2e} allowed"


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["star", "unequal_depths", "forest"])
def test_low_precision_stays_within_roundings_of_its_inputs_and_results(name, backend, dtype):
    tree = TreeIndex.from_parent(zoo(name))
    low = attention_inputs(tree, pos_channels=2, node_scalars=True, mass="random", dtype=dtype)
    wide = {n: x.double() for n, x in low.items()}  # the same numbers: no rounding of inputs
    cotangent = torch.randn(
        tree.num_leaves, 2, 4, generator=torch.Generator().manual_seed(1)
    ).to(dtype).double()  # fmt: skip
    expected, score, wide_grads = run(wide, tree, "reference", cotangent)
    out, evidence, grads = run(low, tree, backend, cotangent)
    assert out.dtype == dtype and evidence.dtype == torch.float32
    # The output is rounded once, a gradient where each of its few terms joins the others.
    within(out, expected, 0.5, dtype, "output")
    within(evidence, score, 0, dtype, "evidence")
    for key, grad in grads.items():
        assert grad.dtype == dtype, key
        # A kernel keeps M of the leaves in the dtype of v, which a temperature's gradient feels.
        roundings = 3 if key == "temperature" and backend == "cpu" else 2
        within(grad, wide_grads[key], roundings, dtype, f"gradient of {key}")


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("parent", [star(1000), balanced(10, 3)], ids=["star", "balanced"])
def test_long_sums_are_taken_in_float32(parent, dtype):
    # Equal keys: the output is the mean of 1000 values near 1, which a running sum in bfloat16
    # or float16 would miss by far more than one rounding.
    tree = TreeIndex.from_parent(parent)
    generator = torch.Generator().manual_seed(0)
    v = (1 + 0.5 * torch.rand(1000, 1, 4, generator=generator)).to(dtype)
    q = torch.ones(1000, 1, 4, dtype=dtype)
    out = hierarchical_attention(q, q, v, tree)
    within(out, v.double().mean(0).expand(1000, 1, 4), 0.5, dtype, "output")


@pytest.mark.parametrize("dtype", [torch.float64, *LOW])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_result_has_the_dtype_of_the_values(backend, dtype):
    tree = TreeIndex.from_parent(zoo("ragged"))
    inputs = attention_inputs(tree, dtype=dtype)
    out, evidence = hierarchical_attention(
        **inputs, tree=tree, backend=backend, return_evidence=True
    )
    assert out.dtype == dtype
    assert evidence.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_queries_go_with_half_precision_values_as_under_autocast(backend):
    tree = TreeIndex.from_parent(zoo("ragged"))
    inputs = attention_inputs(tree, dtype=torch.float32)
    inputs["v"] = inputs["v"].bfloat16()
    learned = {n: x.requires_grad_() for n, x in inputs.items()}
    out = hierarchical_attention(**learned, tree=tree, backend=backend)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.sum(), list(learned.values()))
    assert [g.dtype for g in grads] == [torch.float32, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", LOW)
def test_float64_masses_go_with_any_inputs(dtype):
    tree = TreeIndex.from_parent(zoo("ragged"))
    inputs = attention_inputs(tree, dtype=dtype)
    mass = attention_inputs(tree, mass="random")["mass"]
    out = hierarchical_attention(**inputs, tree=tree, mass=mass)
    assert_close(out, hierarchical_attention(**inputs, tree=tree, mass=mass.float()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(backend, dtype):
    tree = TreeIndex.from_parent(zoo("forest"))
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True, dtype=dtype)

    def forward():
        learned = [x.detach().clone().requires_grad_() for x in inputs.values()]
        out, evidence = hierarchical_attention(
            **dict(zip(inputs, learned, strict=True)),
            tree=tree,
            backend=backend,
            return_evidence=True,
        )
        return learned, out, evidence

    learned, out, evidence = forward()
    expected = (out, evidence, torch.autograd.grad(out.sum() + evidence.sum(), learned))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learned, out, evidence = forward()
    actual = (out, evidence, torch.autograd.grad(out.sum() + evidence.sum(), learned))
    assert_close(actual, expected, rtol=0, atol=0)
    if backend != "reference":  # its backward too, if somebody calls that under autocast
        with torch.autocast("cpu", dtype=torch.bfloat16):
            learned, out, evidence = forward()
            actual = torch.autograd.grad(out.sum() + evidence.sum(), learned)
        assert_close(actual, expected[2], rtol=0, atol=0)


def test_second_derivatives_under_autocast_stay_in_float32():
    tree = TreeIndex.from_parent(zoo("unequal_depths"))
    inputs = attention_inputs(tree, dtype=torch.float32)

    def penalty():
        learned = [x.detach().clone().requires_grad_() for x in inputs.values()]
        out = hierarchical_attention(*learned, tree)
        first = torch.autograd.grad(out.square().sum(), learned, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), learned)

    expected = penalty()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = penalty()
    assert_close(actual, expected)
