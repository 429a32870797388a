"""Backend 'scatter' by itself: what only plain PyTorch can do, its tiles, and its memory."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.call import Call
from hsa_geometric.kernels.scatter import attend, siblings
from hsa_geometric.kernels.scatter.tiles import tiles
from hsa_geometric.testing import (
    ZOO,
    assert_isolated,
    attention_inputs,
    balanced,
    caterpillar,
    chain,
    forest,
    random_parent,
    star,
    tree_of_leaf,
    zoo,
)

OPTIONS = {
    "plain": {},
    "masses": {"mass": "zeros"},
    "all": {"pos_channels": 2, "node_scalars": True, "mass": "zeros"},
}


def call(inputs, tree, *, self_loop=True, dropout_p=0.0, seed=None):
    return Call(
        **dict.fromkeys(Call._fields)
        | inputs
        | {
            "tree": tree,
            "scale": inputs["q"].shape[-1] ** -0.5,
            "self_loop": self_loop,
            "dropout_p": dropout_p,
            "seed": None if seed is None else torch.tensor([seed]),
        }
    )


def function_of(inputs, tree, **options):
    """Output and finite evidence as a function of what is learned; and these inputs."""
    learned = {n: x for n, x in inputs.items() if n != "mass"}

    def function(*args):
        new = dict(zip(learned, args, strict=True))
        out, evidence = attend(call(inputs | new, tree, **options))
        return out, torch.where(evidence.isneginf(), 0, evidence)

    return function, tuple(x.clone().requires_grad_() for x in learned.values())


def results(inputs, tree, **options):
    """Output, evidence and gradients."""
    function, args = function_of(inputs, tree, **options)
    out, evidence = function(*args)
    loss = (out * torch.linspace(1, 2, out.numel()).to(out).view_as(out)).sum() + evidence.sum()
    found = torch.autograd.grad(loss, args, allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for g, x in zip(found, args, strict=True)]
    return out.detach(), evidence.detach(), found


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ZOO)
def test_output_evidence_and_gradients_are_the_oracles(name, options, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(tree, **OPTIONS[options])
    out, evidence, grads = results(inputs, tree, self_loop=self_loop)
    learned = {n: x.clone().requires_grad_(n != "mass") for n, x in inputs.items()}
    expected, score = hierarchical_attention(
        **learned, tree=tree, self_loop=self_loop, backend="reference", return_evidence=True
    )
    score = torch.where(score.isneginf(), 0, score)
    weight = torch.linspace(1, 2, out.numel()).to(out).view_as(out)
    args = [x for n, x in learned.items() if n != "mass"]
    loss = (expected * weight).sum() + score.sum()
    found = torch.autograd.grad(loss, args, allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for g, x in zip(found, args, strict=True)]
    assert_close((out, evidence, grads), (expected, score, found), rtol=1e-9, atol=1e-10)


# --- derivatives ---------------------------------------------------------------------------------

SMALL = {"heads": 1, "channels": 2, "value_channels": 2}


@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("name", ["one_node", "star", "one_child_nodes", "unequal_depths"])
def test_derivatives_of_both_orders_and_modes_equal_differences(name, self_loop, options):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(tree, **OPTIONS[options] | SMALL)
    function, args = function_of(inputs, tree, self_loop=self_loop)
    fast = {"fast_mode": True}
    assert gradcheck(function, args, check_forward_ad=True, check_batched_grad=True, **fast)
    assert gradgradcheck(function, args, **fast)


@pytest.mark.parametrize("self_loop", [True, False])
def test_derivatives_with_dropout_equal_differences(self_loop):
    tree = TreeIndex.from_parent(zoo("unequal_depths"))
    inputs = attention_inputs(tree, **SMALL)
    function, args = function_of(inputs, tree, self_loop=self_loop, dropout_p=0.4, seed=5)
    assert gradcheck(function, args, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(function, args, fast_mode=True)


@pytest.mark.parametrize("options", OPTIONS)
def test_transforms_of_torch_func_agree_with_autograd(options):
    tree = TreeIndex.from_parent(zoo("shuffled_forest"))
    function, args = function_of(attention_inputs(tree, **OPTIONS[options]), tree)
    args = tuple(x.detach() for x in args)
    ways = tuple(torch.randn_like(x) for x in args)

    def loss(*args):
        out, evidence = function(*args)
        return out.square().sum() + evidence.sum()

    learned = [x.clone().requires_grad_() for x in args]
    expected = torch.autograd.grad(loss(*learned), learned, create_graph=True)
    everything = tuple(range(len(args)))
    gradient = grad(loss, everything)
    assert_close(gradient(*args), expected)
    value, slope = jvp(loss, args, ways)
    assert_close(value, loss(*args))
    assert_close(slope, sum((g * w).sum() for g, w in zip(expected, ways, strict=True)))

    # Hessian times vector: forward over reverse is reverse over reverse.
    along = sum((g * w).sum() for g, w in zip(expected, ways, strict=True))
    assert_close(jvp(gradient, args, ways)[1], torch.autograd.grad(along, learned))

    # Per-sample outputs and gradients.
    many = tuple(torch.stack([x, x + w, x - w]) for x, w in zip(args, ways, strict=True))
    one_by_one = [function(*x) for x in zip(*many, strict=True)]
    assert_close(vmap(function)(*many), tuple(map(torch.stack, zip(*one_by_one, strict=True))))
    one_by_one = [gradient(*x) for x in zip(*many, strict=True)]
    assert_close(vmap(gradient)(*many), tuple(map(torch.stack, zip(*one_by_one, strict=True))))


def test_a_tree_first_used_inside_a_transform_serves_outside_of_it():
    parent = zoo("unequal_depths")
    inputs = attention_inputs(TreeIndex.from_parent(parent))
    expected = results(inputs, TreeIndex.from_parent(parent))

    def use(tree, transform):
        function, args = function_of(inputs, tree)
        return transform(lambda *x: function(*x)[0].sum())(*(x.detach() for x in args))

    first_uses = {
        "grad": lambda f: grad(f),
        "vmap": lambda f: lambda *x: vmap(f)(*(y.unsqueeze(0) for y in x)),
        "jvp": lambda f: lambda *x: jvp(f, x, x),
        "nested": lambda f: lambda *x: jvp(grad(f), x, x),
        "inference": lambda f: torch.inference_mode()(f),
    }
    for transform in first_uses.values():
        tree = TreeIndex.from_parent(parent)
        use(tree, transform)
        assert_close(results(inputs, tree), expected)
        use(tree, first_uses["nested"])


def test_dual_numbers_give_the_slope():
    tree = TreeIndex.from_parent(zoo("forest"))
    function, args = function_of(attention_inputs(tree), tree)
    args = [x.detach() for x in args]
    with forward_ad.dual_level():
        out, _ = function(*(forward_ad.make_dual(x, x.cos()) for x in args))
        slope = forward_ad.unpack_dual(out).tangent
    assert_close(
        slope, jvp(lambda *x: function(*x)[0], tuple(args), tuple(map(torch.cos, args)))[1]
    )


# --- nothing is NaN that need not be --------------------------------------------------------------


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("filling", [float("nan"), float("inf"), -float("inf")])
def test_padding_holds_anything_and_no_derivative_of_any_kind_is_nan(filling, self_loop):
    tree = TreeIndex.from_parent(forest(star(1), chain(3), zoo("unequal_depths"), star(4)))
    inputs = attention_inputs(tree, mass="zeros")
    for n in "qkv":
        inputs[n][inputs["mass"] == 0] = filling
    function, args = function_of(inputs, tree, self_loop=self_loop)
    out, evidence = function(*args)
    first = torch.autograd.grad(out.square().sum() + evidence.sum(), args, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), args)
    args = tuple(x.detach() for x in args)
    _, slopes = jvp(function, args, tuple(map(torch.ones_like, args)))
    for x in (out, evidence, *first, *second, *slopes):
        assert x.isfinite().all()


def test_a_lone_leaf_without_self_loop_gives_0_and_an_evidence_of_minus_infinity():
    tree = TreeIndex.from_parent(forest(star(2), chain(2)))
    inputs = {n: x.requires_grad_() for n, x in attention_inputs(tree).items()}
    out, evidence = attend(call(inputs, tree, self_loop=False))
    assert not out[2].any() and evidence[1].isneginf().all() and evidence[0].isfinite().all()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in inputs.values())


@pytest.mark.parametrize("dropout", [{}, {"dropout_p": 0.5, "seed": 3}])
@pytest.mark.parametrize("name", ["forest", "shuffled_forest"])
def test_no_tree_of_a_batch_notices_the_others(name, dropout):
    tree = TreeIndex.from_parent(zoo(name))

    def function(q, k, v):
        return attend(call({"q": q, "k": k, "v": v}, tree, **dropout))[0]

    assert_isolated(function, tree, *attention_inputs(tree, dtype=torch.float32).values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_stay_in_their_tree(bad):
    # Families of one size share a tile with those of another tree.
    tree = TreeIndex.from_parent(forest(*(random_parent(12, seed=i, reach=6) for i in range(5))))
    inputs = attention_inputs(tree, **OPTIONS["all"] | {"mass": "random"})
    clean = results(inputs, tree)
    inputs = {n: x.clone() for n, x in inputs.items()}
    mine = tree_of_leaf(tree) == 2
    for n in "qkv":
        inputs[n][mine] = bad
    spoilt = results(inputs, tree)
    others = torch.arange(tree.num_trees) != 2
    assert torch.equal(clean[0][~mine], spoilt[0][~mine])
    assert torch.equal(clean[1][others], spoilt[1][others])
    for a, b in zip(clean[2][:3], spoilt[2][:3], strict=True):
        assert torch.equal(a[~mine], b[~mine])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    tree = TreeIndex.from_parent(star(3000))
    inputs = attention_inputs(tree, heads=1, dtype=dtype)
    out, evidence = attend(call(inputs, tree))
    wide, score = attend(call({n: x.double() for n, x in inputs.items()}, tree))
    assert out.dtype == dtype and evidence.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    assert_close(out.double(), wide, rtol=eps, atol=eps / 8)
    assert_close(evidence.double(), score, rtol=1e-5, atol=1e-5)


# --- tiles and memory -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parent", [*map(zoo, ZOO), random_parent(300, seed=3), balanced(7, 3)], ids=[*ZOO, "r", "b"]
)
def test_every_node_with_siblings_has_one_slot_among_them(parent):
    tree = TreeIndex.from_parent(parent)
    table = tiles(tree)
    has_siblings = torch.zeros(tree.num_nodes, dtype=torch.bool)
    tile = 0
    for families, width in table.shapes:
        for _ in range(families):
            member = table.member[tile : tile + width]
            seen = table.seen[tile : tile + width]
            family = member[seen]
            assert len(family) * 3 >= 2 * width and len(family) > 1
            assert (tree.up[member] == tree.up[member[0]]).all()
            assert len(family) == (tree.up[tree.num_trees :] == tree.up[member[0]]).sum()
            assert torch.equal(table.slot[family], tile + torch.arange(len(family)))
            assert not has_siblings[family].any()
            has_siblings[family] = True
            tile += width
    assert tile == len(table.member)
    assert (table.slot[~has_siblings] == tile).all()
    alone = torch.bincount(tree.up[tree.num_trees :], minlength=tree.num_nodes)[tree.up] == 1
    alone[: tree.num_trees] = True
    assert torch.equal(alone, ~has_siblings)


@pytest.mark.parametrize("dropout", [{}, {"dropout_p": 0.5, "seed": 3}])
@pytest.mark.parametrize("logits", [1, 10, 50])
def test_neither_cuts_nor_forgotten_logits_change_anything(logits, dropout, monkeypatch):
    tree = TreeIndex.from_parent(
        forest(star(5), balanced(3, 2), random_parent(40, reach=9, seed=1))
    )
    inputs = attention_inputs(tree, **OPTIONS["all"])
    expected = results(inputs, tree, **dropout)
    monkeypatch.setattr(siblings, "LOGITS", logits)
    for wide in (1000, 4, 1):
        monkeypatch.setattr(siblings, "WIDE", wide)
        assert_close(results(inputs, tree, **dropout), expected, rtol=1e-10, atol=1e-10)
    inputs = attention_inputs(tree, **SMALL)
    function, args = function_of(inputs, tree, **dropout)
    assert gradgradcheck(function, args, fast_mode=True)
    everything = tuple(range(len(args)))
    grad(lambda *x: function(*x)[0].sum(), everything)(*(x.detach() for x in args))


SCRIPT = """
import resource
import torch
from hsa_geometric import TreeIndex
from hsa_geometric.kernels.call import Call
from hsa_geometric.kernels.scatter import attend
from hsa_geometric.testing import star, zoo, attention_inputs

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

def run(q, k, v, tree):
    call = dict.fromkeys(Call._fields) | dict(q=q, k=k, v=v, tree=tree, scale=0.5)
    return attend(Call(**call | dict(self_loop=True, dropout_p=0.0)))[0]

torch.set_num_threads(1)
small = TreeIndex.from_parent(zoo("forest"))
q, k, v = (x.requires_grad_() for x in attention_inputs(small, dtype=torch.float32).values())
run(q, k, v, small).sum().backward()  # so that nothing is left to load
before = peak()
for size, backward in ((20_000, False), (10_000, True)):
    tree = TreeIndex.from_parent(star(size))
    q, k, v = torch.randn(3, size, 1, 4).unbind(0)
    learned = [x.clone().requires_grad_() for x in (q, k, v)]
    out = run(*learned, tree)
    if backward:
        out.square().mean().backward()
        assert all(x.grad.isfinite().all() and x.grad.any() for x in learned)
    print(peak() - before)
    rows = torch.arange(0, size, 1999)
    s = torch.einsum("ihd,jhd->hij", q[rows], k) / 2
    expected = torch.einsum("hij,jhd->ihd", s.softmax(-1), v)
    torch.testing.assert_close(out.detach()[rows], expected)
"""


def test_a_star_of_20_000_leaves_needs_memory_for_its_rows_not_for_its_pairs():
    pytest.importorskip("resource", reason="resource is a Unix module")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    forward, both = map(float, done.stdout.split())
    # Backward would need three matrices of all pairs, of 1,526 MiB each and, of 10,000, 381.
    assert forward < 300 and both < 600, done.stdout


def test_trees_3000_deep_have_all_their_derivatives():
    for parent in (chain(3000), caterpillar(3000)):
        tree = TreeIndex.from_parent(parent)
        inputs = attention_inputs(tree, heads=1, channels=2, value_channels=1)
        out, evidence, grads = results(inputs, tree)
        assert out.isfinite().all() and evidence.isfinite().all()
        assert all(g.isfinite().all() for g in grads)
        expected = hierarchical_attention(**inputs, tree=tree)
        assert_close(out, expected, rtol=1e-9, atol=1e-9)
