"""Backend 'triton' as a user calls it: precision, layers, graphs, and what choosing it means.

That its results are the oracle's is tested with the other backends, in tests/functional.
"""

import re
import subprocess
import sys

import pytest
import torch
from attending import EVERYTHING, attend, index
from helpers import DEVICE
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels import triton
from hsa_geometric.kernels.triton import call
from hsa_geometric.nn import HierarchicalAttentionConv
from hsa_geometric.testing import (
    attention_inputs,
    zoo,
)

# --- the oracle's results ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_within_roundings_of_its_inputs_and_results(dtype):
    tree = index("forest")
    low = attention_inputs(tree, pos_channels=2, node_scalars=True, mass="random", dtype=dtype)
    cotangent = torch.randn(
        tree.num_leaves, 2, 4, generator=torch.Generator().manual_seed(1)
    ).to(dtype)  # fmt: skip
    wide = {n: x.double() for n, x in low.items()}
    expected = attend(wide, tree, cotangent, backend="reference")
    for name, x in attend(low, tree, cotangent).items():
        assert x.dtype == (torch.float32 if name == "evidence" else dtype)
        # Half a rounding of the result and, at most, of the siblings' average of each leaf.
        roundings = {"out": 1, "evidence": 0}.get(name, 2)
        budget = roundings * torch.finfo(dtype).eps + 2e-5
        worst = (x.double() - expected[name]).abs().max() / expected[name].abs().max()
        assert worst < budget, f"{name}: {worst:.2e} of the largest entry, {budget:.2e} allowed"


def test_parts_of_one_projection_are_read_where_they_are():
    tree = index("forest")
    one = attention_inputs(tree, heads=6, channels=4, value_channels=4)["q"]
    q, k, v = one.unflatten(1, (3, 2)).unbind(1)
    assert q.stride(0) == 24 and not q.is_contiguous()
    assert call.beside(k).data_ptr() == k.data_ptr()
    parts = {"q": q, "k": k, "v": v}
    expected = attend({n: x.contiguous() for n, x in parts.items()}, tree)
    inputs = {n: x.detach().requires_grad_() for n, x in parts.items()}
    out = hierarchical_attention(**inputs, tree=tree, backend="triton")
    assert torch.equal(out, expected["out"])
    turned = {n: x.movedim(1, 2).contiguous().movedim(2, 1) for n, x in parts.items()}
    assert call.beside(turned["q"]).data_ptr() != turned["q"].data_ptr()
    assert torch.equal(hierarchical_attention(**turned, tree=tree, backend="triton"), out)


def test_a_layer_takes_the_backend():
    tree = index("ragged")
    torch.manual_seed(0)
    conv = HierarchicalAttentionConv(6, 4, heads=2, num_levels=2, backend="triton")
    conv = conv.to(DEVICE).double()
    x = torch.randn(tree.num_leaves, 6, dtype=torch.float64, device=DEVICE)
    out = conv(x, tree)
    conv.backend = "reference"
    assert_close(out, conv(x, tree))


# --- what changes nothing ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of infinities
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tree_that_is_not_finite_does_not_reach_the_others(value):
    tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4, 7, 7, 7])).to(DEVICE)
    inputs = attention_inputs(tree)
    spoilt = {n: x.clone() for n, x in inputs.items()}
    for x in spoilt.values():
        x[3:] = value
    expected, actual = attend(inputs, tree), attend(spoilt, tree)
    for name in ("out", "q", "k", "v"):
        assert torch.equal(actual[name][:3], expected[name][:3]), name
        assert not actual[name][3:].isfinite().any(), name


def test_repeated_runs_are_equal_to_the_last_bit():
    tree = index("forest")
    inputs = attention_inputs(tree, dtype=torch.float32, **EVERYTHING)
    first, second = attend(inputs, tree), attend(inputs, tree)
    assert all(torch.equal(x, second[n]) for n, x in first.items())


def test_autocast_changes_nothing():
    tree = index("ragged")
    inputs = attention_inputs(tree, dtype=torch.bfloat16, pos_channels=1)
    expected = attend(inputs, tree)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        actual = attend(inputs, tree)
    assert all(torch.equal(x, expected[n]) for n, x in actual.items())


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_it_is_one_graph_with_the_same_result_and_gradients(dropout_p):
    tree = index("shuffled_forest")
    inputs = attention_inputs(tree, **EVERYTHING)
    torch._dynamo.reset()
    compiled = torch.compile(hierarchical_attention, fullgraph=True, backend="aot_eager")
    learned = [x.requires_grad_() for n, x in inputs.items() if n != "mass"]
    results = []
    for function in (hierarchical_attention, compiled):
        torch.manual_seed(0)
        out = function(
            **inputs, tree=tree, backend="triton", dropout_p=dropout_p, training=True
        )  # fmt: skip
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), learned)])
    torch._dynamo.reset()
    assert_close(results[1], results[0])


# --- the choice of a backend ---------------------------------------------------------------------


def small():
    tree = index("star")
    return attention_inputs(tree), tree


def test_a_named_backend_that_is_not_installed_is_an_error(monkeypatch):
    inputs, tree = small()
    monkeypatch.setattr(triton, "INSTALLED", False)
    with pytest.raises(ImportError, match=re.escape("pip install 'hsa_geometric[triton]'")):
        hierarchical_attention(**inputs, tree=tree, backend="triton")


def test_on_the_cpu_it_needs_the_interpreter(monkeypatch):
    tree = TreeIndex.from_parent(zoo("star"))
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    with pytest.raises(ValueError, match=r"CUDA .* \(got cpu; .* TRITON_INTERPRET=1"):
        hierarchical_attention(**attention_inputs(tree), tree=tree, backend="triton")


def test_the_kernels_are_imported_at_their_first_use():
    script = """
import sys, torch
from hsa_geometric.functional import hierarchical_attention
x = torch.ones(3, 1, 4)
hierarchical_attention(x, x, x, torch.tensor([3, 3, 3, 3]))
assert not any(m.startswith("hsa_geometric.kernels.triton.") for m in sys.modules)
try:
    hierarchical_attention(x, x, x, torch.tensor([3, 3, 3, 3]), backend="triton")
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "set TRITON_INTERPRET=1" in done.stdout
