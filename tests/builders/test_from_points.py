import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.builders import table
from hsa_geometric.builders.points import from_points
from hsa_geometric.functional import aggregate

METHODS = ["kd", "pca", "ball"]
sizes = st.integers(2, 9)


@st.composite
def clouds(draw, max_points=60):
    """Points in one to four dimensions, often on a grid and so with many ties and duplicates."""
    shape = draw(st.integers(1, max_points)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    if draw(st.booleans()):
        return torch.randint(-2, 3, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=dtype)


def line(*x):
    return torch.tensor(x, dtype=torch.float32).view(-1, 1)


def leaves_of(h):
    """Number of leaves and of children of each node."""
    parent = h.tree.parent
    child = parent[parent != torch.arange(parent.numel())]
    ones = torch.ones(h.num_nodes, dtype=torch.float64)
    return aggregate(ones, h.tree).long(), child.bincount(minlength=parent.numel())


def test_by_hand():
    h = from_points(line(3, -1, 2, 0), branching=2)
    assert h.parent.tolist() == [5, 4, 5, 4, 6, 6, 6]
    assert (h.num_nodes, h.depth, h.num_trees) == (4, 2, 1)


def test_three_pieces_are_one_and_two():
    h = from_points(line(6, 5, 4, 3, 2, 1, 0), branching=3)
    assert h.parent.tolist() == [9, 9, 9, 8, 8, 7, 7, 10, 10, 10, 10]


def test_a_lone_point_hangs_one_level_higher():
    h = from_points(line(0, 1, 2), branching=2)
    assert h.parent.tolist() == [4, 3, 3, 4, 4]


def test_kd_cuts_each_part_across_its_own_widest_axis():
    wide = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.1], [1.0, 0.1]])
    pos = torch.cat([wide, wide.flip(1) + 10])
    h = from_points(pos, branching=2)
    assert h.parent[:8].tolist() == [8, 9, 8, 9, 10, 11, 10, 11]


def test_pca_cuts_across_the_principal_axis():
    along, across = torch.tensor([1.0, 1.0]), torch.tensor([0.3, -0.3])
    pos = torch.stack([t * along + s * across for t in (0, 1, 2, 3) for s in (-1, 1)])
    h = from_points(pos, method="pca", branching=2, leaf_size=4)
    assert h.parent[:8].tolist() == [8] * 4 + [9] * 4


@pytest.mark.parametrize("dim", [3, 8, 9, 40])
def test_pca_finds_the_principal_axis_in_any_number_of_dimensions(dim):
    generator = torch.Generator().manual_seed(dim)
    pos = torch.randn(201, dim, generator=generator, dtype=torch.float64)
    scale = torch.ones(dim, dtype=torch.float64)
    scale[0] = 30
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    h = from_points((pos * scale) @ turn, method="pca", branching=2, leaf_size=101)
    place = pos[:, 0]
    lower = place <= place.median()
    near = (place - place.median()).abs() < 0.1  # where a slightly turned axis may decide otherwise
    side = h.parent[:201] == h.parent[place.argmin()]
    assert torch.equal(side[~near], lower[~near])


def test_ball_cuts_across_the_line_between_far_points():
    # The two ends of a thin cross: most of the variance is along y, the far points along x.
    pos = torch.tensor([[-9.0, 0], [9.0, 0.1]] + [[0.1 * s, y] for y in (-5, 5) for s in range(6)])
    h = from_points(pos, method="ball", branching=2, leaf_size=7)
    assert h.parent[0] != h.parent[1]
    assert h.parent[:14].tolist().count(14) == 7


@pytest.mark.parametrize("method", METHODS)
@given(pos=clouds(), branching=sizes, leaf_size=st.none() | sizes)
@settings(max_examples=40, deadline=None)
def test_trees_are_balanced(method, pos, branching, leaf_size):
    h = from_points(pos, method=method, branching=branching, leaf_size=leaf_size)
    leaf_size = branching if leaf_size is None else leaf_size
    num_leaves = pos.shape[0]
    assert h.validate() and h.num_trees == 1 and h.num_nodes == num_leaves
    assert h.tree.leaf_ids.tolist() == list(range(num_leaves)) and h.pos is pos
    count, children = leaves_of(h)
    level = h.tree.level
    inner = torch.arange(len(count)) >= num_leaves
    for k in range(h.depth + 1):
        of_level = count[level == k]
        assert of_level.max() - of_level.min() <= 1
    lowest = torch.zeros_like(inner)
    lowest[h.parent[:num_leaves]] = True
    above = inner & ~lowest
    assert (children[lowest] <= max(leaf_size, branching)).all()
    assert (count[inner & (count == children)] <= leaf_size).all()
    assert (children[above] <= branching).all()
    assert num_leaves == 1 or (children[inner] > 1).all()
    if leaf_size > 3:
        assert level[:num_leaves].unique().numel() == 1
    assert h.depth <= 1 + math.ceil(math.log2(num_leaves)) if num_leaves > 1 else h.depth == 1


@given(
    x=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    branching=sizes,
)
@settings(max_examples=60, deadline=None)
def test_on_a_line_parts_are_intervals_in_order(x, dtype, branching):
    pos = line(*x).to(dtype)
    span = float(pos.abs().max())
    assume(span == 0 or pos[pos != 0].abs().min() > 1e-30 * span)  # rounds to 0 beside the rest
    h = from_points(pos, branching=branching)
    part = h.parent[: len(x)]
    ends = [(pos[part == p].min(), pos[part == p].max()) for p in part.unique()]
    if h.tree.level[: len(x)].unique().numel() == 1:
        assert all(a[1] <= b[0] for a, b in pairwise(ends))


@pytest.mark.parametrize("method", METHODS)
@given(clouds_=st.lists(clouds(30), min_size=1, max_size=5), branching=sizes, data=st.data())
@settings(max_examples=25, deadline=None)
def test_samples_of_a_batch_get_the_trees_they_get_alone(method, clouds_, branching, data):
    samples = [c[:, :1].double() for c in clouds_]
    samples = [torch.cat([s, s.sin(), s.cos()], dim=1) for s in samples]
    batch = torch.cat([torch.full((len(s),), b) for b, s in enumerate(samples)])
    mixed = torch.tensor(data.draw(st.permutations(range(len(batch)))))
    mixed = mixed[batch[mixed].argsort(stable=True)] if data.draw(st.booleans()) else mixed
    pos, batch = torch.cat(samples)[mixed], batch[mixed]
    h = from_points(pos, method=method, branching=branching, batch=batch)
    assert h.validate() and h.num_trees == len(samples) and torch.equal(h.batch, batch)
    root = h.tree.order[h.tree.root]
    for b in range(len(samples)):
        alone = from_points(pos[batch == b], method=method, branching=branching)
        assert torch.equal(h.subgraph(batch == b).parent, alone.parent)
        up = h.parent[(batch == b).nonzero()[0]]
        while not torch.equal(up, h.parent[up]):
            up = h.parent[up]
        assert up == root[b]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("branching", [2, 3, 8, 10])
def test_rows_in_another_order_get_the_same_tree(method, branching):
    generator = torch.Generator().manual_seed(branching)
    pos = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    order = torch.randperm(300, generator=generator)
    h = from_points(pos, method=method, branching=branching)
    other = from_points(pos[order], method=method, branching=branching)
    assert torch.equal(other.parent[:300], h.parent[:300][order])
    assert torch.equal(other.parent[300:], h.parent[300:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_unit_of_length_does_not_matter(method, dtype):
    pos = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    parent = from_points(pos, method=method).parent
    for exponent in (-120, -60, 60, 120):
        assert torch.equal(from_points(pos * 2.0**exponent, method=method).parent, parent)


@pytest.mark.parametrize("method", METHODS)
def test_the_largest_coordinates_are_no_obstacle(method):
    top = torch.finfo(torch.float32).max
    h = from_points(line(top, -top, top / 2, -top / 2), method=method, branching=2)
    assert h.parent.tolist() == [5, 4, 5, 4, 6, 6, 6]


@pytest.mark.parametrize("method", METHODS)
def test_duplicate_points_are_cut_apart_in_the_order_of_their_rows(method):
    h = from_points(torch.ones(12, 3), method=method, branching=2, leaf_size=3)
    assert h.parent[:12].tolist() == [12] * 3 + [13] * 3 + [14] * 3 + [15] * 3


@pytest.mark.parametrize("method", METHODS)
def test_one_point_is_a_root_with_one_leaf(method):
    assert from_points(torch.zeros(1, 2), method=method).parent.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_any_floating_point_type(method, dtype):
    # Whole numbers, the same in all types, and distinct along every axis.
    pos = torch.stack([torch.arange(32.0), (torch.arange(32.0) ** 2) % 61], dim=1)
    h = from_points(pos.to(dtype), method=method, branching=2)
    assert h.pos.dtype == dtype
    assert torch.equal(h.parent, from_points(pos, method=method, branching=2).parent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_of_either_sign_are_the_same_place(dtype):
    pos = line(0.0, -0.0, 0.0, -0.0, 1.0, 1.0, -1.0, -1.0).to(dtype)
    h = from_points(pos, branching=2, leaf_size=2)
    assert h.parent[:8].tolist() == [9, 9, 10, 10, 11, 11, 8, 8]


def test_arrays_and_leaf_data():
    pos = np.random.default_rng(0).normal(size=(20, 2))
    h = from_points(pos, x=torch.rand(20, 4), y=torch.tensor([1.0]), mass=np.ones(20))
    assert h.pos.dtype == torch.float64 and h.x.shape == (20, 4) and h.mass.shape == (20,)
    pos[0] = 7
    assert h.pos[0, 0] != 7


def test_positions_may_need_gradients():
    pos = torch.rand(9, 2, requires_grad=True)
    h = from_points(pos, method="pca", branching=2)
    assert h.pos is pos and not h.parent.requires_grad


@pytest.mark.parametrize(
    ("pos", "options", "error", "match"),
    [
        ([[0.0]], {}, TypeError, r"'pos' to be a tensor or an array \(got list\)"),
        (torch.zeros(3, 2, dtype=torch.long), {}, TypeError, r"'pos' .* floating-point .*int64"),
        (np.array([["a"]]), {}, TypeError, r"'pos' to be a tensor"),
        (torch.zeros(3), {}, ValueError, r"'pos' to be two-dimensional \(got 1 dimensions\)"),
        (torch.zeros(0, 3), {}, ValueError, r"'pos' .* at least one point .* \(got shape \[0, 3\]"),
        (torch.zeros(3, 0), {}, ValueError, r"one coordinate \(got shape \[3, 0\]\)"),
        (line(0, math.nan), {}, ValueError, r"'pos' to be finite \(got pos\[1\] = \[nan\]\)"),
        (line(0, 1, -math.inf), {}, ValueError, r"\(got pos\[2\] = \[-inf\]\)"),
        (line(0), {"method": "rp"}, ValueError, r"one of \['kd', 'pca', 'ball'\] \(got 'rp'\)"),
        (line(0), {"branching": 1}, ValueError, r"'branching' to be at least 2 \(got 1\)"),
        (line(0), {"branching": 2.0}, TypeError, r"'branching' .* integer \(got float\)"),
        (line(0), {"leaf_size": 0}, ValueError, r"'leaf_size' to be at least 2 \(got 0\)"),
        (line(0, 1), {"batch": [0]}, ValueError, r"'batch' .* the 2 leaves \(got 1\)"),
        (line(0, 1), {"batch": [0, 2]}, ValueError, r"'batch' .* no member of sample 1"),
        (line(0, 1), {"x": torch.rand(3, 1)}, ValueError, r"'x' .* the 2 leaves \(got 3 rows\)"),
    ],
)
def test_bad_points_are_named(pos, options, error, match):
    with pytest.raises(error, match=match):
        from_points(pos, **options)


def test_the_benchmark_prints_a_row_for_each_size():
    head, _, *rows = table([20, 40]).splitlines()
    assert all(name in head for name in ["cKDTree", "kd", "pca", "ball", "voxels"])
    assert [row.split("|")[1].strip() for row in rows] == ["20", "40"]
