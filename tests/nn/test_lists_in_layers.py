"""Layers with interaction lists."""

import pytest
import torch

from hsa_geometric import TreeIndex, from_sequence
from hsa_geometric.functional import CausalCache
from hsa_geometric.interactions import between, causal, siblings
from hsa_geometric.nn import HierarchicalAttentionConv, HierarchicalCrossAttention
from hsa_geometric.testing import balanced, forest, random_lists, random_parent, star

TREE = TreeIndex.from_parent(forest(balanced(2, 3), random_parent(12, seed=1)))
OTHER = TreeIndex.from_parent(forest(star(3), balanced(3, 2)))


def conv(**options):
    torch.manual_seed(0)
    return HierarchicalAttentionConv(6, 4, heads=2, **options).double()


def features(tree, channels=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tree.num_leaves, channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("lists", [random_lists(TREE, opened=0.6), causal(TREE, window=2)])
def test_the_layer_multiplies_its_matrix_with_the_values(lists):
    layer, x = conv(num_levels=2, bias=False), features(TREE)
    mass = torch.rand(TREE.num_leaves).double()
    out, theta = layer(x, TREE, lists=lists, mass=mass, return_attention_weights=True)
    v = layer.lin_value(x).view(-1, 2, 4)
    torch.testing.assert_close(out, torch.einsum("hij,jhd->ihd", theta, v).flatten(1))
    assert not torch.allclose(out, layer(x, TREE, mass=mass))


def test_siblings_change_no_bit():
    layer, x = conv(self_loop=False), features(TREE)
    assert torch.equal(layer(x, TREE, lists=siblings(TREE)), layer(x, TREE))


def test_positions_within_families_go_with_lists_of_one_tree():
    layer, x = conv(pos_dim=3), features(TREE)
    pos = torch.randn(TREE.num_nodes, 3).double()
    lists = random_lists(TREE, opened=0.6)
    assert not torch.equal(
        layer(x, TREE, tree_pos=pos, lists=lists), layer(x, TREE, tree_pos=2 * pos, lists=lists)
    )
    with pytest.raises(ValueError, match="'lists' of one tree in a layer whose 'pos_dim' is set"):
        layer(x, TREE, tree_pos=pos, lists=causal(TREE))
    with pytest.raises(TypeError, match="'lists' to be InteractionLists"):
        layer(x, TREE, tree_pos=pos, lists=[1])


@pytest.mark.parametrize(
    "options", [{}, {"residual": True, "concat": False, "qk_norm": "rms_norm"}]
)
def test_the_next_leaf_is_a_row_of_the_full_pass(options):
    tree = from_sequence(20, branching=2).tree
    lists = causal(tree, window=3)
    layer, x = conv(**options), features(tree)
    full, cache = layer(x, tree, lists=lists), CausalCache(lists)
    for t in range(20):
        torch.testing.assert_close(layer.forward_next(x[t : t + 1], cache)[0], full[t])
    with pytest.raises(ValueError, match="without 'pos_dim' and 'num_levels'"):
        conv(num_levels=1).forward_next(x[:1], cache)


def cross(**options):
    torch.manual_seed(0)
    return HierarchicalCrossAttention(6, 5, 4, heads=2, **options).double()


@pytest.mark.parametrize("options", [{}, {"concat": False, "residual": True, "bias": False}])
def test_cross_attention_multiplies_its_matrix_with_the_context(options):
    layer, x, context = cross(qk_norm="layer_norm", **options), features(TREE), features(OTHER, 5)
    lists = random_lists(TREE, OTHER, opened=0.6)
    mass = torch.rand(OTHER.num_leaves).double()
    out, theta = layer(x, context, lists, context_mass=mass, return_attention_weights=True)
    v = layer.lin_value(context).view(-1, 2, 4)
    expected = torch.einsum("hij,jhd->ihd", theta, v)
    expected = expected.mean(1) + layer.lin_residual(x) if options else expected.flatten(1)
    torch.testing.assert_close(out, expected)


def test_everything_opened_is_softmax_cross_attention():
    tree, other = TreeIndex.from_parent(balanced(2, 3)), TreeIndex.from_parent(star(5))
    layer, x, context = cross(), features(tree), features(other, 5)
    out = layer(x, context, between(tree, other, levels=None))
    q, k, v = (
        lin(y).view(-1, 2, 4).transpose(0, 1)
        for lin, y in ((layer.lin_query, x), (layer.lin_key, context), (layer.lin_value, context))
    )
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1)
    torch.testing.assert_close(out, theirs.flatten(1))


def test_who_finds_no_context_gets_zero():
    layer, x, context = cross(bias=False), features(TREE), features(OTHER, 5)
    lists = between(TREE, OTHER)
    out = layer(x, context, lists, context_mass=torch.zeros(OTHER.num_leaves))
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"x": torch.zeros(3, 6)}, ValueError, "'x' to have one row for each"),
        ({"context": torch.zeros(3, 5)}, ValueError, "'context' to have one row for each"),
        ({"context": torch.zeros(12, 6)}, ValueError, "'context' to have 5 channels"),
        ({"lists": None}, TypeError, "'lists' to be InteractionLists"),
        ({"context_mass": torch.ones(3)}, ValueError, "'key_mass' to have one row"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, match):
    args = {"x": features(TREE), "context": features(OTHER, 5), "lists": between(TREE, OTHER)}
    with pytest.raises(error, match=match):
        cross()(**args | change)
    with pytest.raises(ValueError, match="'heads' to be positive"):
        HierarchicalCrossAttention(6, 5, 4, heads=0)
