import pytest
import torch

from hsa_geometric import TreeIndex
from hsa_geometric.functional import attention_blocks, attention_matrix
from hsa_geometric.interactions import between, siblings
from hsa_geometric.kernels.scatter import weights
from hsa_geometric.testing import ZOO, attention_inputs, balanced, forest, random_lists, star, zoo

EXACT = {"rtol": 0, "atol": 1e-10}
FEW = torch.tensor([4, 4, 5, 5, 6, 6, 6])


def inputs(tree, **options):
    x = attention_inputs(tree, **options)
    del x["v"]
    return x


def check(blocks, theta):
    """The blocks are this matrix; so are rows, columns and products."""
    torch.testing.assert_close(blocks.to_dense(), theta, **EXACT)
    heads, queries, keys = theta.shape
    for i in range(queries):
        torch.testing.assert_close(blocks.attention_from(i), theta[:, i], **EXACT)
    for j in range(keys):
        torch.testing.assert_close(blocks.attention_to(j), theta[:, :, j], **EXACT)
    torch.manual_seed(0)
    x, y = torch.randn(heads, keys).double(), torch.randn(queries).double()
    torch.testing.assert_close(blocks.matmul(x), torch.einsum("hij,hj->hi", theta, x), **EXACT)
    torch.testing.assert_close(blocks.rmatmul(y), torch.einsum("hij,i->hj", theta, y), **EXACT)


@pytest.mark.parametrize(
    ("mass", "self_loop"), [(None, True), ("random", False), ("zeros", True), ("zeros", False)]
)
@pytest.mark.parametrize("name", ZOO)
def test_blocks_are_the_matrix(name, mass, self_loop):
    tree = TreeIndex.from_parent(zoo(name))
    x = inputs(tree, mass=mass, pos_channels=2, node_scalars=True)
    blocks = attention_blocks(**x, tree=tree, scale=0.7, self_loop=self_loop)
    torch.testing.assert_close(blocks.blocks, siblings(tree).blocks, rtol=0, atol=0)
    check(blocks, attention_matrix(**x, tree=tree, scale=0.7, self_loop=self_loop))


def test_families_of_about_one_size_share_a_tile_and_large_ones_are_cut(monkeypatch):
    tree = TreeIndex.from_parent(forest(star(5), star(6), star(7), star(8), star(21), star(1)))
    x = inputs(tree)
    theta = attention_matrix(**x, tree=tree)
    for logits in (1, 40, 10_000):
        monkeypatch.setattr(weights, "LOGITS", logits)
        monkeypatch.setattr(weights, "ROWS", 3)
        check(attention_blocks(**x, tree=tree), theta)


@pytest.mark.parametrize("mass", [None, "zeros"])
@pytest.mark.parametrize("name", ["ragged", "shuffled_forest", "one_child_nodes", "single_nodes"])
def test_blocks_of_lists_are_the_matrix(name, mass):
    tree = TreeIndex.from_parent(zoo(name))
    x = inputs(tree, mass=mass, pos_channels=2, node_scalars=True)
    for lists in (random_lists(tree, hidden=0.2, seed=1), siblings(tree)):
        blocks = attention_blocks(**x, tree=tree, lists=lists)
        check(blocks, attention_matrix(**x, tree=tree, lists=lists))


def test_blocks_of_two_trees_are_the_matrix():
    query, key = (TreeIndex.from_parent(zoo(name)) for name in ("binary", "caterpillar"))
    lists = between(query, key)
    q, (k, mass) = inputs(query)["q"], [inputs(key, mass="zeros")[n] for n in ("k", "mass")]
    options = {"lists": lists, "key_tree": key, "key_mass": mass}
    blocks = attention_blocks(q, k, query, **options)
    assert blocks.key_tree is lists.key_tree
    check(blocks, attention_matrix(q, k, query, **options))


def test_a_table_by_hand():
    # All logits are 0, so f = 0 at a leaf, ln 2 at a pair: weights are shares of leaves.
    q = torch.zeros(4, 1, 2)
    blocks = attention_blocks(q, q, FEW)
    expected = {(4, 5): 0.5, (5, 4): 0.5}
    expected |= dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 0.25)
    expected |= dict.fromkeys([(2, 2), (2, 3), (3, 2), (3, 3)], 0.25)
    found = dict(
        zip(map(tuple, blocks.block_ids.t().tolist()), blocks.weight[0].tolist(), strict=True)
    )
    assert found == pytest.approx(expected)
    assert blocks.density[0].tolist() == pytest.approx([0.25] * 10)
    assert repr(blocks) == "AttentionBlocks(blocks=10, heads=1, queries=4, keys=4)"


def test_half_precision_gives_float32_and_autocast_changes_nothing():
    x = inputs(TreeIndex.from_parent(FEW), dtype=torch.bfloat16)
    blocks = attention_blocks(**x, tree=FEW)
    with torch.autocast("cpu", torch.bfloat16):
        again = attention_blocks(**x, tree=FEW)
    assert blocks.weight.dtype == torch.float32
    torch.testing.assert_close(again.weight, blocks.weight, rtol=0, atol=0)
    theta = attention_matrix(**x, tree=FEW)
    torch.testing.assert_close(blocks.to_dense(), theta, rtol=1e-5, atol=1e-6)


def test_padding_may_hold_anything():
    x = inputs(TreeIndex.from_parent(FEW), mass="zeros")
    before = attention_blocks(**x, tree=FEW)
    x["q"][0] = x["k"][0] = torch.nan
    blocks = attention_blocks(**x, tree=FEW)
    some = x["mass"] > 0
    torch.testing.assert_close(blocks.to_dense()[:, some], before.to_dense()[:, some])
    values = torch.where(some, 1.0, torch.nan).double()
    torch.testing.assert_close(blocks.matmul(values)[:, some], torch.ones(2, 3)[:, :2].double())


@pytest.mark.parametrize("make", [lambda n: balanced(4, n), lambda n: balanced(2, 2 * n)])
def test_memory_is_linear(make):
    sizes = []
    for depth in (4, 5):
        tree = TreeIndex.from_parent(make(depth))
        q, k = torch.randn(2, tree.num_leaves, 2, 4).unbind(0)
        blocks = attention_blocks(q, k, tree)
        sizes.append((blocks.num_blocks, peak(lambda b=blocks: b.attention_from(3))))
        assert (
            blocks.num_blocks
            == (tree.family_ptr.diff() ** 2).sum() - tree.family_parent.numel() + 1
        )
    assert sizes[1][0] / sizes[0][0] < 4.2
    assert sizes[1][1] / sizes[0][1] < 4.5


def peak(function):
    """The largest tensor storage, in bytes, that a call makes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    most = [0]

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(x, torch.Tensor):
                    most[0] = max(most[0], x.untyped_storage().nbytes())
            return out

    with Look():
        function()
    return most[0]


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda b, q: b.attention_from(4), ValueError, r"'leaf' .* in \[0, 3\] \(got 4\)"),
        (lambda b, q: b.attention_to(-1), ValueError, r"'leaf' .* \(got -1\)"),
        (lambda b, q: b.attention_from(0.0), TypeError, "'leaf' to be an integer"),
        (lambda b, q: b.matmul(q), ValueError, r"'x' to have shape \[4\] or \[1, 4\]"),
        (lambda b, q: b.rmatmul([1.0]), TypeError, "'x' to be a tensor"),
        (lambda b, q: attention_blocks(q, q[:3], FEW), ValueError, "'k' to have the shape of 'q'"),
        (lambda b, q: attention_blocks(q, None, FEW), TypeError, "'k' to be a tensor"),
        (lambda b, q: attention_blocks(None, q, FEW), TypeError, "'q' to be a tensor"),
        (
            lambda b, q: attention_blocks(q, q, FEW, max_blocks=9),
            ValueError,
            r"max_blocks=9 blocks \(got 10; the largest family, of node \d, has 2 members: "
            r"surgery.rebalance",
        ),
        (
            lambda b, q: attention_blocks(q, q, FEW, lists=between(FEW, FEW, levels=None),
                                          max_blocks=9),
            ValueError,
            r"max_blocks=9 blocks \(got lists of 16; open fewer",
        ),
        (lambda b, q: attention_blocks(q, q, FEW, max_blocks=0), ValueError, "'max_blocks'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(act, error, match):
    q = torch.zeros(4, 1, 2)
    with pytest.raises(error, match=match):
        act(attention_blocks(q, q, FEW), q)


def test_a_giant_star_is_refused_before_anything_of_its_size_is_made():
    tree = TreeIndex.from_parent(star(30_000))
    q = torch.zeros(30_000, 1, 1)
    with pytest.raises(ValueError, match=r"got 900,000,000; .* of node 30000, has 30,000 members"):
        attention_blocks(q, q, tree)
