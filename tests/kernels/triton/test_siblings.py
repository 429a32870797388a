"""Sibling attention in tiles against the torch backend's operators, bit by bit where it must be.

Without a GPU the kernels run in Triton's interpreter, which is slow: few and small shapes.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import DEVICE
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.kernels import eager
from hsa_geometric.kernels.eager.siblings import siblings as expected_siblings
from hsa_geometric.kernels.triton import siblings as backend
from hsa_geometric.testing import forest, star, zoo

NAMES = ("mean", "total", "own", "gradient of qkv", "gradient of pos_q", "gradient of pos_k")
BOUNDARIES = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65)
TILES = (backend.SMALL_TILE, backend.LARGE_TILE)


def families(*sizes):
    """A root above one family of each size."""
    parent = [0, *([0] * len(sizes))]
    for number, size in enumerate(sizes, start=1):
        parent += [number] * size
    return TreeIndex.from_parent(torch.tensor(parent)).to(DEVICE)


def arguments(tree, heads=2, width=3, values=4, features=0, dtype=torch.float64, massless=()):
    """What the operator takes, with random node rows, and log mass −∞ at some positions."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        x = torch.randn(tree.num_nodes, *shape, generator=generator, dtype=torch.float64)
        return x.to(DEVICE, dtype)

    log_mass = draw()
    log_mass[list(massless)] = -torch.inf
    return {
        "qkv": draw(heads * (2 * width + values)),
        "pos_q": draw(heads, features) if features else None,
        "pos_k": draw(heads, features) if features else None,
        "log_mass": log_mass,
        "heads": heads,
        "width": width,
        "scale": width**-0.5,
        "dropout_p": 0.0,
        "seed": None,
        "tree": tree.tensors,
    }


def cotangents(outputs):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in outputs]


def run(operator, inputs, given=None):
    """The three results and the gradients."""
    inputs = dict(inputs)
    learned = [n for n in ("qkv", "pos_q", "pos_k") if inputs[n] is not None]
    for name in learned:
        inputs[name] = inputs[name].detach().requires_grad_()
    outputs = operator(**inputs)
    given = cotangents(outputs) if given is None else given
    grads = torch.autograd.grad(outputs, [inputs[n] for n in learned], given)
    return dict(zip(NAMES, [x.detach() for x in (*outputs, *grads)], strict=False))


def agree(inputs, rtol=1e-10, atol=1e-10):
    expected, actual = run(expected_siblings, inputs), run(backend.siblings, inputs)
    for name, x in actual.items():
        assert_close(x, expected[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(params=TILES)
def tile(request, monkeypatch):
    """Both sizes of tiles, whatever the tree asks for."""
    monkeypatch.setattr(backend, "tile_size", lambda *_: request.param)
    return request.param


# --- the torch backend's results -----------------------------------------------------------------


def test_families_that_end_at_the_boundaries_of_tiles(tile):
    agree(arguments(families(*BOUNDARIES), heads=1))


def test_a_family_of_1000(monkeypatch):
    monkeypatch.setattr(backend, "tile_size", lambda *_: 128)  # the interpreter counts tiles
    agree(arguments(families(1000, 3), heads=1))


@pytest.mark.parametrize("width, values, features", [(8, 8, 17), (24, 33, 0), (33, 24, 1)])
def test_head_widths_need_not_be_powers_of_two(width, values, features):
    agree(arguments(families(1, 18, 4), 3, width, values, features))


def test_heads_may_be_as_wide_as_256():
    agree(arguments(families(18, 2), 1, 200, 256), atol=1e-9)


@pytest.mark.parametrize("parent", ["one_node", "single_nodes", "shuffled_forest", "deep"])
def test_any_forest(parent):
    tree = TreeIndex.from_parent(zoo(parent)).to(DEVICE)
    agree(arguments(tree, features=2))


def test_members_without_mass_are_seen_by_nobody(tile):
    tree = families(1, 3, 17, 2, 20)
    # Every third node, all of the family of two, and all but one of the last family.
    massless = {*range(0, 49, 3), 27, 28, *range(30, 49)}
    inputs = arguments(tree, features=1, massless=massless)
    agree(inputs)
    result = run(backend.siblings, inputs)
    assert all(x.isfinite().all() for n, x in result.items() if n not in ("total", "own"))
    assert result["total"][[27, 28, 29]].isneginf().all()
    assert not result["mean"][[27, 28, 29]].any()


def test_a_root_and_an_only_child_have_no_siblings():
    result = run(backend.siblings, arguments(families(1, 5)))
    alone = [0, 3]
    assert result["total"][alone].isneginf().all() and not result["mean"][alone].any()
    assert result["own"].isfinite().all()


def test_large_logits_do_not_overflow():
    inputs = arguments(families(33, 5))
    inputs["qkv"] = inputs["qkv"] * 100
    agree(inputs, rtol=1e-8, atol=1e-7)


def test_float32_is_within_its_roundings(tile):
    inputs = arguments(families(*BOUNDARIES[2:7]), width=24, values=33, features=2)
    wide = run(expected_siblings, inputs)
    narrow = {n: x.float() if n in ("qkv", "pos_q", "pos_k", "log_mass") else x
              for n, x in inputs.items()}  # fmt: skip
    rounded = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in narrow.items()}
    wide = run(expected_siblings, rounded)
    for name, x in run(backend.siblings, narrow).items():
        assert x.dtype == torch.float32
        finite = wide[name].isfinite()
        assert torch.equal(x.isfinite(), finite)
        error = (x.double() - wide[name])[finite].abs().max() / wide[name][finite].abs().max()
        assert error < 20 * torch.finfo(torch.float32).eps, f"{name}: {error:.1e}"


def test_non_contiguous_arguments_give_the_same():
    inputs = arguments(families(17, 5), features=2)
    strided = dict(inputs)
    strided["qkv"] = inputs["qkv"].t().contiguous().t()
    for name in ("pos_q", "pos_k"):
        strided[name] = inputs[name].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    strided["log_mass"] = torch.stack([inputs["log_mass"]] * 2, 1)[:, 0]
    expected = run(backend.siblings, inputs)
    given = [x.permute(*range(x.dim())[::-1]).contiguous().permute(*range(x.dim())[::-1])
             for x in cotangents(list(expected.values())[:3])]  # fmt: skip
    for name, x in run(backend.siblings, strided, given).items():
        assert torch.equal(x, expected[name]), name


# --- derivatives ---------------------------------------------------------------------------------


def test_derivatives_of_both_orders_equal_differences_under_dropout():
    # Along one direction: gradcheck takes ten times as many launches.
    inputs = arguments(families(5, 2), width=2, values=2, features=1)
    inputs |= {"dropout_p": 0.4, "seed": torch.tensor(5, device=DEVICE)}
    names = ("qkv", "pos_q", "pos_k")
    generator = torch.Generator().manual_seed(2)
    way, other = (
        [torch.randn(inputs[n].shape, generator=generator, dtype=torch.float64) for n in names]
        for _ in range(2)
    )

    def at(step):
        """A scalar of the outputs, the inputs, and its gradient."""
        moved = [inputs[n] + step * w.to(DEVICE) for n, w in zip(names, way, strict=True)]
        learned = [x.requires_grad_() for x in moved]
        outputs = backend.siblings(**inputs | dict(zip(names, learned, strict=True)))
        given = cotangents(outputs)
        y = sum(
            (x.masked_fill(x.isneginf(), 0) * g).sum() for x, g in zip(outputs, given, strict=True)
        )
        return y, learned, torch.autograd.grad(y, learned, create_graph=True)

    def along(xs, directions):
        return sum((x * d.to(x)).sum() for x, d in zip(xs, directions, strict=True))

    step = 1e-5
    (low, _, low_grad), (high, _, high_grad) = at(-step), at(step)
    _, learned, grad = at(0.0)
    second = torch.autograd.grad(along(grad, other), learned)
    close = {"rtol": 1e-6, "atol": 1e-6}
    assert_close(along(grad, way), (high - low) / (2 * step), **close)
    change = along(high_grad, other) - along(low_grad, other)
    assert_close(along(second, way), change / (2 * step), **close)
    assert along(second, way).abs() > 1e-3


def test_second_derivatives_equal_the_torch_backend(tile):
    inputs = arguments(families(17, 4), heads=2, width=2, values=3, features=1)

    def penalty(operator):
        learned = [inputs[n].detach().requires_grad_() for n in ("qkv", "pos_q", "pos_k")]
        rest = {n: x for n, x in inputs.items() if n not in ("qkv", "pos_q", "pos_k")}
        outputs = operator(*learned, **rest)
        first = torch.autograd.grad(outputs, learned, cotangents(outputs), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), learned)

    assert_close(penalty(backend.siblings), penalty(expected_siblings), rtol=1e-10, atol=1e-10)


# --- what holds to the last bit ------------------------------------------------------------------


def test_repeated_runs_are_equal_to_the_last_bit(tile):
    inputs = arguments(families(33, 2, 7), features=1, dtype=torch.float32)
    first, second = (run(backend.siblings, inputs) for _ in range(2))
    assert all(torch.equal(x, second[n]) for n, x in first.items())


def test_offsets_of_64_bits_give_the_same_bits(monkeypatch):
    inputs = arguments(families(17, 5), features=1, dtype=torch.float32)
    expected = run(backend.siblings, inputs)
    monkeypatch.setattr(backend, "INT32_LIMIT", 1)
    for name, x in run(backend.siblings, inputs).items():
        assert torch.equal(x, expected[name]), name


def test_every_entry_of_the_results_is_written_and_none_is_of_the_size_of_all_pairs(monkeypatch):
    tree = families(17, 1, 80)
    inputs = arguments(tree, heads=1, width=2, values=2, features=1)
    expected = run(backend.siblings, inputs)
    sizes = []
    new_empty = torch.Tensor.new_empty

    def spoilt(self, *args, **options):
        x = new_empty(self, *args, **options)
        sizes.append(x.numel())
        return x.fill_(torch.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch.Tensor, "new_empty", spoilt)
    actual = run(backend.siblings, inputs)
    monkeypatch.undo()
    assert sizes and max(sizes) <= inputs["qkv"].numel()
    for name, x in actual.items():
        assert torch.equal(x, expected[name]), name


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of infinities
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_family_that_is_not_finite_does_not_reach_those_in_its_tile(tile, value):
    tree = families(5, 3, 6)  # positions 4-8, 9-11, 12-17
    inputs = arguments(tree, features=1)
    given = cotangents(expected_siblings(**inputs))
    clean = run(backend.siblings, inputs, given)
    spoilt = dict(inputs)
    for name in ("qkv", "pos_q", "pos_k"):
        spoilt[name] = inputs[name].clone()
        spoilt[name][9:12] = value
    given = [x.clone() for x in given]
    for x in given:
        x[9:12] = value
    others = [*range(9), *range(12, 18)]
    for name, x in run(backend.siblings, spoilt, given).items():
        assert torch.equal(x[others], clean[name][others]), name
        assert not x[9:12].isfinite().all(), name


def test_a_value_that_is_not_finite_reaches_its_whole_family(tile):
    inputs = arguments(families(5, 20))
    inputs["qkv"][10, -1] = torch.nan  # of the second family, positions 8-27
    mean = backend.siblings(**inputs)[0]
    spoilt = mean[:, -1, -1].isnan()
    assert spoilt.nonzero().view(-1).tolist() == [*range(8, 10), *range(11, 28)]
    assert not mean[:, 0].isnan().any()


# --- dropout -------------------------------------------------------------------------------------


def weights(tree, seed, p, heads=4):
    """Weights [T, H, b] of a star after dropout: equal logits, one hot values."""
    b = tree.num_leaves
    qkv = torch.zeros(tree.num_nodes, heads, 2 + b, device=DEVICE)
    qkv[tree.leaf, :, 2:] = torch.eye(b, device=DEVICE).unsqueeze(1)
    q, k, v = qkv.split([1, 1, b], dim=2)
    rows = torch.cat([x.flatten(1) for x in (q, k, v)], dim=1)
    log_mass = torch.zeros(tree.num_nodes, device=DEVICE)
    seed = torch.tensor(seed, device=DEVICE)
    return backend.siblings(rows, None, None, log_mass, heads, 1, 1.0, p, seed, tree.tensors)[0]


def test_weights_are_dropped_or_scaled_up_independently():
    tree = TreeIndex.from_parent(star(40)).to(DEVICE)
    p, b = 0.25, 40
    drawn = torch.stack([weights(tree, seed, p)[tree.leaf] for seed in (1, 2, 1 << 40)])
    off = ~torch.eye(b, dtype=torch.bool, device=DEVICE).unsqueeze(1).expand(b, 4, b)
    kept = drawn > 0
    assert not kept[:, ~off].any()
    assert_close(drawn[kept], torch.full_like(drawn[kept], 1 / (b - 1) / (1 - p)))
    n = int(off.sum())
    for seed in range(3):
        assert abs(kept[seed][off].double().mean() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    # Two seeds, two heads, two queries and two keys agree as often as independent draws do.
    chance = p**2 + (1 - p) ** 2
    for a, c in [(kept[0], kept[1]), (kept[0], kept[2])]:
        assert abs((a == c)[off].double().mean() - chance) < 0.03
    one = kept[0]
    off_two = off[:, 0] & off[:, 0].roll(1, 0)
    assert abs((one[:, 0] == one[:, 1])[off[:, 0]].double().mean() - chance) < 0.05
    assert abs((one[:, 0] == one[:, 0].roll(1, 0))[off_two].double().mean() - chance) < 0.05
    assert abs((one[:, 0] == one[:, 0].t())[off[:, 0]].double().mean() - chance) < 0.05


def test_masks_do_not_depend_on_the_tiles_or_the_direction():
    tree = families(17, 40)
    inputs = arguments(tree, features=1)
    inputs |= {"dropout_p": 0.5, "seed": torch.tensor(3, device=DEVICE)}
    results = []
    for size in TILES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "tile_size", lambda *_, size=size: size)
            results.append(run(backend.siblings, inputs))
    for name, x in results[0].items():
        assert_close(x, results[1][name], rtol=1e-10, atol=1e-10, msg=name)


def test_dropping_everything_gives_zeros():
    inputs = arguments(families(5, 3))
    inputs |= {"dropout_p": 1.0, "seed": torch.tensor(3, device=DEVICE)}
    result = run(backend.siblings, inputs)
    assert not result["mean"].any()
    assert result["gradient of qkv"].isfinite().all()


# --- as PyTorch and Triton want it ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # from inside opcheck
@pytest.mark.parametrize("features, dropout_p", [(0, 0.0), (1, 0.5)])
def test_pytorch_accepts_the_operators(features, dropout_p):
    inputs = arguments(families(3, 2), features=features, dtype=torch.float32)
    inputs |= {"dropout_p": dropout_p, "seed": torch.tensor(3, device=DEVICE)}
    outputs = backend.siblings(**inputs)
    *rest, tree = inputs.values()
    forward = (*rest, *tree)
    backward = (*cotangents(outputs), *outputs[:2], *forward)

    def fresh(x):
        learned = isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() > 1
        return x.detach().clone().requires_grad_() if learned else x

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        backend.siblings.op,
        tuple(map(fresh, forward)),
        test_utils=(*checks, "test_aot_dispatch_dynamic"),
    )
    torch.library.opcheck(
        backend.siblings_backward.op,
        tuple(map(fresh, backward)),
        test_utils=checks,
    )


def test_half_precision_rows_are_refused():
    with pytest.raises(TypeError, match=r"'qkv' to be float32 or float64 \(got torch.float16\)"):
        backend.siblings(**arguments(families(3), dtype=torch.float16))


def test_families_of_a_size_that_divides_the_tile_are_not_cut():
    for parent in (star(8), forest(*[star(8)] * 5)):
        plan = eager.plan.Plan.of(TreeIndex.from_parent(parent).tensors)
        tile = backend.tile_size(plan, 32)
        assert tile == 16
        starts, ends = backend.segments(plan)
        shift = -plan.num_roots % tile
        inside = starts < ends
        assert torch.equal((starts[inside] + shift) // tile, (ends[inside] - 1 + shift) // tile)


COMPILE = """
import importlib.util, sys, warnings
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

warnings.simplefilter("ignore")
spec = importlib.util.spec_from_file_location("kernels", sys.argv[1])
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
common = dict(HEADS=3, D=24, V=33, P=3, D_PAD=32, V_PAD=64, P_PAD=16, BLOCK=16)
types = dict.fromkeys(["num_nodes", "shift", "size"], "i32")
types |= dict.fromkeys(["scale_high", "scale_low", "dropout_p", "kept_scale"], "fp32")
types |= {"starts": "*i32", "ends": "*i32", "seed": "*i64", "queries": "*i64"}
jobs = [
    (name, kind, dict(common, P=3 * dropped, DROPOUT=dropped, WIDE=dropped))
    for name, kind, dropped in (
        ("forward", "fp32", True), ("backward_queries", "fp32", True),
        ("backward_keys", "fp32", True), ("backward_keys", "fp64", False),
    )
]
jobs.append(("dropout_mask", "fp32", dict(HEADS=3, QUERIES=5, KEYS=7, BLOCK=1024)))
for name, kind, constants in jobs:
    kernel = getattr(kernels, name)
    signature = {n: types.get(n, "*" + kind) for n in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    done = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4})
    assert done.metadata.shared <= 99 * 1024, (name, kind, done.metadata.shared)
    print(name, kind, len(done.asm["cubin"]))
"""


def test_the_kernels_compile_for_a_gpu(tmp_path):
    # A process of its own, for here they are interpreted; no GPU is needed to compile for one.
    path = Path(backend.__file__).with_name("siblings_kernels.py")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(path)],
        capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 5
