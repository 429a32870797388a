"""What is written, and what Triton makes of the kernels."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attending import EVERYTHING, attend, equal, index

from hsa_geometric.kernels.triton import _jit
from hsa_geometric.testing import attention_inputs


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
    for which in ("triton", "scatter"):
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
    }
