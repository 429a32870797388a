import copy
import re

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.nn import GATConv, GINConv, Sequential, summary

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.nn import HierarchicalAttentionConv
from hsa_geometric.testing import (
    ZOO,
    assert_isolated,
    assert_rows_sum_to_one,
    attention_inputs,
    balanced,
    random_parent,
    star,
    zoo,
)


def index(name="unequal_depths"):
    return TreeIndex.from_parent(zoo(name))


def features(tree, channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tree.num_leaves, channels, generator=generator)


def layer(*args, seed=0, **options):
    torch.manual_seed(seed)
    return HierarchicalAttentionConv(*args, **options)


# --- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("name", ZOO)
def test_output_has_a_row_for_each_leaf(name, heads, concat):
    tree = index(name)
    conv = layer(6, 4, heads, concat)
    out = conv(features(tree), tree)
    assert out.shape == (tree.num_leaves, 4 * heads if concat else 4)
    assert out.isfinite().all()


@pytest.mark.parametrize("self_loop", [True, False])
def test_it_is_attention_of_three_linear_maps(self_loop):
    tree, conv = index(), layer(6, 4, heads=2, self_loop=self_loop)
    x = features(tree)
    q, k, v = (
        (x @ lin.weight.T + lin.bias).view(-1, 2, 4)
        for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    )
    expected = hierarchical_attention(q, k, v, tree, self_loop=self_loop).flatten(1)
    assert_close(conv(x, tree), expected + conv.bias)


def test_heads_are_averaged_without_concat():
    tree = index()
    x = features(tree)
    joined, averaged = layer(6, 4, 3, bias=False), layer(6, 4, 3, concat=False, bias=False)
    averaged.load_state_dict(joined.state_dict())
    assert_close(averaged(x, tree), joined(x, tree).view(-1, 3, 4).mean(1))


def test_a_star_is_a_transformer_layer():
    x = features(TreeIndex.from_parent(star(8)))
    conv = layer(6, 4, heads=2)
    q, k, v = (
        lin(x).view(-1, 2, 4).transpose(0, 1)
        for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    )
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert_close(conv(x, star(8)), expected.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("backend", ["scatter", "reference"])
def test_backends_agree(backend):
    tree = index("forest")
    x = features(tree).double()
    mass, pos = attention_inputs(tree, mass="zeros")["mass"], torch.rand(tree.num_nodes, 2).double()
    options = {"qk_norm": "rms_norm", "pos_dim": 2, "num_levels": 2, "residual": True}
    conv = layer(6, 4, 2, **options).double()
    other = layer(6, 4, 2, **options, backend=backend).double()
    other.load_state_dict(conv.state_dict())
    assert_close(other(x, tree, mass=mass, tree_pos=pos), conv(x, tree, mass=mass, tree_pos=pos))


def test_in_channels_of_minus_one_are_taken_from_the_first_input():
    tree, x = index(), features(index())
    conv = layer(-1, 4, heads=2, residual=True)
    assert conv(x, tree).shape == (tree.num_leaves, 8)
    for lin in (conv.lin_query, conv.lin_key, conv.lin_value, conv.lin_residual):
        assert lin.weight.shape == (8, 6)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        conv(features(tree, 7), tree)


def test_layer_norm_makes_the_dot_product_the_distance_of_the_paper():
    # ½‖q − k‖² = const − q·k where all norms agree; over siblings of leaves the constant cancels.
    x = features(TreeIndex.from_parent(star(8)))
    conv = layer(6, 4, qk_norm="layer_norm", bias=False)
    _, theta = conv(x, star(8), return_attention_weights=True)
    q, k = (torch.nn.functional.layer_norm(lin(x), (4,)) for lin in (conv.lin_query, conv.lin_key))
    # LayerNorm's epsilon leaves the norms a little different.
    distance = torch.cdist(q, k).square() / 2
    assert_close(theta[0], (-distance / 4**0.5).softmax(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("qk_norm", ["layer_norm", "rms_norm"])
def test_normalised_queries_and_keys_do_not_feel_the_size_of_their_weights(qk_norm):
    tree, x = index(), features(index())
    conv = layer(6, 4, heads=2, qk_norm=qk_norm)
    _, before = conv(x, tree, return_attention_weights=True)
    with torch.no_grad():
        for lin in (conv.lin_query, conv.lin_key):
            lin.weight *= 50
            lin.bias *= 50
    _, after = conv(x, tree, return_attention_weights=True)
    assert_close(after, before, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("qk_norm, learned", [(None, 0), ("layer_norm", 0), ("rms_norm", 2)])
def test_only_rms_norm_has_gains(qk_norm, learned):
    names = [n for n, _ in layer(6, 4, qk_norm=qk_norm).named_parameters() if "norm" in n]
    assert len(names) == learned


def test_positions_enter_as_a_linear_map_on_both_sides():
    tree, x = index(), features(index())
    conv = layer(6, 4, heads=2, pos_dim=3, bias=False)
    pos = torch.randn(tree.num_nodes, 3)
    q, k, v = (lin(x).view(-1, 2, 4) for lin in (conv.lin_query, conv.lin_key, conv.lin_value))
    eps = (pos @ conv.lin_pos.weight.T).view(-1, 2, 4)
    expected = hierarchical_attention(q, k, v, tree, pos_q=eps, pos_k=eps).flatten(1)
    assert_close(conv(x, tree, tree_pos=pos), expected)
    assert not torch.allclose(conv(x, tree, tree_pos=0 * pos), expected)


def test_positions_may_have_a_width_of_their_own():
    tree, x = index(), features(index())
    conv = layer(6, 4, heads=2, pos_dim=3, pos_channels=5, bias=False)
    pos = torch.randn(tree.num_nodes, 3)
    q, k, v = (lin(x).view(-1, 2, 4) for lin in (conv.lin_query, conv.lin_key, conv.lin_value))
    eps = (pos @ conv.lin_pos.weight.T).view(-1, 2, 5)
    expected = hierarchical_attention(q, k, v, tree, pos_q=eps, pos_k=eps).flatten(1)
    assert_close(conv(x, tree, tree_pos=pos), expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_types_have_maps_of_their_own(dtype):
    tree, x = index("forest"), features(index("forest"))
    conv = layer(6, 4, heads=2, num_types=4, bias=False)  # no leaf is of type 2
    leaf_type = torch.tensor([0, 1, 3] * 5)
    lins = (conv.lin_query, conv.lin_key, conv.lin_value)
    q, k, v = (
        torch.stack(
            [row @ lin.weight[t] + lin.bias[t] for row, t in zip(x, leaf_type, strict=True)]
        ).view(-1, 2, 4)
        for lin in lins
    )
    expected = hierarchical_attention(q, k, v, tree).flatten(1)
    out = conv(x, tree, leaf_type=leaf_type.to(dtype))
    assert_close(out, expected)
    out.square().sum().backward()
    for lin in lins:
        assert lin.weight.grad[[0, 1, 3]].flatten(1).any(1).all()
        assert not lin.weight.grad[2].any()
    assert_isolated(lambda x: conv(x, tree, leaf_type=leaf_type), tree, x)


def test_gradients_of_typed_maps_are_right_to_second_order():
    tree = TreeIndex.from_parent(star(3))
    conv = layer(2, 2, num_types=3).double()
    x, leaf_type = features(tree, 2).double().requires_grad_(), torch.tensor([1, 0, 1])

    def function(x):
        return conv(x, tree, leaf_type=leaf_type)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)
    (expected,) = torch.autograd.grad(function(x).square().sum(), x)
    assert_close(torch.func.grad(lambda x: function(x).square().sum())(x), expected)


def test_widths_of_types_are_taken_from_the_first_input():
    tree, x = index(), features(index())
    conv, known = layer(-1, 4, num_types=2), layer(6, 4, num_types=2)
    leaf_type = torch.tensor([0, 1, 1, 0, 1])
    assert conv(x, tree, leaf_type=leaf_type).shape == (5, 4)
    known.load_state_dict(conv.state_dict())
    assert_close(known(x, tree, leaf_type=leaf_type), conv(x, tree, leaf_type=leaf_type))


@pytest.mark.parametrize("self_loop", [True, False])
def test_entmax_gives_what_its_weights_say(self_loop):
    tree, x = index("forest"), 3 * features(index("forest"))
    conv = layer(6, 4, 2, attention="entmax15", self_loop=self_loop, num_levels=2, pos_dim=1)
    options = {"mass": torch.rand(tree.num_leaves), "tree_pos": torch.randn(tree.num_nodes, 1)}
    options["mass"][2] = 0
    out, theta = conv(x, tree, **options, return_attention_weights=True)
    assert_rows_sum_to_one(theta, tree, mass=options["mass"], self_loop=self_loop)
    assert torch.equal(out, conv(x, tree, **options))
    heads = torch.einsum("hij,jhd->ihd", theta, conv.lin_value(x).view(-1, 2, 4))
    assert_close(out, heads.flatten(1) + conv.bias)
    softmax = layer(6, 4, 2, self_loop=self_loop, num_levels=2, pos_dim=1)
    softmax.load_state_dict(conv.state_dict())
    _, dense = softmax(x, tree, **options, return_attention_weights=True)
    assert (theta == 0).sum() > (dense == 0).sum()
    assert_isolated(lambda x: conv(x, tree, **options), tree, x)


@pytest.mark.parametrize("num_levels", [1, 2, 9])
def test_level_parameters_change_nothing_at_first(num_levels):
    tree, x = index(), features(index())
    plain, levels = layer(6, 4, 2), layer(6, 4, 2, num_levels=num_levels)
    missing = levels.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["level_temperature", "level_bias"]
    assert_close(levels(x, tree), plain(x, tree))


def test_level_parameters_are_those_of_each_node_s_level_and_the_last_is_shared():
    tree, x = index(), features(index())
    conv = layer(6, 4, heads=2, num_levels=3, bias=False)
    with torch.no_grad():
        conv.level_temperature.uniform_(0.5, 2)
        conv.level_bias.normal_()
    q, k, v = (lin(x).view(-1, 2, 4) for lin in (conv.lin_query, conv.lin_key, conv.lin_value))
    level = torch.zeros(tree.num_nodes, dtype=torch.long)
    for node in range(tree.num_nodes):
        up = node
        while tree.parent[up] != up:
            up = int(tree.parent[up])
            level[node] += 1
    assert int(level.max()) == 3
    shared = level.clamp(max=2)
    expected = hierarchical_attention(
        q, k, v, tree,
        temperature=conv.level_temperature[shared], bias=conv.level_bias[shared],
    )  # fmt: skip
    out = conv(x, tree)
    assert_close(out, expected.flatten(1))
    out.sum().backward()
    for level_parameter in (conv.level_temperature, conv.level_bias):
        assert level_parameter.grad[1:].ne(0).all()


def test_residual_adds_a_linear_map_of_the_input():
    tree, x = index(), features(index())
    plain, residual = layer(6, 4, 2), layer(6, 4, 2, residual=True)
    missing = residual.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["lin_residual.weight"]
    added = x @ residual.lin_residual.weight.T
    assert_close(residual(x, tree), plain(x, tree) + added)


@pytest.mark.parametrize("concat", [True, False])
def test_residual_and_bias_have_the_width_of_the_output(concat):
    tree, x = index(), features(index())
    conv = layer(6, 4, 2, concat, residual=True)
    width = 8 if concat else 4
    assert conv.bias.shape == (width,) and conv.lin_residual.weight.shape == (width, 6)
    assert conv(x, tree).shape == (tree.num_leaves, width)


def test_without_bias_there_is_none():
    conv = layer(6, 4, bias=False)
    assert conv.bias is None
    assert "bias" not in dict(conv.named_parameters())


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("concat", [True, False])
def test_returned_attention_weights_reproduce_the_output(concat, self_loop):
    tree, x = index("forest"), features(index("forest"))
    conv = layer(6, 4, 2, concat, self_loop=self_loop, num_levels=2, pos_dim=1)
    options = {
        "mass": torch.rand(tree.num_leaves),
        "tree_pos": torch.randn(tree.num_nodes, 1),
    }
    options["mass"][2] = 0
    out, theta = conv(x, tree, **options, return_attention_weights=True)
    assert torch.equal(out, conv(x, tree, **options))
    assert theta.shape == (2, tree.num_leaves, tree.num_leaves)
    assert_rows_sum_to_one(theta, tree, mass=options["mass"], self_loop=self_loop)
    heads = torch.einsum("hij,jhd->ihd", theta, conv.lin_value(x).view(-1, 2, 4))
    expected = heads.flatten(1) if concat else heads.mean(1)
    assert_close(out, expected + conv.bias)


def test_a_parent_vector_and_its_index_give_the_same():
    tree, x = index("shuffled_forest"), features(index("shuffled_forest"))
    conv = layer(6, 4, num_levels=2)
    assert torch.equal(conv(x, zoo("shuffled_forest")), conv(x, tree))


def test_padding_of_mass_zero_changes_no_other_row():
    tree, x = index(), features(index())
    conv = layer(6, 4, heads=2)
    mass = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0])
    real = mass > 0
    out = conv(x, tree, mass=mass)
    changed = torch.where(real.unsqueeze(1), x, 100.0)
    assert torch.equal(conv(changed, tree, mass=mass)[real], out[real])
    assert not torch.equal(out, conv(x, tree))


def test_no_sample_of_a_batch_notices_the_others():
    tree = index("forest")
    conv = layer(6, 4, heads=2, num_levels=2, qk_norm="rms_norm", residual=True)
    assert_isolated(lambda x: conv(x, tree), tree, features(tree))


# --- as a module ---------------------------------------------------------------------------------


def test_dropout_acts_in_training_alone():
    tree, x = index(), features(index())
    conv, plain = layer(6, 4, dropout=0.5), layer(6, 4)
    plain.load_state_dict(conv.state_dict())
    conv.train()
    torch.manual_seed(1)
    first = conv(x, tree)
    assert not torch.equal(first, conv(x, tree))
    torch.manual_seed(1)
    assert torch.equal(first, conv(x, tree))
    conv.eval()
    assert torch.equal(conv(x, tree), plain(x, tree))


def test_attention_weights_are_returned_without_dropout():
    tree, x = index(), features(index())
    conv = layer(6, 4, dropout=0.5)
    _, theta = conv(x, tree, return_attention_weights=True)
    assert_rows_sum_to_one(theta, tree)


def test_reset_draws_weights_anew_and_sets_the_rest_back():
    conv = layer(6, 4, 2, num_levels=2, qk_norm="rms_norm", pos_dim=2, residual=True)
    fresh = copy.deepcopy(conv.state_dict())
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.fill_(7.0)
    conv.reset_parameters()
    for name, parameter in conv.named_parameters():
        assert not (parameter == 7.0).any(), name
        drawn = name.endswith("weight") and "norm" not in name
        assert drawn or name.startswith("lin_") or torch.equal(parameter, fresh[name]), name
    torch.manual_seed(3)
    conv.reset_parameters()
    once = copy.deepcopy(conv.state_dict())
    torch.manual_seed(3)
    conv.reset_parameters()
    assert_close(dict(conv.state_dict()), dict(once), rtol=0, atol=0)


@pytest.mark.parametrize("in_channels", [6, -1])
def test_a_state_dict_goes_into_another_layer(in_channels):
    tree, x = index(), features(index())
    options = {"num_levels": 2, "qk_norm": "rms_norm", "residual": True}
    conv = layer(6, 4, 2, **options)
    other = layer(in_channels, 4, 2, seed=1, **options)
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x, tree), conv(x, tree))


@pytest.mark.parametrize("in_channels", [6, -1])
def test_a_deep_copy_is_equal_and_its_own(in_channels):
    tree, x = index(), features(index())
    conv = layer(in_channels, 4, 2, num_levels=2)
    twin = copy.deepcopy(conv)
    conv(x, tree), twin(x, tree)  # lazy layers draw their weights here
    twin.load_state_dict(conv.state_dict())
    assert torch.equal(twin(x, tree), conv(x, tree))
    with torch.no_grad():
        twin.lin_value.weight.zero_()
    assert not torch.equal(twin(x, tree), conv(x, tree))


def test_repr_names_channels_and_heads():
    assert repr(HierarchicalAttentionConv(16, 8, heads=4)) == (
        "HierarchicalAttentionConv(16, 8, heads=4)"
    )


def test_it_is_part_of_a_pyg_sequential():
    tree, x = index(), features(index())
    model = Sequential(
        "x, tree, mass",
        [
            (layer(6, 4, heads=2), "x, tree, mass=mass -> x"),
            torch.nn.ReLU(),
            (layer(8, 3), "x, tree -> x"),
        ],
    )
    mass = torch.rand(tree.num_leaves)
    expected = model[2](model[0](x, tree, mass=mass).relu(), tree)
    assert torch.equal(model(x, tree, mass), expected)


def test_pyg_summarises_it():
    tree, x = index(), features(index())
    model = Sequential("x, tree", [(layer(6, 4, heads=2), "x, tree -> x"), torch.nn.ReLU()])
    text = summary(model, x, tree)
    assert "HierarchicalAttentionConv" in text
    # Three maps of 6 × 8 with bias, and a bias.
    assert f"[{tree.num_leaves}, 8]" in text and "176" in text


def test_it_trains_stacked_with_gat_and_gin():
    torch.manual_seed(0)
    tree = TreeIndex.from_parent(random_parent(120, num_trees=4, seed=1))
    num_leaves = tree.num_leaves
    x = torch.randn(num_leaves, 8)
    edge_index = torch.randint(num_leaves, (2, 3 * num_leaves))
    target = (x.cumsum(0)[:, :1] / 5).tanh()
    mlp = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))
    model = Sequential(
        "x, edge_index, tree",
        [
            (GATConv(8, 8, heads=2), "x, edge_index -> x"),
            (HierarchicalAttentionConv(-1, 8, heads=2, residual=True), "x, tree -> x"),
            torch.nn.ReLU(),
            (GINConv(mlp), "x, edge_index -> x"),
            (HierarchicalAttentionConv(16, 1, residual=True), "x, tree -> x"),
        ],
    )
    model(x, edge_index, tree)  # lazy weights
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = (model(x, edge_index, tree) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_has_a_gradient():
    tree, x = index(), features(index())
    conv = layer(6, 4, 2, num_levels=2, qk_norm="rms_norm", pos_dim=2, residual=True)
    out = conv(x, tree, tree_pos=torch.randn(tree.num_nodes, 2))
    out.square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("dynamic", [None, True])
def test_it_compiles_to_one_graph(dynamic):
    torch._dynamo.reset()
    tree, x = index("forest"), features(index("forest"))
    conv = layer(6, 4, 2, num_levels=2, qk_norm="rms_norm", pos_dim=1, residual=True)
    arguments = {"mass": torch.rand(tree.num_leaves), "tree_pos": torch.rand(tree.num_nodes, 1)}
    expected = conv(x, tree, **arguments)
    expected.square().sum().backward()
    grads = [p.grad.clone() for p in conv.parameters()]
    conv.zero_grad()
    compiled = torch.compile(conv, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    out = compiled(x, tree, **arguments)
    out.square().sum().backward()
    assert_close(out, expected)
    assert_close([p.grad for p in conv.parameters()], grads)
    torch._dynamo.reset()


@pytest.mark.parametrize("qk_norm", [None, "layer_norm", "rms_norm"])
def test_it_trains_under_autocast(qk_norm):
    tree, x = index("forest"), features(index("forest"))
    conv = layer(6, 4, 2, qk_norm=qk_norm, num_levels=2, pos_dim=1, residual=True)
    pos = torch.rand(tree.num_nodes, 1)
    expected = conv(x, tree, tree_pos=pos)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x, tree, tree_pos=pos)
    assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    out.float().square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_runs_in_other_dtypes(dtype):
    tree, x = index(), features(index())
    conv = layer(6, 4, 2, qk_norm="rms_norm", num_levels=2)
    out = copy.deepcopy(conv).to(dtype)(x.to(dtype), tree)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float64 else 0.05
    assert_close(out.float(), conv(x, tree), rtol=tolerance, atol=tolerance)


def test_the_input_is_not_changed_in_place():
    tree, x = index(), features(index())
    before, version = x.clone(), x._version
    layer(6, 4, residual=True)(x, tree).sum().backward()
    assert torch.equal(x, before) and x._version == version


def test_a_deep_tree_runs():
    tree = TreeIndex.from_parent(random_parent(800, reach=2, seed=1))
    assert tree.depth > 300
    conv = layer(6, 4, num_levels=3)
    out = conv(features(tree), tree)
    out.sum().backward()
    assert out.isfinite().all() and conv.lin_query.weight.grad.isfinite().all()


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, options, message",
    [
        (
            (6, 4),
            {"qk_norm": "batch_norm"},
            "Expected 'qk_norm' to be one of [None, 'layer_norm', 'rms_norm'] (got 'batch_norm')",
        ),
        ((6, 0), {}, "Expected 'out_channels' to be positive (got 0)"),
        ((6, 4, 0), {}, "Expected 'heads' to be positive (got 0)"),
        ((6, 4), {"dropout": 1.5}, "Expected 'dropout' to be in [0, 1] (got 1.5)"),
        ((6, 4), {"num_levels": 0}, "Expected 'num_levels' to be positive (got 0)"),
        ((6, 4), {"num_types": 0}, "Expected 'num_types' to be positive (got 0)"),
        ((6, 4), {"pos_channels": 0}, "Expected 'pos_channels' to be positive (got 0)"),
        ((6, 4), {"attention": "max"}, "one of ['softmax', 'entmax15'] (got 'max')"),
        (
            (6, 4),
            {"attention": "entmax15", "backend": "cpu"},
            "'auto' or 'scatter' with attention='entmax15', which is plain tensor code (got 'cpu')",
        ),
    ],
)
def test_bad_options_are_named(args, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HierarchicalAttentionConv(*args, **options)


def test_options_are_keyword_only():
    with pytest.raises(TypeError, match="positional arguments"):
        HierarchicalAttentionConv(6, 4, 1, True, True)
    with pytest.raises(TypeError, match="takes 3 positional arguments"):
        layer(6, 4)(torch.ones(2, 6), star(2), torch.ones(2))


@pytest.mark.parametrize(
    "options, arguments, error, message",
    [
        ({}, {"x": [1.0]}, TypeError, "Expected 'x' to be a tensor (got list)"),
        (
            {},
            {"x": torch.ones(3, 6).long()},
            TypeError,
            "Expected 'x' to hold floating-point numbers (got torch.int64)",
        ),
        (
            {},
            {"x": torch.ones(3)},
            ValueError,
            "Expected 'x' to have 2 dimensions (got 1 dimensions)",
        ),
        (
            {},
            {"x": torch.ones(4, 6)},
            ValueError,
            "Expected 'x' to have one row for each of the 3 leaves (got 4 rows)",
        ),
        ({}, {"x": torch.ones(3, 5)}, ValueError, "Expected 'x' to have 6 channels (got 5)"),
        (
            {},
            {"tree": None},
            TypeError,
            "Expected 'tree' to be a TreeIndex or a parent vector (got NoneType)",
        ),
        ({}, {"tree": torch.tensor([1, 0])}, ValueError, "got a cycle above node 0"),
        (
            {},
            {"mass": torch.ones(4)},
            ValueError,
            "Expected 'mass' to have one row for each of the 3 leaves (got 4 rows)",
        ),
        (
            {},
            {"mass": -torch.ones(3)},
            ValueError,
            "Expected 'mass' to be finite and not negative (got mass[0] = -1.0)",
        ),
        (
            {},
            {"tree_pos": torch.ones(4, 2)},
            ValueError,
            "Expected no 'tree_pos' in a layer whose 'pos_dim' is None",
        ),
        ({"pos_dim": 2}, {}, ValueError, "Expected 'tree_pos' with 2 columns (got None)"),
        (
            {},
            {"leaf_type": torch.zeros(3).long()},
            ValueError,
            "Expected no 'leaf_type' in a layer whose 'num_types' is None",
        ),
        (
            {"num_types": 2},
            {},
            ValueError,
            "Expected 'leaf_type' to have one entry for each of the 3 leaves (got None)",
        ),
        (
            {"num_types": 2},
            {"leaf_type": torch.zeros(4).long()},
            ValueError,
            "one entry for each of the 3 leaves (got [4])",
        ),
        (
            {"num_types": 2},
            {"leaf_type": torch.zeros(3)},
            TypeError,
            "Expected 'leaf_type' to hold integers (got torch.float32)",
        ),
        (
            {"num_types": 2},
            {"leaf_type": torch.tensor([0, 2, 1])},
            ValueError,
            "Expected 'leaf_type' to hold types in [0, 1] (got leaf_type[1] = 2)",
        ),
        (
            {"pos_dim": 2},
            {"tree_pos": torch.ones(4)},
            ValueError,
            "Expected 'tree_pos' to have 2 dimensions (got 1 dimensions)",
        ),
        (
            {"pos_dim": 2},
            {"tree_pos": torch.ones(3, 2)},
            ValueError,
            "Expected 'tree_pos' to have one row for each of the 4 tree nodes (got 3 rows)",
        ),
        (
            {"pos_dim": 2},
            {"tree_pos": torch.ones(4, 3)},
            ValueError,
            "Expected 'tree_pos' to have 2 columns (got 3)",
        ),
        (
            {"backend": "fast"},
            {},
            ValueError,
            "Expected 'backend' to be one of ['auto', 'reference', 'scatter', 'cpu', 'triton'] "
            "(got 'fast')",
        ),
    ],
)
def test_bad_input_is_named(options, arguments, error, message):
    conv = HierarchicalAttentionConv(6, 4, **options)
    with pytest.raises(error, match=re.escape(message)):
        conv(**({"x": torch.ones(3, 6), "tree": star(3)} | arguments))


def test_good_input_passes():
    out = HierarchicalAttentionConv(6, 4)(torch.ones(9, 6), balanced(3, 2))
    assert out.shape == (9, 4)
