import re

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.loader import DataLoader
from torch_geometric.nn import Sequential

from hsa_geometric import TreeIndex
from hsa_geometric.builders import from_parent
from hsa_geometric.functional import clusters_at
from hsa_geometric.functional.pool import pool
from hsa_geometric.nn import HierarchicalAttentionConv
from hsa_geometric.nn.pool import HierarchyPooling, HierarchyUnpooling
from hsa_geometric.testing import ZOO, assert_isolated, star, zoo


def features(tree, channels=6, seed=0):
    rows = TreeIndex.from_parent(tree).num_leaves
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_it_is_the_function(reduce):
    tree = zoo("binary")
    x, mass = features(tree), features(tree)[:, 0].abs()
    layer = HierarchyPooling(-2, reduce)
    assert torch.equal(layer(x, tree, mass=mass), pool(x, tree, -2, reduce=reduce, mass=mass))
    middle = layer(x, tree)
    again = HierarchyPooling(-3, reduce, from_level=-2)(middle, tree)
    assert torch.equal(again, pool(middle, tree, -3, from_level=-2, reduce=reduce))
    assert not list(layer.parameters())


@pytest.mark.parametrize("in_channels", [6, -1])
def test_attention_weighs_the_channels_of_each_head(in_channels):
    torch.manual_seed(0)
    tree = zoo("two_levels")
    x, mass = features(tree), features(tree)[:, 0].abs()
    layer = HierarchyPooling(1, "attention", in_channels=in_channels, heads=2)
    out = layer(x, tree, mass=mass)
    score = x @ layer.lin_score.weight.T + layer.lin_score.bias + mass.log().unsqueeze(1)
    for k in range(3):
        mine = clusters_at(tree, 1).cluster == k
        weight = score[mine].softmax(0)
        expected = [weight[:, h] @ x[mine][:, 3 * h : 3 * h + 3] for h in range(2)]
        assert_close(out[k], torch.cat(expected))
    out.square().sum().backward()
    assert layer.lin_score.weight.grad.ne(0).all()


@pytest.mark.parametrize("name", ZOO)
def test_unpooling_brings_every_leaf_back(name):
    tree = zoo(name)
    x = features(tree)
    for level in (-2, 1):
        down = HierarchyPooling(level, "attention", in_channels=6)(x, tree)
        assert HierarchyUnpooling(level)(down, tree).shape == x.shape
        assert_close(HierarchyPooling(level)(HierarchyUnpooling(level)(down, tree), tree), down)


def test_between_levels():
    tree = zoo("two_levels")
    x = HierarchyPooling(0)(features(tree), tree)
    out = HierarchyUnpooling(level=0, to_level=1)(x, tree)
    assert torch.equal(out, x.expand(3, 6))


def test_they_are_part_of_a_pyg_sequential():
    torch.manual_seed(0)
    tree = zoo("forest")
    x = features(tree)
    model = Sequential(
        "x, tree, mass",
        [
            (HierarchicalAttentionConv(6, 8), "x, tree -> skip"),
            (
                HierarchyPooling(-2, "attention", in_channels=8, heads=4),
                "skip, tree, mass=mass -> x",
            ),
            torch.nn.Linear(8, 8),
            torch.nn.ReLU(),
            (HierarchyUnpooling(-2), "x, tree -> x"),
            (lambda x, skip: x + skip, "x, skip -> x"),
        ],
    )
    mass = torch.rand(len(x))
    out = model(x, TreeIndex.from_parent(tree), mass)
    skip = model[0](x, tree)
    lifted = model[4](model[2](model[1](skip, tree, mass=mass)).relu(), tree)
    assert_close(out, skip + lifted)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_loader_of_different_depths_pools_as_its_samples_do():
    torch.manual_seed(0)
    data_list = [from_parent(zoo(name), x=features(zoo(name))) for name in ZOO]
    down = HierarchyPooling(-2, "attention", in_channels=6)
    up = HierarchyUnpooling(-2)
    batch = next(iter(DataLoader(data_list, batch_size=len(ZOO), follow_batch=["x"])))
    expected = [up(down(h.x, h.tree), h.tree) for h in data_list]
    assert_close(up(down(batch.x, batch.tree), batch.tree), torch.cat(expected))


def test_no_sample_of_a_batch_notices_the_others():
    torch.manual_seed(0)
    tree = TreeIndex.from_parent(zoo("forest"))
    down, up = HierarchyPooling(-2, "attention", in_channels=6), HierarchyUnpooling(-2)
    assert_isolated(lambda x: up(down(x, tree), tree), tree, features(zoo("forest")))


def test_bfloat16_stays_and_follows_float32():
    torch.manual_seed(0)
    tree, layer = zoo("ragged"), HierarchyPooling(-2, "attention", in_channels=6, heads=3)
    x = features(tree)
    expected = layer(x, tree)
    out = layer.bfloat16()(x.bfloat16(), tree)
    assert out.dtype == torch.bfloat16
    assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_reset_draws_weights_anew():
    layer = HierarchyPooling(1, "attention", in_channels=6)
    with torch.no_grad():
        layer.lin_score.weight.fill_(7.0)
    layer.reset_parameters()
    assert not (layer.lin_score.weight == 7.0).any()
    HierarchyPooling(1).reset_parameters()  # has none


def test_repr_names_level_and_reduction():
    assert repr(HierarchyPooling(-2)) == "HierarchyPooling(level=-2, reduce='mean')"
    assert repr(HierarchyUnpooling(-2)) == "HierarchyUnpooling(level=-2)"
    assert repr(HierarchyUnpooling(-3, -2)) == "HierarchyUnpooling(level=-3, to_level=-2)"


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((1, "min"), {}, "Expected 'reduce' to be one of ['mean', 'sum', 'max', 'attention']"),
        ((1, "attention"), {}, "Expected 'in_channels' for reduce='attention' (got None)"),
        (
            (1,),
            {"in_channels": 6},
            "Expected 'in_channels' and 'heads' for reduce='attention' only (got reduce='mean')",
        ),
        ((1, "sum"), {"heads": 2}, "for reduce='attention' only (got reduce='sum')"),
        ((1, "attention"), {"in_channels": 6, "heads": 0}, "'heads' to be positive (got 0)"),
        (
            (1, "attention"),
            {"in_channels": 6, "heads": 4},
            "Expected 'in_channels' to be a multiple of 'heads', 4 (got 6)",
        ),
    ],
)
def test_bad_options_are_named(args, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HierarchyPooling(*args, **options)


def test_bad_input_is_named():
    layer = HierarchyPooling(0, "attention", in_channels=6)
    with pytest.raises(ValueError, match=r"'x' to have 6 channels \(got 5\)"):
        layer(torch.ones(3, 5), star(3))
    with pytest.raises(ValueError, match=r"'x' to have 2 dimensions \(got 3 dimensions\)"):
        layer(torch.ones(3, 6, 1), star(3))
    with pytest.raises(ValueError, match=r"'in_channels' to be a multiple of 'heads', 2 \(got 5\)"):
        HierarchyPooling(0, "attention", in_channels=-1, heads=2)(torch.ones(3, 5), star(3))
    with pytest.raises(ValueError, match=r"'x' to have one row for each of the 3 leaves"):
        HierarchyPooling(0)(torch.ones(4, 6), star(3))
    with pytest.raises(ValueError, match=r"'x' .* the 1 clusters at level 0 \(got 3 rows\)"):
        HierarchyUnpooling(0)(torch.ones(3, 6), star(3))
