"""Trees of many points: the same whatever is looked at at a time, and in bounded memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hsa_geometric.builders import _bisection, _levels, _sort, from_points, from_voxels, voxels
from hsa_geometric.builders._bisection import METHODS

BUILD = {
    **{
        f"{method} {branching}": lambda pos, method=method, branching=branching, **options: (
            from_points(pos, method=method, branching=branching, leaf_size=2, **options)
        )
        for method in METHODS
        for branching in (3, 1000)
    },
    "levels": lambda pos, **options: from_voxels(pos, levels=5, **options),
    "size": lambda pos, **options: from_voxels(pos, size=0.07, **options),
}


def points(kind, dim, dtype):
    pos = torch.rand(1500, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "ties":
        pos = (pos * 4).floor() - 2
    if kind == "skewed":
        pos = pos**8
    return pos.to(dtype)


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
@pytest.mark.parametrize("kind", ["ties", "skewed"])
def test_trees_do_not_depend_on_how_many_points_are_looked_at_together(build, kind, monkeypatch):
    group = torch.arange(1500) % 997 % 3
    cases = [
        (points(kind, dim, dtype), batch)
        for dim, dtype in ((2, torch.float64), (3, torch.float32), (9, torch.float32))
        # Sums of many coordinates round by their place in memory, which decides ties.
        if dim < 4 or kind != "ties"
        for batch in (None, group)
    ]
    once = [build(pos, batch=batch).parent for pos, batch in cases]
    for module, few in ((_bisection, 200), (voxels, 200), (_sort, 150), (_levels, 64)):
        monkeypatch.setattr(module, "AT_ONCE", few)
    for (pos, batch), expected in zip(cases, once, strict=True):
        h = build(pos, batch=batch)
        most = 0.02 if pos.shape[1] > 3 else 0
        assert h.parent.ne(expected).double().mean() <= most
        assert h.validate() and h.num_nodes == 1500


@pytest.mark.parametrize("values", [3, 2000, 2**40])
def test_long_vectors_are_sorted_stably(values, monkeypatch):
    key = torch.randint(-values, values, (4000,), generator=torch.Generator().manual_seed(0))
    key[1000:2500] = values // 2  # more of one value than are sorted together
    monkeypatch.setattr(_sort, "AT_ONCE", 300)
    assert torch.equal(_sort.argsort(key).long(), key.argsort(stable=True))


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_memory_map_is_read_whatever_its_mode_and_stays_as_it_is(mode, tmp_path, monkeypatch):
    monkeypatch.setattr("hsa_geometric.builders._coordinates.AT_ONCE", 5000)
    pos = points("even", 3, torch.float32)
    np.save(tmp_path / "pos.npy", pos.numpy())
    map = np.load(tmp_path / "pos.npy", mmap_mode=mode)
    if mode != "r":
        map[7] = 0.5
        pos[7] = 0.5
    h = from_points(map[3:], x=map[3:])
    assert torch.equal(h.pos, pos[3:]) and torch.equal(h.x, pos[3:])
    assert torch.equal(h.parent, from_points(pos[3:]).parent)
    assert np.array_equal(map, pos.numpy())
    assert torch.equal(from_points(map * 2).pos, 2 * pos)  # of the map's class, but no map
    map = map.copy() if mode == "r" else map
    map[9] = 2.0
    assert torch.equal(h.pos, pos[3:])  # it shares no memory


def test_a_tensor_on_a_memory_map_is_kept_as_it_is(tmp_path):
    np.save(tmp_path / "pos.npy", points("even", 3, torch.float32).numpy())
    pos = torch.from_numpy(np.load(tmp_path / "pos.npy", mmap_mode="c"))
    assert from_points(pos).pos.data_ptr() == pos.data_ptr()


PEAK = """
import sys
import numpy as np, torch
from hsa_geometric.builders import _bisection, _levels, _sort, from_points, from_voxels, voxels

def peak():  # not ru_maxrss, which begins at that of the process that started this one
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))

build = {
    "voxels": lambda pos: from_voxels(pos, levels=5),
    **{m: lambda pos, m=m: from_points(pos, method=m) for m in ("kd", "pca", "ball")},
}
build[sys.argv[1]](torch.rand(20_000, 3))  # loads what is needed
for module in (_bisection, voxels, _sort, _levels):
    module.AT_ONCE = 2**14
map = np.load(sys.argv[2], mmap_mode="r")
before = peak()
build[sys.argv[1]](map)
print((peak() - before) / map.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["kd", "pca", "voxels"])
def test_memory_is_less_than_four_times_the_points(method, tmp_path):
    np.save(tmp_path / "pos.npy", np.random.default_rng(0).random((400_000, 3), np.float32))
    found = subprocess.run(
        [sys.executable, "-c", PEAK, method, str(tmp_path / "pos.npy")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(found.stdout) < 4
