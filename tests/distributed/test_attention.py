import pytest
import torch
from helpers import LINEAR
from work import attention

from hsa_geometric.testing import ZOO, zoo
from hsa_geometric.testing.zoo import balanced, forest, random_parent, star

TREES = [zoo(name) for name in ZOO]
TREES += [random_parent(150, seed=4), forest(balanced(3, 3), star(9), random_parent(60, seed=1))]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shards_equal_the_whole(processes, size):
    backends = ["cpu", "scatter"] if "cpu" in LINEAR else ["scatter"]
    processes.run(attention, size, TREES, {}, torch.float64, backends, {})


@pytest.mark.parametrize("mass", [None, "random", "zeros"])
def test_positions_masses_and_scalars_of_nodes(processes, mass):
    draw = {"pos_channels": 2, "node_scalars": True, "mass": mass}
    processes.run(attention, 3, TREES, {}, torch.float64, LINEAR[:2], draw)
