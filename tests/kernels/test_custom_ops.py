"""Every custom operator as PyTorch wants it: schema, fake kernel, autograd, dynamic shapes.

The operators' signatures are the backend's own business, so their arguments are taken from real
calls: one forward, backward and double backward of the attention.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from hsa_geometric import TreeIndex
from hsa_geometric.functional import aggregate, distribute, hierarchical_attention
from hsa_geometric.testing import attention_inputs, zoo

OPERATORS = {
    "up",
    "down",
    "scan_up",
    "scan_down",
    "evidence",
    "siblings",
    "siblings_backward",
    "mix",
    "row_dot",
}

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the calls of this package's operators."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "hsa_geometric":
            name = func._schema.name.removeprefix("hsa_geometric::")
            args = tree_map(lambda x: x.detach() if torch.is_tensor(x) else x, args)
            self.calls.setdefault(name, []).append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def record(tree, dtype=torch.float64, **options):
    inputs = attention_inputs(tree, channels=2, value_channels=3, dtype=dtype, **options)
    learned = [x.requires_grad_() for n, x in inputs.items() if n != "mass"]
    with Recorder() as recorder:
        out = hierarchical_attention(**inputs, tree=tree)
        first = torch.autograd.grad(out.square().sum(), learned, create_graph=True)
        sum(g.square().sum() for g in first).backward()
        x = torch.randn(tree.num_leaves, 2, dtype=dtype, requires_grad=True)
        distribute(aggregate(x, tree), tree).sum().backward()
    return recorder.calls


@pytest.fixture(scope="module")
def plain_calls():
    return record(TreeIndex.from_parent(zoo("shuffled_forest")))


@pytest.fixture(scope="module")
def full_calls():
    tree = TreeIndex.from_parent(zoo("unequal_depths"))
    return record(tree, pos_channels=1, node_scalars=True, mass="zeros")


@pytest.mark.filterwarnings("ignore")  # from inside opcheck
@pytest.mark.parametrize("calls", ["plain_calls", "full_calls"])
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_pytorch_accepts_the_operator(name, calls, request):
    # A call of each kind is enough: first the forward's, last the double backward's.
    found = request.getfixturevalue(calls)[name]
    for func, args, kwargs in (found[0], found[-1])[: len(found)]:

        def fresh(x):
            if not isinstance(x, torch.Tensor):
                return x
            # Weights and log masses [T] are data, as are the index tensors.
            return x.detach().clone().requires_grad_(x.is_floating_point() and x.dim() > 1)

        # The derivative of a backward runs in Python, piece by piece: nothing to trace, and
        # torch.compile has no second derivatives anyway.
        traced = () if name == "siblings_backward" else ("test_aot_dispatch_dynamic",)
        torch.library.opcheck(
            func, tree_map(fresh, args), tree_map(fresh, kwargs), test_utils=CHECKS + traced
        )


def test_the_operators_tested_are_those_called(plain_calls, full_calls):
    assert plain_calls.keys() | full_calls.keys() >= OPERATORS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_fake_kernels_promise_what_the_operators_give(dtype):
    tree = TreeIndex.from_parent(zoo("forest"))
    for name, found in record(tree, dtype=dtype, mass="random").items():
        for func, args, kwargs in found:
            expected = func(*args, **kwargs)
            with torch._subclasses.FakeTensorMode() as mode:
                fake = tree_map(lambda x: mode.from_tensor(x) if torch.is_tensor(x) else x, args)
                actual = func(*fake, **kwargs)
            expected = (expected,) if isinstance(expected, torch.Tensor) else expected
            actual = (actual,) if isinstance(actual, torch.Tensor) else actual
            for a, b in zip(actual, expected, strict=True):
                assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), name


def test_operators_do_not_change_their_arguments():
    tree = TreeIndex.from_parent(zoo("forest"))
    for name, found in record(tree, mass="zeros", pos_channels=2).items():
        for func, args, kwargs in found:
            tensors = [x for x in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(x)]
            before = [x.clone() for x in tensors]
            func(*args, **kwargs)
            assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True)), name
