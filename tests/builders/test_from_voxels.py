import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsa_geometric.builders.voxels import from_voxels
from hsa_geometric.functional import clusters_at


@st.composite
def grids(draw, max_points=30):
    """Points in the middle of unit cells, several to a cell, one of them in the lowest corner."""
    shape = draw(st.integers(1, max_points)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    high = draw(st.sampled_from([1, 2, 3, 8, 40]))
    cell = torch.randint(0, high, shape, generator=generator)
    return cell - cell.min(dim=0).values


def plane(*points):
    return torch.tensor(points, dtype=torch.float32)


def blocks(label):
    """The partition, in the order of first members."""
    seen = {}
    return [seen.setdefault(x, len(seen)) for x in label]


def test_by_hand():
    # Cells of side 1: rows 0 and 3 share one, row 1 is right of it, row 2 in the far corner.
    h = from_voxels(plane([0.0, 0.0], [1.5, 0.5], [3.9, 3.9], [0.9, 0.9]), size=1)
    assert h.parent.tolist() == [4, 5, 6, 4, 7, 7, 8, 9, 9, 9]
    assert h.collapse_chains().parent.tolist() == [4, 5, 6, 4, 5, 6, 6]


def test_cells_stand_in_z_order():
    pos = plane([3, 3], [2, 3], [3, 2], [2, 2], [1, 1], [0, 1], [1, 0], [0, 0], [3, 0], [0, 3])
    h = from_voxels(pos, size=1)
    row = torch.arange(10)
    finest = h.parent[row]
    assert row[finest.argsort()].tolist() == [7, 6, 5, 4, 8, 9, 3, 2, 1, 0]
    assert h.parent[finest].tolist() == [23] * 4 + [20] * 4 + [21, 22]


@given(cell=grids())
@settings(max_examples=60, deadline=None)
def test_levels_are_cells_of_doubling_side(cell):
    h = from_voxels(cell + torch.rand(1).double() / 2, size=1.0)
    assert h.validate() and h.num_trees == 1
    assert h.tree.leaf_ids.tolist() == list(range(len(cell)))
    assert h.depth == 1 + math.ceil(math.log2(int(cell.max()) + 1))
    assert (h.tree.level[: len(cell)] == h.depth).all()
    child = h.parent[len(cell) : -1]
    assert child.numel() == 0 or child.bincount().max() <= 2 ** cell.shape[1]
    for level in range(h.depth):
        coarse = (cell >> (h.depth - 1 - level)).tolist()
        expected = blocks(map(tuple, coarse))
        assert clusters_at(h.tree, level).cluster.tolist() == expected


@given(cell=grids(), levels=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_the_bounding_cube_is_halved(cell, levels):
    h = from_voxels(cell.double() / 4 - 7, levels=levels)
    assert h.validate() and h.depth == levels + 1
    side = max(int(cell.max()), 1)
    for level in range(levels + 1):
        coarse = (cell * 2**level // side).clamp(max=2**level - 1).tolist()
        assert clusters_at(h.tree, level).cluster.tolist() == blocks(map(tuple, coarse))


@given(samples=st.lists(grids(12), min_size=1, max_size=5), levels=st.none() | st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_samples_of_a_batch_get_the_trees_they_get_alone(samples, levels):
    samples = [s[:, :1].expand(-1, 2).double() for s in samples]
    options = {"size": 1.0} if levels is None else {"levels": levels}
    batch = torch.cat([torch.full((len(s),), b) for b, s in enumerate(samples)])
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(len(batch)))
    pos, batch = torch.cat(samples)[order], batch[order]
    h = from_voxels(pos, batch=batch, **options)
    assert h.validate() and h.num_trees == len(samples) and torch.equal(h.batch, batch)
    root = h.parent
    for _ in range(h.depth):
        root = h.parent[root]
    assert torch.equal(root[: len(batch)] - (h.num_tree_nodes - len(samples)), batch)
    for b in range(len(samples)):
        alone = from_voxels(pos[batch == b], **options)
        assert torch.equal(h.subgraph(batch == b).parent, alone.parent)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_rows_in_another_order_get_the_same_tree(dim):
    generator = torch.Generator().manual_seed(dim)
    pos, order = torch.rand(200, dim, generator=generator), torch.randperm(200, generator=generator)
    h, other = from_voxels(pos, size=0.1), from_voxels(pos[order], size=0.1)
    assert torch.equal(other.parent[:200], h.parent[:200][order])
    assert torch.equal(other.parent[200:], h.parent[200:])


def cells(pos, **options):
    """Number of the cell of each point on a line, cells without points left out."""
    pos = torch.as_tensor(pos).view(-1, 1)
    finest = from_voxels(pos, **options).parent[: len(pos)]
    return (finest - finest.min()).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.1, 0.01, 0.3, 0.7, 1 / 3, 3.3])
@pytest.mark.parametrize("number", [10, 1000])
def test_points_one_size_apart_lie_in_cells_of_their_own(dtype, size, number):
    each = list(range(number))
    row = torch.arange(number, dtype=dtype) * size
    assert cells(row, size=size) == each
    assert cells(torch.linspace(0, size * (number - 1), number, dtype=dtype), size=size) == each
    assert cells((torch.arange(number).double() * size).to(dtype), size=size) == each
    assert cells(row[:9], levels=3) == [0, 1, 2, 3, 4, 5, 6, 7, 7]  # upper faces: the last cell


@pytest.mark.parametrize("origin", [441_871.0, 6_329_700.1, -3.3, 0.05])
def test_so_they_do_far_from_the_origin(origin):
    assert cells(origin + np.arange(10) * 0.1, size=0.1) == list(range(10))
    assert cells(np.linspace(origin, origin + 0.9, 10), size=0.1) == list(range(10))
    assert cells(origin + np.arange(9) * 0.1, levels=3) == [0, 1, 2, 3, 4, 5, 6, 7, 7]


def test_so_they_do_in_float32_as_long_as_it_tells_them_apart():
    for origin in (100.0, 1000.1, -10_000.0, 441_871.0):
        assert cells((origin + np.arange(10) * 0.1).astype(np.float32), size=0.1) == list(range(10))


@given(
    number=st.lists(st.integers(0, 2**20), min_size=1, max_size=20),
    exponent=st.integers(-6, 6),
    origin=st.integers(-(2**22), 2**22),
)
@settings(max_examples=60, deadline=None)
def test_what_floats_hold_exactly_falls_where_it_is(number, exponent, origin):
    # Up to the last digit of float32, with as few as two steps to a cell.
    size = 2.0**exponent
    pos = torch.tensor([0, *number], dtype=torch.float64) / 2 + origin
    h = from_voxels((pos * size).float().view(-1, 1), size=size)
    expected = torch.tensor([0, *number]) // 2
    assert torch.equal((pos * size).float().double(), pos * size)
    assert blocks(h.parent[: len(pos)].tolist()) == blocks(expected.tolist())


def test_a_thousandth_of_a_cell_is_no_rounding():
    assert cells([0.0, 0.999, 0.9999999, 1.0], size=1) == [0, 0, 1, 1]
    assert cells(torch.tensor([0.0, 1 - 1e-12, 1 - 2e-16], dtype=torch.float64), size=1) == [
        0,
        0,
        1,
    ]


@pytest.mark.parametrize("options", [{"size": 0.01}, {"size": 100.0}, {"levels": 0}])
def test_points_of_one_cell_hang_from_the_root(options):
    pos = torch.full((5, 3), 2.5) if "levels" not in options else torch.rand(5, 3)
    assert from_voxels(pos, **options).parent.tolist() == [5] * 6


def test_duplicate_points_share_all_cells():
    h = from_voxels(torch.ones(3, 2), levels=2)
    assert h.parent.tolist() == [3, 3, 3, 4, 5, 5]


def test_one_point():
    assert from_voxels(torch.ones(1, 3), size=1).parent.tolist() == [1, 1]
    assert from_voxels(torch.ones(1, 3), levels=1).parent.tolist() == [1, 2, 2]


@pytest.mark.parametrize(("dim", "levels"), [(1, 52), (2, 31), (3, 20), (62, 1), (63, 0)])
def test_codes_fill_all_bits(dim, levels):
    pos = torch.stack([torch.zeros(dim), torch.ones(dim)]).double()
    assert from_voxels(pos, levels=levels).depth == levels + 1
    assert from_voxels(pos, size=2.0 ** -(levels - 1) if levels else 2.0).num_trees == 1
    with pytest.raises(ValueError, match=f"'levels' to be at most {levels} in {dim} dimensions"):
        from_voxels(pos, levels=levels + 1)


def test_the_largest_coordinates_are_no_obstacle():
    top = torch.finfo(torch.float64).max
    pos = torch.tensor([[-top], [top], [0.0], [top / 4]], dtype=torch.float64)
    assert from_voxels(pos, levels=1).parent.tolist() == [4, 5, 5, 5, 6, 6, 6]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_type(dtype):
    pos = torch.randint(0, 16, (30, 2), generator=torch.Generator().manual_seed(0)).float()
    h = from_voxels(pos.to(dtype), size=2)
    assert h.pos.dtype == dtype
    assert torch.equal(h.parent, from_voxels(pos, size=2).parent)


LINE = torch.tensor([[0.0], [1.0]])


@pytest.mark.parametrize(
    ("pos", "options", "error", "match"),
    [
        (LINE, {}, ValueError, r"one of 'size' and 'levels' \(got none\)"),
        (LINE, {"size": 1.0, "levels": 2}, ValueError, r"\(got both\)"),
        (LINE, {"size": 0.0}, ValueError, r"'size' to be positive and finite \(got 0.0\)"),
        (LINE, {"size": math.nan}, ValueError, r"'size' to be positive and finite \(got nan\)"),
        (LINE, {"size": math.inf}, ValueError, r"'size' to be positive and finite \(got inf\)"),
        (LINE, {"size": 1e-17}, ValueError, r"at most 2\^52 cells .* length of 1 \(got 1e-17\)"),
        (LINE.expand(2, 3), {"size": 1e-7}, ValueError, r"'size' .* 2\^20 cells .* of 3 axes"),
        (LINE, {"levels": -1}, ValueError, r"'levels' to be at least 0 \(got -1\)"),
        (LINE, {"levels": 53}, ValueError, r"'levels' to be at most 52 in 1 dimensions \(got 53\)"),
        (LINE, {"levels": 1.0}, TypeError, r"'levels' to be an integer \(got float\)"),
        (LINE.long(), {"levels": 1}, TypeError, r"'pos' to hold floating-point numbers"),
        (LINE[:0], {"levels": 1}, ValueError, r"'pos' to hold at least one point"),
        (LINE / 0, {"levels": 1}, ValueError, r"'pos' to be finite \(got pos\[0\] = \[nan\]\)"),
        (LINE, {"levels": 1, "batch": [0]}, ValueError, r"'batch' .* the 2 leaves \(got 1\)"),
        (LINE, {"levels": 1, "x": torch.rand(4, 1)}, ValueError, r"'x' .* the 2 leaves \(got 4"),
    ],
)
def test_bad_input_is_named(pos, options, error, match):
    with pytest.raises(error, match=match):
        from_voxels(pos, **options)
