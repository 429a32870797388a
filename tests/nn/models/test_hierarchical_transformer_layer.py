import re

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch_geometric.nn import GATConv, GCNConv, GINEConv, GraphConv, Sequential

from hsa_geometric import TreeIndex
from hsa_geometric.nn import HierarchicalTransformerLayer
from hsa_geometric.testing import ZOO, assert_isolated, balanced, star, tree_of_leaf, zoo


def index(name="unequal_depths"):
    return TreeIndex.from_parent(zoo(name))


def features(tree, channels=8, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(tree.num_leaves, channels, generator=g, dtype=torch.float64).to(dtype)


def edges(tree, seed=0):
    """Random edges within the trees."""
    g = torch.Generator().manual_seed(seed)
    out, number = torch.randint(tree.num_leaves, (2, 4 * tree.num_leaves), generator=g), None
    number = tree_of_leaf(tree)
    return out[:, number[out[0]] == number[out[1]]]


def seeded(*args, seed=0, **options):
    torch.manual_seed(seed)
    return HierarchicalTransformerLayer(*args, **options).double()


def gine(i, o):
    return GINEConv(torch.nn.Linear(i, o), edge_dim=3)


# --- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_star_is_the_encoder_layer_of_torch(norm_first):
    options = {} if norm_first else {"attn_kwargs": {"qk_norm": None}}
    layer = seeded(8, 2, mlp_channels=16, norm_first=norm_first, **options)
    torch.manual_seed(1)
    other = torch.nn.TransformerEncoderLayer(
        8,
        2,
        16,
        dropout=0.0,
        activation="gelu",
        norm_first=norm_first,
        batch_first=True,
        dtype=torch.float64,
    )
    with torch.no_grad():
        for p in other.parameters():
            p.uniform_(-1, 1)
        attn = layer.attn
        attn.bias.zero_()
        for i, lin in enumerate((attn.lin_query, attn.lin_key, attn.lin_value)):
            lin.weight.copy_(other.self_attn.in_proj_weight.chunk(3)[i])
            lin.bias.copy_(other.self_attn.in_proj_bias.chunk(3)[i])
    for mine, theirs in (
        (layer.lin_out, other.self_attn.out_proj), (layer.mlp[0], other.linear1),
        (layer.mlp[2], other.linear2), (layer.norm_mix, other.norm1),
        (layer.norm_mlp, other.norm2),
    ):  # fmt: skip
        mine.load_state_dict(theirs.state_dict())
    x = features(TreeIndex.from_parent(star(9)))
    expected = other.eval()(x.unsqueeze(0))[0]
    assert_close(layer(x, star(9)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ZOO)
def test_flat_attention_is_softmax_over_the_leaves_of_each_tree(name):
    tree, layer = index(name), seeded(8, 2, attention="flat", mlp_channels=0)
    x = features(tree)
    normed, number = layer.norm_mix(x), tree_of_leaf(tree)
    attn = layer.attn
    q, k, v = (
        lin(normed).view(-1, 2, 4).transpose(0, 1)
        for lin in (attn.lin_query, attn.lin_key, attn.lin_value)
    )
    out = torch.empty(tree.num_leaves, 8, dtype=torch.float64)
    for t in range(tree.num_trees):
        mine = number == t
        heads = F.scaled_dot_product_attention(q[:, mine], k[:, mine], v[:, mine])
        out[mine] = heads.transpose(0, 1).flatten(1) + attn.bias
    assert_close(layer(x, tree), x + layer.lin_out(out), rtol=1e-10, atol=1e-10)


def test_entmax_takes_the_place_of_softmax():
    tree, layer = index("forest"), seeded(8, 2, attention="entmax15", mlp_channels=0)
    assert layer.attn.attention == "entmax15"
    x = features(tree)
    expected = x + layer.lin_out(layer.attn(layer.norm_mix(x), tree))
    assert_close(layer(x, tree), expected)
    assert not torch.allclose(expected, seeded(8, 2, mlp_channels=0)(x, tree))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("states", [None, "mean", "attention"])
def test_it_is_its_parts_one_after_another(norm_first, states):
    tree = index("forest")
    layer = seeded(8, 2, conv=GCNConv, states=states, norm_first=norm_first, num_levels=2)
    x, edge_index = features(tree), edges(tree)
    mass = features(tree, 1, seed=1)[:, 0].abs()

    def norm(module, x, out):
        return (x + out(module(x))) if norm_first else module(x + out(x))

    y = norm(
        layer.norm_mix, x,
        lambda x: layer.lin_out(layer.attn(x, tree, mass=mass)) + layer.conv(x, edge_index),
    )  # fmt: skip
    inner = None
    if states:
        inner = layer.states((layer.norm_states(y) if norm_first else y), tree, mass=mass)[1]
        y = norm(layer.norm_states, y, lambda x: layer.states(x, tree, mass=mass)[0])
    y = norm(layer.norm_mlp, y, layer.mlp)
    out = layer(x, tree, mass=mass, edge_index=edge_index)
    if states:
        assert_close(out, (y, inner))
    else:
        assert_close(out, y)
    assert layer.attn.qk_norm == (None if norm_first else "layer_norm")


def test_states_go_on_from_those_of_the_layer_before():
    tree, layer = index("two_levels"), seeded(8, 2, states="mean")
    x = features(tree)
    y, states = layer(x, tree)
    assert not torch.allclose(layer(y, tree, states)[0], layer(y, tree)[0])


@pytest.mark.parametrize("parts", ["attention", "conv", "states", "mlp"])
def test_a_part_may_stand_alone(parts):
    tree = index("forest")
    options = {
        "attention": "softmax" if parts == "attention" else None,
        "conv": GraphConv if parts == "conv" else None,
        "states": "mean" if parts == "states" else None,
        "mlp_channels": 12 if parts == "mlp" else 0,
    }
    layer, x = seeded(8, 2, **options), features(index("forest"))
    out = layer(x, tree, edge_index=edges(tree) if parts == "conv" else None)
    out = out[0] if parts == "states" else out
    assert out.shape == x.shape and not torch.equal(out, x)
    shown = {"attention": "attn", "conv": "conv", "states": "states", "mlp": "mlp"}[parts]
    assert repr(layer) == f"HierarchicalTransformerLayer(8, {shown})"


def test_edge_data_goes_to_the_name_that_the_conv_has_for_it():
    tree = index("two_levels")
    x, edge_index = features(tree), edges(tree)
    attr, weight = torch.randn(edge_index.shape[1], 3).double(), torch.rand(edge_index.shape[1])
    layer = seeded(8, 2, conv=gine, attention=None, mlp_channels=0)
    expected = x + layer.conv(layer.norm_mix(x), edge_index, attr)
    assert_close(layer(x, tree, edge_index=edge_index, edge_attr=attr), expected)
    layer = seeded(8, 2, conv=GCNConv, attention=None, mlp_channels=0)
    expected = x + layer.conv(layer.norm_mix(x), edge_index, weight.double())
    assert_close(layer(x, tree, edge_index=edge_index, edge_attr=weight.double()), expected)


# --- trees and rows ------------------------------------------------------------------------------

EVERYTHING = {"states": "attention", "conv": GraphConv, "num_levels": 2, "drop_path": 0.4}


@pytest.mark.parametrize("attention", ["softmax", "flat"])
def test_no_tree_notices_the_others(attention):
    tree, layer = index("forest"), seeded(8, 2, attention=attention, **EVERYTHING)
    edge_index = edges(tree)

    def run(x):
        torch.manual_seed(3)  # of what is dropped
        return layer(x, tree, edge_index=edge_index)[0]

    assert_isolated(run, tree, features(tree))


@pytest.mark.parametrize("states", ["mean", "attention"])
@pytest.mark.parametrize("attention", ["softmax", "flat"])
def test_padding_is_seen_by_nobody_whatever_it_holds(attention, states):
    tree, layer = index("two_levels"), seeded(8, 2, attention=attention, states=states)
    x, mass = features(tree), torch.tensor([1.0, 0, 2, 0, 0, 0, 1, 1, 0]).double()
    real, results = mass > 0, []
    for filler in (0.0, torch.nan, 1e9):
        layer.zero_grad()
        padded = torch.where(real[:, None], x, filler).requires_grad_()
        out, inner = layer(padded, tree, mass=mass)
        (out[real].square().sum() + inner.sum()).backward()
        assert not padded.grad[~real].any()
        results.append(
            [out[real], inner, padded.grad[real], *(p.grad.clone() for p in layer.parameters())]
        )
    assert all(x.isfinite().all() for x in results[0])
    for other in results[1:]:
        assert_close(other, results[0], rtol=1e-12, atol=1e-12)


def test_stochastic_depth_drops_a_branch_for_a_whole_tree_or_doubles_it():
    parent = torch.cat([balanced(2, 2) + 7 * i for i in range(64)])
    tree = TreeIndex.from_parent(parent)
    layer = seeded(8, 2, mlp_channels=0, drop_path=0.5)
    x = features(tree)
    full = layer.eval()(x, tree) - x
    torch.manual_seed(0)
    part = layer.train()(x, tree) - x
    dropped = part.view(64, -1).eq(0).all(1)
    assert 16 < dropped.sum() < 48
    assert_close(part.view(64, -1)[~dropped], 2 * full.view(64, -1)[~dropped])


def test_dropout_acts_in_training_alone():
    tree, layer, plain = index(), seeded(8, 2, dropout=0.5), seeded(8, 2)
    x = features(tree)
    assert_close(layer.eval()(x, tree), plain(x, tree))
    assert not torch.allclose(layer.train()(x, tree), plain(x, tree))


def test_types_have_maps_of_their_own():
    tree, layer = index("two_levels"), seeded(8, 2, attn_kwargs={"num_types": 2})
    x, leaf_type = features(tree), torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 0])
    out = layer(x, tree, leaf_type=leaf_type)
    assert not torch.allclose(out, layer(x, tree, leaf_type=1 - leaf_type))
    assert_isolated(lambda x: layer(x, tree, leaf_type=leaf_type), tree, x)


# --- as a module ---------------------------------------------------------------------------------


def test_gradients_are_right():
    tree = index("unequal_depths")
    layer = seeded(4, 2, states="mean", mlp_channels=5, attn_kwargs={"pos_dim": 2})
    x, pos = features(tree, 4).requires_grad_(), torch.randn(tree.num_nodes, 2).double()
    pos.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, p: layer(x, tree, tree_pos=p), (x, pos))


def test_every_parameter_is_trained_and_drawn_anew():
    tree = index("two_levels")
    layer = seeded(8, 2, conv=GATConv, states="attention", num_levels=2)
    layer(features(tree), tree, edge_index=edges(tree))[0].square().sum().backward()
    untrained = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.any()]
    # A key's bias shifts all logits of a query alike; levels without inner nodes are not met.
    assert set(untrained) <= {"attn.level_bias"}
    before = {
        n: p.clone() for n, p in layer.named_parameters() if "weight" in n and "norm" not in n
    }
    layer.reset_parameters()
    same = [n for n, p in layer.named_parameters() if n in before and torch.equal(p, before[n])]
    assert not same


def test_it_is_part_of_a_pyg_sequential():
    tree, x = index("forest"), features(index("forest"))
    one, two = seeded(8, 2), seeded(8, 2, seed=1)
    model = Sequential("x, tree", [(one, "x, tree -> x"), (two, "x, tree -> x")])
    assert torch.equal(model(x, tree), two(one(x, tree), tree))


def test_it_compiles_to_one_graph():  # the model's test has attention along the tree
    torch._dynamo.reset()
    layer = seeded(8, 2, attention="flat", mlp_channels=0)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for name in ("forest", "two_levels"):
        results, tree = [], index(name)
        for function in (compiled, layer):
            layer.zero_grad()
            out = function(features(tree), tree)
            out.square().sum().backward()
            results.append([out, *(p.grad.clone() for p in layer.parameters())])
        assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "args, options, message",
    [
        ((8, 3), {}, "'channels' to be a multiple of 'heads', 3 (got 8)"),
        ((0,), {}, "'channels' to be a multiple of 'heads', 4 (got 0)"),
        ((8, 0), {}, "'channels' to be a multiple of 'heads', 0 (got 8)"),
        ((8,), {"attention": "max"}, "Expected 'attention' to be one of ['softmax', "),
        ((8,), {"states": "max"}, "'states' to be one of ['mean', 'attention', None] (got 'max')"),
        ((8,), {"dropout": 1.0}, "Expected 'dropout' to be in [0, 1) (got 1.0)"),
        ((8,), {"drop_path": -0.1}, "Expected 'drop_path' to be in [0, 1) (got -0.1)"),
        ((8,), {"mlp_channels": -1}, "Expected 'mlp_channels' to be at least 0 (got -1)"),
        ((8,), {"num_levels": 0}, "Expected 'num_levels' to be at least 1 (got 0)"),
    ],
)
def test_bad_options_are_named(args, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HierarchicalTransformerLayer(*args, **options)


@pytest.mark.parametrize(
    "options, change, error, message",
    [
        (
            {},
            {"edge_index": torch.ones(2, 1).long()},
            ValueError,
            "no 'edge_index' in a layer with",
        ),
        ({"conv": GCNConv}, {}, ValueError, "an 'edge_index' in a layer with a 'conv' (got None)"),
        (
            {"conv": GATConv},
            {"edge_attr": torch.ones(1, 1)},
            ValueError,
            "Expected an 'edge_index'",
        ),
        (
            {},
            {"edge_attr": torch.ones(1, 1)},
            ValueError,
            "no 'edge_attr' in a layer with no 'conv'",
        ),
        (
            {"conv": lambda i, o: Plain()},
            {"edge_index": torch.zeros(2, 1).long(), "edge_attr": torch.ones(1, 1)},
            ValueError,
            "no 'edge_attr' for Plain, which takes none (got a tensor)",
        ),
        (
            {"conv": GCNConv},
            {"edge_index": torch.zeros(2, 1).long(), "edge_attr": torch.ones(1, 3)},
            ValueError,
            "'edge_attr' to be weights [E] for GCNConv (got shape [1, 3])",
        ),
        ({}, {"states": torch.ones(4, 8)}, ValueError, "no 'states' in a layer that has none"),
        ({"states": "mean"}, {"states": torch.ones(3, 8)}, ValueError, "'states' to be of shape"),
        ({}, {"tree_pos": torch.ones(13, 2)}, ValueError, "no 'tree_pos' in a layer whose"),
        ({}, {"leaf_type": torch.ones(9).long()}, ValueError, "no 'leaf_type' in a layer whose"),
        ({"attention": None}, {"x": torch.ones(8, 8)}, ValueError, "'x' to have one row for each"),
        (
            {"attention": None},
            {"x": torch.ones(9, 7)},
            ValueError,
            "'x' to have 8 channels (got 7)",
        ),
        ({"attention": None}, {"mass": -torch.ones(9)}, ValueError, "'mass' to be finite and not"),
        ({}, {"tree": 3}, TypeError, "'tree' to be a TreeIndex or a parent vector (got int)"),
    ],
)
def test_bad_input_is_named(options, change, error, message):
    layer = seeded(8, 2, **options).float()
    with pytest.raises(error, match=re.escape(message)):
        layer(**({"x": torch.ones(9, 8), "tree": zoo("two_levels")} | change))


class Plain(torch.nn.Module):
    """A conv without edge data."""

    def forward(self, x, edge_index):
        return x


def test_layer_scale_multiplies_each_branch_and_begins_at_its_value():
    torch.manual_seed(0)
    tree = torch.tensor([3, 3, 4, 4, 4])
    plain = HierarchicalTransformerLayer(8, 2, states="mean")
    scaled = HierarchicalTransformerLayer(8, 2, states="mean", layer_scale=0.25)
    scaled.load_state_dict(plain.state_dict() | {f"scales.{i}": torch.ones(8) for i in range(3)})
    x = torch.randn(3, 8)
    torch.testing.assert_close(scaled(x, tree), plain(x, tree))
    with torch.no_grad():
        for scale in scaled.scales:
            scale.zero_()
    assert torch.equal(scaled(x, tree)[0], x)
    scaled.reset_parameters()
    assert all(torch.equal(scale, torch.full((8,), 0.25)) for scale in scaled.scales)
