"""The layer in GraphGym, by its configuration."""

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.graphgym.config import cfg, set_cfg
from torch_geometric.graphgym.model_builder import create_model
from torch_geometric.graphgym.models.layer import GeneralLayer, LayerConfig
from torch_geometric.graphgym.register import layer_dict

from hsa_geometric.builders import from_parent, from_points
from hsa_geometric.graphgym import NAME, GraphGymAttention
from hsa_geometric.nn import HierarchicalAttentionConv


@pytest.fixture
def config():
    set_cfg(cfg)
    yield cfg
    set_cfg(cfg)


def sample(leaves, y):
    edge_index = torch.stack([torch.arange(leaves), torch.arange(leaves).roll(1)])
    return from_points(
        torch.rand(leaves, 3), x=torch.randn(leaves, 4), edge_index=edge_index, y=torch.tensor([y])
    )


def test_the_layer_is_registered_under_its_name():
    assert layer_dict[NAME] is GraphGymAttention


def test_it_computes_what_the_layer_computes(config):
    batch = Batch.from_data_list([sample(5, 0.0), sample(9, 1.0)])
    layer = GraphGymAttention(LayerConfig(dim_in=4, dim_out=6), heads=2)
    plain = HierarchicalAttentionConv(4, 3, 2)
    plain.load_state_dict(layer.model.state_dict())
    expected = plain(batch.x, batch.tree)
    torch.testing.assert_close(layer(batch).x, expected)


def test_masses_of_leaves_count(config):
    layer = GraphGymAttention(LayerConfig(dim_in=4, dim_out=4))
    x = torch.randn(3, 4)
    one = layer(from_parent([3, 3, 4, 4, 4], x=x, mass=[1.0, 1, 1])).x
    two = layer(from_parent([3, 3, 4, 4, 4], x=x, mass=[1.0, 5, 0])).x
    assert not torch.allclose(one, two)


def test_options_come_from_the_configuration(config):
    config.hierarchical_attention.heads = 2
    config.hierarchical_attention.qk_norm = "rms_norm"
    config.hierarchical_attention.num_levels = 3
    model = GraphGymAttention(LayerConfig(dim_in=4, dim_out=8)).model
    assert (model.heads, model.out_channels, model.qk_norm, model.num_levels) == (
        (2, 4, "rms_norm", 3)
    )


def test_a_model_of_graphgym_trains_with_it(config):
    config.merge_from_list(
        ["gnn.layer_type", NAME, "gnn.dim_inner", 8, "dataset.task", "graph", "share.dim_in", 4]
    )
    config.merge_from_list(["share.dim_out", 1, "share.num_splits", 1, "gnn.head", "graph"])
    model = create_model(to_device=False)
    batch = Batch.from_data_list([sample(5, 0.0), sample(9, 1.0)])
    prediction, truth = model(batch)
    assert prediction.shape[0] == 2
    (prediction.squeeze() - truth).square().mean().backward()
    of_layer = [p.grad for n, p in model.named_parameters() if "lin_query" in n]
    assert of_layer and all(grad.abs().sum() > 0 for grad in of_layer)


def test_graphgym_wraps_it_in_norm_and_activation(config):
    layer = GeneralLayer(NAME, LayerConfig(dim_in=4, dim_out=8, has_batchnorm=True))
    assert (layer(Batch.from_data_list([sample(5, 0.0), sample(9, 1.0)])).x >= 0).all()


def test_what_is_no_hierarchy_is_refused(config):
    layer = GraphGymAttention(LayerConfig(dim_in=4, dim_out=8))
    with pytest.raises(TypeError, match=r"'batch' to be a Hierarchy, made by a builder \(got Data"):
        layer(Data(x=torch.randn(3, 4)))


def test_heads_that_cannot_share_the_channels_are_refused(config):
    with pytest.raises(ValueError, match=r"'dim_out' to be a multiple of 3 heads \(got 8\)"):
        GraphGymAttention(LayerConfig(dim_in=4, dim_out=8), heads=3)
