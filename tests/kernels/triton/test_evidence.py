"""The scalar recursion's kernel against the tensor backend's, which the oracle checks."""

import math

import pytest
import torch
from helpers import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.kernels.eager import evidence as eager
from hsa_geometric.kernels.eager.sweeps import up as eager_up
from hsa_geometric.kernels.triton import _jit, sweeps
from hsa_geometric.kernels.triton.evidence import evidence
from hsa_geometric.testing import (
    ZOO,
    caterpillar,
    forest,
    forests,
    random_parent,
    shuffled,
    star,
    zoo,
)

INF = math.inf

TREES = {
    "molecules": lambda: forest(*(random_parent(9, reach=5, seed=i) for i in range(4))),
    "depth 40": lambda: shuffled(caterpillar(40)),
    "wide": lambda: forest(star(200), caterpillar(5)),
    "deep": lambda: forest(caterpillar(66), star(3)),
}


def index(name):
    parent = TREES[name]() if name in TREES else zoo(name)
    return TreeIndex.from_parent(parent.to(DEVICE))


def inputs(tree, heads=2, dtype=torch.float64, mass="ones", hidden=False, seed=0):
    """Arguments as the attention makes them; with ``hidden``, some are minus infinity."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)

    masses = torch.ones_like(rand(tree.num_leaves)) if mass == "ones" else rand(tree.num_leaves)
    if mass == "zeros":
        masses[::3] = 0
    total = eager_up([masses.abs().unsqueeze(1)], None, tree.tensors).squeeze(1)
    weight = total / total[tree.up].clamp(min=torch.finfo(dtype).tiny)
    leaf_f, sibling = rand(tree.num_leaves, heads), rand(tree.num_nodes, heads)
    if hidden:
        leaf_f[1::3] = -INF
        sibling[::4] = -INF
    return leaf_f, sibling, weight, total.log(), tree.tensors


def assert_equal_to_eager(tree, **options):
    close = {"rtol": 1e-5, "atol": 1e-5} if options.get("dtype") == torch.float32 else {}
    args = inputs(tree, **options)
    assert_close(evidence(*args), eager.evidence(*args), **close)


@pytest.mark.parametrize("operator", [evidence, eager.evidence], ids=["triton", "torch"])
@pytest.mark.parametrize("name", ["forest", "ragged", "deep"])
def test_log_masses_may_be_left_out_where_none_is_zero(operator, name):
    *rest, log_mass, tree = inputs(index(name))
    assert log_mass.isfinite().all()
    assert torch.equal(operator(*rest, None, tree), operator(*rest, log_mass, tree))


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels launched."""
    names = []

    def launch(kernel, grid, *args, **meta):
        names.append(kernel.__name__)
        _jit.launch(kernel, grid, *args, **meta)

    monkeypatch.setattr(sweeps, "launch", launch)
    return names


def test_a_literal_tree():
    # Leaves 0 and 1 below node 3, leaf 2 beside it below the root 4; masses 1, 1 and 2.
    tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4], device=DEVICE))
    assert tree.order.tolist() == [4, 2, 3, 0, 1]

    def values(*x):
        return torch.tensor(x, dtype=torch.float64, device=DEVICE)

    leaf_f = values(0.0, math.log(2), 1.0).unsqueeze(1)
    sibling = values(-INF, 1.0, 0.0, 0.0, -INF).unsqueeze(1)
    weight, log_mass = values(1, 0.5, 0.5, 0.5, 0.5), values(4, 2, 2, 1, 1).log()
    inner = 0.5 * math.log(2) + 0.5 * math.log(2)
    root = 0.5 * (1 + math.log(2)) + 0.5 * math.log(1 + math.exp(inner))
    expected = values(root, 1.0, inner, 0.0, math.log(2)).unsqueeze(1)
    assert_close(evidence(leaf_f, sibling, weight, log_mass, tree.tensors), expected)


@pytest.mark.parametrize("mass", ["ones", "zeros"])
@pytest.mark.parametrize("name", [*ZOO, *TREES])
def test_it_equals_the_tensor_backend(name, mass):
    assert_equal_to_eager(index(name), mass=mass, hidden=mass == "zeros")


@pytest.mark.parametrize("heads", [1, 3, 8, 130])
def test_it_takes_any_number_of_heads(heads):
    assert_equal_to_eager(index("shuffled_forest"), heads=heads, dtype=torch.float32)


@settings(max_examples=20, deadline=None)
@given(forests(max_nodes=30), st.sampled_from(["ones", "random", "zeros"]), st.booleans())
def test_it_equals_the_tensor_backend_on_any_forest(parent, mass, hidden):
    assert_equal_to_eager(TreeIndex.from_parent(parent.to(DEVICE)), mass=mass, hidden=hidden)


def test_families_of_any_length_are_summed():
    for size in (1, 2, 15, 16, 17, 255, 256, 257, 1025, 3000):
        tree = TreeIndex.from_parent(forest(star(size), star(2)).to(DEVICE))
        assert_equal_to_eager(tree, mass="random")


def test_float32_is_accurate_far_from_and_near_zero():
    tree = TreeIndex.from_parent(star(1).to(DEVICE))
    far = torch.tensor([0.0, -1e-3, 5.0, -80.0, 80.0, 1e4, -1e4, 1e37, -INF], device=DEVICE)
    a, b = torch.cartesian_prod(far, far).unbind(1)
    sibling = torch.stack([torch.zeros_like(b), b])  # the root's and its only leaf's
    ones = torch.ones(2, device=DEVICE)
    f = evidence(a.unsqueeze(0), sibling, ones, ones.log(), tree.tensors)
    expected = torch.logaddexp(a.double(), b.double()).float()
    assert_close(f[0], expected, rtol=2e-6, atol=1e-7)


def test_a_subtree_of_mass_zero_has_no_evidence_and_changes_no_other():
    tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4], device=DEVICE))
    leaf_f, sibling, _, _, tensors = inputs(tree)
    total = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64, device=DEVICE)
    weight = total / total[tree.up].clamp(min=torch.finfo(torch.float64).tiny)
    results = []
    for padding in (0.0, -INF, INF, 7.0):
        leaf_f[:2] = padding
        f = evidence(leaf_f, sibling, weight, total.log(), tensors)
        assert f[2].isneginf().all()
        results.append(f[:2])
    assert all(torch.equal(x, results[0]) and x.isfinite().all() for x in results)


def test_what_is_not_a_number_shows_in_its_own_tree_alone():
    tree = index("forest")
    leaf_f, *rest = inputs(tree)
    expected = evidence(leaf_f, *rest)
    leaf_f[0] = math.nan
    f = evidence(leaf_f, *rest)
    assert f[0].isnan().all()
    same = (f == expected).all(1)
    assert same[1 : tree.num_trees].all() and not same[tree.leaf[0]]


@pytest.mark.parametrize("name", ["forest", "wide", "depth 40"])
def test_neither_the_number_of_launches_nor_their_order_shows(monkeypatch, name):
    from triton.runtime.interpreter import interpreter_builder as builder

    args = inputs(index(name), mass="zeros", hidden=True)
    expected, place = evidence(*args), type(builder).set_grid_idx

    def from_the_end(self, x, y, z):
        place(self, self.grid_dim[0] - 1 - x, y, z)

    assert torch.equal(evidence(*args), expected)
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "ONE_LAUNCH", False)
        assert torch.equal(evidence(*args), expected)
    monkeypatch.setattr(type(builder), "set_grid_idx", from_the_end)
    assert torch.equal(evidence(*args), expected)


@pytest.mark.parametrize("name", ["shuffled_forest", "single_nodes", "deep"])
def test_every_element_is_written(name):
    args = inputs(index(name))
    expected = evidence(*args)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        assert torch.equal(evidence(*args), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["one_node", "binary", "forest", "depth 40", "deep"])
def test_it_takes_one_launch_at_any_depth(launches, name):
    evidence(*inputs(index(name)))
    assert launches == ["climb"]


def test_its_arguments_need_not_be_contiguous():
    leaf_f, sibling, *rest = inputs(index("shuffled_forest"))
    f = evidence(leaf_f[:, :1].expand(-1, 2), sibling.t().contiguous().t(), *rest)
    assert torch.equal(f, evidence(leaf_f[:, [0, 0]], sibling, *rest))


def test_it_is_differentiated_twice():
    # Leaves at levels 1 and 2, a one-child node, and a tree of one node.
    tree = TreeIndex.from_parent(torch.tensor([2, 3, 3, 3, 4], device=DEVICE))
    leaf_f, sibling, *rest = inputs(tree, heads=1, mass="random")
    learned = leaf_f.requires_grad_(), sibling.requires_grad_()
    assert gradcheck(lambda *x: evidence(*x, *rest), learned, fast_mode=True)
    assert gradgradcheck(lambda *x: evidence(*x, *rest), learned, fast_mode=True)


@pytest.mark.parametrize("name", ["shuffled_forest", "one_child_nodes", "deep"])
def test_gradients_equal_those_of_the_tensor_backend_and_are_finite(name):
    leaf_f, sibling, *rest = inputs(index(name), mass="zeros", hidden=True)
    learned = leaf_f.requires_grad_(), sibling.requires_grad_()
    found = []
    for op in (evidence, eager.evidence):
        f = op(leaf_f, sibling, *rest)
        finite = f.isfinite().detach()
        found.append(torch.autograd.grad(f[finite].sin().sum(), learned))
    for a, b in zip(*found, strict=True):
        assert_close(a, b)
        assert a.isfinite().all()


@pytest.mark.filterwarnings("ignore")  # from inside opcheck
def test_pytorch_accepts_the_operator():
    leaf_f, sibling, weight, log_mass, tree = inputs(index("shuffled_forest"))
    learned = leaf_f.requires_grad_(), sibling.requires_grad_()
    torch.library.opcheck(evidence.op, (*learned, weight, log_mass, *tree))
