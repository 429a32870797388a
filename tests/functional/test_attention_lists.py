"""Attention where any pairs of nodes meet: the optimum, and every backend against the oracle."""

import pytest
import torch
import torch.nn.functional as F
from helpers import DEVICE, LINEAR, rows_below
from torch.nn.attention import SDPBackend, sdpa_kernel

from hsa_geometric import InteractionLists, TreeIndex
from hsa_geometric.functional import attention_matrix, hierarchical_attention
from hsa_geometric.functional.backends import takes_lists
from hsa_geometric.kernels import operator, reference
from hsa_geometric.kernels.call import Call
from hsa_geometric.testing import (
    ZOO,
    attention_inputs,
    balanced,
    caterpillar,
    forest,
    random_lists,
    random_parent,
    star,
    zoo,
)

BACKENDS = [name for name in LINEAR if takes_lists(name)]
BATCH = forest(star(4), torch.tensor([0]), random_parent(15, seed=4), balanced(2, 3))
OTHER = forest(caterpillar(3), star(3), balanced(3, 2), random_parent(12, seed=5))


def trees(two):
    query = TreeIndex.from_parent(BATCH).to(DEVICE)
    return query, TreeIndex.from_parent(OTHER).to(DEVICE) if two else query


def case(query, key, *, mass=None, more=True, seed=0, **options):
    """Arguments of an attention from one tree to another, or to itself."""
    options = {"pos_channels": 2, "node_scalars": True, **options} if more else options
    args = attention_inputs(query, mass=mass, seed=seed, **options)
    if key is not query:
        theirs = attention_inputs(key, mass=mass, seed=seed + 1, **options)
        args |= {n: x for n, x in theirs.items() if n in ("k", "v", "pos_k")}
        if mass:
            args["key_mass"] = theirs["mass"]
        args["key_tree"] = key
    return args


def results(args, **options):
    """Output, evidence, and gradients of all that is learned."""
    names = [n for n in ("q", "k", "v", "pos_q", "pos_k", "temperature", "bias") if n in args]
    args = args | {n: args[n].detach().requires_grad_() for n in names}
    out, evidence = hierarchical_attention(**args, return_evidence=True, **options)
    some = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    loss = (out * some).sum() + evidence[evidence.isfinite()].sum()
    grads = torch.autograd.grad(
        loss, [args[n] for n in names], materialize_grads=True, allow_unused=True
    )
    return [out, evidence, *grads]


def itself(tree):
    """The pairs of each inner node with itself."""
    inner = sorted(set(range(tree.num_nodes)) - set(tree.leaf_ids.tolist()))
    return torch.tensor([inner, inner], dtype=torch.long)


def dense_logits(args, scale):
    return scale * torch.einsum("ihd,jhd->hij", args["q"], args["k"])


def residual(theta, lists, s, m_q, m_k):
    """How far θ of one head is from the conditions of the optimum: it is one if this is 0.

    Σ_i m_i KL(θ_i ‖ softmax_i) is convex in the weights t_AB = θ_ij / m_j of the blocks. It is
    least where rows sum to one and multipliers λ_i exist with, for each block,
    Σ_{i ∈ A} λ_i = Σ_{i ∈ A, j ∈ B} m_i m_j (log t_AB − s_ij) / |B|.
    """
    one, other = rows_below(lists.query_tree.parent), rows_below(lists.key_tree.parent)
    rows, sums, worst = [], [], float((theta.sum(-1) - 1).abs().max())
    for a, b in lists.block_ids.t().tolist():
        i, j = torch.tensor(sorted(one[a])), torch.tensor(sorted(other[b]))
        t = theta[i][:, j] / m_k[j]
        worst = max(worst, float((t / t[0, 0] - 1).abs().max()))
        w = m_q[i].unsqueeze(1) * m_k[j]
        sums.append((w * (t.log() - s[i][:, j])).sum() / m_k[j].sum())
        rows.append(torch.zeros(theta.shape[0]).to(theta).index_fill(0, i, 1))
    a, b = torch.stack(rows), torch.stack(sums).unsqueeze(1)
    found = a @ torch.linalg.lstsq(a, b, driver="gelsd").solution
    return max(worst, float((found - b).abs().max()))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_matrix_is_the_nearest_to_softmax(seed, two, masked):
    query = TreeIndex.from_parent(random_parent(14, seed=seed, reach=4 if seed % 2 else None))
    key = TreeIndex.from_parent(random_parent(11, seed=seed + 50)) if two else query
    hidden = 0.3 if masked and not two else 0.0
    lists = random_lists(query, key, opened=0.5, hidden=hidden, itself=True, seed=seed)
    args = case(query, key, mass="random" if masked else None, more=False, seed=seed)
    v = args.pop("v")
    theta = attention_matrix(**args, tree=query, lists=lists, scale=0.8)
    m_q = args.get("mass", torch.ones(query.num_leaves).double())
    m_k = args.get("key_mass", torch.ones(key.num_leaves).double()) if two else m_q
    s = dense_logits(args, 0.8)
    for head in range(2):
        assert residual(theta[head], lists, s[head], m_q, m_k) < 1e-9
    if hidden:
        return
    evidence = hierarchical_attention(
        **args, v=v, tree=query, lists=lists, scale=0.8, return_evidence=True
    )[1]
    p = s + m_k.log()
    kl = (theta * (theta.log() - p.log_softmax(-1))).sum(-1)
    mean = (m_q * (p.logsumexp(-1) - kl)).sum(-1) / m_q.sum()
    torch.testing.assert_close(evidence[0], mean, rtol=1e-10, atol=1e-10)


def test_the_conditions_tell_another_matrix():
    query = TreeIndex.from_parent(balanced(2, 3))
    lists = random_lists(query, opened=0.5, itself=True)
    args = case(query, query, more=False)
    theta = attention_matrix(args["q"], args["k"] * 1.01, query, lists=lists)[0]
    ones = torch.ones(query.num_leaves).double()
    assert residual(theta, lists, dense_logits(args, 3**-0.5)[0], ones, ones) > 1e-4


@pytest.mark.parametrize("two", [False, True])
def test_opening_more_never_lowers_the_evidence(two):
    query, key = trees(two)
    args = case(query, key, mass="random", more=False)
    before = None
    for chance in (0.0, 0.3, 0.6, 0.8, 1.0):  # the same draws: each opens all that the last did
        lists = refined(query, key, chance)
        evidence = hierarchical_attention(
            **args, tree=query, lists=lists, return_evidence=True, backend="reference"
        )[1]
        if before is not None:
            assert (evidence >= before - 1e-12).all()
        before = evidence


def refined(query, key, chance):
    """Lists that open the more, the greater the chance."""
    draw = torch.rand(query.num_nodes, key.num_nodes, generator=torch.Generator().manual_seed(3))
    everything = random_lists(query, key, opened=1.0).opened
    opened, found = set(), []
    one, other = query.level, key.level
    for a, b in sorted(everything.t().tolist(), key=lambda p: int(max(one[p[0]], other[p[1]]))):
        x, y = int(one[a]), int(other[b])
        above = (int(query.parent[a]) if x >= y else a, int(key.parent[b]) if y >= x else b)
        if max(x, y) == 0 or (above in opened and draw[a, b] < chance):
            opened.add((a, b))
            found.append((a, b))
    return InteractionLists.from_opened(query, torch.tensor(found).t(), key_tree=key)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_everything_opened_is_softmax_attention(backend):
    query = TreeIndex.from_parent(random_parent(30, seed=2)).to(DEVICE)
    key = TreeIndex.from_parent(balanced(2, 3)).to(DEVICE)
    lists = random_lists(query, key, opened=1.0)
    args = case(query, key, more=False)
    ours = results(args | {"tree": query, "lists": lists}, backend=backend)
    q, k, v = (args[n].detach().transpose(0, 1).requires_grad_() for n in "qkv")
    with sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(q, k, v)
    some = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(query.num_leaves, 2, 4)
    some = some.to(out)
    evidence = (q @ k.mT * 3**-0.5).logsumexp(-1).mean(1)
    grads = torch.autograd.grad((out.transpose(0, 1) * some).sum() + evidence.sum(), (q, k, v))
    theirs = [out.transpose(0, 1), evidence.unsqueeze(0), *(g.transpose(0, 1) for g in grads)]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("mass", [None, "random", "zeros"])
@pytest.mark.parametrize("name", ZOO)
def test_the_two_oracles_agree_where_siblings_meet(name, mass, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    lists = InteractionLists.from_opened(tree, itself(tree))
    assert lists.are_siblings
    args = attention_inputs(tree, mass=mass, pos_channels=2, node_scalars=True)
    q, k, v, *rest = (args.get(n) for n in Call._fields[:9])
    call = Call(q, k, v, *rest, tree, 0.7, self_loop, 0.0)
    expected = reference.attention_matrix(call)
    # A row of padding that finds nobody else but a lone leaf may see it or not.
    rows = args["mass"] > 0 if mass == "zeros" else torch.ones(tree.num_leaves).bool()
    theta, evidence = reference.attention_matrix(call._replace(lists=lists))
    torch.testing.assert_close(theta[:, rows], expected[0][:, rows], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(evidence, expected[1], rtol=1e-10, atol=1e-12)
    for backend in BACKENDS:
        out, found = operator.attention(call._replace(lists=lists), backend)
        theirs = operator.attention(call, "reference")[0]
        torch.testing.assert_close(out[rows], theirs[rows], rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(found, expected[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "scatter", "reference"])
def test_siblings_give_the_bits_of_no_lists(backend):
    tree = TreeIndex.from_parent(zoo("forest"))
    lists = InteractionLists.from_opened(tree, itself(tree))
    args = attention_inputs(tree, mass="zeros", pos_channels=2) | {"tree": tree}
    ours, theirs = results(args | {"lists": lists}, backend=backend), results(args, backend=backend)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("opened, hidden", [(0.0, 0.0), (0.5, 0.0), (0.6, 0.4), (1.0, 0.0)])
@pytest.mark.parametrize("mass", [None, "random", "zeros"])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_equal_the_oracle(backend, two, mass, opened, hidden):
    query, key = trees(two)
    lists = random_lists(query, key, opened=opened, hidden=hidden, seed=3).to(DEVICE)
    args = case(query, key, mass=mass) | {"tree": query, "lists": lists}
    if mass == "zeros":  # padding may hold anything
        bad = args["mass"] == 0
        theirs = args["key_mass"] == 0 if two else bad
        for name, at in (("q", bad), ("k", theirs), ("v", theirs)):
            args[name][at] = torch.nan
    ours, theirs = results(args, backend=backend), results(args, backend="reference")
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(8))
def test_backends_equal_the_oracle_without_self_loop_or_with_dropout(seed, backend):
    tree = TreeIndex.from_parent(random_parent(24, seed=seed, num_trees=3)).to(DEVICE)
    lists = random_lists(tree, opened=0.6, hidden=0.2 * (seed % 2), itself=True, seed=seed)
    args = case(tree, tree, mass=("zeros", None)[seed % 2]) | {"tree": tree, "lists": lists}
    theirs = results(args, backend="reference", self_loop=False)
    torch.testing.assert_close(
        results(args, backend=backend, self_loop=False), theirs, rtol=1e-10, atol=1e-10
    )
    drop = {"dropout_p": 0.4, "training": True}
    torch.manual_seed(seed)
    theirs = results(args, backend="reference", **drop)
    torch.manual_seed(seed)
    torch.testing.assert_close(
        results(args, backend=backend, **drop), theirs, rtol=1e-10, atol=1e-10
    )
    assert not torch.equal(theirs[0], results(args, backend=backend)[0])


def test_cut_into_pieces_nothing_changes(monkeypatch):
    from hsa_geometric.kernels.scatter import lists as scatter_lists

    query, key = trees(True)
    lists = random_lists(query, key, opened=0.7)
    args = case(query, key) | {"tree": query, "lists": lists}
    whole = results(args, backend="scatter")
    monkeypatch.setattr(scatter_lists, "NUMBERS", 40)
    assert len(scatter_lists._cuts(lists, 5)) > 10
    torch.testing.assert_close(results(args, backend="scatter"), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_rows_sum_to_one_and_trees_do_not_touch(backend):
    query, key = trees(True)
    lists = random_lists(query, key, opened=0.5)
    args = case(query, key)
    args["v"] = torch.ones_like(args["v"])
    out = hierarchical_attention(**args, tree=query, lists=lists, backend=backend)
    torch.testing.assert_close(out, torch.ones_like(out))
    first = hierarchical_attention(
        **case(query, key), tree=query, lists=lists, backend=backend, return_evidence=True
    )
    moved = case(query, key)
    last = query.up[query.leaf] == 3  # rows right below the last root, and what follows below
    rows = tree_rows(query) == 3
    assert (last <= rows).all()
    moved["q"][rows] = torch.nan
    again = hierarchical_attention(
        **moved, tree=query, lists=lists, backend=backend, return_evidence=True
    )
    assert torch.equal(first[0][~rows], again[0][~rows]) and again[0][rows].isnan().any()
    assert torch.equal(first[1][:3], again[1][:3])


def tree_rows(tree):
    up = tree.up
    for _ in range(tree.depth):
        up = up[up]
    return up[tree.leaf]


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_who_finds_no_key_gets_zero(backend):
    query, key = (
        TreeIndex.from_parent(x).to(DEVICE)
        for x in (forest(star(2), star(3)), forest(balanced(2, 2), torch.tensor([0])))
    )
    lists = random_lists(query, key, opened=1.0)
    args = case(query, key) | {"tree": query, "lists": lists}
    args["key_mass"] = torch.ones(5, dtype=torch.float64, device=DEVICE)
    args["key_mass"][4] = 0  # the only key of the second sample
    found = results(args, backend=backend)
    assert (found[0][2:] == 0).all() and (found[0][:2] != 0).all()
    assert found[1][1].isneginf().all()
    assert all(x.isfinite().all() for x in (found[0], *found[2:]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivatives(backend):
    query = TreeIndex.from_parent(forest(balanced(2, 2), star(2))).to(DEVICE)
    lists = random_lists(query, opened=0.6, seed=1)
    args = case(query, query, channels=2, value_channels=1)
    names = list(args)

    def run(*xs):
        return hierarchical_attention(
            **dict(zip(names, xs, strict=True)), tree=query, lists=lists, backend=backend,
            return_evidence=True,
        )  # fmt: skip

    xs = [x.requires_grad_() for x in args.values()]
    assert torch.autograd.gradcheck(run, xs)
    assert torch.autograd.gradgradcheck(run, xs, fast_mode=True)


def test_functional_transforms():
    query, key = trees(True)
    lists = random_lists(query, key, opened=0.5)
    args = case(query, key, more=False)
    del args["key_tree"]

    def run(q, k=args["k"]):
        return hierarchical_attention(
            q, k, args["v"], query, key_tree=key, lists=lists, backend="auto"
        )

    tangent = torch.randn_like(args["q"])
    out, jvp = torch.func.jvp(run, (args["q"],), (tangent,))
    theirs = torch.autograd.functional.jvp(run, args["q"], tangent)
    torch.testing.assert_close((out, jvp), theirs, rtol=1e-10, atol=1e-10)
    two = torch.stack([args["q"], tangent])
    torch.testing.assert_close(torch.func.vmap(run)(two), torch.stack([run(x) for x in two]))


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype, two):
    query, key = trees(two)
    lists = random_lists(query, key, opened=0.5)
    args = case(query, key) | {"tree": query, "lists": lists}
    low = {n: x.to(dtype) if isinstance(x, torch.Tensor) else x for n, x in args.items()}
    exact = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in low.items()}
    for backend in ("auto", "scatter"):
        ours = hierarchical_attention(**low, backend=backend, return_evidence=True)
        theirs = hierarchical_attention(**exact, backend="reference", return_evidence=True)
        assert ours[0].dtype == dtype and ours[1].dtype == torch.float32
        torch.testing.assert_close(ours[0].double(), theirs[0], rtol=2**-7, atol=2**-7)
        torch.testing.assert_close(ours[1].double(), theirs[1], rtol=1e-4, atol=1e-4)
        with torch.autocast(DEVICE, dtype):
            torch.testing.assert_close(
                hierarchical_attention(**low, backend=backend), ours[0], rtol=0, atol=0
            )


@pytest.mark.parametrize("two", [False, True])
def test_one_graph_for_a_compiler(two):
    query, key = trees(two)
    lists = random_lists(query, key, opened=0.5)
    args = {n: x for n, x in case(query, key).items() if n != "key_tree"}
    names = list(args)

    def run(lists, *xs):
        return hierarchical_attention(
            **dict(zip(names, xs, strict=True)), tree=lists.query_tree,
            key_tree=lists.key_tree if two else None, lists=lists, return_evidence=True,
        )  # fmt: skip

    xs = [x.requires_grad_() for x in args.values()]
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(lists, *xs), run(lists, *xs)
    torch.testing.assert_close(ours, theirs)
    grads = [
        torch.autograd.grad(x[0].square().sum(), xs, allow_unused=True) for x in (ours, theirs)
    ]
    torch.testing.assert_close(*[[g for g in x if g is not None] for x in grads])


def test_two_trees_over_the_same_leaves_need_no_key_tree():
    tree, flat = TreeIndex.from_parent(balanced(2, 3)), TreeIndex.from_parent(star(8))
    lists = random_lists(flat, tree, opened=0.5)
    args = attention_inputs(tree, mass="random")
    out = hierarchical_attention(**args, tree=tree, lists=lists)
    more = {"tree": flat, "key_tree": tree, "key_mass": args["mass"]}
    assert torch.equal(out, hierarchical_attention(**args, **more, lists=lists))


LISTS = random_lists(TreeIndex.from_parent(star(4)), TreeIndex.from_parent(balanced(2, 2)))
ONE = random_lists(LISTS.key_tree, opened=0.0)


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"lists": [1]}, TypeError, "'lists' to be InteractionLists .got list"),
        ({"lists": None}, ValueError, "'lists' beside 'key_tree'"),
        ({"tree": ONE.query_tree}, ValueError, "'lists' to be of the query tree"),
        ({"key_tree": TreeIndex.from_parent(star(4))}, ValueError, "'lists' to be of 'key_tree'"),
        ({"k": torch.zeros(3, 1, 2)}, ValueError, "'k' to have one row for each of the 4"),
        ({"k": torch.zeros(4, 1, 3)}, ValueError, "heads and channels of 'q'"),
        ({"v": torch.zeros(3, 1, 3)}, ValueError, "'v' to have one row"),
        ({"key_tree": None, "key_mass": torch.ones(4)}, ValueError, "'key_tree' beside 'key_mass'"),
        ({"key_mass": torch.ones(3)}, ValueError, "'key_mass' to have one row"),
        ({"key_mass": -torch.ones(4)}, ValueError, r"'key_mass' to be finite .*key_mass\[0\]"),
        ({"self_loop": False}, ValueError, "self_loop=True with 'lists' of two trees"),
        ({"pos_q": torch.zeros(5, 1, 2), "pos_k": torch.zeros(5, 1, 2)}, ValueError,
         "'pos_k' to have one row for each of the 7"),
        ({"backend": "triton"}, ValueError, "no 'lists' with backend='triton'"),
        ({"lists": ONE, "tree": ONE.query_tree, "key_tree": None, "self_loop": False}, ValueError,
         "self_loop=False .got a block of node 4 with itself"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, error, match):
    args = {n: torch.zeros(4, 1, 2) for n in "qkv"}
    args |= {"lists": LISTS, "tree": LISTS.query_tree, "key_tree": LISTS.key_tree} | change
    with pytest.raises(error, match=match):
        hierarchical_attention(**args)


def test_without_lists_there_is_no_key_mass():
    x = torch.zeros(4, 1, 2)
    with pytest.raises(ValueError, match="'key_tree' beside 'key_mass'"):
        hierarchical_attention(x, x, x, star(4), key_mass=torch.ones(4))
    with pytest.raises(ValueError, match="'key_tree' beside 'lists' of 4 queries and 3 keys"):
        lists = random_lists(TreeIndex.from_parent(star(4)), TreeIndex.from_parent(star(3)))
        hierarchical_attention(x, x, x, lists.query_tree, lists=lists)
    with pytest.raises(ValueError, match="the same leaves in each sample"):
        two = (TreeIndex.from_parent(forest(*map(star, n))) for n in ((1, 3), (2, 2)))
        lists = random_lists(*two)
        hierarchical_attention(x, x, x, lists.query_tree, lists=lists)
