import pytest
import torch
import work
from helpers import LINEAR
from processes import Processes

from hsa_geometric.testing import zoo
from hsa_geometric.testing.zoo import balanced, forest, random_parent, star

pytestmark = pytest.mark.xdist_group("processes")  # which are started once

BACKENDS = [name for name in LINEAR if name != "triton"]
NAMES = ("one_node", "chain", "caterpillar", "unequal_depths", "one_child_nodes", "shuffled_forest")
TREES = [zoo(name) for name in NAMES]
TREES += [random_parent(150, seed=4), forest(balanced(3, 3), star(9), random_parent(60, seed=1))]
ALL = {"pos_channels": 2, "node_scalars": True, "mass": "zeros"}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shards_equal_the_whole(processes, size):
    processes.run(work.attention, size, TREES, {}, torch.float64, BACKENDS, {})


def test_positions_masses_and_scalars_of_nodes_count(processes):
    processes.run(work.attention, 3, TREES, {}, torch.float64, BACKENDS, ALL)


def test_without_self_loops_and_in_float32(processes):
    options = {"self_loop": False, "scale": 0.7}
    processes.run(work.attention, 2, TREES, options, torch.float64, BACKENDS, {"mass": "zeros"})
    processes.run(work.attention, 2, TREES[-2:], {}, torch.float32, BACKENDS, ALL)


def test_wide_families_are_cut_like_others(processes):
    trees = [forest(star(600), star(700)), forest(star(600), balanced(2, 4), star(500))]
    processes.run(work.attention, 2, trees, {}, torch.float64, BACKENDS, {})


def test_second_derivatives_of_tensor_code(processes):
    processes.run(work.second, 2)


def test_dropout_keeps_the_mean_and_differs_between_processes(processes):
    (spread, one), (_, other) = processes.run(work.dropped, 2)
    assert spread > 0.1 and one != other


def test_a_lost_process_is_an_error_after_the_timeout():
    pool = Processes(2, seconds=3)
    try:
        left, away = pool.run(work.lost, 2)
    finally:
        pool.stop()
    assert away == "away"
    assert left.startswith("RuntimeError: Process 0 waited in vain"), left
