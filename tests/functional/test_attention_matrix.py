"""The dense oracle, against mathematics that knows nothing of the recursion."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from scipy.optimize import minimize
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import attention_matrix, hierarchical_attention
from hsa_geometric.testing import (
    ZOO,
    assert_block_constant,
    assert_rows_sum_to_one,
    balanced,
    forests,
    star,
    tree_of_leaf,
    zoo,
)

SMALL = ["star", "caterpillar", "unequal_depths", "one_child_nodes", "ragged", "shuffled", "binary"]


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def options_of(tree, heads, seed=1):
    """Every option that moves a logit."""
    return {
        "scale": 0.7,
        "pos_q": rand(tree.num_nodes, heads, 2, seed=seed),
        "pos_k": rand(tree.num_nodes, heads, 2, seed=seed + 1),
        "temperature": 1 + 0.3 * rand(tree.num_nodes, heads, seed=seed + 2),
        "bias": 0.5 * rand(tree.num_nodes, heads, seed=seed + 3),
    }


def masses(tree, kind, seed=9):
    if kind == "ones":
        return torch.ones(tree.num_leaves, dtype=torch.float64)
    mass = rand(tree.num_leaves, seed=seed).abs() + 0.2
    if kind == "zeros":
        mass[::3] = 0
    return mass


def blocks_of(tree):
    """``[N, N, 2]``: the siblings (A, B) above leaves i and j; a leaf with itself on the diagonal.

    Minus one where i and j are of different trees.
    """
    parent, ids = tree.parent.tolist(), tree.leaf_ids.tolist()

    def path(node):
        nodes = [node]
        while parent[nodes[-1]] != nodes[-1]:
            nodes.append(parent[nodes[-1]])
        return nodes[::-1]

    blocks = -np.ones((len(ids), len(ids), 2), dtype=int)
    for i, a in enumerate(ids):
        for j, b in enumerate(ids):
            if i == j:
                blocks[i, j] = a, a
            elif path(a)[0] == path(b)[0]:
                blocks[i, j] = next(
                    (x, y) for x, y in zip(path(a), path(b), strict=False) if x != y
                )
    return blocks


def flat_logits(q, k, tree, mass, head, self_loop=True, **options):
    """log m_j + s_ij of every pair of leaves, one head; −∞ where i does not see j."""
    blocks = torch.from_numpy(blocks_of(tree))
    a, b = blocks[..., 0], blocks[..., 1]
    scale = options.get("scale", q.shape[-1] ** -0.5)
    s = scale * q[:, head] @ k[:, head].T
    if "pos_q" in options:
        s = s + (options["pos_q"][a, head] * options["pos_k"][b, head]).sum(-1)
        s = s * options["temperature"][a, head]
        s = s + torch.where(a == b, 0.0, options["bias"][a, head])
    s = s + mass.log()
    s = s.masked_fill(a < 0, float("-inf"))
    return s if self_loop else s.masked_fill(torch.eye(len(q)).bool(), float("-inf"))


def solve(tree, logits, mass):
    """argmin Σ m_i KL(θ_i ‖ softmax_i) over rows that sum to one and are constant on blocks.

    One unknown for each pair of siblings and each leaf: θ_ij = m_j x_block(i, j).
    """
    blocks, logits, m = blocks_of(tree), logits.numpy(), mass.numpy()
    sees = np.isfinite(logits)
    names = sorted({tuple(blocks[i, j]) for i, j in np.argwhere(sees)})
    number = {name: n for n, name in enumerate(names)}
    log_p = np.full_like(logits, -np.inf)
    np.subtract(logits, np.logaddexp.reduce(logits, axis=1, keepdims=True), out=log_p, where=sees)
    rows = np.zeros((len(m), len(names)))  # row sums of θ as a matrix
    total = np.zeros(len(names))  # Σ m_i m_j over a block
    fixed = np.zeros(len(names))  # Σ m_i m_j (log m_j − log p_ij) over a block
    for i, j in np.argwhere(sees):
        n = number[tuple(blocks[i, j])]
        rows[i, n] += m[j]
        total[n] += m[i] * m[j]
        fixed[n] += m[i] * m[j] * (np.log(m[j]) - log_p[i, j])

    # Convex and separable, so its Lagrange dual is smooth, without constraints, and has no gap:
    # stationarity gives x from the multipliers of the rows.
    def x(multipliers):
        return np.exp(-(fixed + rows.T @ multipliers) / total - 1)

    result = minimize(
        lambda u: total @ x(u) + u.sum(),
        x0=np.zeros(len(m)),
        jac=lambda u: 1 - rows @ x(u),
        hess=lambda u: (rows * (x(u) / total)) @ rows.T,
        method="trust-exact",
        # Where rounding keeps the gradient above it, the radius must not shrink for ever.
        options={"gtol": 1e-11, "maxiter": 100},
    )
    best = x(result.x)
    np.testing.assert_allclose(rows @ best, 1.0, atol=1e-9)
    theta = np.zeros_like(logits)
    for i, j in np.argwhere(sees):
        theta[i, j] = m[j] * best[number[tuple(blocks[i, j])]]
    return torch.from_numpy(theta), -result.fun


def weighted_kl(theta, logits, mass):
    log_p = logits.log_softmax(-1)
    terms = theta * (theta.log() - log_p)
    return (mass.unsqueeze(1) * torch.where(theta > 0, terms, 0.0)).sum()


# --- what it is ----------------------------------------------------------------------------------


def test_a_small_matrix_done_by_hand():
    # Leaves 0 and 1 below node 3, leaf 2 beside it; logits 0 but for 0 -> 1, which is log 2.
    q = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    k = torch.tensor([[[0.0, 1.0]], [[2.0, 0.0]], [[0.0, 0.0]]], dtype=torch.float64).log1p()
    q[0, 0, 0] = np.log(2) / np.log(3)  # k_1 = (log 3, 0)
    theta = attention_matrix(q, k, torch.tensor([3, 3, 4, 4, 4]), scale=1.0)[0]
    # Z_0 = log(1 + 2), Z_1 = log(1 + 1), f_3 = log(6)/2, S_3 = log 1, so g_3 = √6 / (√6 + 1).
    g = 6**0.5 / (6**0.5 + 1)
    expected = [
        [g / 3, 2 * g / 3, 1 - g],
        [g / 2, g / 2, 1 - g],
        # S_2 = log 2 + mean of q_2·k: 0; f_2 = 0.
        [1 / 3, 1 / 3, 1 / 3],
    ]
    assert_close(theta, torch.tensor(expected, dtype=torch.float64))


def test_equal_logits_give_equal_attention_whatever_the_tree():
    for name in ZOO:
        tree = TreeIndex.from_parent(zoo(name))
        q = torch.zeros(tree.num_leaves, 1, 2, dtype=torch.float64)
        number = tree_of_leaf(tree)
        same = (number.unsqueeze(0) == number.unsqueeze(1)).double()
        expected = same / same.sum(1, keepdim=True)
        assert_close(attention_matrix(q, q, tree)[0], expected)


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("kind", ["ones", "random"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "all options"])
@pytest.mark.parametrize("name", SMALL)
def test_it_is_the_nearest_to_softmax_among_block_constant_matrices(name, plain, kind, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    q, k = rand(tree.num_leaves, 1, 3), rand(tree.num_leaves, 1, 3, seed=1)
    mass = masses(tree, kind)
    options = {} if plain else options_of(tree, 1)
    theta = attention_matrix(q, k, tree, mass=mass, self_loop=self_loop, **options)[0]
    logits = flat_logits(q, k, tree, mass, 0, self_loop, **options)
    expected, kl = solve(tree, logits, mass)
    assert_close(theta, expected, rtol=0, atol=1e-6)
    assert_close(weighted_kl(theta, logits, mass).item(), kl, rtol=0, atol=1e-8)


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("kind", ["ones", "random", "zeros"])
@pytest.mark.parametrize("name", ZOO)
def test_log_evidence_is_log_partition_less_divergence(name, kind, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    q, k = rand(tree.num_leaves, 2, 3), rand(tree.num_leaves, 2, 3, seed=1)
    mass, options = masses(tree, kind), options_of(tree, 2)
    _, evidence = hierarchical_attention(
        q, k, q, tree, mass=mass, self_loop=self_loop, return_evidence=True,
        backend="reference", **options,
    )  # fmt: skip
    theta = attention_matrix(q, k, tree, mass=mass, self_loop=self_loop, **options)
    number = tree_of_leaf(tree)
    for head in range(2):
        logits = flat_logits(q, k, tree, mass, head, self_loop, **options)
        for t in range(tree.num_trees):
            rows = ((number == t) & (mass > 0)).nonzero().view(-1)
            f, m = evidence[t, head], mass[rows]
            seen = logits[rows][:, rows]
            if seen.isneginf().all():
                assert f.isneginf()
                continue
            kl = weighted_kl(theta[head][rows][:, rows], seen, m)
            partition = (m * seen.logsumexp(-1)).sum()
            assert_close(kl, partition - m.sum() * f, rtol=0, atol=1e-8)
            assert f <= partition / m.sum() + 1e-12  # a lower bound


# --- what it must satisfy ------------------------------------------------------------------------


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("kind", ["ones", "random", "zeros"])
@pytest.mark.parametrize("name", ZOO)
def test_rows_sum_to_one_and_blocks_are_constant(name, kind, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    q, k = rand(tree.num_leaves, 2, 3), rand(tree.num_leaves, 2, 3, seed=1)
    mass = masses(tree, kind)
    theta = attention_matrix(q, k, tree, mass=mass, self_loop=self_loop, **options_of(tree, 2))
    assert theta.shape == (2, tree.num_leaves, tree.num_leaves)
    assert_rows_sum_to_one(theta, tree, mass=mass, self_loop=self_loop)
    assert_block_constant(theta, tree, mass=mass)


@settings(deadline=None, max_examples=25)
@given(forests(max_nodes=16))
def test_rows_sum_to_one_for_random_forests(parent):
    tree = TreeIndex.from_parent(parent)
    q = 3 * rand(tree.num_leaves, 1, 2)
    for self_loop in (True, False):
        theta = attention_matrix(q, q, tree, self_loop=self_loop)
        assert_rows_sum_to_one(theta, tree, self_loop=self_loop)
        assert_block_constant(theta, tree)


def test_leaves_of_one_family_attend_to_each_other():
    # Some public re-implementations have no attention inside a family.
    theta = attention_matrix(rand(9, 2, 4), rand(9, 2, 4, seed=1), balanced(3, 2))
    assert (theta > 0).all()


@pytest.mark.parametrize("backend", ["reference", "scatter"])
@pytest.mark.parametrize("num_leaves", [1, 2, 9])
def test_a_star_is_scaled_dot_product_attention(backend, num_leaves):
    q, k, v = rand(3, num_leaves, 2, 4).unbind(0)
    out = hierarchical_attention(q, k, v, star(num_leaves), backend=backend)
    heads_first = [x.transpose(0, 1) for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*heads_first).transpose(0, 1)
    assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "scatter"])
def test_a_star_without_self_loop_is_softmax_without_its_diagonal(backend):
    q, k, v = rand(3, 9, 2, 4).unbind(0)
    out = hierarchical_attention(q, k, v, star(9), backend=backend, self_loop=False)
    heads_first = [x.transpose(0, 1) for x in (q, k, v)]
    off = ~torch.eye(9, dtype=torch.bool)
    expected = F.scaled_dot_product_attention(*heads_first, attn_mask=off).transpose(0, 1)
    assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "scatter"])
@pytest.mark.parametrize("num_leaves", [2, 7])
def test_masses_of_a_star_are_added_to_its_logits(backend, num_leaves):
    q, k, v = rand(3, num_leaves, 2, 4).unbind(0)
    mass = rand(num_leaves, seed=5).abs()
    out = hierarchical_attention(q, k, v, star(num_leaves), backend=backend, mass=mass)
    heads_first = [x.transpose(0, 1) for x in (q, k, v)]
    mask = mass.log().expand(num_leaves, num_leaves)
    expected = F.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(0, 1)
    assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_matrix_times_values_is_the_output():
    tree = TreeIndex.from_parent(zoo("forest"))
    q, k, v = rand(3, tree.num_leaves, 2, 4).unbind(0)
    theta = attention_matrix(q, k, tree, **options_of(tree, 2))
    out = hierarchical_attention(q, k, v, tree, **options_of(tree, 2))
    assert_close(out, torch.einsum("hij,jhd->ihd", theta, v), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_is_float32_at_least(dtype):
    q = rand(7, 1, 4).to(dtype)
    theta = attention_matrix(q, q, star(7))
    assert theta.dtype == torch.float32
    assert_close(theta.double(), attention_matrix(q.double(), q.double(), star(7)))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"q": None}, TypeError, "Expected 'q' to be a tensor (got NoneType)"),
        ({"k": torch.ones(3, 2)}, ValueError, "Expected 'k' to have 3 dimensions (got 2"),
        ({"tree": star(4)}, ValueError, "Expected 'q' to have one row for each of the 4 leaves"),
        ({"mass": -torch.ones(3)}, ValueError, "Expected 'mass' to be finite and not negative"),
        ({"pos_q": torch.ones(4, 1, 1)}, ValueError, "Expected 'pos_k' beside 'pos_q' (got None)"),
        ({"bias": torch.ones(3, 1)}, ValueError, "Expected 'bias' to have one row for each of"),
    ],
)
def test_errors_are_those_of_the_attention(change, error, message):
    arguments = {"q": torch.ones(3, 1, 2), "k": torch.ones(3, 1, 2), "tree": star(3)} | change
    with pytest.raises(error, match=re.escape(message)):
        attention_matrix(**arguments)
