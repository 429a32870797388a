"""Attention in tiles: families of every size, widths of every kind, and what a tile may not mix.

Without a GPU the kernels run in Triton's interpreter, which is slow: few and small shapes.
"""

import pytest
import torch
from attending import agree, attend, equal, families
from helpers import DEVICE

from hsa_geometric import TreeIndex
from hsa_geometric.kernels.triton import plan as plans
from hsa_geometric.kernels.triton import siblings as backend
from hsa_geometric.kernels.triton.plan import Plan
from hsa_geometric.testing import attention_inputs, balanced, forest, star

BOUNDARIES = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65)
TILES = {"16 x 16": (16, 16), "16 x 32": (16, 32), "32 x 32": (32, 32)}


def cut_root():
    """Families of eight below a root with five children, where nothing else is aligned."""
    return torch.cat([torch.arange(5).repeat_interleave(8) + 40, torch.full((6,), 45)])


@pytest.fixture(params=TILES)
def tile(request, monkeypatch):
    """Queries and keys of a tile, whatever the tree asks for."""
    queries, keys = TILES[request.param]
    monkeypatch.setattr(backend, "tile_size", lambda *_: queries)
    monkeypatch.setattr(backend, "others", lambda *_: keys)


# --- the results of scatter -----------------------------------------------------------------


def test_families_that_end_at_the_boundaries_of_tiles(tile):
    tree = families(*BOUNDARIES)
    agree(attention_inputs(tree, heads=1), tree)


def test_leaves_and_inner_nodes_in_one_family(tile):
    # The root's children: 20 leaves and, among them by id, inner nodes of two leaves each.
    parent = [0] * 31
    parent += [a for a in range(3, 31, 3) for _ in range(2)]
    tree = TreeIndex.from_parent(torch.tensor(parent)).to(DEVICE)
    agree(attention_inputs(tree, pos_channels=1, node_scalars=True, mass="random"), tree)


def test_a_family_of_1000(monkeypatch):
    # The interpreter counts tiles.
    monkeypatch.setattr(backend, "tile_size", lambda *_: 128)
    monkeypatch.setattr(backend, "others", lambda *_: 128)
    tree = families(1000, 3)
    agree(attention_inputs(tree, heads=1), tree)


@pytest.mark.parametrize("width, values, features", [(8, 8, 17), (24, 33, None), (33, 24, 1)])
def test_head_widths_need_not_be_powers_of_two(width, values, features):
    tree = families(1, 18, 4)
    inputs = attention_inputs(
        tree, heads=3, channels=width, value_channels=values, pos_channels=features
    )
    agree(inputs, tree)


def test_heads_may_be_as_wide_as_256():
    tree = families(18, 2)
    agree(attention_inputs(tree, heads=1, channels=200, value_channels=256), tree, atol=1e-8)


def test_heads_may_be_many():
    tree = families(3, 2)
    agree(attention_inputs(tree, heads=33, channels=1, value_channels=1), tree)


def test_members_without_mass_are_seen_by_nobody(tile):
    tree = families(1, 3, 17, 2, 20)
    inputs = attention_inputs(tree, pos_channels=1, node_scalars=True, mass="random")
    # Every third leaf, all of the family of two, and all but one of the last family.
    inputs["mass"][[*range(0, 43, 3), 21, 22, *range(24, 43)]] = 0
    agree(inputs, tree)
    assert all(x.isfinite().all() for x in attend(inputs, tree).values())


@pytest.mark.parametrize("size", [2, 40])
def test_large_logits_do_not_overflow(size):
    tree = families(size, 5)
    inputs = attention_inputs(tree)
    inputs["q"] *= 100
    inputs["k"] *= 100
    agree(inputs, tree, rtol=1e-8, atol=1e-6)
    assert all(x.isfinite().all() for x in attend(inputs, tree).values())


def test_float32_is_within_its_roundings(tile):
    tree = families(*BOUNDARIES[2:7])
    narrow = attention_inputs(
        tree, channels=24, value_channels=33, pos_channels=2, dtype=torch.float32
    )
    expected = attend({n: x.double() for n, x in narrow.items()}, tree, backend="scatter")
    for name, x in attend(narrow, tree).items():
        assert x.dtype == torch.float32
        error = (x.double() - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 20 * torch.finfo(torch.float32).eps, f"{name}: {error:.1e}"


# --- what holds to the last bit ------------------------------------------------------------------


def test_repeated_runs_are_equal(tile):
    tree = families(33, 2, 7)
    inputs = attention_inputs(tree, pos_channels=1, dtype=torch.float32)
    equal(attend(inputs, tree), attend(inputs, tree))


def test_offsets_of_64_bits_give_the_same(monkeypatch):
    parent = families(17, 5).parent
    inputs = attention_inputs(TreeIndex.from_parent(parent), pos_channels=1, dtype=torch.float32)
    expected = attend(inputs, TreeIndex.from_parent(parent))
    monkeypatch.setattr(plans, "INT32_LIMIT", 1)
    tree = TreeIndex.from_parent(parent)  # another one, whose plan is made now
    equal(attend(inputs, tree), expected)
    assert Plan.of(tree).source.dtype == torch.int64


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of infinities
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tree_that_is_not_finite_does_not_reach_those_in_its_tile(tile, value):
    tree = TreeIndex.from_parent(forest(star(5), star(3), star(6))).to(DEVICE)
    inputs = attention_inputs(tree, pos_channels=1)
    expected = attend(inputs, tree)
    spoilt = {n: x.clone() for n, x in inputs.items()}
    for name in "qkv":
        spoilt[name][5:8] = value
    others = [*range(5), *range(8, 14)]
    for name, x in attend(spoilt, tree).items():
        if name in ("out", "q", "k", "v"):
            assert torch.equal(x[others], expected[name][others]), name
            assert not x[5:8].isfinite().all(), name


def test_a_value_that_is_not_finite_reaches_its_whole_family(tile):
    tree = families(5, 20)
    inputs = attention_inputs(tree)
    inputs["v"][5, -1, -1] = torch.nan  # of the second family, leaves 5-24
    spoilt = attend(inputs, tree)["out"].isnan()
    assert spoilt[5:, -1, -1].all() and not spoilt[:, 0].any()


# --- tiles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", [star(8), forest(*[star(8)] * 5), balanced(8, 3), cut_root()])
def test_families_of_a_size_that_divides_the_tile_are_not_cut(parent):
    plan = Plan.of(TreeIndex.from_parent(parent))
    tile = backend.tile_size(plan, 32)
    assert tile == backend.others(plan, tile) == 16
    shift = -backend.aligned(plan) % tile
    lowest = plan.ends - plan.starts == 8
    first, last = plan.starts[lowest], plan.ends[lowest] - 1
    assert torch.equal((first + shift) // tile, (last + shift) // tile)


def test_families_that_are_cut_meet_more_keys_at_once():
    for sizes, keys in [((17, 3), 32), ((4, 8, 16, 16), 16), ((2, 1), 16), ((5, 9, 2), 32)]:
        plan = Plan.of(families(*sizes))
        assert backend.others(plan, backend.SMALL_TILE) == keys
    assert backend.others(plan, backend.LARGE_TILE) == backend.LARGE_TILE


def test_nothing_is_of_the_size_of_all_pairs(monkeypatch):
    tree = families(80, 17, 1)
    inputs = attention_inputs(tree, heads=1, channels=2, value_channels=2, pos_channels=1)
    sizes = []
    for name in ("new_empty", "new_zeros", "new_full"):
        original = getattr(torch.Tensor, name)

        def made(self, *args, original=original, **options):
            x = original(self, *args, **options)
            sizes.append(x.numel())
            return x

        monkeypatch.setattr(torch.Tensor, name, made)
    attend(inputs, tree)
    assert sizes and max(sizes) <= tree.num_nodes * 6
