"""Backends 'torch' and 'triton' against the dense oracle, and what holds for all.

Without a GPU the Triton kernels run in its interpreter, which is slow: what takes many calls or
large trees is for 'torch' alone.
"""

import itertools

import pytest
import torch
from helpers import DEVICE, LINEAR, attend
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hsa_geometric import TreeIndex, native
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import (
    ZOO,
    assert_backends_agree,
    assert_isolated,
    attention_inputs,
    caterpillar,
    chain,
    collapse_chains,
    forests,
    renumber,
    zoo,
)

BACKENDS = [*LINEAR, "reference"]
FORESTS = ["forest", "shuffled_forest", "single_nodes"]
OPTIONS = {
    "plain": {},
    "positions": {"pos_channels": 2},
    "scalars": {"node_scalars": True},
    "both": {"pos_channels": 1, "node_scalars": True},
}


def index(name):
    return TreeIndex.from_parent(zoo(name)).to(DEVICE)


# --- the backend against the oracle --------------------------------------------------------------


@pytest.mark.parametrize("backend", LINEAR)
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("mass", [None, "random", "zeros"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ZOO)
def test_output_evidence_and_gradients_equal_the_oracle(name, options, mass, self_loop, backend):
    tree = index(name)
    inputs = attention_inputs(tree, mass=mass, **OPTIONS[options])
    assert_backends_agree(**inputs, tree=tree, self_loop=self_loop, backend=backend)


@pytest.mark.parametrize("backend", LINEAR)
@settings(deadline=None, max_examples=40)
@given(
    forests(max_nodes=18),
    st.booleans(),
    st.sampled_from([None, "random", "zeros"]),
    st.sampled_from(sorted(OPTIONS)),
)
def test_output_evidence_and_gradients_equal_the_oracle_on_random_forests(
    backend, parent, self_loop, mass, options
):
    tree = TreeIndex.from_parent(parent).to(DEVICE)
    inputs = attention_inputs(tree, mass=mass, **OPTIONS[options])
    assert_backends_agree(**inputs, tree=tree, self_loop=self_loop, backend=backend)


@pytest.mark.parametrize("heads, channels, values", [(1, 1, 1), (3, 5, 2), (2, 2, 7)])
@pytest.mark.parametrize("backend", LINEAR)
def test_any_heads_and_a_value_width_of_its_own(heads, channels, values, backend):
    tree = index("ragged")
    inputs = attention_inputs(tree, heads=heads, channels=channels, value_channels=values)
    out = hierarchical_attention(**inputs, tree=tree, backend=backend)
    assert out.shape == (tree.num_leaves, heads, values)
    assert_backends_agree(**inputs, tree=tree, backend=backend)


@pytest.mark.parametrize("backend", LINEAR)
@pytest.mark.parametrize("scale", [0.0, 0.1, 3])
def test_any_scale(scale, backend):
    tree = index("ragged")
    assert_backends_agree(**attention_inputs(tree), tree=tree, scale=scale, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scale_is_one_over_root_of_channels_by_default(backend):
    tree = index("ragged")
    inputs = attention_inputs(tree, channels=4)
    default = hierarchical_attention(**inputs, tree=tree, backend=backend)
    assert torch.equal(
        default, hierarchical_attention(**inputs, tree=tree, backend=backend, scale=0.5)
    )


@pytest.mark.parametrize("backend", LINEAR)
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_large_logits_stay_finite_and_equal_the_oracle(size, backend):
    tree = index("forest")
    inputs = attention_inputs(tree)
    inputs["q"] = inputs["q"] * size
    assert all(x.isfinite().all() for x in attend(inputs, tree, backend=backend).values())
    # Gradients of q·k of this size are that large too.
    assert_backends_agree(**inputs, tree=tree, rtol=1e-9, atol=1e-10 * size, backend=backend)


def test_auto_is_the_kernel_where_there_is_one_and_scatter_elsewhere():
    tree = index("ragged")
    inputs = attention_inputs(tree)
    fast = "cpu" if DEVICE == "cpu" and native.library() else "scatter"
    assert torch.equal(
        hierarchical_attention(**inputs, tree=tree),
        hierarchical_attention(**inputs, tree=tree, backend=fast),
    )


def test_evidence_is_one_row_a_tree_in_ascending_id_of_roots():
    # Roots 1 and 4: the tree of root 4 comes first in no other order than by id.
    tree = TreeIndex.from_parent(torch.tensor([4, 1, 4, 1, 4, 1])).to(DEVICE)
    inputs = attention_inputs(tree)
    for backend in BACKENDS:
        out, evidence = hierarchical_attention(
            **inputs, tree=tree, return_evidence=True, backend=backend
        )
        assert out.shape == (4, 2, 4) and evidence.shape == (2, 2)
        s = torch.einsum("ihd,jhd->hij", inputs["q"], inputs["k"]) * 3**-0.5
        for row, leaves in enumerate(([2, 3], [0, 1])):  # rows of leaves 3, 5 and of 0, 2
            flat = s[:, leaves][:, :, leaves].logsumexp(-1).mean(-1)
            assert_close(evidence[row], flat)


# --- derivatives ---------------------------------------------------------------------------------


def function_and_arguments(name, mass, self_loop, value_channels):
    """Output and finite evidence as a function of all inputs that have a gradient."""
    tree = index(name)
    inputs = attention_inputs(
        tree, heads=1, channels=2, value_channels=value_channels, pos_channels=1,
        node_scalars=True, mass=mass,
    )  # fmt: skip
    mass = inputs.pop("mass", None)

    def function(*args):
        out, evidence = hierarchical_attention(
            **dict(zip(inputs, args, strict=True)),
            tree=tree, mass=mass, self_loop=self_loop, return_evidence=True,
        )  # fmt: skip
        return out, evidence.masked_fill(evidence.isneginf(), 0.0)

    return function, tuple(x.requires_grad_() for x in inputs.values())


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("mass", [None, "zeros"])
@pytest.mark.parametrize("name", ["one_node", "chain", "unequal_depths", "shuffled_forest"])
def test_gradients_equal_finite_differences(name, mass, self_loop):
    assert gradcheck(*function_and_arguments(name, mass, self_loop, value_channels=2))


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("mass", [None, "zeros"])
@pytest.mark.parametrize("name", ["single_leaf", "star", "unequal_depths", "one_child_nodes"])
def test_second_derivatives_equal_finite_differences(name, mass, self_loop):
    function, args = function_and_arguments(name, mass, self_loop, value_channels=1)
    assert gradgradcheck(function, args, fast_mode=name != "unequal_depths")


def second_derivative(inputs, tree, backend, **options):
    """Gradient of the squared norm of the gradient."""
    inputs = {n: x.clone().requires_grad_(n != "mass") for n, x in inputs.items()}
    learned = [x for n, x in inputs.items() if n != "mass"]
    out = hierarchical_attention(**inputs, tree=tree, backend=backend, **options)
    first = torch.autograd.grad(out.square().sum(), learned, create_graph=True, allow_unused=True)
    penalty = sum(g.square().sum() for g in first if g is not None)
    grads = torch.autograd.grad(penalty, learned, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, learned, strict=True)]


@pytest.mark.parametrize("backend", LINEAR)
@pytest.mark.parametrize("mass", [None, "zeros"])
@pytest.mark.parametrize("name", ZOO)
def test_second_derivatives_equal_the_oracle(name, mass, backend):
    tree = index(name)
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True, mass=mass)
    actual = second_derivative(inputs, tree, backend)
    assert_close(actual, second_derivative(inputs, tree, "reference"), rtol=1e-9, atol=1e-9)


def test_third_derivatives_equal_finite_differences():
    tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4]))
    inputs = attention_inputs(tree, heads=1, channels=1, value_channels=1)
    q, k, v = (x.requires_grad_() for x in inputs.values())

    def gradient(q, k, v):
        out = hierarchical_attention(q, k, v, tree)
        return torch.autograd.grad(out.square().sum(), (q, k, v), create_graph=True)

    assert gradgradcheck(gradient, (q, k, v))


@pytest.mark.parametrize("name", ["single_leaf", "unequal_depths"])
def test_third_derivatives_of_both_backends_are_equal(name):
    tree = index(name)
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True, mass="random")
    mass = inputs.pop("mass")

    def derivative(backend):
        learned = [x.clone().requires_grad_() for x in inputs.values()]
        given = dict(zip(inputs, learned, strict=True))
        out = hierarchical_attention(**given, tree=tree, mass=mass, backend=backend)
        norm = out.square().sum()
        for _ in range(2):
            grads = torch.autograd.grad(norm, learned, create_graph=True)
            norm = sum(g.square().sum() for g in grads)
        return torch.autograd.grad(norm, learned)

    assert_close(derivative("triton"), derivative("scatter"), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("needed", ["q", "k", "v", "pos_q", "pos_k", "temperature", "bias"])
@pytest.mark.parametrize("backend", LINEAR)
def test_a_gradient_is_the_same_if_it_is_the_only_one_asked_for(needed, backend):
    tree = index("forest")
    inputs = attention_inputs(tree, pos_channels=2, node_scalars=True)
    everything = attend(inputs, tree, backend=backend)
    inputs = {n: x.clone().requires_grad_(n == needed) for n, x in inputs.items()}
    out, evidence = hierarchical_attention(
        **inputs, tree=tree, return_evidence=True, backend=backend
    )
    generator = torch.Generator().manual_seed(7)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    loss = (out * cotangent).sum() + evidence[evidence.isfinite()].sum()
    assert_close(torch.autograd.grad(loss, inputs[needed])[0], everything[needed])


# --- what changes nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("name", FORESTS)
def test_no_tree_of_a_batch_notices_the_others(name, self_loop, backend):
    tree = index(name)
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True, dtype=torch.float32)
    q, k, v = (inputs.pop(n) for n in "qkv")

    def attend(q, k, v):
        return hierarchical_attention(q, k, v, tree, self_loop=self_loop, backend=backend, **inputs)

    assert_isolated(attend, tree, q, k, v)


@pytest.mark.parametrize("backend", LINEAR)
def test_a_tree_with_infinite_values_does_not_reach_the_others(backend):
    tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4, 7, 7, 7])).to(DEVICE)
    inputs = attention_inputs(tree)
    expected = attend(inputs, tree, backend=backend)
    spoilt = {n: torch.cat([x[:3], x[3:] * float("nan")]) for n, x in inputs.items()}
    actual = attend(spoilt, tree, backend=backend)
    for name in ("out", "q", "k", "v"):
        assert torch.equal(actual[name][:3], expected[name][:3]), name


@pytest.mark.parametrize("backend", LINEAR)
@pytest.mark.parametrize("name", FORESTS)
def test_batched_equals_one_by_one(name, backend):
    parent = zoo(name).to(DEVICE)
    tree = TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True, mass="random")
    options = {"return_evidence": True, "backend": backend}
    out, evidence = hierarchical_attention(**inputs, tree=tree, **options)
    root = parent
    while not torch.equal(root, root[root]):
        root = root[root]
    for number, r in enumerate(root.unique().tolist()):
        nodes = (root == r).nonzero().view(-1)
        rows = (root[tree.leaf_ids] == r).nonzero().view(-1)
        one = TreeIndex.from_parent(torch.searchsorted(nodes, parent[nodes]))
        part = {n: x[rows if n in ("q", "k", "v", "mass") else nodes] for n, x in inputs.items()}
        expected = hierarchical_attention(**part, tree=one, **options)
        assert_close((out[rows], evidence[number : number + 1]), expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(forests(max_nodes=20), st.integers(0, 1000))
def test_renumbering_nodes_changes_nothing(parent, seed):
    tree = TreeIndex.from_parent(parent)
    new_id = torch.randperm(parent.numel(), generator=torch.Generator().manual_seed(seed))
    renumbered, row = renumber(parent, new_id)
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True, mass="random")
    moved = {}
    for name, x in inputs.items():
        moved[name] = torch.empty_like(x)
        moved[name][row if name in ("q", "k", "v", "mass") else new_id] = x
    cotangent = torch.randn(tree.num_leaves, 2, 4, dtype=torch.float64)
    there = torch.empty_like(cotangent)
    there[row] = cotangent
    expected = attend(inputs, tree, cotangent)
    actual = attend(moved, TreeIndex.from_parent(renumbered), there)
    for name in ("out", "q", "k", "v"):
        assert_close(actual[name][row], expected[name], msg=name)
    for name in ("pos_q", "pos_k", "temperature", "bias"):
        assert_close(actual[name][new_id], expected[name], msg=name)


@pytest.mark.parametrize("backend", LINEAR)
@pytest.mark.parametrize("name", ["star", "binary", "unequal_depths", "forest"])
def test_siblings_are_permutation_equivariant(name, backend):
    # Reversing all ids reverses every family.
    parent = zoo(name)
    new_id = torch.arange(parent.numel()).flip(0)
    tree = index(name)
    reversed_parent, row = (x.to(DEVICE) for x in renumber(parent, new_id))
    inputs = attention_inputs(tree)
    out = hierarchical_attention(**inputs, tree=tree, backend=backend)
    moved = {n: torch.empty_like(x).index_copy(0, row, x) for n, x in inputs.items()}
    again = hierarchical_attention(**moved, tree=reversed_parent, backend=backend)
    assert_close(again[row], out)


@pytest.mark.parametrize("backend", LINEAR)
@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("name", ZOO)
def test_collapsing_chains_changes_nothing(name, self_loop, backend):
    parent = zoo(name)
    tree, short = (TreeIndex.from_parent(x).to(DEVICE) for x in (parent, collapse_chains(parent)))
    # Collapsing a chain above a leaf moves the leaf's id, not the order of the rows.
    inputs = attention_inputs(tree, mass="random")
    options = {"self_loop": self_loop, "backend": backend}
    expected = attend(inputs, tree, **options)
    for key, x in attend(inputs, short, **options).items():
        assert_close(x, expected[key], rtol=1e-10, atol=1e-12, msg=key)


@settings(deadline=None, max_examples=30)
@given(forests(max_nodes=20, shuffle=False))
def test_putting_a_chain_above_every_node_changes_nothing(parent):
    # Node a gets a one-child parent: ids stay, the new nodes come after them.
    num_nodes = parent.numel()
    ids = torch.arange(num_nodes)
    longer = torch.cat([ids + num_nodes, torch.where(parent == ids, ids + num_nodes, parent)])
    tree, longer = (TreeIndex.from_parent(x) for x in (parent, longer))
    inputs = attention_inputs(tree)
    assert_close(attend(inputs, longer), attend(inputs, tree))


@pytest.mark.parametrize("backend", LINEAR)
def test_non_contiguous_inputs_give_the_same(backend):
    tree = index("forest")
    inputs = attention_inputs(tree, pos_channels=2, node_scalars=True, mass="random")
    expected = attend(inputs, tree)
    for _ in range(2):
        strided = {n: x.t().contiguous().t() if x.dim() == 2 else x for n, x in inputs.items()}
        strided = {
            n: x.permute(2, 1, 0).contiguous().permute(2, 1, 0) if x.dim() == 3 else x
            for n, x in strided.items()
        }
        strided["mass"] = torch.stack([inputs["mass"]] * 2, 1)[:, 0]
        assert not any(x.is_contiguous() for n, x in strided.items())
        arguments = {n: x.requires_grad_(n != "mass") for n, x in strided.items()}
        cotangent = torch.randn(4, 2, tree.num_leaves, dtype=torch.float64, device=DEVICE)
        cotangent = cotangent.permute(2, 1, 0)
        out = hierarchical_attention(**arguments, tree=tree, backend=backend)
        assert_close(out, expected["out"], rtol=1e-10, atol=1e-12)
        grad = torch.autograd.grad(out, arguments["q"], cotangent)[0]
        dense = hierarchical_attention(**arguments, tree=tree, backend="reference")
        assert_close(dense, expected["out"], rtol=1e-10, atol=1e-12)
        assert_close(grad, torch.autograd.grad(dense, arguments["q"], cotangent)[0])


def test_an_expanded_tensor_is_taken_for_its_copy():
    tree = index("ragged")
    q = attention_inputs(tree, heads=1)["q"].expand(-1, 3, -1)
    for backend in BACKENDS:
        out = hierarchical_attention(q, q, q, tree, backend=backend)
        copy = q.contiguous()
        assert_close(out, hierarchical_attention(copy, copy, copy, tree, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_not_changed_in_place(backend):
    parent = zoo("forest").to(DEVICE)
    tree = TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree, pos_channels=2, node_scalars=True, mass="zeros")
    kept = tree.tensors
    before = [x.clone() for x in [*inputs.values(), *kept, parent]]
    learned = {n: x.requires_grad_(n != "mass") for n, x in inputs.items()}
    version = [x._version for x in [*learned.values(), *kept, parent]]
    hierarchical_attention(**learned, tree=tree, backend=backend).sum().backward()
    for x, y, n in zip([*inputs.values(), *kept, parent], before, version, strict=True):
        assert torch.equal(x, y) and x._version == n


def test_a_parent_vector_and_its_index_give_the_same():
    parent = zoo("shuffled_forest").to(DEVICE)
    tree = TreeIndex.from_parent(parent)
    inputs = attention_inputs(tree)
    for backend in BACKENDS:
        by_index = hierarchical_attention(**inputs, tree=tree, backend=backend)
        assert torch.equal(hierarchical_attention(**inputs, tree=parent, backend=backend), by_index)


@pytest.mark.parametrize("backend", LINEAR)
def test_neutral_options_change_nothing(backend):
    tree = index("forest")
    inputs = attention_inputs(tree)
    expected = hierarchical_attention(**inputs, tree=tree, backend=backend)
    neutral = {
        "temperature": torch.ones(tree.num_nodes, 2),
        "bias": torch.zeros(tree.num_nodes, 2),
        "mass": torch.ones(tree.num_leaves),
        "pos_q": torch.zeros(tree.num_nodes, 2, 3),
        "pos_k": torch.randn(tree.num_nodes, 2, 3),
    }
    for count in range(1, len(neutral) + 1):
        for names in itertools.combinations(neutral, count):
            if ("pos_q" in names) != ("pos_k" in names):
                continue
            some = {n: neutral[n].to(DEVICE).double() for n in names}
            out = hierarchical_attention(**inputs, tree=tree, backend=backend, **some)
            assert_close(out, expected, msg=names)


# --- depth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("self_loop", [True, False])
def test_a_chain_3000_deep_equals_its_one_leaf(self_loop):
    tree = TreeIndex.from_parent(chain(3000))
    one = TreeIndex.from_parent(torch.tensor([0]))
    inputs = attention_inputs(tree)
    actual = attend(inputs, tree, self_loop=self_loop)
    assert_close(actual["out"], inputs["v"] if self_loop else torch.zeros_like(inputs["v"]))
    assert_close(actual, attend(inputs, one, self_loop=self_loop))


def test_a_caterpillar_3000_deep_runs_forward_and_backward():
    tree = TreeIndex.from_parent(caterpillar(3000))
    inputs = attention_inputs(tree, heads=1, dtype=torch.float32)
    result = attend(inputs, tree)
    assert all(x.isfinite().all() for x in result.values())
    assert result["q"].abs().sum() > 0
    # Rows sum to one: attention to a constant is that constant.
    ones = torch.ones_like(inputs["v"])
    out = hierarchical_attention(inputs["q"], inputs["k"], ones, tree)
    assert_close(out, ones, rtol=1e-4, atol=1e-4)


def test_a_caterpillar_with_a_chain_in_every_link_equals_the_one_without():
    parent = caterpillar(60)
    tree = TreeIndex.from_parent(parent)
    num_nodes = parent.numel()
    ids = torch.arange(num_nodes)
    links = [ids + num_nodes * (n + 1) for n in range(49)]  # 50 edges in place of each
    links.append(torch.where(parent == ids, ids + num_nodes * 49, parent))
    links[-1] = torch.where(parent == ids, links[-2], parent)
    longer = TreeIndex.from_parent(torch.cat(links))
    assert longer.depth >= 2900
    inputs = attention_inputs(tree)
    assert_close(attend(inputs, longer), attend(inputs, tree))
    assert_backends_agree(**inputs, tree=tree)
