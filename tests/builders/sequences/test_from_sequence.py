import numpy as np
import pytest
import torch
from helpers import leaf_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from hsa_geometric.builders.sequences import from_sequence
from hsa_geometric.functional import aggregate, clusters_at


def runs(labels):
    """Leaf sets of neighbours with the same label, by a plain loop."""
    out, previous = [], object()
    for i, label in enumerate(labels):
        if label != previous:
            out.append([])
        out[-1].append(i)
        previous = label
    return {frozenset(run) for run in out}


def windows(sizes=(1, 2, 3, 5)):
    factors = st.lists(st.sampled_from(sizes[1:]), max_size=4)
    return factors.map(lambda f: tuple(np.cumprod(f).tolist()))


def test_windows_by_hand():
    h = from_sequence(7, windows=(2, 4))
    # Windows of 2: 7 8 9, the last leaf alone; of 4: 10 = {7, 8}, 11 = {9, leaf 6}; root 12.
    assert h.parent.tolist() == [7, 7, 8, 8, 9, 9, 11, 10, 10, 11, 12, 12, 12]
    assert (h.num_nodes, h.num_trees, h.depth) == (7, 1, 3)
    assert "batch" not in h


def test_chains_stay_if_asked_for():
    h = from_sequence(3, windows=(2, 4), collapse=False)
    assert h.parent.tolist() == [3, 3, 4, 5, 5, 6, 6]


def test_branching_gives_its_powers_until_one_holds_all():
    for length in (1, 2, 3, 4, 9, 10, 27, 28):
        powers = [3**k for k in range(1, 5) if 3**k < length]
        got = from_sequence(length, branching=3)
        assert torch.equal(got.parent, from_sequence(length, windows=powers).parent)
    assert torch.equal(from_sequence(70).parent, from_sequence(70, branching=8).parent)


@given(st.integers(1, 60), windows())
@settings(max_examples=60, deadline=None)
def test_windows_hold_exactly_their_tokens(length, sizes):
    h = from_sequence(length, windows=sizes)
    assert h.validate() and h.num_nodes == length and h.num_trees == 1
    blocks = [frozenset(range(a, min(a + w, length))) for w in sizes for a in range(0, length, w)]
    expected = {block for block in blocks if len(block) > 1} | {frozenset(range(length))}
    got = leaf_sets(h)
    assert len(got) == len(set(got)) and set(got) == expected

    full = from_sequence(length, windows=sizes, collapse=False)
    for k, size in enumerate(sizes):
        cluster = clusters_at(full.tree, -2 - k).cluster
        assert torch.equal(cluster, torch.arange(length) // size)


def test_a_sequence_of_one_token_is_a_root_with_one_leaf():
    for options in ({}, {"windows": (2, 4)}, {"branching": 2}, {"boundaries": [[True]]}):
        assert from_sequence(1, **options).parent.tolist() == [1, 1]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), windows())
@settings(max_examples=40, deadline=None)
def test_a_batch_of_sequences_is_each_by_itself(lengths, sizes):
    batch = from_sequence(lengths, windows=sizes)
    assert batch.validate() and batch.num_trees == len(lengths)
    assert torch.equal(batch.batch.bincount(), torch.tensor(lengths))
    start = 0
    expected = set()
    for length in lengths:
        single = from_sequence(length, windows=sizes)
        expected |= {frozenset(start + i for i in leaves) for leaves in leaf_sets(single)}
        start += length
    got = leaf_sets(batch)
    assert len(got) == len(set(got)) and set(got) == expected
    roots = clusters_at(batch.tree, 0)  # tree b is sequence b
    assert torch.equal(roots.tree[roots.cluster], batch.batch)


def test_trees_stand_in_the_order_of_the_sequences_whatever_their_depths():
    lengths = torch.tensor([1, 9, 1, 3])
    h = from_sequence(lengths, branching=2)
    assert h.parent[-4:].tolist() == [h.num_tree_nodes - 4 + b for b in range(4)]
    assert aggregate(torch.ones(14), h.tree)[-4:].tolist() == lengths.tolist()
    one_by_one = Batch.from_data_list([from_sequence(n, branching=2) for n in lengths.tolist()])
    for level in (-3, -2, 0, 1):
        got, expected = clusters_at(h.tree, level), clusters_at(one_by_one.tree, level)
        assert torch.equal(got.cluster, expected.cluster) and torch.equal(got.tree, expected.tree)


@given(st.data(), st.lists(st.integers(1, 12), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_coarser_boundary_is_a_finer_one_too(data, lengths):
    total = sum(lengths)
    masks = [
        data.draw(st.lists(st.booleans(), min_size=total, max_size=total))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    h = from_sequence(lengths, boundaries=masks)
    assert h.validate()
    sample = np.repeat(np.arange(len(lengths)), lengths)
    expected = runs(sample)
    for k in range(len(masks)):
        starts = np.any(masks[k:], axis=0)
        units = runs(list(zip(sample, np.cumsum(starts), strict=True)))
        expected |= {unit for unit in units if len(unit) > 1}
    got = leaf_sets(h)
    assert len(got) == len(set(got)) and set(got) == expected


def test_boundaries_may_be_numbers_of_units():
    numbers = [torch.tensor([0, 0, 1, 1, 4]), np.array([7, 7, 7, 7, 8])]
    marks = [[True, False, True, False, True], torch.tensor([True, False, False, False, True])]
    h = from_sequence(5, boundaries=numbers)
    assert h.parent.tolist() == [5, 5, 6, 6, 8, 7, 7, 8, 8]
    assert torch.equal(from_sequence(5, boundaries=marks).parent, h.parent)
    restart = from_sequence([2, 3], boundaries=[[0, 1, 0, 0, 1]])  # counted in each sequence
    assert restart.parent.tolist() == [6, 6, 5, 5, 7, 7, 6, 7]
    assert numbers[0].tolist() == [0, 0, 1, 1, 4]


def test_no_boundaries_and_no_windows_are_a_star():
    assert from_sequence(3, boundaries=[]).parent.tolist() == [3] * 4
    assert from_sequence(3, windows=()).parent.tolist() == [3] * 4


def test_leaf_data_is_carried():
    x = torch.rand(5, 2)
    h = from_sequence(5, windows=(2,), x=x, mass=[1.0, 1.0, 0.0, 2.0, 1.0], y=torch.tensor([1.0]))
    assert h.x is x and h.mass.tolist() == [1, 1, 0, 2, 1] and h.y.tolist() == [1]


@pytest.mark.parametrize(
    ("length", "options", "error", "match"),
    [
        (0, {}, ValueError, r"'length' to be at least 1 \(got 0\)"),
        (-3, {}, ValueError, r"'length' to be at least 1 \(got -3\)"),
        ([3, 0], {}, ValueError, r"'length' to be at least 1 \(got length\[1\] = 0\)"),
        ([], {}, ValueError, "'length' to hold at least one entry"),
        (2.5, {}, TypeError, "'length' to hold integers"),
        (True, {}, TypeError, r"'length' to be an integer \(got bool\)"),
        ("abc", {}, TypeError, "'length'"),
        (3, {"windows": 2}, TypeError, r"'windows' to be a sequence \(got int\)"),
        (3, {"windows": (2, 3)}, ValueError, r"whole multiples \(got 3 after 2\)"),
        (3, {"windows": (2, 2)}, ValueError, r"whole multiples \(got 2 after 2\)"),
        (3, {"windows": (1, 2)}, ValueError, r"whole multiples \(got 1 after 1\)"),
        (3, {"windows": (0,)}, ValueError, r"'windows\[0\]' to be at least 1 \(got 0\)"),
        (3, {"windows": (2.0,)}, TypeError, r"'windows\[0\]' to be an integer \(got float\)"),
        (3, {"windows": ((2, 2),)}, ValueError, r"each of the 1 axes \(got 2\)"),
        (3, {"branching": 1}, ValueError, r"'branching' to be at least 2 \(got 1\)"),
        (3, {"branching": "2"}, TypeError, r"'branching' to be an integer \(got str\)"),
        (3, {"branching": True}, TypeError, r"'branching' to be an integer \(got bool\)"),
        (3, {"branching": 2, "windows": (2,)}, ValueError, r"one of .* 'boundaries' \(got \["),
        (3, {"boundaries": "abc"}, TypeError, r"'boundaries' to be a list of vectors \(got str\)"),
        (3, {"boundaries": [[True]]}, ValueError, r"'boundaries\[0\]' .* the 3 tokens \(got 1\)"),
        (3, {"boundaries": [[0.0, 1.0, 2.0]]}, TypeError, r"'boundaries\[0\]' to hold integers"),
        (
            4,
            {"boundaries": [[1, 0, 1, 0]]},
            ValueError,
            r"'boundaries\[0\]' .* ascending order \(got 0 after 1 at token 1\); marks .* boolean",
        ),
        (3, {"x": torch.rand(2, 1)}, ValueError, r"'x' .* the 3 leaves \(got 2 rows\)"),
    ],
)
def test_bad_arguments_are_named(length, options, error, match):
    with pytest.raises(error, match=match):
        from_sequence(length, **options)
