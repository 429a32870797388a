import re

import pytest
import torch
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import entmax_attention
from hsa_geometric.kernels.scatter import siblings
from hsa_geometric.kernels.scatter.entmax import entmax
from hsa_geometric.testing import (
    ZOO,
    assert_block_constant,
    assert_isolated,
    assert_rows_sum_to_one,
    attention_inputs,
    collapse_chains,
    random_parent,
    star,
    zoo,
)


class Bisected(torch.autograd.Function):
    """1.5-entmax of a vector by its definition: p = [z / 2 − τ]₊², with τ so that Σ p = 1."""

    @staticmethod
    def forward(ctx, z):
        low, high = z.max() / 2 - 1, z.max() / 2
        for _ in range(80):
            tau = (low + high) / 2
            more = (z / 2 - tau).clamp(min=0).square().sum() > 1
            low, high = (tau, high) if more else (low, tau)
        root = (z / 2 - (low + high) / 2).clamp(min=0)
        ctx.save_for_backward(root)
        return root.square()

    @staticmethod
    def backward(ctx, grad):
        (root,) = ctx.saved_tensors  # of Σ dp = 0 and dp = root (dz − 2 dτ)
        return root * (grad - (root @ grad) / root.sum())


def maximum(p, z):
    """⟨p, z⟩ + Tsallis' entropy; where p is 0, z may be −∞."""
    return (p * torch.where(p > 0, z, 0)).sum() + 4 / 3 * (1 - (p**1.5).sum())


def dense(q, k, v, parent, mass, scale, pos_q, pos_k, temperature, bias, self_loop):
    """Output and evidence of one head, node by node."""
    above = parent.tolist()
    children = [[a for a, p in enumerate(above) if p == n != a] for n in range(len(above))]
    roots = [a for a, p in enumerate(above) if a == p]
    order = list(roots)
    for node in order:
        order += children[node]
    leaves = [a for a in range(len(above)) if not children[a]]
    rows = {a: [leaves.index(a)] if a in leaves else [] for a in order}
    for node in reversed(order):
        for child in children[node]:
            rows[node] = rows[node] + rows[child]
    m = {a: mass[rows[a]].sum() for a in order}

    def mean(x, a):
        r = [i for i in rows[a] if mass[i] > 0]
        return mass[r] @ x[r] / m[a] if r else torch.zeros_like(x[0])

    def logit(a, b):
        s = scale * mean(q, a) @ mean(k, b) + pos_q[a] @ pos_k[b]
        return s * temperature[a] + (bias[a] if a != b else 0)

    f, p, z_of = {}, {}, {}
    for node in reversed(order):
        if children[node]:
            # (a leaf of mass 0 has no part in it)
            terms = [m[a] / m[node] * z_of[a] for a in children[node] if m[a] > 0]
            f[node] = sum(terms) if terms else torch.tensor(-torch.inf).double()
        else:
            own = m[node].log() + logit(node, node)
            f[node] = own if self_loop and m[node] > 0 else torch.tensor(-torch.inf).double()
        family = [b for b in children[above[node]] if b != node] if node not in roots else []
        seen = [b for b in family if m[b] > 0]
        z = torch.stack([f[node], *(m[b].log() + logit(node, b) for b in seen)])
        there = ~z.isneginf()
        weight = torch.zeros_like(z)
        if there.any():
            weight = weight.masked_scatter(there, Bisected.apply(z[there]))
        p[node] = dict(zip([node, *seen], weight, strict=True))
        z_of[node] = maximum(weight, z) if there.any() else z[0]
    out = [None] * len(leaves)
    for row, leaf in enumerate(leaves):
        path = [leaf]
        while path[-1] not in roots:
            path.append(above[path[-1]])
        reach, total = torch.ones_like(q[0, 0]), torch.zeros_like(v[0])
        for node in reversed(path):
            for b, weight in p[node].items():
                if b != node:
                    total = total + reach * weight * mean(v, b)
            reach = reach * p[node][node]
        total = total + reach * torch.where(mass[row] > 0, v[row], 0)
        out[row] = total
    return torch.stack(out), torch.stack([f[root] for root in roots])


def inputs(name, mass=None, dtype=torch.float64):
    tree = TreeIndex.from_parent(zoo(name))
    return tree, attention_inputs(
        tree, heads=1, pos_channels=2, node_scalars=True, mass=mass, dtype=dtype
    )


# --- entmax --------------------------------------------------------------------------------------


def test_entmax_is_what_bisection_of_its_definition_finds():
    torch.manual_seed(0)
    for scale in (0.1, 1.0, 5.0):
        z = scale * torch.randn(20, 9, dtype=torch.float64)
        p, total = entmax(z, torch.zeros_like(z, dtype=torch.bool))
        expected = torch.stack([Bisected.apply(row) for row in z])
        assert_close(p, expected, rtol=0, atol=1e-12)
        assert_close(total, torch.stack([maximum(*x) for x in zip(expected, z, strict=True)]))
    assert (p == 0).any()


def test_entmax_by_hand():
    p, total = entmax(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.zeros(2, 2, dtype=torch.bool))
    assert_close(p, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    assert_close(total, torch.tensor([4 / 3 * (1 - 0.5**0.5), 4.0]))


def test_its_maximum_is_attained_and_has_the_weights_for_a_gradient():
    torch.manual_seed(0)
    z = torch.randn(6, dtype=torch.float64, requires_grad=True)
    p, total = entmax(z, torch.zeros(6, dtype=torch.bool))
    assert_close(torch.autograd.grad(total, z)[0], p)
    for _ in range(50):
        assert maximum(torch.rand(6).double().softmax(0), z) <= total


def test_its_derivatives_are_right_to_second_order():
    torch.manual_seed(0)
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, 2] = hidden[2] = True

    def function(z):
        p, total = entmax(z, hidden)
        return p, total[:2]

    assert torch.autograd.gradcheck(function, z)
    assert torch.autograd.gradgradcheck(function, z)


def test_what_is_hidden_has_no_weight_and_nothing_is_minus_infinity():
    z = torch.tensor([[1.0, torch.inf, -torch.inf], [torch.nan, 0.0, 1.0]], requires_grad=True)
    hidden = torch.tensor([[False, True, True], [True] * 3])
    p, total = entmax(z, hidden)
    assert torch.equal(p, torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    assert total.tolist() == [1.0, -torch.inf]


# --- attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("mass", [None, "zeros"])
@pytest.mark.parametrize("name", ZOO)
def test_it_is_the_dense_definition_forwards_and_backwards(name, mass, self_loop):
    tree, given = inputs(name, mass)
    m = given.pop("mass", torch.ones(tree.num_leaves).double())
    real, results = m > 0, []
    for dense_one in (True, False):
        x = {n: t.clone().requires_grad_() for n, t in given.items()}
        if dense_one:
            flat = {n: t[:, 0] for n, t in x.items()}
            out, evidence = dense(
                **flat, parent=zoo(name), mass=m, scale=3**-0.5, self_loop=self_loop
            )
            out, evidence = out.unsqueeze(1), evidence.unsqueeze(1)
        else:
            out, evidence = entmax_attention(
                **x, tree=tree, mass=None if mass is None else m, self_loop=self_loop,
                return_evidence=True,
            )  # fmt: skip
        g = torch.Generator().manual_seed(1)
        draw = torch.randn(out.shape, generator=g, dtype=torch.float64)
        loss = (out * draw)[real].sum() + evidence[evidence.isfinite()].sum()
        grads = torch.autograd.grad(
            loss, list(x.values()), allow_unused=True, materialize_grads=True
        )
        results.append((out[real], evidence, *grads))
    assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    assert all(x.isfinite().all() for x in results[1][2:])


@pytest.mark.parametrize("name", ZOO)
def test_rows_sum_to_one_in_blocks(name):
    tree, given = inputs(name, "zeros")
    given["v"] = torch.eye(tree.num_leaves).double().unsqueeze(1)
    for self_loop in (True, False):
        theta = entmax_attention(**given, tree=tree, self_loop=self_loop).transpose(0, 1)
        assert_rows_sum_to_one(theta, tree, mass=given["mass"], self_loop=self_loop)
        assert_block_constant(theta, tree, mass=given["mass"])


def test_a_star_is_entmax_attention_and_gives_zeros():
    torch.manual_seed(0)
    q, k = 3 * torch.randn(2, 9, 2, 4).double()
    v = torch.eye(9).double().unsqueeze(1).expand(-1, 2, -1)
    theta = entmax_attention(q, k, v, star(9)).transpose(0, 1)
    logits = torch.einsum("ihd,jhd->hij", q, k) / 2
    assert_close(theta, entmax(logits, torch.zeros_like(logits, dtype=torch.bool))[0])
    assert (theta == 0).float().mean() > 0.3


@pytest.mark.parametrize("name", ["one_child_nodes", "chain", "forest"])
def test_nodes_with_one_child_change_nothing(name):
    tree = TreeIndex.from_parent(zoo(name))
    given = attention_inputs(tree)
    one = entmax_attention(**given, tree=tree, return_evidence=True)
    other = entmax_attention(**given, tree=collapse_chains(zoo(name)), return_evidence=True)
    assert_close(one, other)


def test_gradients_are_right_to_second_order():
    tree = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 5, 5]))
    given = attention_inputs(tree, heads=1, channels=2, value_channels=1)
    q, k, v = (given[n].requires_grad_() for n in "qkv")

    def function(q, k, v):
        return entmax_attention(q, k, v, tree, return_evidence=True)

    assert torch.autograd.gradcheck(function, (q, k, v))
    assert torch.autograd.gradgradcheck(function, (q, k, v), fast_mode=True)


def test_wide_families_are_cut_and_computed_again(monkeypatch):
    tree = TreeIndex.from_parent(random_parent(60, seed=1))
    given, results = attention_inputs(tree), []
    for logits, wide in ((siblings.LOGITS, siblings.WIDE), (16, 3)):
        monkeypatch.setattr("hsa_geometric.kernels.scatter.entmax.LOGITS", logits)
        monkeypatch.setattr("hsa_geometric.kernels.scatter.entmax.WIDE", wide)
        x = {n: t.clone().requires_grad_() for n, t in given.items()}
        out = entmax_attention(**x, tree=tree)
        results.append((out, *torch.autograd.grad(out.square().sum(), list(x.values()))))
    assert_close(*results)


def test_padding_may_hold_anything():
    tree, given = inputs("two_levels", "zeros")
    padding = given["mass"] == 0
    out = entmax_attention(**given, tree=tree)
    for name in "qkv":
        given[name][padding] = torch.nan
    given["v"].requires_grad_()
    again = entmax_attention(**given, tree=tree)
    assert torch.equal(again[~padding], out[~padding]) and again.isfinite().all()
    again.sum().backward()
    assert given["v"].grad.isfinite().all()


def test_no_tree_notices_the_others():
    tree = TreeIndex.from_parent(zoo("shuffled_forest"))
    given = attention_inputs(tree)
    assert_isolated(lambda q, k, v: entmax_attention(q, k, v, tree), tree, *given.values())


def test_dropout_keeps_the_mean_and_drops_weights():
    q = torch.zeros(6, 400, 1)
    v = torch.ones(6, 400, 1)
    torch.manual_seed(0)
    out = entmax_attention(q, q, v, star(6), dropout_p=0.5, training=True)
    assert abs(out.mean() - 1) < 0.05 and out.unique().numel() > 3
    assert torch.allclose(entmax_attention(q, q, v, star(6), dropout_p=0.5), v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    tree, given = inputs("ragged", dtype=dtype)
    exact = {n: x.float() for n, x in given.items()}
    expected = entmax_attention(**exact, tree=tree)
    out = entmax_attention(**given, tree=tree)
    assert out.dtype == dtype
    assert_close(out, expected.to(dtype), rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(entmax_attention(**exact, tree=tree), expected)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"q": torch.ones(3, 1)}, ValueError, "Expected 'q' to have 3 dimensions"),
        ({"v": torch.ones(2, 1, 4)}, ValueError, "'v' to have one row for each of the 3 leaves"),
        ({"mass": -torch.ones(3)}, ValueError, "'mass' to be finite and not negative"),
        ({"dropout_p": 2.0}, ValueError, "Expected 'dropout_p' to be in [0, 1] (got 2.0)"),
        ({"pos_q": torch.ones(4, 1, 2)}, ValueError, "Expected 'pos_k' beside 'pos_q' (got None)"),
        ({"tree": 3}, TypeError, "'tree' to be a TreeIndex or a parent vector (got int)"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = dict.fromkeys("qkv", torch.ones(3, 1, 4)) | {"tree": star(3)} | change
    with pytest.raises(error, match=re.escape(message)):
        entmax_attention(**arguments)
