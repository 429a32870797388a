import copy
import re

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MLP, GATConv, GCNConv, GINConv, GraphNorm, Sequential

from hsa_geometric import TreeIndex
from hsa_geometric.builders import from_parent
from hsa_geometric.data.coarsen import coarsen
from hsa_geometric.nn.models import HierarchicalUNet
from hsa_geometric.testing import (
    ZOO,
    assert_isolated,
    balanced,
    forest,
    random_parent,
    renumber,
    star,
    zoo,
)


def graph(tree, channels=6, seed=0):
    """Features of the leaves, edges within each tree, and masses."""
    g = torch.Generator().manual_seed(seed)
    index = tree if isinstance(tree, TreeIndex) else TreeIndex.from_parent(tree)
    n = index.num_leaves
    root = index.parent
    while not torch.equal(root, root[root]):
        root = root[root]
    root = root[index.leaf_ids]
    edge_index = torch.randint(n, (2, 6 * n), generator=g)
    edge_index = edge_index[:, root[edge_index[0]] == root[edge_index[1]]]
    return torch.randn(n, channels, generator=g), edge_index, torch.rand(n, generator=g)


def unet(*args, seed=0, **options):
    torch.manual_seed(seed)
    return HierarchicalUNet(*args, **options).eval()


def gin(i, o):
    return GINConv(MLP([i, o, o], norm=None))


# --- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("conv", [None, GCNConv, gin, GATConv])
@pytest.mark.parametrize("sum_res", [True, False])
def test_output_has_a_row_for_each_leaf_of_any_tree(conv, sum_res):
    model = unet(6, 8, 3, conv=conv, sum_res=sum_res)
    for name in ZOO:
        tree = zoo(name)
        x, edge_index, mass = graph(tree)
        out = model(x, tree, None if conv is None else edge_index, mass=mass)
        assert out.shape == (len(x), 3) and out.isfinite().all()


@pytest.mark.parametrize("sum_res", [True, False])
def test_one_level_written_out(sum_res):
    # Down at the leaves, down at the clusters, up at the leaves, each attention + convolution.
    model = unet(6, 8, 3, levels=(-2,), conv=GCNConv, heads=2, sum_res=sum_res)
    tree = balanced(3, 2)
    cluster = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    x, edge_index, mass = graph(tree)
    h = from_parent(tree, x=x, edge_index=edge_index, mass=mass)

    def block(layer, x, data):
        weight = data.edge_weight if "edge_weight" in data else None
        out = layer.attn(x, data.tree, mass=data.mass)
        out = out + layer.conv(x, data.edge_index, weight)
        return torch.nn.functional.layer_norm(out, (8,)).relu()

    skip = h.x = block(model.down[0], x, h)
    coarse = coarsen(h, -2)
    below = block(model.down[1], coarse.x, coarse)[cluster]
    joined = skip + below if sum_res else torch.cat([skip, below], 1)
    expected = model.lin(block(model.up[0], joined, h))
    assert_close(model(x, tree, edge_index, mass=mass), expected)


def test_levels_are_those_of_coarsened_data():
    model = unet(6, 8, 3, levels=(-2, -3), conv=GCNConv)
    names = ["unequal_depths", "star", "one_node", "binary"]
    data_list = []
    for name in names:
        x, edge_index, mass = graph(zoo(name))
        data_list.append(from_parent(zoo(name), x=x, edge_index=edge_index, mass=mass))
    batch = Batch.from_data_list(data_list)
    weight = torch.rand(batch.num_edges)
    steps = model.precompute(batch.tree, batch.edge_index, weight, mass=batch.mass)
    batch.edge_weight = weight
    for level, step in zip((-1, -2, -3), steps, strict=True):
        expected = coarsen(batch, level) if level < -1 else batch
        assert step.tree.num_leaves == expected.num_nodes
        assert step.tree.num_nodes == expected.num_tree_nodes
        assert torch.equal(step.batch, expected.batch)
        assert torch.equal(step.edge_index, expected.edge_index)
        assert_close(step.edge_weight, expected.edge_weight)
        assert_close(step.mass, expected.mass)


def test_precomputed_levels_give_the_same():
    tree = zoo("forest")
    x, edge_index, mass = graph(tree)
    model = unet(6, 8, 3, conv=GCNConv)
    steps = model.precompute(tree, edge_index, mass=mass)
    assert torch.equal(model(x, steps), model(x, tree, edge_index, mass=mass))
    with pytest.raises(ValueError, match="Expected nothing beside a precomputed 'tree'"):
        model(x, steps, edge_index)
    with pytest.raises(ValueError, match=r"'tree' to hold 3 precomputed levels \(got 2\)"):
        model(x, steps[:2])


@pytest.mark.parametrize("name", ["unequal_depths", "ragged", "shuffled_forest"])
def test_it_is_equivariant_to_the_numbering_of_the_tree(name):
    tree = zoo(name)
    x, edge_index, mass = graph(tree)
    model = unet(6, 8, 3, conv=GCNConv).double()
    new_id = torch.randperm(tree.numel(), generator=torch.Generator().manual_seed(1))
    other, row = renumber(tree, new_id)
    y, weight = torch.empty_like(x), torch.empty_like(mass)
    y[row], weight[row] = x, mass
    out = model(x.double(), tree, edge_index, mass=mass)
    moved = model(y.double(), other, row[edge_index], mass=weight)
    assert_close(moved[row], out)


@pytest.mark.parametrize("options", [{"conv": GCNConv}, {"conv": gin, "norm": GraphNorm}])
def test_no_sample_of_a_batch_notices_the_others(options):
    tree = TreeIndex.from_parent(zoo("forest"))
    x, edge_index, mass = graph(tree)
    model = unet(6, 8, 3, **options)
    assert_isolated(lambda x: model(x, tree, edge_index, mass=mass), tree, x)


def test_a_loader_of_different_depths_gives_what_its_samples_give():
    model = unet(6, 8, 3, levels=(-2, -3, -4), conv=GCNConv, norm=GraphNorm)
    data_list = []
    for name in ZOO:
        x, edge_index, mass = graph(zoo(name))
        data_list.append(from_parent(zoo(name), x=x, edge_index=edge_index, mass=mass))
    loader = DataLoader(data_list, batch_size=len(ZOO), follow_batch=["x", "tree_pos"])
    batch = next(iter(loader))
    out = model(batch.x, batch.tree, batch.edge_index, mass=batch.mass, batch=batch.x_batch)
    expected = [
        model(h.x, h.tree, h.edge_index, mass=h.mass, batch=torch.zeros(h.num_nodes).long())
        for h in data_list
    ]
    assert_close(out, torch.cat(expected))


def test_padding_of_mass_zero_changes_no_other_row():
    tree = balanced(3, 2)
    x, _, mass = graph(tree)
    mass[[1, 3, 4, 5]] = 0
    real = mass > 0
    model = unet(6, 8, 3, levels=(-2,))
    out = model(x, tree, mass=mass)
    changed = torch.where(real.unsqueeze(1), x, 100.0)
    assert torch.equal(model(changed, tree, mass=mass)[real], out[real])
    assert not torch.equal(model(changed, tree)[real], model(x, tree)[real])


def test_information_crosses_the_tree():
    tree = balanced(2, 3)
    x, *_ = graph(tree)
    model = unet(6, 8, 1, levels=(-2, -3))
    x.requires_grad_()
    model(x, tree)[0].sum().backward()
    assert x.grad.abs().sum(1).gt(0).all()


def test_samples_may_be_forests():
    tree = forest(star(2), star(3), star(2))
    x, edge_index, _ = graph(tree)
    batch = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    model = unet(6, 8, 3, conv=GCNConv, norm=GraphNorm)
    steps = model.precompute(tree, edge_index, batch=batch)
    assert [step.batch.tolist() for step in steps] == [batch.tolist(), [0, 0, 1], [0, 0, 1]]
    assert not torch.equal(model(x, tree, edge_index, batch=batch), model(x, tree, edge_index))


# --- as a module ---------------------------------------------------------------------------------


def test_gradients():
    tree = zoo("unequal_depths")
    x, edge_index, mass = graph(tree, 2)
    model = unet(2, 2, 1, heads=1, conv=GCNConv, act="tanh", norm=None).double()
    torch.autograd.gradcheck(
        lambda x: model(x, tree, edge_index, mass=mass), x.double().requires_grad_()
    )


def test_every_parameter_has_a_gradient_and_reset_draws_them_anew():
    tree = zoo("binary")
    x, edge_index, mass = graph(tree)
    model = unet(6, 8, 3, conv=gin, sum_res=False, attn_kwargs={"qk_norm": "rms_norm"})
    model(x, tree, edge_index, mass=mass).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert sum(p.grad.any() for p in model.parameters()) > 0.9 * len(list(model.parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    model.reset_parameters()
    for name, parameter in model.named_parameters():
        assert not (parameter == 7.0).any(), name


def test_channels_of_minus_one_are_taken_from_the_first_input():
    x, edge_index, _ = graph(zoo("binary"))
    model = unet(-1, 8, 3, conv=GCNConv)
    assert model(x, zoo("binary"), edge_index).shape == (8, 3)
    assert model.down[0].attn.lin_query.weight.shape == (8, 6)


def test_it_is_part_of_a_pyg_sequential():
    tree = zoo("binary")
    x, edge_index, _ = graph(tree)
    inner = unet(8, 8, 8, conv=GCNConv)
    model = Sequential(
        "x, edge_index, tree",
        [
            (GCNConv(6, 8), "x, edge_index -> x"),
            (inner, "x, tree, edge_index -> x"),
            torch.nn.Linear(8, 2),
        ],
    )
    expected = model[2](inner(model[0](x, edge_index), tree, edge_index))
    assert torch.equal(model(x, edge_index, tree), expected)


def test_dropout_acts_in_training_alone():
    tree = zoo("binary")
    x, *_ = graph(tree)
    model, plain = unet(6, 8, 3, dropout=0.5), unet(6, 8, 3)
    assert torch.equal(model(x, tree), plain(x, tree))
    model.train()
    assert not torch.equal(model(x, tree), model(x, tree))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_runs_in_other_dtypes(dtype):
    tree = zoo("forest")
    x, edge_index, mass = graph(tree)
    model = unet(6, 8, 3, conv=GCNConv)
    out = copy.deepcopy(model).to(dtype)(x.to(dtype), tree, edge_index, mass=mass)
    assert out.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    expected = model(x, tree, edge_index, mass=mass)
    assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)


def test_it_trains_under_autocast():
    tree = zoo("forest")
    x, edge_index, mass = graph(tree)
    model = unet(6, 8, 3, conv=GCNConv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x, tree, edge_index, mass=mass)
    out.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


def test_it_learns_a_field_that_is_smooth_over_the_tree():
    torch.manual_seed(0)
    tree = TreeIndex.from_parent(random_parent(150, num_trees=3, seed=1))
    x, edge_index, _ = graph(tree)
    model = HierarchicalUNet(6, 16, 1, conv=GCNConv)
    steps = model.precompute(tree, edge_index)
    top = steps[-1].cluster[steps[1].cluster]
    target = x.new_zeros(steps[-1].tree.num_leaves).index_add(0, top, x[:, 0]).tanh()[top]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = (model(x, steps).view(-1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_repr_names_channels_levels_and_heads():
    assert repr(HierarchicalUNet(16, 32, 3)) == (
        "HierarchicalUNet(16, 32, 3, levels=(-2, -3), heads=4)"
    )


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((6, 8, 3, ()), {}, ValueError, "Expected 'levels' to hold at least one level (got none)"),
        ((6, 8, 3, (1.0,)), {}, TypeError, "Expected 'levels[0]' to be an integer (got float)"),
        ((6, 8, 3, (-3, -2)), {}, ValueError, "coarser than the one before"),
        ((6, 8, 3, (1, 1)), {}, ValueError, "(got 1 after 1)"),
        ((6, 8, 3, (-1,)), {}, ValueError, "(got -1 after -1)"),
        ((6, 9, 3), {}, ValueError, "'hidden_channels' to be a multiple of 'heads', 4 (got 9)"),
        ((6, 8, 0), {}, ValueError, "Expected 'out_channels' to be positive (got 0)"),
        ((6, 8, 3), {"heads": 0}, ValueError, "Expected 'heads' to be positive (got 0)"),
        ((6, 8, 3), {"dropout": 2.0}, ValueError, "Expected 'dropout' to be in [0, 1] (got 2.0)"),
    ],
)
def test_bad_options_are_named(args, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        HierarchicalUNet(*args, **options)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ({"conv": GCNConv}, {}, "Expected an 'edge_index' in a model with a 'conv' (got None)"),
        (
            {},
            {"edge_index": torch.zeros(2, 1).long()},
            "Expected no 'edge_index' in a model with no 'conv' (got a tensor)",
        ),
        ({}, {"edge_weight": torch.ones(1)}, "Expected 'edge_index' beside 'edge_weight'"),
        (
            {"conv": GCNConv},
            {"edge_index": [[0], [1]]},
            "Expected 'edge_index' to be a tensor on a whole tree (got list)",
        ),
        (
            {"conv": GCNConv},
            {"edge_index": torch.full((2, 1), 9)},
            "Expected 'edge_index' to hold node ids in [0, 8]",
        ),
        ({}, {"x": torch.ones(8, 6)}, "'x' to have one row for each of the 9 leaves (got 8 rows)"),
        ({}, {"mass": torch.ones(8)}, "'mass' to have one row for each of the 9 leaves"),
        ({}, {"batch": torch.zeros(8).long()}, "'batch' to have one entry for each of the 9"),
        ({"levels": (0,)}, {"batch": torch.arange(9)}, "Expected each tree to lie in one sample"),
    ],
)
def test_bad_input_is_named(model, arguments, message):
    model = HierarchicalUNet(6, 8, 3, **model)
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**({"x": torch.ones(9, 6), "tree": balanced(3, 2)} | arguments))


def test_levels_of_different_signs_may_cross():
    tree = forest(star(3), balanced(2, 3))
    x, *_ = graph(tree)
    model = HierarchicalUNet(6, 8, 3, levels=(-2, 1))
    with pytest.raises(ValueError, match="clusters of level -2 to lie within those of level 1"):
        model(x, tree)
