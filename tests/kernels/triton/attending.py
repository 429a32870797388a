"""What the test files of this folder share."""

from functools import partial

import helpers
import torch
from helpers import DEVICE
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.kernels.triton import _jit, scalars, siblings, sweeps
from hsa_geometric.testing import (
    balanced,
    caterpillar,
    forest,
    random_parent,
    shuffled,
    star,
    zoo,
)

EVERYTHING = {"pos_channels": 2, "node_scalars": True, "mass": "zeros"}

TREES = {
    "molecules": lambda: forest(*(random_parent(9, reach=5, seed=i) for i in range(4))),
    "shuffled molecules": lambda: random_parent(40, num_trees=5, reach=15, seed=1),
    "depth 40": lambda: shuffled(caterpillar(40)),
    "wide": lambda: forest(star(90), caterpillar(9), balanced(3, 2)),
    "thin": lambda: forest(caterpillar(66), star(3)),
}


def index(name):
    parent = TREES[name]() if name in TREES else zoo(name)
    return TreeIndex.from_parent(parent).to(DEVICE)


def families(*sizes):
    """A root above one family of each size."""
    parent = [0, *([0] * len(sizes))]
    for number, size in enumerate(sizes, start=1):
        parent += [number] * size
    return TreeIndex.from_parent(torch.tensor(parent)).to(DEVICE)


attend = partial(helpers.attend, backend="triton")


def agree(inputs, tree, rtol=1e-9, atol=1e-9, **options):
    """Output, evidence and gradients are those of scatter, which the oracle checks."""
    expected = attend(inputs, tree, backend="scatter", **options)
    for name, x in attend(inputs, tree, **options).items():
        assert_close(x, expected[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def equal(one, other):
    """Results are equal to the last bit."""
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert torch.equal(x, other[name]), name


def watch(monkeypatch, launch):
    """Have all launches of kernels go through ``launch(original, kernel, grid, ...)``."""

    def through(*args, **meta):
        launch(_jit.launch, *args, **meta)

    for module in (sweeps, scalars, siblings):
        monkeypatch.setattr(module, "launch", through)
