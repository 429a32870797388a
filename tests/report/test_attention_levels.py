import math

import pytest
import torch
from torch_geometric.data import Batch

from hsa_geometric import TreeIndex
from hsa_geometric.builders import from_parent
from hsa_geometric.functional import attention_blocks as blocks_of
from hsa_geometric.functional import attention_matrix
from hsa_geometric.interactions import between
from hsa_geometric.nn import HierarchicalAttentionConv, HierarchicalCrossAttention
from hsa_geometric.report import attention_blocks, attention_levels, attention_rollout
from hsa_geometric.testing import attention_inputs, balanced, random_lists, zoo

FEW = torch.tensor([4, 4, 5, 5, 6, 6, 6])


def example(name, mass=None, seed=0):
    tree = TreeIndex.from_parent(zoo(name))
    x = attention_inputs(tree, mass=mass, seed=seed)
    del x["v"]
    return tree, x


def test_masses_of_a_hierarchy_count():
    tree, x = example("ragged", "random")
    mass = x.pop("mass")
    h = from_parent(zoo("ragged"), mass=mass)
    for given, options in ((h, {}), (h.tree, {"mass": mass}), (h.parent, {"mass": mass})):
        theta = attention_blocks(given, x["q"], x["k"], **options).to_dense()
        torch.testing.assert_close(theta, attention_matrix(**x, tree=tree, mass=mass))
    other = attention_blocks(h, x["q"], x["k"], mass=None).to_dense()
    torch.testing.assert_close(other, attention_matrix(**x, tree=tree))


def test_trees_of_a_batch_do_not_see_each_other():
    samples = [from_parent(zoo(name)) for name in ("ragged", "star")]
    batch = Batch.from_data_list(samples)
    q, k = torch.randn(2, batch.num_nodes, 2, 3).unbind(0)
    first = samples[0].num_nodes
    whole = attention_blocks(batch, q, k).to_dense()
    one = attention_blocks(samples[0], q[:first], k[:first]).to_dense()
    torch.testing.assert_close(whole[:, :first, :first], one)
    assert (whole[:, :first, first:] == 0).all()


@pytest.mark.parametrize("residual", [0.0, 0.5, 1.0])
def test_rollout_is_the_product_of_the_layers(residual):
    layers, dense = [], []
    for seed in (0, 1, 2):
        tree, x = example("shuffled_forest", "random", seed)
        lists = random_lists(tree, seed=seed) if seed == 1 else None
        layers.append(blocks_of(**x, tree=tree, lists=lists))
        theta = attention_matrix(**x, tree=tree, lists=lists).mean(0)
        dense.append(residual * torch.eye(len(theta)).double() + (1 - residual) * theta)
    product = dense[2] @ dense[1] @ dense[0]
    for leaf in range(tree.num_leaves):
        torch.testing.assert_close(
            attention_rollout(layers, leaf, residual=residual), product[leaf], rtol=0, atol=1e-10
        )
    start = torch.rand(tree.num_leaves).double()
    found = attention_rollout(layers, start, residual=residual)
    torch.testing.assert_close(found, start @ product)


def levels_by_hand(theta, tree, blocks, mass, pos):
    """Share, entropy and distance at each level, and entropy of rows, leaf by leaf."""
    depth, heads = tree.depth + 1, theta.shape[0]
    share, entropy, squared = (torch.zeros(depth, heads).double() for _ in range(3))
    total, whole = torch.zeros(heads).double(), mass.sum()
    level = tree.level
    below = [set() for _ in level]
    for row, node in enumerate(tree.leaf_ids.tolist()):
        while True:
            below[node].add(row)
            if int(tree.parent[node]) == node:
                break
            node = int(tree.parent[node])
    for a, b in blocks.block_ids.t().tolist():
        for i in below[a]:
            for j in below[b]:
                part = mass[i] / whole * theta[:, i, j]
                share[level[a]] += part
                squared[level[a]] += part * (pos[i] - pos[j]).square().sum()
    for i in range(theta.shape[1]):
        at = [{j for a, b in blocks.block_ids.t().tolist() if i in below[a] and int(level[a]) == n
               for j in below[b]} for n in range(depth)]  # fmt: skip
        for head in range(heads):
            row = theta[head, i]
            for n, seen in enumerate(at):
                given = sum(float(row[j]) for j in seen)
                for j in seen:
                    if row[j] > 0:
                        p = float(row[j]) / given
                        value = -p * math.log(p / float(mass[j])) * given
                        entropy[n, head] += mass[i] / whole * value
            some = row > 0
            total[head] -= mass[i] / whole * (row[some] * (row[some] / mass[some]).log()).sum()
    return share, entropy / share, (squared / share).sqrt(), total


@pytest.mark.parametrize("mass", [None, "zeros"])
@pytest.mark.parametrize("name", ["unequal_depths", "forest"])
def test_levels_are_those_of_the_dense_matrix(name, mass):
    tree, x = example(name, mass)
    pos = torch.randn(tree.num_leaves, 3).double() + 100
    blocks = blocks_of(**x, tree=tree)
    m = x.get("mass", torch.ones(tree.num_leaves).double())
    expected = levels_by_hand(blocks.to_dense(), tree, blocks, m, pos)
    found = attention_levels(blocks, pos)
    for one, other in zip(
        (found.share, found.entropy, found.distance, found.total_entropy), expected, strict=True
    ):
        torch.testing.assert_close(one, other, equal_nan=True)
    alone = attention_levels(blocks)
    assert alone.distance is None
    torch.testing.assert_close(alone.entropy, found.entropy, equal_nan=True)


def test_near_leaves_far_from_the_origin_keep_their_distance():
    pos = torch.tensor([[0.0], [1e-6], [1e6], [1e6 + 1]]).double()
    q = torch.zeros(4, 1, 1)
    found = attention_levels(blocks_of(q, q, FEW), pos)
    near = math.sqrt((2 * 1e-12 + 2 * 1) / 8)
    torch.testing.assert_close(found.distance[2], torch.tensor([near]).double(), rtol=1e-9, atol=0)


def test_levels_of_two_trees_take_the_positions_of_both():
    query, key = (TreeIndex.from_parent(zoo(name)) for name in ("binary", "star"))
    q, k = torch.zeros(8, 1, 1), torch.zeros(7, 1, 1)
    lists = between(query, key, levels=None)
    blocks = blocks_of(q, k, query, lists=lists, key_tree=key)
    one, other = torch.zeros(8, 2), torch.ones(7, 2)
    found = attention_levels(blocks, one, key_pos=other)
    seen = found.share[:, 0] > 0
    assert found.distance[seen, 0].tolist() == pytest.approx([math.sqrt(2)] * int(seen.sum()))
    assert found.total_entropy.tolist() == pytest.approx([math.log(7)])


LISTED = TreeIndex.from_parent(FEW)


@pytest.mark.parametrize("lists", [None, random_lists(LISTED, seed=1)])
def test_a_layer_returns_its_blocks(lists):
    layer = HierarchicalAttentionConv(
        5, 3, heads=2, qk_norm="layer_norm", pos_dim=2, num_levels=2, dropout=0.5
    )
    torch.nn.init.normal_(layer.level_bias)
    x, options = torch.randn(4, 5), {"tree_pos": torch.randn(7, 2), "mass": torch.rand(4)}
    _, theta = layer(x, LISTED, lists=lists, **options, return_attention_weights=True)
    _, blocks = layer(x, LISTED, lists=lists, **options, return_attention_weights="blocks")
    torch.testing.assert_close(blocks.to_dense(), theta.detach())


def test_cross_attention_returns_its_blocks():
    layer = HierarchicalCrossAttention(5, 6, 3, heads=2)
    lists = between(FEW, torch.tensor([3, 3, 4, 4, 4]))
    x, context = torch.randn(4, 5), torch.randn(3, 6)
    _, theta = layer(x, context, lists, return_attention_weights=True)
    _, blocks = layer(x, context, lists, return_attention_weights="blocks")
    torch.testing.assert_close(blocks.to_dense(), theta.detach())


ENTMAX = {"attention": "entmax15"}


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda b: attention_rollout([], 0), ValueError, "'layers' to hold at least one"),
        (lambda b: attention_rollout(b, 0), TypeError, "'layers' to be a sequence"),
        (lambda b: attention_rollout([b, 1], 0), TypeError, r"AttentionBlocks \(got int at 1\)"),
        (lambda b: attention_rollout([b], 4), ValueError, r"'leaf' .* \(got 4\)"),
        (lambda b: attention_rollout([b], torch.ones(3)), ValueError, "each of the 4 leaves"),
        (lambda b: attention_rollout([b], 0, residual=2.0), ValueError, "'residual'"),
        (
            lambda b: attention_rollout(
                [b, blocks_of(*torch.zeros(2, 8, 1, 2), balanced(2, 3))], 0
            ),
            ValueError,
            r"over the same leaves \(got others at 1\)",
        ),
        (lambda b: attention_levels(b.to_dense()), TypeError, "'blocks' to be AttentionBlocks"),
        (lambda b: attention_levels(b, torch.ones(3, 2)), ValueError, "'pos' .* 4 leaves"),
        (
            lambda b: attention_levels(b, key_pos=torch.ones(4, 2)),
            ValueError,
            "'pos' beside 'key_pos'",
        ),
        (
            lambda b: HierarchicalAttentionConv(2, 2)(
                torch.ones(4, 2), FEW, return_attention_weights="dense"
            ),
            ValueError,
            r"True, False or 'blocks' \(got 'dense'\)",
        ),
        (
            lambda b: HierarchicalAttentionConv(2, 2, **ENTMAX)(
                torch.ones(4, 2), FEW, return_attention_weights="blocks"
            ),
            ValueError,
            "return_attention_weights=True in a layer with attention='entmax15'",
        ),
        (
            lambda b: attention_blocks(Batch(), *torch.zeros(2, 4, 1, 2)),
            TypeError,
            "'h' to be a Hierarchy",
        ),
    ],
)
def test_bad_arguments_are_named(act, error, match):
    q = torch.zeros(4, 1, 2)
    with pytest.raises(error, match=match):
        act(blocks_of(q, q, FEW))
