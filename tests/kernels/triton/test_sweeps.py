"""The ways up and down the tree: what neither launches nor their order may change."""

import pytest
import torch
from attending import EVERYTHING, TREES, agree, attend, equal, index, watch
from helpers import DEVICE
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.kernels.scatter.sweeps import up
from hsa_geometric.kernels.triton import call, sweeps
from hsa_geometric.kernels.triton.attention import masses
from hsa_geometric.kernels.triton.plan import Plan
from hsa_geometric.testing import (
    attention_inputs,
    balanced,
    caterpillar,
    forest,
    random_parent,
    star,
)

INF = float("inf")
FORWARD = ["climb", "forward", "climb", "descend", "descend", "finish"]


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels launched."""
    names = []

    def launch(original, kernel, grid, *args, **meta):
        if 0 not in grid:
            names.append(kernel.__name__)
        original(kernel, grid, *args, **meta)

    watch(monkeypatch, launch)
    return names


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_they_equal_scatter(name):
    tree = index(name)
    agree(attention_inputs(tree), tree)


def test_sums_of_families_of_any_length():
    for size in (1, 2, 3, 15, 16, 17, 63, 64, 65, 1025, 3000):
        tree = TreeIndex.from_parent(forest(star(size), star(2)).to(DEVICE))
        x = [torch.randn(tree.num_leaves, c, dtype=torch.float64, device=DEVICE) for c in (3, 1, 2)]
        weight = torch.rand(tree.num_nodes, dtype=torch.float64, device=DEVICE)
        plan = Plan.of(tree)
        expected = up(torch.cat(x, dim=1), tree, weight)[plan.inner]
        assert_close(sweeps.sums(x, weight, plan), expected)
        assert_close(sweeps.sums(x[:1], None, plan), x[0].new_tensor([[1.0]]) * torch.stack(
            [x[0][:size].sum(0), x[0][size:].sum(0)]))  # fmt: skip


@pytest.mark.parametrize("name", ["forest", "single_nodes", "deep", "wide"])
def test_masses_are_those_of_scatter(name):
    tree = index(name)
    mass = torch.rand(tree.num_leaves, dtype=torch.float64, device=DEVICE)
    assert_close(masses(mass, Plan.of(tree)), up(mass, tree))


def test_log_evidence_is_accurate_far_from_and_near_zero():
    # A leaf beside another: f of the root is the mean of logaddexp of own and sibling logits.
    own, sibling = torch.cartesian_prod(
        *[torch.tensor([0.0, -1e-3, 5.0, -80.0, 80.0, 1e4])] * 2
    ).t()
    tree = TreeIndex.from_parent(forest(*[star(2)] * len(own))).to(DEVICE)
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(len(own), 1)
    k = torch.stack([torch.stack([own, sibling], 1), torch.stack([sibling, own], 1)], 1)
    q, k = (x.reshape(-1, 1, 2).to(DEVICE) for x in (q, k))
    inputs = {"q": q, "k": k, "v": q}
    actual = attend(inputs, tree, scale=1.0)["evidence"][:, 0]
    expected = torch.logaddexp(own.double(), sibling.double()).float().to(DEVICE)
    assert_close(actual, expected, rtol=2e-6, atol=1e-6)


# --- launches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forest", "wide", "shuffled molecules"])
def test_one_launch_and_one_launch_a_level_are_equal_to_the_last_bit(monkeypatch, name):
    tree = index(name)
    inputs = attention_inputs(tree, dtype=torch.float32, **EVERYTHING)
    expected = attend(inputs, tree)
    monkeypatch.setattr(call, "ONE_LAUNCH", False)
    equal(attend(inputs, tree), expected)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("name", ["deep", "wide", "ragged"])
def test_how_many_levels_a_launch_goes_down_does_not_matter(monkeypatch, name, levels):
    tree = index(name)
    monkeypatch.setattr(call, "LEVELS", levels)
    monkeypatch.setattr(call, "MANY_LEVELS", levels)
    agree(attention_inputs(tree, **EVERYTHING), tree)


@pytest.mark.parametrize("elements", [16, 64])
def test_tiles_of_fewer_channels_than_a_row_has(monkeypatch, elements):
    monkeypatch.setattr(call, "TILE", elements)
    tree = index("shuffled_forest")
    agree(attention_inputs(tree, heads=5, channels=3, value_channels=9), tree)


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU starts programs in an order of its own")
@pytest.mark.parametrize("name", ["shuffled molecules", "ragged", "depth 40"])
def test_results_do_not_depend_on_which_program_comes_first(monkeypatch, name):
    from triton.runtime.interpreter import interpreter_builder as builder

    tree = index(name)
    inputs = attention_inputs(tree, dtype=torch.float32)
    expected, place = attend(inputs, tree), type(builder).set_grid_idx

    def from_the_end(self, x, y, z):
        place(self, self.grid_dim[0] - 1 - x, y, z)

    monkeypatch.setattr(type(builder), "set_grid_idx", from_the_end)
    equal(attend(inputs, tree), expected)


def test_a_batch_of_molecules_takes_as_many_launches_as_two_of_them(launches):
    def names(trees):
        parents = (random_parent(10, reach=5, seed=i % 2, shuffle=False) for i in range(trees))
        tree = TreeIndex.from_parent(forest(*parents).to(DEVICE))
        launches.clear()
        attend(attention_inputs(tree, heads=1), tree)
        return list(launches)

    few = names(2)
    assert few[:6] == FORWARD
    assert len(few) == 17
    assert names(16) == few


@pytest.mark.parametrize("name", ["ragged", "depth 40", "thin"])
def test_a_way_is_at_most_one_launch_a_level(monkeypatch, launches, name):
    tree = index(name)
    inputs = attention_inputs(tree, heads=1)
    attend(inputs, tree)
    # Two ways up and two down, there and back, are 8 of the launches.
    rows = -(-tree.depth // (call.MANY_LEVELS if name == "thin" else call.LEVELS))
    scalars = -(-tree.depth // call.MANY_LEVELS)
    assert launches.count("climb") == 4
    assert launches.count("descend") == 2 * rows + 2 * scalars
    monkeypatch.setattr(call, "ONE_LAUNCH", False)
    launches.clear()
    attend(inputs, tree)
    assert launches.count("climb") == 4 * tree.depth


def test_a_forest_of_single_nodes_needs_no_way_up_or_down(launches):
    tree = index("single_nodes")
    attend(attention_inputs(tree), tree)
    assert not {"climb", "descend"} & {*launches}


# --- trees of a forest ---------------------------------------------------------------------------


def test_levels_of_a_deep_and_a_shallow_tree_together():
    tree = TreeIndex.from_parent(forest(balanced(2, 5), caterpillar(100), star(4)).to(DEVICE))
    agree(attention_inputs(tree, heads=1, mass="random"), tree)
