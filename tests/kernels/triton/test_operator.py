"""The operators as PyTorch, and their kernels as Triton, want them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attending import EVERYTHING, attend, equal, families, index
from helpers import DEVICE
from torch.utils._pytree import tree_map

from hsa_geometric.kernels.triton import _jit, call
from hsa_geometric.kernels.triton import attention as backend
from hsa_geometric.testing import attention_inputs


def arguments(tree, dtype=torch.float32, dropout_p=0.0, **options):
    """What the operator takes."""
    inputs = attention_inputs(tree, dtype=dtype, **options)
    wide = call.accumulator(dtype)
    names = ("pos_q", "pos_k", "temperature", "bias")
    of_nodes = [inputs[n].to(wide) if n in inputs else None for n in names]
    weight, log_mass = (
        torch.rand(tree.num_nodes, dtype=wide, device=DEVICE) for _ in range(2)
    )  # fmt: skip
    seed = torch.tensor([3], device=DEVICE) if dropout_p > 0 else None
    return (
        inputs["q"], inputs["k"], inputs["v"], *of_nodes, weight, log_mass, 0.5, True,
        dropout_p, seed, tree.num_trees, tree.tensors,
    )  # fmt: skip


def backward_arguments(args):
    out, evidence, *kept = backend.attention(*args)
    *rest, _, tree = args
    return (torch.ones_like(out), torch.ones_like(evidence), *kept, *rest, tree)


CASES = {"plain": {}, "all": {"pos_channels": 1, "node_scalars": True, "dropout_p": 0.5}}


@pytest.mark.filterwarnings("ignore")  # from inside opcheck
@pytest.mark.parametrize("case", CASES)
def test_pytorch_accepts_the_operators(case):
    args = arguments(families(3, 2), **CASES[case])

    def fresh(x):
        learned = isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() > 1
        return x.detach().clone().requires_grad_() if learned else x

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operator, given, more in (
        (backend.attention, args, ("test_aot_dispatch_dynamic",)),
        (backend.attention_backward, backward_arguments(args), ()),
    ):
        *rest, tree = given
        flat = tuple(map(fresh, (*rest, *tree)))
        torch.library.opcheck(operator.op, flat, test_utils=(*checks, *more))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["shuffled_forest", "single_nodes", "deep"])
def test_fake_kernels_promise_what_the_operators_give(name, dtype):
    args = arguments(index(name), dtype=dtype, pos_channels=2)
    cases = ((backend.attention, args), (backend.attention_backward, backward_arguments(args)))
    for operator, given in cases:
        with torch._subclasses.FakeTensorMode() as mode:
            made = operator(*tree_map(lambda x, m=mode: fake(x, m), given))
        for x, y in zip(operator(*given), made, strict=True):
            assert (x.shape, x.dtype, x.device) == (y.shape, y.dtype, y.device)


def fake(x, mode):
    return mode.from_tensor(x) if isinstance(x, torch.Tensor) else x


@pytest.mark.parametrize("name", ["shuffled_forest", "single_nodes", "wide"])
def test_every_element_is_written(name):
    tree = index(name)
    inputs = attention_inputs(tree, **EVERYTHING)
    expected = attend(inputs, tree)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        assert torch.empty(2).isnan().all()
        equal(attend(inputs, tree), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_gradient_of_the_evidence_alone_and_of_the_output_alone():
    tree = index("ragged")
    inputs = {n: x.requires_grad_() for n, x in attention_inputs(tree).items()}
    learned = list(inputs.values())
    grads = {}
    for which in ("triton", "torch"):
        out, evidence = attention(inputs, tree, which)
        grads[which] = [
            torch.autograd.grad(y.sum(), learned, retain_graph=True, allow_unused=True)
            for y in (out, evidence)
        ]
    for a, b in zip(*grads.values(), strict=True):
        for x, y in zip(a, b, strict=True):
            y = torch.zeros_like(x) if y is None else y
            torch.testing.assert_close(torch.zeros_like(y) if x is None else x, y)


def attention(inputs, tree, which):
    from hsa_geometric.functional import hierarchical_attention

    return hierarchical_attention(**inputs, tree=tree, backend=which, return_evidence=True)


def test_without_triton_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    _jit.load.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'hsa_geometric\[triton\]'"):
        _jit.load("sweeps_kernels")


def test_the_kernels_compile_for_gpus():
    # In a process of its own, for here they are interpreted; no GPU is needed to compile for one.
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, script, "80", "90"],
        capture_output=True, text=True, cwd=Path.cwd(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    names = {line.split()[1] for line in done.stdout.splitlines()}
    siblings = {"forward", "backward_queries", "backward_keys"}
    assert names == siblings | {
        "climb",
        "descend",
        "finish",
        "dots",
        "gradients",
        "mask",
        "own_mask",
    }
