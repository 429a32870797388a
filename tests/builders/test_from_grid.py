import itertools
import math

import pytest
import torch
from helpers import leaf_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from hsa_geometric.builders.grids import from_grid
from hsa_geometric.builders.sequences import from_sequence
from hsa_geometric.functional import clusters_at

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)


def boxes(shape, window):
    """Cells of each window, by a plain loop over the cells."""
    out = {}
    for i, at in enumerate(itertools.product(*map(range, shape))):
        key = tuple(a // w for a, w in zip(at, window, strict=True))
        out.setdefault(key, set()).add(i)
    return {frozenset(box) for box in out.values()}


def test_a_quadtree_by_hand():
    h = from_grid((4, 4))
    assert h.parent.tolist() == [
        *(16, 16, 17, 17, 16, 16, 17, 17, 18, 18, 19, 19, 18, 18, 19, 19),
        *(20, 20, 20, 20, 20),
    ]
    assert h.pos[:5].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


def test_rows_follow_the_image():
    image = torch.rand(3, 4, 6)
    h = from_grid(image.shape[1:], x=image.flatten(1).t())
    row, column = h.pos.long().t()
    assert torch.equal(h.x, image[:, row, column].t())
    corner = clusters_at(h.tree, -2).cluster == 0  # the first window of 2 x 2
    assert torch.equal(h.x[corner], image[:, :2, :2].flatten(1).t())


@given(shapes, st.integers(2, 3))
@settings(max_examples=50, deadline=None)
def test_every_level_holds_exactly_the_cells_of_its_boxes(shape, branching):
    h = from_grid(shape, branching=branching)
    size = math.prod(shape)
    assert h.validate() and h.num_nodes == size and h.num_trees == 1
    assert h.pos.tolist() == [list(at) for at in itertools.product(*map(range, shape))]
    expected = {frozenset(range(size))}
    for k in range(1, 4):
        expected |= {b for b in boxes(shape, [branching**k] * len(shape)) if len(b) > 1}
    got = leaf_sets(h)
    assert len(got) == len(set(got)) and set(got) == expected


@given(st.data(), shapes)
@settings(max_examples=50, deadline=None)
def test_windows_may_differ_along_axes(data, shape):
    factor = st.tuples(*[st.integers(1, 3)] * len(shape)).filter(lambda f: max(f) > 1)
    sizes, window = [], (1,) * len(shape)
    for f in data.draw(st.lists(factor, max_size=3)):
        window = tuple(a * b for a, b in zip(window, f, strict=True))
        sizes.append(window)
    h = from_grid(shape, windows=sizes)
    expected = {frozenset(range(math.prod(shape)))}
    for window in sizes:
        expected |= {box for box in boxes(shape, window) if len(box) > 1}
    got = leaf_sets(h)
    assert len(got) == len(set(got)) and set(got) == expected

    full = from_grid(shape, windows=sizes, collapse=False)
    for k, window in enumerate(sizes):
        cluster = clusters_at(full.tree, -2 - k).cluster
        groups = {frozenset((cluster == c).nonzero().view(-1).tolist()) for c in cluster.unique()}
        assert groups == boxes(shape, window)


@given(st.integers(1, 40), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_one_axis_is_a_sequence(length, branching):
    grid = from_grid((length,), branching=branching)
    assert torch.equal(grid.parent, from_sequence(length, branching=branching).parent)


def test_an_axis_may_be_left_alone():
    h = from_grid((3, 5), branching=(1, 2))
    assert boxes((3, 5), (1, 5)) <= set(leaf_sets(h))  # rows, and the root above them
    assert h.parent[clusters_at(h.tree, 1).node].unique().tolist() == [h.num_tree_nodes - 1]


def test_a_batch_of_grids_is_each_by_itself():
    h = from_grid((3, 5), batch_size=3)
    single = from_grid((3, 5))
    batch = Batch.from_data_list([single] * 3)
    assert torch.equal(h.batch, batch.batch) and torch.equal(h.pos, batch.pos)
    assert torch.equal(h.tree.up, batch.tree.up) and torch.equal(h.tree.leaf, batch.tree.leaf)
    assert "batch" not in single and from_grid((3, 5), batch_size=1).batch.tolist() == [0] * 15


def test_one_cell_is_a_root_with_one_leaf():
    assert from_grid((1, 1)).parent.tolist() == [1, 1]
    assert from_grid((1,), windows=[4]).parent.tolist() == [1, 1]


def test_positions_of_the_caller_stay():
    pos = torch.rand(4, 3)
    assert from_grid((2, 2), pos=pos).pos is pos


@pytest.mark.parametrize(
    ("shape", "options", "error", "match"),
    [
        (4, {}, TypeError, r"'shape' to be a sequence \(got int\)"),
        ((), {}, ValueError, r"'shape' to have at least one axis \(got none\)"),
        ((4, 0), {}, ValueError, r"'shape\[1\]' to be at least 1 \(got 0\)"),
        ((4, 2.0), {}, TypeError, r"'shape\[1\]' to be an integer \(got float\)"),
        ((4, 4), {"batch_size": 0}, ValueError, r"'batch_size' to be at least 1 \(got 0\)"),
        ((4, 4), {"batch_size": 1.0}, TypeError, r"'batch_size' .* \(got float\)"),
        ((4, 4), {"branching": 1}, ValueError, r"'branching' to be at least 2 \(got \(1, 1\)\)"),
        ((4, 4), {"branching": (2,)}, ValueError, r"'branching' .* the 2 axes \(got 1\)"),
        ((4, 4), {"windows": [2], "branching": 2}, ValueError, "'windows' or 'branching'"),
        ((4, 4), {"windows": [(2, 2), (4, 3)]}, ValueError, r"got \(4, 3\) after \(2, 2\)"),
        ((4, 4), {"windows": [(2, 2, 2)]}, ValueError, r"'windows\[0\]' .* 2 axes \(got 3\)"),
        ((4, 4), {"x": torch.rand(15, 1)}, ValueError, r"'x' .* the 16 leaves \(got 15 rows\)"),
    ],
)
def test_bad_arguments_are_named(shape, options, error, match):
    with pytest.raises(error, match=match):
        from_grid(shape, **options)


def test_coordinates_of_long_grids_are_whole_numbers_of_a_wider_type():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert from_grid((257,)).pos.dtype == torch.bfloat16
        h = from_grid((2, 259))
    finally:
        torch.set_default_dtype(before)
    assert h.pos.dtype == torch.float64
    assert h.pos[:, 1].tolist() == [*range(259), *range(259)]
