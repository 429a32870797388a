"""Backend 'cpu': what is its own, against 'scatter' and the oracle."""

import os
import subprocess
import sys

import pytest
import torch
from helpers import attend
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.cpu import walk
from hsa_geometric.native import INSTRUCTIONS, library
from hsa_geometric.testing import (
    ZOO,
    assert_backends_agree,
    assert_isolated,
    attention_inputs,
    balanced,
    caterpillar,
    forest,
    forests,
    random_parent,
    shuffled,
    star,
    tree_of_leaf,
    zoo,
)

pytestmark = pytest.mark.skipif(library() is None, reason="the kernel is not built")

OPTIONS = {
    "plain": {},
    "masses": {"mass": "zeros"},
    "positions": {"pos_channels": 3},
    "scalars": {"node_scalars": True},
    "all": {"pos_channels": 2, "node_scalars": True, "mass": "zeros"},
}
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def threads():
    """Sets the number of threads, however small the tree, until the test is over."""
    before, worth = torch.get_num_threads(), walk.WORTH_A_THREAD

    def set_threads(number):
        walk.WORTH_A_THREAD = 1
        torch.set_num_threads(number)

    yield set_threads
    walk.WORTH_A_THREAD = worth
    torch.set_num_threads(before)


def both(inputs, tree, seed=0, **options):
    """Results of 'cpu' and of 'scatter' from one state of the random numbers."""
    found = []
    for backend in ("cpu", "scatter"):
        torch.manual_seed(seed)
        found.append(attend(inputs, tree, backend=backend, **options))
    return found


def joined(*parents):
    """One tree: a root above the roots of all."""
    parent = torch.cat([forest(*parents), torch.zeros(1, dtype=torch.long)])
    root = len(parent) - 1
    ids = torch.arange(root + 1)
    return torch.where(parent == ids, root, parent).index_fill_(0, ids[-1:], root)


# The shapes that the kernel treats differently: families narrower than a vector, wider than a tile
# (64), cut for all threads (512) above the tasks and among them, and trees of many tasks.
LARGE = {
    "widths of vectors": forest(*(star(n) for n in range(1, 20))),
    "one tile and more": forest(*(star(n) for n in (63, 64, 65, 127, 129))),
    "a star of 513": star(513),
    "wide families beside others": shuffled(
        forest(star(700), random_parent(1500, reach=9, seed=1), star(70))
    ),
    "wide over wide": joined(*[star(3)] * 560, star(530), *[balanced(3, 4)] * 9),
    "a square": balanced(70, 2),
    "many levels": balanced(2, 12),
    "deep": caterpillar(300),
    "many small trees": forest(*(random_parent(20, reach=5, seed=i) for i in range(150))),
    "random": random_parent(6000, reach=300, seed=3),
}


@pytest.mark.parametrize("name", LARGE)
def test_every_kind_of_family_gives_what_scatter_gives_on_any_number_of_threads(name, threads):
    tree = TreeIndex.from_parent(LARGE[name])
    inputs = attention_inputs(tree, heads=3, channels=3, value_channels=5, **OPTIONS["all"])
    dropout = {"dropout_p": 0.2, "training": True}
    threads(1)
    found, expected = both(inputs, tree, **dropout)
    assert_close(found, expected, **EXACT)
    for number in (2, 5):
        threads(number)
        torch.manual_seed(0)
        assert_close(attend(inputs, tree, backend="cpu", **dropout), expected, **EXACT)


def test_the_trees_above_hold_what_they_claim(threads):
    threads(2)
    made = {name: walk.Walk.of(TreeIndex.from_parent(parent)) for name, parent in LARGE.items()}
    assert sum(w.tops > 0 for w in made.values()) >= 3
    assert sum(w.widest >= 512 and w.tops > 0 for w in made.values()) >= 2
    assert all(w.threads(3, 11) == 2 for w in made.values())


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
@given(parent=forests(max_nodes=40), widths=st.tuples(*[st.integers(1, 9)] * 3))
@settings(max_examples=20, deadline=None)
def test_random_forests_give_what_the_oracle_gives(options, self_loop, parent, widths):
    tree = TreeIndex.from_parent(parent)
    heads, channels, values = widths
    inputs = attention_inputs(
        tree, heads=heads, channels=channels, value_channels=values, **OPTIONS[options]
    )
    assert_backends_agree(**inputs, tree=tree, backend="cpu", self_loop=self_loop)


@given(parent=forests(min_nodes=30, max_nodes=300, max_trees=3), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_random_forests_with_threads_give_what_scatter_gives(parent, seed):
    before, worth = torch.get_num_threads(), walk.WORTH_A_THREAD
    tree = TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree, **OPTIONS["all"], seed=seed)
    try:
        walk.WORTH_A_THREAD = 1
        torch.set_num_threads(1 + seed % 4)
        assert_close(*both(inputs, tree, seed, dropout_p=0.3, training=True), **EXACT)
    finally:
        walk.WORTH_A_THREAD = worth
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["cpu", "scatter"])
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize(
    "name, value", [("temperature", 0.0), ("bias", 0.0), ("temperature", -1.0), ("scale", 0.0)]
)
def test_nothing_of_a_logit_may_be_zero_or_negative(name, value, self_loop, backend):
    tree = TreeIndex.from_parent(zoo("shuffled_forest"))
    inputs = attention_inputs(tree, **OPTIONS["all"])
    options = {"scale": value} if name == "scale" else {}
    if not options:
        inputs[name].fill_(value)
    assert_backends_agree(**inputs, tree=tree, backend=backend, self_loop=self_loop, **options)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_dropout_has_the_masks_of_scatter(options, self_loop, p):
    tree = TreeIndex.from_parent(forest(zoo("shuffled_forest"), star(130), star(7)))
    inputs = attention_inputs(tree, **OPTIONS[options])
    for seed in (0, 1 << 40):
        results = both(inputs, tree, seed, self_loop=self_loop, dropout_p=p, training=True)
        assert_close(*results, **EXACT)


# --- numbers of all kinds -------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_float32_is_as_exact_as_its_numbers(options):
    tree = TreeIndex.from_parent(forest(random_parent(400, reach=30, seed=2), star(200)))
    inputs = attention_inputs(tree, channels=33, value_channels=17, **OPTIONS[options])
    inputs = {n: x.float() for n, x in inputs.items()}
    exact = attend({n: x.double() for n, x in inputs.items()}, tree, backend="scatter")
    found = attend(inputs, tree, backend="cpu")
    for name, x in found.items():
        assert x.dtype == torch.float32
        top = max(1.0, float(exact[name].abs().max()))
        assert_close(x.double(), exact[name], rtol=2e-5, atol=4e-6 * top)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("v", DTYPES)
@pytest.mark.parametrize("k", DTYPES)
@pytest.mark.parametrize("q", DTYPES)
def test_dtypes_may_be_mixed_and_sums_are_float32(q, k, v):
    tree = TreeIndex.from_parent(forest(random_parent(60, seed=2), star(100)))
    inputs = attention_inputs(tree, channels=9, value_channels=18, **OPTIONS["all"])
    inputs = {n: x.float() for n, x in inputs.items()}
    inputs |= {"q": inputs["q"].to(q), "k": inputs["k"].to(k), "v": inputs["v"].to(v)}
    inputs["temperature"] = inputs["temperature"].to(q)
    found = attend(inputs, tree, backend="cpu")
    exact = attend({n: x.double() for n, x in inputs.items()}, tree, backend="scatter")
    assert found["out"].dtype == v and found["evidence"].dtype == torch.float32
    for name, x in found.items():
        if name in inputs:
            assert x.dtype == inputs[name].dtype
        # The output is rounded to v's dtype, and so is what is kept of it for backward.
        eps = max(torch.finfo(y).eps for y in (x.dtype, v if name != "evidence" else x.dtype))
        eps = max(3 * eps, 1e-5)
        top = max(1.0, float(exact[name].abs().max()))
        assert_close(
            x.double(), exact[name], rtol=eps, atol=eps * top, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_of_one_projection_are_read_where_they_are(dtype):
    tree = TreeIndex.from_parent(zoo("shuffled_forest"))
    together = torch.randn(tree.num_leaves, 3, 2, 5).to(dtype)
    expected = attend(
        dict(zip("qkv", (x.contiguous() for x in together.unbind(1)), strict=True)), tree,
        backend="cpu",
    )  # fmt: skip
    # heads apart, rows apart, channels apart, every second row, heads inside channels
    ways = {
        "rows": together.unbind(1),
        "apart": together.permute(1, 2, 0, 3).contiguous().transpose(1, 2).unbind(0),
        "channels": together.permute(1, 0, 3, 2).contiguous().transpose(2, 3).unbind(0),
        "every second": together.repeat_interleave(2, 0)[::2].unbind(1),
        "reversed": together.flip(0).contiguous().flip(0).unbind(1),
    }
    for name, (q, k, v) in ways.items():
        found = attend({"q": q, "k": k, "v": v}, tree, backend="cpu")
        for key, x in found.items():
            assert torch.equal(x, expected[key]), (name, key)


def test_expanded_rows_and_gradients_of_any_strides_are_taken():
    tree = TreeIndex.from_parent(zoo("shuffled_forest"))
    inputs = attention_inputs(tree, value_channels=4)
    inputs["k"] = inputs["k"][:1].expand_as(inputs["k"])
    inputs["v"] = inputs["v"][:, :1].expand_as(inputs["v"])
    assert_backends_agree(**inputs, tree=tree, backend="cpu")
    q, k, v = (x.detach().clone().requires_grad_() for x in inputs.values())
    out = hierarchical_attention(q, k, v, tree, backend="cpu")
    grad = torch.randn(out.shape, dtype=out.dtype)
    expected = torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)
    same = grad.transpose(0, 2).contiguous().transpose(0, 2)
    assert not same.is_contiguous()
    for a, b in zip(torch.autograd.grad(out, (q, k, v), same), expected, strict=True):
        assert torch.equal(a, b)
    out = hierarchical_attention(q, k, v, tree, backend="cpu")
    ones = torch.autograd.grad(out.sum(), (q, k, v))  # a gradient of stride 0
    out = hierarchical_attention(q, k, v, tree, backend="scatter")
    assert_close(ones, torch.autograd.grad(out.sum(), (q, k, v)), **EXACT)


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("name", ["one_node", "star", "one_child_nodes", "unequal_depths"])
def test_derivatives_of_both_orders_equal_differences(name, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(
        tree, heads=1, channels=2, value_channels=2, pos_channels=1, node_scalars=True
    )

    def function(*args):
        torch.manual_seed(3)
        out, evidence = hierarchical_attention(
            **dict(zip(inputs, args, strict=True)), tree=tree, self_loop=self_loop,
            backend="cpu", return_evidence=True, dropout_p=0.3, training=True,
        )  # fmt: skip
        return out, torch.where(evidence.isneginf(), 0, evidence)

    args = tuple(x.requires_grad_() for x in inputs.values())
    assert gradcheck(function, args)
    assert gradgradcheck(function, args, fast_mode=True)


def test_a_second_backward_of_one_graph_gives_the_same_bits():
    tree = TreeIndex.from_parent(LARGE["random"])
    inputs = attention_inputs(tree, **OPTIONS["all"], dtype=torch.float32)
    learned = [x.requires_grad_() for n, x in inputs.items() if n != "mass"]
    out, evidence = hierarchical_attention(
        **inputs, tree=tree, backend="cpu", return_evidence=True, dropout_p=0.3, training=True
    )
    loss = out.square().sum() + evidence[evidence.isfinite()].sum()
    first = torch.autograd.grad(loss, learned, retain_graph=True)
    again = torch.autograd.grad(loss, learned)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_needs_no_gradient_changes_nothing_for_the_rest():
    tree = TreeIndex.from_parent(zoo("shuffled_forest"))
    inputs = attention_inputs(tree, **OPTIONS["all"])
    expected = attend(inputs, tree, backend="cpu")
    for name in (n for n in inputs if n != "mass"):
        alone = {n: x.detach().requires_grad_(n == name) for n, x in inputs.items()}
        out, evidence = hierarchical_attention(
            **alone, tree=tree, backend="cpu", return_evidence=True
        )
        assert torch.equal(out, expected["out"]) and torch.equal(evidence, expected["evidence"])
        generator = torch.Generator().manual_seed(7)
        cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        loss = (out * cotangent).sum() + evidence[evidence.isfinite()].sum()
        assert torch.equal(torch.autograd.grad(loss, alone[name])[0], expected[name])


def test_a_forward_without_gradients_gives_the_same_as_one_with():
    for name in ("random", "one tile and more", "widths of vectors"):
        tree = TreeIndex.from_parent(LARGE[name])
        for dtype in (torch.float32, torch.float64):
            inputs = attention_inputs(tree, **OPTIONS["all"], dtype=dtype)
            expected = attend(inputs, tree, backend="cpu")
            out, evidence = hierarchical_attention(
                **inputs, tree=tree, backend="cpu", return_evidence=True
            )
            assert torch.equal(out, expected["out"])
            assert torch.equal(evidence, expected["evidence"])


# --- trees apart, calls apart ---------------------------------------------------------------------

NEIGHBOURS = forest(
    star(1), *(random_parent(12, seed=i, reach=6) for i in range(4)), star(70), star(5), star(1)
)


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_tree_of_a_batch_notices_the_others(dtype, dropout_p):
    tree = TreeIndex.from_parent(NEIGHBOURS)

    def function(q, k, v):
        torch.manual_seed(1)
        return hierarchical_attention(
            q, k, v, tree, backend="cpu", dropout_p=dropout_p, training=True
        )

    assert_isolated(function, tree, *attention_inputs(tree, heads=5, dtype=dtype).values())


@pytest.mark.parametrize("where", ["q", "k", "v", "temperature", "bias", "pos_q", "grad"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_nan_and_infinity_stay_in_their_tree(bad, where, threads):
    tree = TreeIndex.from_parent(NEIGHBOURS)
    inputs = attention_inputs(
        tree, heads=5, dtype=torch.float32, **OPTIONS["all"] | {"mass": "random"}
    )
    leaf = tree_of_leaf(tree)
    root = tree.parent
    for _ in range(tree.depth):
        root = tree.parent[root]
    node = root.unique(return_inverse=True)[1]
    grad = torch.randn(inputs["v"].shape)
    for number, spoilt in ((1, 2), (3, 5), (1, 6), (1, 0)):
        threads(number)
        other, grad_other = {n: x.clone() for n, x in inputs.items()}, grad.clone()
        x = grad_other if where == "grad" else other[where]
        x[(leaf if len(x) == tree.num_leaves else node) == spoilt] = bad
        clean = attend(inputs, tree, grad, backend="cpu")
        dirty = attend(other, tree, grad_other, backend="cpu")
        # (attend leaves evidence that is not finite out of its loss)
        for name, x in clean.items():
            size = len(x)
            of = {tree.num_leaves: leaf, tree.num_nodes: node}.get(size, torch.arange(size))
            assert torch.equal(x[of != spoilt], dirty[name][of != spoilt]), name


@pytest.mark.parametrize("filling", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("self_loop", [True, False])
def test_padding_may_hold_anything(filling, self_loop):
    tree = TreeIndex.from_parent(NEIGHBOURS)
    inputs = attention_inputs(tree, **OPTIONS["all"])
    padding = inputs["mass"] == 0
    for n in "qkv":
        inputs[n][padding] = 0
    expected = attend(inputs, tree, backend="cpu", self_loop=self_loop)
    for n in "qkv":
        inputs[n][padding] = filling
    found = attend(inputs, tree, backend="cpu", self_loop=self_loop)
    for name, x in found.items():
        assert torch.equal(x, expected[name]), name
        assert x.isfinite().all() or name == "evidence"
    assert_close(found, attend(inputs, tree, backend="scatter", self_loop=self_loop), **EXACT)


def test_bits_do_not_depend_on_the_calls_before(threads):
    # The memory of a thread is kept for its next call: leftovers of any kind must not show.
    threads(2)
    parents = [zoo(name) for name in ZOO] + [star(65), star(3), LARGE["random"], star(600)]
    cases = []
    for i, parent in enumerate(parents):
        tree = TreeIndex.from_parent(parent)
        for dtype in (torch.float32, torch.float64):
            inputs = attention_inputs(
                tree, heads=1 + i % 5, channels=1 + i % 7, value_channels=1 + i % 4, dtype=dtype,
                **list(OPTIONS.values())[i % 5],
            )  # fmt: skip
            cases.append((inputs, tree, attend(inputs, tree, backend="cpu")))
    for bad in (float("nan"), float("inf")):
        for inputs, tree, expected in reversed(cases):
            spoilt = TreeIndex.from_parent(star(100))
            x = torch.full((100, 9, 40), bad, dtype=inputs["q"].dtype)
            attend({"q": x, "k": x, "v": x}, spoilt, backend="cpu")
            found = attend(inputs, tree, backend="cpu")
            assert all(torch.equal(found[n], x) for n, x in expected.items())


@pytest.mark.parametrize("number", [2, 3, 5])
def test_bits_of_the_output_do_not_depend_on_the_number_of_threads(number, threads):
    for name, parent in LARGE.items():
        tree = TreeIndex.from_parent(parent)
        inputs = attention_inputs(tree, dtype=torch.float32, **OPTIONS["all"])
        threads(1)
        expected = attend(inputs, tree, backend="cpu")
        threads(number)
        found = attend(inputs, tree, backend="cpu")
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
        again = attend(inputs, tree, backend="cpu")
        assert all(torch.equal(found[n], x) for n, x in again.items()), name


# --- instruction sets -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", INSTRUCTIONS)
@pytest.mark.parametrize("options", ["plain", "all"])
def test_every_instruction_set_gives_the_same(name, options, instructions):
    instructions(name)
    large = (LARGE[name] for name in ("widths of vectors", "one tile and more", "a star of 513"))
    for parent in (*large, *map(zoo, ZOO)):
        tree = TreeIndex.from_parent(parent)
        inputs = attention_inputs(tree, heads=3, channels=9, value_channels=6, **OPTIONS[options])
        assert_close(*both(inputs, tree, dropout_p=0.2, training=True), **EXACT)
    inputs = {n: x.to(torch.bfloat16) for n, x in inputs.items()}
    found, expected = both(inputs, tree)
    assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["base", "avx2"])
def test_the_environment_names_the_most_that_is_used(name, instructions):
    code = (
        "from hsa_geometric.native import library, INSTRUCTIONS as names; "
        "print(names[library().hsa_instructions(-1)])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"HSA_GEOMETRIC_INSTRUCTIONS": name},
    )  # fmt: skip
    instructions("base")
    best = library().hsa_instructions(len(INSTRUCTIONS) - 1)
    assert done.stdout.strip() == INSTRUCTIONS[min(INSTRUCTIONS.index(name), best)]
