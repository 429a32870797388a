import pytest
import torch
from helpers import LINEAR
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import assert_isolated, attention_inputs, star, zoo

# Tensors are on the CPU here, where Triton's kernels run only if they are interpreted.
BACKENDS = [*LINEAR, "reference"]


def drop(inputs, tree, seed=0, p=0.4, backend="scatter", **options):
    torch.manual_seed(seed)
    return hierarchical_attention(
        **inputs, tree=tree, dropout_p=p, training=True, backend=backend, **options
    )


@pytest.fixture
def tree():
    return TreeIndex.from_parent(zoo("forest"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_it_does_nothing_outside_training(tree, backend, p):
    inputs = attention_inputs(tree)
    expected = hierarchical_attention(**inputs, tree=tree, backend=backend)
    state = torch.get_rng_state()
    out = hierarchical_attention(**inputs, tree=tree, backend=backend, dropout_p=p, training=False)
    assert torch.equal(out, expected)
    assert torch.equal(torch.get_rng_state(), state)  # and draws nothing


@pytest.mark.parametrize("backend", BACKENDS)
def test_probability_zero_does_nothing(tree, backend):
    inputs = attention_inputs(tree)
    expected = hierarchical_attention(**inputs, tree=tree, backend=backend)
    assert torch.equal(drop(inputs, tree, p=0.0, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("self_loop", [True, False])
def test_probability_one_gives_zeros_and_finite_gradients(tree, backend, self_loop):
    inputs = {n: x.requires_grad_() for n, x in attention_inputs(tree).items()}
    out = drop(inputs, tree, p=1.0, backend=backend, self_loop=self_loop)
    assert not out.any()
    grads = torch.autograd.grad(out.sum(), list(inputs.values()), allow_unused=True)
    assert not any(g.any() for g in grads if g is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_output_and_another_one_another(tree, backend):
    inputs = attention_inputs(tree)
    first = drop(inputs, tree, 1, backend=backend)
    assert torch.equal(first, drop(inputs, tree, 1, backend=backend))
    assert not torch.equal(first, drop(inputs, tree, 2, backend=backend))
    again = hierarchical_attention(
        **inputs, tree=tree, dropout_p=0.4, training=True, backend=backend
    )
    assert not torch.equal(first, again)  # each call draws anew


@pytest.mark.parametrize("backend", ["scatter", "reference"])
@pytest.mark.parametrize("p", [0.2, 0.6])
@pytest.mark.parametrize("self_loop", [True, False])
def test_the_mean_over_seeds_is_the_output_without_dropout(backend, p, self_loop):
    # Positive values, so that nothing cancels; 600 draws for the fast backend, 200 for the oracle.
    tree = TreeIndex.from_parent(zoo("unequal_depths"))
    inputs = attention_inputs(tree, heads=8, value_channels=1)
    inputs["v"] = inputs["v"].abs() + 1
    expected = hierarchical_attention(**inputs, tree=tree, self_loop=self_loop)
    draws = 600 if backend == "scatter" else 200
    outs = torch.stack(
        [drop(inputs, tree, s, p, backend, self_loop=self_loop) for s in range(draws)]
    )
    for sample in (outs, outs.mean((1, 2, 3))):  # each number, and all of them together
        error = sample.std(0) / draws**0.5
        assert (error > 0).all()
        target = expected if sample is outs else expected.mean()
        assert ((sample.mean(0) - target) / error).abs().max() < 5


def test_weights_of_a_star_are_dropped_or_scaled():
    # One hot values make the output the matrix of weights after dropout.
    tree = TreeIndex.from_parent(star(30))
    q = torch.zeros(30, 2, 1, dtype=torch.float64)
    v = torch.eye(30, dtype=torch.float64).unsqueeze(1).expand(-1, 2, -1)
    weights = drop({"q": q, "k": q, "v": v}, tree, p=0.25)
    kept = weights > 0
    assert_close(weights[kept], torch.full_like(weights[kept], 1 / 30 / 0.75))
    assert abs(kept.double().mean().item() - 0.75) < 0.05
    diagonal = kept.transpose(1, 2).diagonal(dim1=0, dim2=1)
    assert 0.5 < diagonal.double().mean() < 0.95
    assert not torch.equal(weights[:, 0], weights[:, 1])  # heads are dropped independently


@pytest.mark.parametrize("name", ["star", "unequal_depths", "shuffled_forest"])
@pytest.mark.parametrize("self_loop", [True, False])
def test_gradients_equal_finite_differences_for_a_fixed_seed(name, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    inputs = attention_inputs(
        tree, heads=1, channels=2, value_channels=2, pos_channels=1, node_scalars=True
    )

    def function(*args):
        return drop(dict(zip(inputs, args, strict=True)), tree, 3, self_loop=self_loop)

    args = tuple(x.requires_grad_() for x in inputs.values())
    assert gradcheck(function, args)
    assert gradgradcheck(function, args, fast_mode=True)


def test_gradients_of_cut_families_use_the_masks_of_the_forward(monkeypatch):
    monkeypatch.setattr("hsa_geometric.kernels.scatter.siblings.LOGITS", 10)
    tree = TreeIndex.from_parent(zoo("star"))
    inputs = attention_inputs(tree, heads=2, channels=2, value_channels=1)
    args = tuple(x.requires_grad_() for x in inputs.values())
    assert gradcheck(lambda *args: drop(dict(zip(inputs, args, strict=True)), tree, 3), args)


def test_two_backwards_of_one_graph_agree(tree):
    inputs = {n: x.requires_grad_() for n, x in attention_inputs(tree).items()}
    out = drop(inputs, tree, 5)
    first = torch.autograd.grad(out.sum(), list(inputs.values()), retain_graph=True)
    torch.manual_seed(99)
    second = torch.autograd.grad(out.sum(), list(inputs.values()))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_no_tree_of_a_batch_notices_the_others_under_dropout(tree):
    q, k, v = attention_inputs(tree, dtype=torch.float32).values()
    assert_isolated(lambda q, k, v: drop({"q": q, "k": k, "v": v}, tree, 4), tree, q, k, v)


def test_padding_and_dropout_give_no_nan(tree):
    inputs = attention_inputs(tree, mass="zeros")
    learned = [inputs[n].requires_grad_() for n in "qkv"]
    for self_loop in (True, False):
        out = drop(inputs, tree, 6, self_loop=self_loop)
        grads = torch.autograd.grad(out.sum(), learned)
        assert out.isfinite().all() and all(g.isfinite().all() for g in grads)
