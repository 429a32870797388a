"""Backend 'cpu' along interaction lists: what is its own, against 'scatter' and the oracle."""

import pytest
import torch
from helpers import rows_below
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from hsa_geometric import InteractionLists, TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.cpu import lists as cpu_lists
from hsa_geometric.kernels.cpu import walk
from hsa_geometric.native import INSTRUCTIONS, library
from hsa_geometric.testing import (
    attention_inputs,
    balanced,
    caterpillar,
    forest,
    forests,
    random_lists,
    random_parent,
    shuffled,
    star,
    tree_of_leaf,
)

pytestmark = pytest.mark.skipif(library() is None, reason="the kernel is not built")

OPTIONS = {
    "plain": {},
    "masses": {"mass": "zeros"},
    "all": {"pos_channels": 2, "node_scalars": True, "mass": "zeros"},
}
EXACT = {"rtol": 1e-10, "atol": 1e-10}
LEARNED = ("q", "k", "v", "pos_q", "pos_k", "temperature", "bias")


@pytest.fixture
def threads():
    """Sets the number of threads, however few the logits, until the test is over."""
    before, worth = torch.get_num_threads(), walk.WORTH_A_THREAD

    def set_threads(number):
        walk.WORTH_A_THREAD = 1
        torch.set_num_threads(number)

    yield set_threads
    walk.WORTH_A_THREAD = worth
    torch.set_num_threads(before)


def case(lists, seed=0, **options):
    """Arguments of an attention along lists."""
    query, key = lists.query_tree, lists.key_tree
    args = attention_inputs(query, seed=seed, **options)
    if not lists.of_one_tree:
        theirs = attention_inputs(key, seed=seed + 1, **options)
        args |= {n: x for n, x in theirs.items() if n in ("k", "v", "pos_k")}
        args |= {"key_tree": key} | ({"key_mass": theirs["mass"]} if "mass" in theirs else {})
    return args | {"tree": query, "lists": lists}


def results(args, seed=0, **options):
    """Output, evidence, and gradients of all that is learned."""
    names = [n for n in LEARNED if n in args]
    args = args | {n: args[n].detach().requires_grad_() for n in names}
    torch.manual_seed(seed)
    out, evidence = hierarchical_attention(**args, return_evidence=True, **options)
    some = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    loss = (out * some).sum() + evidence[evidence.isfinite()].sum()
    grads = torch.autograd.grad(
        loss, [args[n] for n in names], materialize_grads=True, allow_unused=True
    )
    return {
        "out": out.detach(),
        "evidence": evidence.detach(),
        **dict(zip(names, grads, strict=True)),
    }


def before(tree):
    """Lists by which leaves find themselves and those of the past: the others are hidden."""
    query, rows = TreeIndex.from_parent(star(tree.num_leaves)), rows_below(tree.parent)
    below = [(tree.parent == node).nonzero().flatten().tolist() for node in range(tree.num_nodes)]
    root = int(tree.order[0])
    opened, hidden = [(tree.num_leaves, root)], []
    met = [(row, node) for row in range(tree.num_leaves) for node in below[root] if node != root]
    for row, node in met:  # grows while it is read
        if min(rows[node]) > row:
            hidden.append((row, node))
        elif max(rows[node]) > row:
            opened.append((row, node))
            met += [(row, child) for child in below[node]]
    opened, hidden = (torch.tensor(x).view(-1, 2).t() for x in (opened, hidden))
    return InteractionLists.from_opened(query, opened, key_tree=tree, hidden=hidden)


# What the kernel treats differently: groups narrower than a vector, wider than half a tile and than
# a tile (64), families cut for all threads (512), groups whose members meet different keys, keys
# of more than a tile, and trees of many tasks.
WIDTHS = forest(*(star(n) for n in range(1, 20)))
TREES = {
    "widths of vectors": (WIDTHS, WIDTHS[torch.arange(len(WIDTHS))], 1.0),
    "some opened": (balanced(7, 3), balanced(5, 4), 0.6),
    "one tile and more": (forest(star(63), star(65), star(129)), forest(*[star(70)] * 3), 1.0),
    "many queries, few keys": (star(530), balanced(2, 2), 0.5),
    "few queries, many keys": (balanced(2, 2), star(530), 0.5),
    "wide beside others": (
        shuffled(forest(star(600), random_parent(800, reach=9, seed=1))),
        forest(balanced(3, 4), random_parent(700, seed=2)), 0.4,
    ),
    "deep": (caterpillar(120), caterpillar(60), 0.97),
    "many small trees": (
        forest(*(random_parent(20, reach=5, seed=i) for i in range(60))),
        forest(*(random_parent(9, reach=5, seed=i) for i in range(60))), 0.5,
    ),
}  # fmt: skip


def made(name):
    one, other, opened = TREES[name]
    return random_lists(
        TreeIndex.from_parent(one), TreeIndex.from_parent(other), opened=opened, seed=5
    )


@pytest.mark.parametrize("name", TREES)
def test_any_lists_give_what_scatter_gives_on_any_number_of_threads(name, threads):
    lists = made(name)
    for options, widths in (("all", (3, 3, 5)), ("plain", (2, 16, 32))):
        heads, channels, values = widths
        args = case(
            lists, heads=heads, channels=channels, value_channels=values, **OPTIONS[options]
        )
        dropout = {"dropout_p": 0.2, "training": True} if options == "all" else {}
        expected = results(args, backend="scatter", **dropout)
        for number in (1, 2, 7):
            threads(number)
            assert_close(results(args, backend="cpu", **dropout), expected, **EXACT)


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
@given(parent=forests(max_nodes=40), opened=st.floats(0, 1), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_random_lists_of_random_forests_give_what_scatter_gives(
    options, self_loop, parent, opened, seed
):
    tree = TreeIndex.from_parent(parent)
    lists = random_lists(tree, opened=opened, hidden=seed % 3 * 0.2, itself=True, seed=seed)
    args = case(lists, seed, heads=1 + seed % 5, channels=1 + seed % 9, **OPTIONS[options])
    ours, theirs = (results(args, backend=b, self_loop=self_loop) for b in ("cpu", "scatter"))
    assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("name", [*TREES, "past"])
def test_each_block_is_in_one_group_and_no_other_pair_is(name):
    lists = before(TreeIndex.from_parent(balanced(4, 4))) if name == "past" else made(name)
    query, key, blocks = lists.query_tree, lists.key_tree, cpu_lists.Blocks.of(lists)
    order, others = walk.Walk.of(query), walk.Walk.of(key)
    sizes = (
        order.families + 1, others.families, blocks.groups, blocks.groups, blocks.groups + 1
    )  # fmt: skip
    *parts, runs = blocks.packed.split([*sizes, blocks.packed.numel() - sum(sizes)])
    group_ptr, _, first, size, run_ptr = parts
    inner = query.num_nodes - query.num_leaves + query.num_trees
    begin = order.packed[: order.families]
    members = order.packed[inner : inner + order.families]
    assert int(size.sum()) == int(members.sum()) and int(size.max()) <= 64
    family = torch.repeat_interleave(group_ptr.diff().long())
    runs, found, computed = runs.view(-1, 3).tolist(), [], 0
    for group in range(blocks.groups):
        top = int(begin[family[group]] + first[group])
        for position, count, at in runs[run_ptr[group] : run_ptr[group + 1]]:
            for j in range(count):
                mask = -1 if at < 0 else int(blocks.masks[at + j])
                found += [(top + i, position + j) for i in range(int(size[group])) if mask >> i & 1]
            computed += count * int(size[group])
    assert sorted(found) == list(map(tuple, lists.blocks.t().tolist()))
    assert computed == blocks.logits
    assert blocks.logits <= 4 * lists.num_logits  # groups of unlike members are cut


def test_what_is_past_alone_is_seen():
    tree = TreeIndex.from_parent(balanced(4, 4))
    lists = before(tree)
    args = case(lists, channels=16, value_channels=16)
    assert_close(results(args, backend="cpu"), results(args, backend="scatter"), **EXACT)
    full = hierarchical_attention(**args, backend="cpu")
    for name in "kv":
        args[name] = args[name].clone()
        args[name][100:] = torch.nan
    assert torch.equal(hierarchical_attention(**args, backend="cpu")[:100], full[:100])


# --- numbers of all kinds -------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("widths", [(33, 17), (32, 16)])
def test_float32_is_as_exact_as_its_numbers(options, widths):
    query = TreeIndex.from_parent(forest(random_parent(300, reach=30, seed=2), star(150)))
    key = TreeIndex.from_parent(forest(star(90), random_parent(300, seed=3)))
    args = case(
        random_lists(query, key, opened=0.6, seed=1), channels=widths[0],
        value_channels=widths[1], dtype=torch.float32, **OPTIONS[options],
    )  # fmt: skip
    exact = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in args.items()}
    exact, found = results(exact, backend="scatter"), results(args, backend="cpu")
    for name, x in found.items():
        assert x.dtype == torch.float32
        top = max(1.0, float(exact[name].abs().max()))
        assert_close(x.double(), exact[name], rtol=2e-5, atol=4e-6 * top)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("q, k, v", [(a, b, c) for a in DTYPES for b in DTYPES for c in DTYPES])
def test_dtypes_may_be_mixed_and_sums_are_float32(q, k, v):
    tree = TreeIndex.from_parent(forest(random_parent(60, seed=2), star(40)))
    args = case(random_lists(tree, opened=0.7), channels=16, value_channels=16, dtype=torch.float32)
    args |= {"q": args["q"].to(q), "k": args["k"].to(k), "v": args["v"].to(v)}
    found = results(args, backend="cpu")
    exact = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in args.items()}
    exact = results(exact, backend="scatter")
    assert found["out"].dtype == v and found["evidence"].dtype == torch.float32
    for name, x in found.items():
        if name in args:
            assert x.dtype == args[name].dtype
        # The output is rounded to v's dtype, and so is what is kept of it for backward.
        eps = max(torch.finfo(y).eps for y in (x.dtype, v if name != "evidence" else x.dtype))
        eps = max(3 * eps, 1e-5)
        top = max(1.0, float(exact[name].abs().max()))
        assert_close(x.double(), exact[name], rtol=eps, atol=eps * top)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_one_projection_are_read_where_they_are(dtype):
    tree = TreeIndex.from_parent(random_parent(50, seed=4))
    lists = random_lists(tree, opened=0.6)
    together = torch.randn(tree.num_leaves, 3, 2, 16).to(dtype)
    expected = results(
        {"tree": tree, "lists": lists}
        | dict(zip("qkv", (x.contiguous() for x in together.unbind(1)), strict=True)),
        backend="cpu",
    )
    ways = {
        "rows": together.unbind(1),
        "apart": together.permute(1, 2, 0, 3).contiguous().transpose(1, 2).unbind(0),
        "every second": together.repeat_interleave(2, 0)[::2].unbind(1),
    }
    for name, (q, k, v) in ways.items():
        found = results({"q": q, "k": k, "v": v, "tree": tree, "lists": lists}, backend="cpu")
        for key, x in found.items():
            assert torch.equal(x, expected[key]), (name, key)


def test_a_forward_without_gradients_gives_the_same_as_one_with(threads):
    for name in ("some opened", "wide beside others"):
        for number in (1, 3):
            threads(number)
            args = case(made(name), **OPTIONS["all"], dtype=torch.float32)
            expected = results(args, backend="cpu")
            out, evidence = hierarchical_attention(**args, backend="cpu", return_evidence=True)
            assert torch.equal(out, expected["out"])
            assert torch.equal(evidence, expected["evidence"])


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("channels", [5, 16])
def test_trees_of_a_batch_do_not_touch_bit_for_bit(channels, dropout_p):
    query = TreeIndex.from_parent(
        forest(star(1), *(random_parent(12, seed=i, reach=6) for i in range(3)), star(70), star(5))
    )
    key = TreeIndex.from_parent(
        forest(star(5), star(80), *(random_parent(15, seed=i) for i in range(3)), torch.tensor([0]))
    )
    args = case(
        random_lists(query, key, opened=0.6), channels=channels, value_channels=channels,
        dtype=torch.float32,
    )  # fmt: skip
    options = {"backend": "cpu", "dropout_p": dropout_p, "training": True}
    expected = results(args, **options)
    of = {"q": tree_of_leaf(query), "k": tree_of_leaf(key)}
    of |= {"v": of["k"], "out": of["q"]}
    for number in range(query.num_trees):
        for value in (torch.nan, torch.inf):
            changed = {n: args[n].clone() for n in "qkv"}
            for n, x in changed.items():
                x[of[n] == number] = value
            found = results(args | changed, **options)
            for n, rows in of.items():
                assert torch.equal(found[n][rows != number], expected[n][rows != number]), n


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_instruction_set_gives_the_same(name, instructions):
    instructions(name)
    for i, tree in enumerate(TREES):
        heads, channels, values = [(3, 3, 5), (5, 16, 32)][i % 2]
        args = case(made(tree), heads=heads, channels=channels, value_channels=values)
        ours, theirs = (results(args, backend=b) for b in ("cpu", "scatter"))
        assert_close(ours, theirs, **EXACT)
