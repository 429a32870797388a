import re

import pytest
import torch
from helpers import rows_below
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.nn import InnerStates
from hsa_geometric.testing import ZOO, assert_isolated, forest, random_parent, star, zoo


def index(name="unequal_depths"):
    return TreeIndex.from_parent(zoo(name))


def features(tree, channels=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(tree.num_leaves, channels, generator=g, dtype=torch.float64).to(dtype)


def seeded(*args, seed=0, **options):
    torch.manual_seed(seed)
    return InnerStates(*args, **options).double()


def by_walk(module, x, parent, states=None, mass=None):
    """The equations of the docstring, node by node."""
    above, rows = parent.tolist(), rows_below(parent)
    inner = sorted({p for a, p in enumerate(above) if p != a})
    weight = torch.ones(len(x), module.heads, dtype=x.dtype)
    if module.lin_score is not None:
        score = x @ module.lin_score.weight.T + module.lin_score.bias
        weight = (10 * (score / 10).tanh()).exp()
    if mass is not None:
        weight = weight * mass[:, None]
    up, down = {}, {}
    for place, node in enumerate(inner):
        level, at = 0, node
        while above[at] != at:
            level, at = level + 1, above[at]
        level = min(level, module.num_levels - 1)
        below = sorted(rows[node])
        w = weight[below]
        total = w.sum(0)
        heads = x[below].nan_to_num().view(len(below), module.heads, -1)
        mean = (heads * w[:, :, None]).sum(0) / torch.where(total > 0, total, 1)[:, None]
        old = x.new_zeros(module.channels) if states is None else states[place]
        both = torch.cat([mean.flatten(), old])
        new, gate = (both @ module.lin_up.weight[level] + module.lin_up.bias[level]).chunk(2)
        up[node] = old + gate.sigmoid() * torch.nn.functional.gelu(new)
        down[node] = up[node] @ module.lin_down.weight[level] + module.lin_down.bias[level]
    out = []
    for row in range(len(x)):
        told = [down[node] for node in inner if row in rows[node]]
        out.append(torch.stack(told).mean(0) if told else x.new_zeros(module.channels))
    new = [up[node] for node in inner]
    return torch.stack(out), torch.stack(new) if new else x.new_zeros(0, module.channels)


KINDS = {"mean": {}, "attention": {"reduce": "attention", "heads": 2}}


@pytest.mark.parametrize("num_levels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ZOO)
def test_states_are_those_of_a_walk_over_the_tree(name, kind, num_levels):
    tree, module = index(name), seeded(4, num_levels, **KINDS[kind])
    x, mass = features(tree), features(tree, 1, seed=2)[:, 0].abs()
    out, states = module(x, tree)
    expected = by_walk(module, x, zoo(name))
    assert_close((out, states), expected, rtol=1e-10, atol=1e-10)
    mass[::3] = 0
    again = module(x, tree, states, mass=mass)
    expected = by_walk(module, x, zoo(name), states, mass)
    assert_close(again, expected, rtol=1e-10, atol=1e-10)


def test_one_state_by_hand():
    module = seeded(1, 1)
    with torch.no_grad():
        module.lin_up.weight.copy_(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))  # new = mean, gate = 0
        module.lin_up.bias.zero_()
        module.lin_down.weight.fill_(2.0)
        module.lin_down.bias.fill_(1.0)
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    out, states = module(x, star(2))
    new = 0.5 * torch.nn.functional.gelu(torch.tensor(2.0, dtype=torch.float64))
    assert_close(states, new.view(1, 1))
    assert_close(out, (2 * new + 1).expand(2, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_seen_by_nobody_whatever_it_holds(kind):
    tree, module = index("two_levels"), seeded(4, **KINDS[kind])
    x, mass = features(tree), torch.tensor([1.0, 0, 2, 0, 0, 0, 1, 1, 0]).double()
    real = mass > 0
    results = []
    for filler in (0.0, torch.nan, 1e9):
        module.zero_grad()
        padded = torch.where(real[:, None], x, filler).requires_grad_()
        out, states = module(padded, tree, mass=mass)
        (out[real].square().sum() + states.square().sum()).backward()
        grads = [p.grad.clone() for p in module.parameters()]
        assert not padded.grad[~real].any()
        results.append((out[real], states, padded.grad[real], *grads))
    assert all(x.isfinite().all() for x in results[0])
    for other in results[1:]:
        assert_close(other, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right(kind):
    tree, module = index("forest"), seeded(4, 2, **KINDS[kind])
    x = features(tree).requires_grad_()
    states = torch.randn(index("forest").family_parent.numel(), 4).double().requires_grad_()
    mass = torch.rand(tree.num_leaves).double()
    mass[1] = 0
    names = [name for name, _ in module.named_parameters()]

    def function(x, states, *weights):
        weights = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(module, weights, (x, tree, states), {"mass": mass})

    assert torch.autograd.gradcheck(function, (x, states, *module.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_no_tree_of_a_batch_notices_the_others(kind):
    tree, module = index("forest"), seeded(4, 2, **KINDS[kind])
    assert_isolated(lambda x: module(x, tree)[0], tree, features(tree))
    shuffled = index("shuffled_forest")
    assert_isolated(lambda x: module(x, shuffled)[0], shuffled, features(shuffled))


def test_a_batch_has_the_states_of_its_trees_one_by_one():
    module = seeded(4, 2)
    xs = [features(index(name), seed=i) for i, name in enumerate(ZOO)]
    alone = [module(x, zoo(name)) for x, name in zip(xs, ZOO, strict=True)]
    out, states = module(torch.cat(xs), forest(*map(zoo, ZOO)))
    assert_close(out, torch.cat([o for o, _ in alone]))
    assert_close(states, torch.cat([s for _, s in alone]))


def test_the_order_of_leaves_in_a_family_makes_no_difference():
    tree, module, x = index("two_levels"), seeded(4), features(index("two_levels"))
    order = torch.tensor([2, 0, 1, 3, 5, 4, 7, 6, 8])
    out, states = module(x, tree)
    assert_close(module(x[order], tree), (out[order], states))


def test_a_scale_of_scores_is_bounded():
    tree, module = index("two_levels"), seeded(4, reduce="attention", heads=2)
    with torch.no_grad():
        module.lin_score.weight *= 1e6
    out, states = module(features(tree), tree)
    (out.sum() + states.sum()).backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_float32_in_bfloat16_and_under_autocast(kind):
    tree, module = index("forest"), seeded(4, 2, **KINDS[kind]).float()
    x = features(tree, dtype=torch.float32)
    expected = module(x, tree)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, states = module(x, tree)
        again = module(x, tree, states)
    assert again[0].isfinite().all()
    assert_close((out.float(), states.float()), expected, rtol=0.05, atol=0.05)
    out, states = module.bfloat16()(x.bfloat16(), tree)
    assert out.dtype == states.dtype == torch.bfloat16
    assert_close((out.float(), states.float()), expected, rtol=0.05, atol=0.05)


def test_a_deep_tree_runs():
    tree, module = TreeIndex.from_parent(random_parent(800, reach=2, seed=1)), seeded(4)
    out, _ = module(features(tree), tree)
    out.sum().backward()
    assert out.isfinite().all() and module.lin_up.weight.grad.isfinite().all()


def test_resetting_draws_all_parameters_anew():
    module = seeded(4, reduce="attention")
    before = [p.clone() for p in module.parameters()]
    module.reset_parameters()
    assert len(before) == 6
    for old, new in zip(before, module.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_repr_names_channels_and_levels():
    assert repr(InnerStates(8, 3)) == "InnerStates(8, num_levels=3)"


@pytest.mark.parametrize(
    "args, options, message",
    [
        ((0,), {}, "Expected 'channels' to be positive (got 0)"),
        ((4, 0), {}, "Expected 'num_levels' to be positive (got 0)"),
        ((4,), {"heads": 0}, "Expected 'heads' to be positive (got 0)"),
        ((4,), {"heads": 3}, "Expected 'channels' to be a multiple of 'heads', 3 (got 4)"),
        ((4,), {"reduce": "max"}, "'reduce' to be one of ['mean', 'attention'] (got 'max')"),
    ],
)
def test_bad_options_are_named(args, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        InnerStates(*args, **options)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": torch.ones(9, 5)}, ValueError, "Expected 'x' to have 4 channels (got 5)"),
        ({"x": torch.ones(8, 4)}, ValueError, "one row for each of the 9 leaves (got 8 rows)"),
        ({"x": torch.ones(9)}, ValueError, "Expected 'x' to have 2 dimensions"),
        ({"x": torch.ones(9, 4).int()}, TypeError, "'x' to hold floating-point numbers"),
        ({"tree": 3}, TypeError, "'tree' to be a TreeIndex or a parent vector (got int)"),
        (
            {"states": torch.ones(3, 4)},
            ValueError,
            "'states' to be of shape [4, 4], one row for each inner node (got [3, 4])",
        ),
        ({"mass": torch.ones(8)}, ValueError, "'mass' to have one row for each of the 9 leaves"),
        ({"mass": -torch.ones(9)}, ValueError, "'mass' to be finite and not negative"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"x": torch.ones(9, 4), "tree": zoo("two_levels")} | change
    with pytest.raises(error, match=re.escape(message)):
        InnerStates(4)(**arguments)
