"""PyG's TransformerConv on sets whose nodes all see each other, replaced."""

import copy

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.nn import TransformerConv
from torch_geometric.utils import to_edge_index

from hsa_geometric import TreeIndex
from hsa_geometric.adapters import fidelity_report, replace_attention, restore_attention
from hsa_geometric.functional import attention_matrix

SIZES = (5, 7, 1)
TREES = ([5, 5, 6, 6, 6, 7, 7, 7], [7, 7, 7, 8, 8, 8, 8, 9, 9, 9], [0])
FOREST = torch.tensor([*TREES[0], *(8 + p for p in TREES[1]), 18])


def edges_of(sizes):
    dense = torch.block_diag(*[torch.ones(n, n) for n in sizes])
    edges = to_edge_index(dense.to_sparse())[0]
    torch.manual_seed(2)
    return edges[:, torch.randperm(edges.shape[1])]


def conv_of(**options):
    torch.manual_seed(0)
    conv = TransformerConv(8, 6, heads=2, **options).eval()
    with torch.no_grad():
        conv.lin_query.weight.mul_(5)
    return conv


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(sum(SIZES), 8)


@pytest.mark.parametrize(
    "options", [{}, {"concat": False}, {"beta": True}, {"root_weight": False, "bias": False}]
)
def test_a_star_is_the_original_and_gradients_are_too(x, options):
    conv, edges = conv_of(**options), edges_of(SIZES)
    expected = conv(x, edges)
    expected.square().sum().backward()
    gradients = {name: p.grad for name, p in conv.named_parameters()}
    conv.zero_grad()
    replace_attention(conv, hierarchy="star")
    found = conv(x, edges)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    for name, p in conv.named_parameters():
        if p.grad is None:
            assert gradients[name] is None
        else:
            assert_close(p.grad, gradients[name], atol=1e-4, rtol=1e-4)
    names = set(vars(conv_of(**options)))
    assert torch.equal(restore_attention(conv)(x, edges), expected)
    assert set(vars(conv)) == names


def test_along_trees_it_is_the_dense_matrix(x):
    conv, edges = conv_of().double(), edges_of(SIZES)
    x = x.double()
    tree = TreeIndex.from_parent(FOREST)
    q, k, v = (lin(x).view(-1, 2, 6) for lin in (conv.lin_query, conv.lin_key, conv.lin_value))
    theta = attention_matrix(q, k, tree)
    expected = torch.einsum("hij,jhd->ihd", theta, v).flatten(1) + conv.lin_skip(x)
    assert not torch.allclose(conv(x, edges), expected, atol=1e-2)
    replace_attention(conv, hierarchy=FOREST)
    assert_close(conv(x, edges), expected)
    first = 0
    for size, parent in zip(SIZES, TREES, strict=True):
        alone = replace_attention(copy.deepcopy(conv), hierarchy=torch.tensor(parent))
        part = slice(first, first + size)
        assert_close(alone(x[part], edges_of([size])), expected[part])
        first += size


def test_a_report_attends_as_the_original(x):
    conv, edges = conv_of(), edges_of(SIZES)
    (row,) = fidelity_report(replace_attention(conv, hierarchy="star"), [(x, edges)]).rows
    assert row.logits == row.full == 25 + 49 + 1
    assert row.error < 1e-9
    seen = []
    site = vars(conv)["hsa"]
    site.record = lambda site, rows: seen.append(rows)
    assert torch.equal(conv(x, edges), conv_of()(x, edges))
    assert seen[0].lengths.tolist() == list(SIZES)


def test_dropout_in_training_only(x):
    conv, edges = conv_of(dropout=0.5), edges_of(SIZES)
    replace_attention(conv, hierarchy="star")
    assert torch.equal(conv(x, edges), conv(x, edges))
    conv.train()
    assert not torch.equal(conv(x, edges), conv(x, edges))


def test_edges_that_do_not_join_all_are_refused(x):
    conv = replace_attention(conv_of(), hierarchy=4)
    edges = edges_of(SIZES)
    doubled = edges.clone()
    doubled[:, 0] = edges[:, 1]
    mixed = torch.randperm(sum(SIZES))[edges]  # sets that are not one behind the other
    for other in (edges[:, 1:], doubled, mixed, edges[:, edges[0] != edges[1]], edges[:, :0]):
        with pytest.raises(ValueError, match=r"from every node of a set .* in 'TransformerConv'"):
            conv(x, other)
    with pytest.raises(ValueError, match="a sparse matrix"):
        conv(x, torch.ones(13, 13).to_sparse())
    with pytest.raises(ValueError, match="no weights of edges"):
        conv(x, edges, return_attention_weights=True)
    with pytest.raises(ValueError, match="no 'edge_attr'"):
        conv(x, edges, torch.ones(edges.shape[1], 12))
    with pytest.raises(ValueError, match="one tensor 'x'"):
        conv((x, x), edges)
    with pytest.raises(ValueError, match="attributes of edges"):
        replace_attention(conv_of(edge_dim=3))
    with pytest.raises(ValueError, match="an aggregation of its own"):
        replace_attention(conv_of(aggr="max"))
