"""The sweeps' kernels against the tensor backend's sweeps, which the oracle checks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import DEVICE
from hypothesis import given, settings
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hsa_geometric import TreeIndex
from hsa_geometric.kernels.eager import attention as eager_attention
from hsa_geometric.kernels.eager import sweeps as eager
from hsa_geometric.kernels.triton import _jit, sweeps
from hsa_geometric.testing import (
    ZOO,
    assert_adjoint,
    assert_isolated,
    balanced,
    caterpillar,
    forest,
    forests,
    random_parent,
    shuffled,
    star,
    zoo,
)

TREES = {
    "molecules": lambda: forest(*(random_parent(9, reach=5, seed=i) for i in range(4))),
    "shuffled molecules": lambda: random_parent(40, num_trees=5, reach=15, seed=1),
    "depth 40": lambda: shuffled(caterpillar(40)),
    "wide": lambda: forest(star(90), caterpillar(9), balanced(3, 2)),
    "deep": lambda: forest(caterpillar(66), star(3)),
}


def index(name):
    parent = TREES[name]() if name in TREES else zoo(name)
    return TreeIndex.from_parent(parent.to(DEVICE))


def rand(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def cases(tree, dtype=torch.float64, widths=(3, 1, 2), heads=2):
    """Each operator with its counterpart of the tensor backend and arguments."""
    accumulated = eager.accumulator(dtype)
    leaves, nodes, tensors = tree.num_leaves, tree.num_nodes, tree.tensors
    xs = [rand(leaves, c, seed=c, dtype=dtype) for c in widths]
    by_node = rand(nodes, seed=4, dtype=accumulated).abs()
    z, weight = (rand(nodes, sum(widths), seed=i, dtype=accumulated) for i in (5, 6))
    mean = rand(nodes, heads, widths[0], seed=7, dtype=accumulated)
    v = rand(leaves, heads, widths[0], seed=8, dtype=dtype)
    share, own = (rand(n, heads, seed=9, dtype=accumulated) for n in (nodes, leaves))
    return {
        "up": (sweeps.up, eager.up, (xs, by_node, tensors)),
        "up, plain": (sweeps.up, eager.up, (xs[:1], None, tensors)),
        "down": (sweeps.down, eager.down, (z, by_node, tensors)),
        "down, plain": (sweeps.down, eager.down, (z, None, tensors)),
        "scan_up": (sweeps.scan_up, eager.scan_up, (z, weight, tensors)),
        "scan_down": (sweeps.scan_down, eager.scan_down, (z, weight, tensors)),
        "mix": (sweeps.mix, eager_attention.mix, (mean, share, v, own, tensors)),
        "row_dot": (sweeps.row_dot, eager_attention.row_dot, (v, mean[:leaves])),
    }


CASES = tuple(cases(index("star")))
OPERATORS = tuple(name for name in CASES if "plain" not in name)


def outputs(tree, dtype=torch.float64):
    return {name: op(*args) for name, (op, _, args) in cases(tree, dtype).items()}


def assert_equal_to_eager(tree, dtype=torch.float64, **tolerance):
    for name, (op, expected, args) in cases(tree, dtype).items():
        actual, expected = op(*args), expected(*args)
        assert actual.dtype == expected.dtype
        assert_close(actual, expected, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels launched."""
    names = []

    def launch(kernel, grid, *args, **meta):
        if 0 not in grid:
            names.append(kernel.__name__)
        _jit.launch(kernel, grid, *args, **meta)

    monkeypatch.setattr(sweeps, "launch", launch)
    return names


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ZOO, *TREES])
def test_they_equal_the_tensor_backend(name):
    assert_equal_to_eager(index(name))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["shuffled_forest", "wide"])
def test_sums_are_taken_in_float32_whatever_the_leaves_are(name, dtype):
    assert_equal_to_eager(index(name), dtype, rtol=2e-5, atol=2e-5)


@settings(max_examples=12, deadline=None)
@given(forests(max_nodes=30))
def test_they_equal_the_tensor_backend_on_any_forest(parent):
    assert_equal_to_eager(TreeIndex.from_parent(parent.to(DEVICE)))


@pytest.mark.parametrize("name", ["two_levels", "forest", "wide"])
def test_leaves_that_walk_to_the_root_and_leaves_below_finished_levels_agree(monkeypatch, name):
    tree = index(name)
    monkeypatch.setattr(sweeps, "WALK_ELEMENTS", 0)
    for levels in (1, 2):
        monkeypatch.setattr(sweeps, "LEVELS", levels)
        monkeypatch.setattr(sweeps, "SCALAR_LEVELS", levels)
        assert_equal_to_eager(tree)


@pytest.mark.parametrize("name", ["forest", "wide"])
def test_one_launch_and_one_launch_a_level_are_equal_to_the_last_bit(monkeypatch, name):
    tree = index(name)
    expected = outputs(tree)
    monkeypatch.setattr(sweeps, "ONE_LAUNCH", False)
    for op, actual in outputs(tree).items():
        assert torch.equal(actual, expected[op]), op


@pytest.mark.parametrize("name", ["shuffled molecules", "ragged"])
def test_results_do_not_depend_on_which_program_comes_first(monkeypatch, name):
    from triton.runtime.interpreter import interpreter_builder as builder

    tree = index(name)
    expected, place = outputs(tree), type(builder).set_grid_idx

    def from_the_end(self, x, y, z):
        place(self, self.grid_dim[0] - 1 - x, y, z)

    assert all(torch.equal(x, expected[op]) for op, x in outputs(tree).items())
    monkeypatch.setattr(type(builder), "set_grid_idx", from_the_end)
    assert all(torch.equal(x, expected[op]) for op, x in outputs(tree).items())


def test_families_of_any_length_are_summed():
    for size in (1, 2, 3, 15, 16, 17, 63, 64, 65, 1025, 3000):
        tree = TreeIndex.from_parent(forest(star(size), star(2)).to(DEVICE))
        x, weight = rand(tree.num_leaves, 3, seed=size), rand(tree.num_nodes, seed=1)
        assert_close(sweeps.up([x], weight, tree.tensors), eager.up([x], weight, tree.tensors))
        z = rand(tree.num_nodes, 3, seed=size)
        assert_close(sweeps.down(z, weight, tree.tensors), eager.down(z, weight, tree.tensors))


def test_any_number_of_channels_from_any_number_of_tensors():
    tree = index("forest")
    for widths in ((1,), (300,), (129, 127), (130, 7, 200), (1, 1, 1), (2, 3, 4, 5), (0, 3), (0,)):
        xs = [rand(tree.num_leaves, c, seed=c) for c in widths]
        assert_close(sweeps.up(xs, None, tree.tensors), eager.up(xs, None, tree.tensors))
    for width in (1, 31, 257, 600):
        z = rand(tree.num_nodes, width)
        assert_close(sweeps.down(z, None, tree.tensors), eager.down(z, None, tree.tensors))
        assert_close(sweeps.row_dot(z, z), z.square().sum(-1))


def test_arguments_need_not_be_contiguous():
    def strided(x):
        if not (isinstance(x, torch.Tensor) and x.is_floating_point()):
            return x
        return x.unsqueeze(-1).expand(*x.shape, 2).contiguous()[..., 0]

    for name, (op, _, args) in cases(index("shuffled_forest")).items():
        assert_close(op(*tree_map(strided, args)), op(*args), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("name", ["shuffled_forest", "single_nodes", "wide"])
def test_every_element_is_written(monkeypatch, name):
    tree = index(name)
    expected = outputs(tree)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        assert torch.empty(1).isnan().all()
        actual = outputs(tree)
        monkeypatch.setattr(sweeps, "WALK_ELEMENTS", 0)
        again = outputs(tree)
    finally:
        torch.use_deterministic_algorithms(False)
    for op, x in expected.items():
        assert_close(actual[op], x, rtol=0, atol=0, msg=op)
        assert_close(again[op], x, msg=op)


def test_a_root_has_no_edge_whatever_its_weight():
    tree = index("forest")
    for op, _, (x, weight, tensors) in (cases(tree)[n] for n in ("scan_up", "scan_down")):
        broken = weight.clone()
        broken[: tree.num_trees] = torch.nan
        assert torch.equal(op(x, broken, tensors), op(x, weight, tensors))


def test_trees_of_a_forest_never_touch():
    tree = index("shuffled_forest")
    weight = rand(tree.num_nodes, seed=1)

    def there_and_back(x):
        return sweeps.down(sweeps.up([x], weight, tree.tensors), weight, tree.tensors)

    assert_isolated(there_and_back, tree, rand(tree.num_leaves, 3))


# --- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shuffled_forest", "deep"])
def test_up_and_down_are_adjoint(name):
    tree = index(name)
    weight, by_channel = rand(tree.num_nodes, seed=1), rand(tree.num_nodes, 2, seed=2)
    z = rand(tree.num_nodes, 2, seed=3)
    assert_adjoint(
        lambda x: sweeps.up([x], weight, tree.tensors),
        lambda z: sweeps.down(z, weight, tree.tensors),
        rand(tree.num_leaves, 2),
        z,
    )
    assert_adjoint(
        lambda x: sweeps.scan_up(x, by_channel, tree.tensors),
        lambda z: sweeps.scan_down(z, by_channel, tree.tensors),
        rand(tree.num_nodes, 2),
        z,
    )


def is_learned(x):
    """Weights ``[T]`` are data, as is the tree."""
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() > 1


def as_function(op, args):
    """The operator as a function of what it is differentiated by, and those arguments."""
    flat, spec = tree_flatten(args)

    def function(*learned):
        given = iter(learned)
        return op(*tree_unflatten([next(given) if is_learned(x) else x for x in flat], spec))

    return function, [x.detach().clone().requires_grad_() for x in flat if is_learned(x)]


@pytest.mark.parametrize("case", CASES)
def test_they_are_differentiated_twice(case):
    # Leaves at levels 1 and 2, a one-child node, and a tree of one node.
    tree = TreeIndex.from_parent(torch.tensor([2, 3, 3, 3, 4], device=DEVICE))
    op, _, args = cases(tree, widths=(1, 1), heads=1)[case]
    function, learned = as_function(op, args)
    assert gradcheck(function, learned, fast_mode=True)
    assert gradgradcheck(function, learned, fast_mode=True)


@pytest.mark.parametrize(
    "name, dtype", [("shuffled_forest", torch.bfloat16), ("deep", torch.float64)]
)
def test_gradients_of_both_orders_equal_those_of_the_tensor_backend(name, dtype):
    def gradients(op, args):
        function, learned = as_function(op, args)
        out = function(*learned)
        first = torch.autograd.grad(out, learned, out.sin().detach(), create_graph=True)
        total = sum(x.double().square().sum() for x in first)
        if not total.requires_grad:  # linear
            return first
        second = torch.autograd.grad(total, learned, allow_unused=True)
        return [*first, *(x for x in second if x is not None)]

    # Eager sums in another order: a gradient in bfloat16 may be rounded to its neighbour.
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    for case, (op, expected, args) in cases(index(name), dtype).items():
        pairs = zip(gradients(op, args), gradients(expected, args), strict=True)
        for a, b in pairs:
            assert_close(a, b, msg=lambda m, case=case: f"{case}: {m}", **close)


# --- PyTorch and the launches --------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # from inside opcheck
@pytest.mark.parametrize("case", OPERATORS)
def test_pytorch_accepts_the_operator(case):
    op, _, args = cases(index("shuffled_forest"))[case]
    args = tree_map(lambda x: x.requires_grad_() if is_learned(x) else x, args)
    if case == "row_dot":
        torch.library.opcheck(op, args)
    else:
        torch.library.opcheck(op.op, (*args[:-1], *args[-1]))


@pytest.mark.parametrize("name", ["shuffled_forest", "single_nodes", "deep"])
def test_fake_kernels_promise_what_the_operators_give(name):
    for case, (op, _, args) in cases(index(name), torch.bfloat16).items():
        with torch._subclasses.FakeTensorMode() as mode:
            fake = op(*tree_map(lambda x: x if x is None else mode.from_tensor(x), args))
        real = op(*args)
        assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device), case


def test_a_batch_of_molecules_takes_as_many_launches_as_two_of_them(launches):
    def count(trees):
        parents = (random_parent(10, reach=5, seed=i % 2, shuffle=False) for i in range(trees))
        tree, counts = TreeIndex.from_parent(forest(*parents).to(DEVICE)), {}
        for name, (op, _, args) in cases(tree).items():
            launches.clear()
            op(*args)
            counts[name] = len(launches)
        return counts

    few = count(2)
    assert few == dict.fromkeys(CASES, 1)
    assert count(16) == few


@pytest.mark.parametrize("limit", [0, sweeps.WALK_ELEMENTS])
@pytest.mark.parametrize("name", ["ragged", "wide", "deep"])
def test_there_is_at_most_one_launch_a_level(monkeypatch, launches, name, limit):
    monkeypatch.setattr(sweeps, "WALK_ELEMENTS", limit)
    tree = index(name)
    for op, _, args in cases(tree).values():
        launches.clear()
        op(*args)
        assert len(launches) <= tree.depth + 1


def test_one_launch_a_level_is_one_launch_a_level(monkeypatch, launches):
    monkeypatch.setattr(sweeps, "ONE_LAUNCH", False)
    tree = index("ragged")
    sweeps.up([rand(tree.num_leaves, 2)], None, tree.tensors)
    assert launches == ["climb"] * tree.depth


def test_scalars_of_shallow_trees_go_down_in_one_launch(launches):
    tree = TreeIndex.from_parent(balanced(2, 8).to(DEVICE))
    x = rand(tree.num_nodes, 2)
    sweeps.scan_down(x, x, tree.tensors)
    assert launches == ["descend"]


def test_without_triton_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match=r"pip install 'hsa_geometric\[triton\]'"):
        _jit.load("sweeps_kernels")


def test_the_kernels_compile_for_a_gpu():
    script = Path(__file__).with_name("sweeps_compile.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=Path.cwd(), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(done.stdout.split()) == {"climb", "give", "descend", "dot"}
