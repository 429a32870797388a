"""The one operator and its fake, for every backend."""

import pytest
import torch
from helpers import DEVICE, LINEAR
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.call import Call
from hsa_geometric.kernels.operator import flat
from hsa_geometric.testing import attention_inputs, zoo

BACKENDS = [*LINEAR, "reference"]


def call_of(name, dtype=torch.float64, dropout_p=0.0, **options):
    tree = TreeIndex.from_parent(zoo(name)).to(DEVICE)
    given = attention_inputs(tree, dtype=dtype, **options)
    rest = [given.get(n) for n in ("pos_q", "pos_k", "temperature", "bias", "mass")]
    seed = torch.tensor([3], device=DEVICE) if dropout_p > 0 else None
    qkv = [given[n] for n in "qkv"]
    return Call(*qkv, *rest, seed, tree, 0.5, True, dropout_p)


def backward_arguments(call, backend):
    out, evidence, saved = torch.ops.hsa_geometric.attention(*flat(call), backend, True)
    return torch.ones_like(out), torch.ones_like(evidence), saved, *flat(call), backend


@pytest.mark.filterwarnings("ignore")  # from inside opcheck
@pytest.mark.parametrize("backend", BACKENDS)
def test_pytorch_accepts_the_operators(backend):
    call = call_of("caterpillar", pos_channels=1, node_scalars=True, mass="zeros", dropout_p=0.5)
    learned = [None if x is None else x.requires_grad_() for x in call.learned]
    given = Call._make([*learned, *call[len(learned) :]])
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if backend != "cpu":  # some of what it saves is never written, nor read
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(
        torch.ops.hsa_geometric.attention, (*flat(given), backend, True), test_utils=checks
    )
    with torch.no_grad():
        arguments = backward_arguments(call, backend)
    torch.library.opcheck(
        torch.ops.hsa_geometric.attention_backward,
        tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["shuffled_forest", "single_nodes", "deep"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_fakes_promise_what_the_operators_give(backend, name, dtype):
    call = call_of(name, dtype=dtype, pos_channels=2)
    cases = {
        torch.ops.hsa_geometric.attention: (*flat(call), backend, True),
        torch.ops.hsa_geometric.attention_backward: backward_arguments(call, backend),
    }
    for operator, given in cases.items():
        with torch._subclasses.FakeTensorMode() as mode:
            made = operator(*pytree.tree_map_only(torch.Tensor, mode.from_tensor, given))
        both = (pytree.tree_leaves(x) for x in (operator(*given), made))
        for x, y in zip(*both, strict=True):
            assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())


@pytest.mark.parametrize("backend", [x for x in LINEAR if x != "triton"])
def test_batched_cotangents_and_third_derivatives(backend):
    call = call_of("unequal_depths", pos_channels=1)

    def function(q):
        return hierarchical_attention(
            q, call.k, call.v, call.tree, pos_q=call.pos_q, pos_k=call.pos_k, backend=backend
        )

    q = call.q.clone().requires_grad_()
    out = function(q)
    many = torch.randn(3, *out.shape, dtype=out.dtype)
    (batched,) = torch.autograd.grad(out, q, many, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(out, q, g, retain_graph=True)[0] for g in many]
    assert_close(batched, torch.stack(single))

    def third(x):
        y = function(x).square().sum()
        for _ in range(2):
            y = torch.autograd.grad(y, x, create_graph=True)[0].square().sum()
        return torch.autograd.grad(y, x)[0]

    way, step = torch.randn_like(q), 1e-5

    def second(x):
        y = function(x).square().sum()
        y = torch.autograd.grad(y, x, create_graph=True)[0].square().sum()
        return torch.autograd.grad(y, x, create_graph=True)[0].square().sum()

    high, low = (second((q + s * way).detach().requires_grad_()) for s in (step, -step))
    assert_close((third(q) * way).sum(), ((high - low) / (2 * step)).detach(), rtol=1e-5, atol=1e-5)
