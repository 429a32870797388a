import builtins
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch_geometric.data import Batch, Data

from hsa_geometric.builders import from_parent
from hsa_geometric.report import plot_hierarchy, plot_levels
from hsa_geometric.testing import balanced, forests, zoo

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def bars(ax):
    """Left, right and level of each bar, in the order of the node ids."""
    corners = np.array([path.vertices[:4] for path in ax.collections[0].get_paths()])
    return corners[:, 0, 0], corners[:, 1, 0], -corners[:, 0, 1]


def test_an_icicle_by_hand():
    # 5 (root) - {4 - {0, 3}, 1, 2}: siblings stand in the order of their first leaves.
    ax = plot_hierarchy(from_parent([4, 5, 5, 4, 5, 5]), title="by hand")
    left, right, level = bars(ax)
    assert left.tolist() == [0, 2, 3, 1, 0, 0]
    assert right.tolist() == [1, 3, 4, 2, 2, 4]
    assert level.tolist() == [2, 1, 1, 2, 1, 0]
    assert ax.get_title() == "by hand" and ax.get_xlabel() == "4 leaves, in tree order"


@given(forests(max_nodes=20))
@settings(max_examples=15, deadline=None)
def test_children_fill_the_bar_of_their_parent_without_crossing(parent):
    h = from_parent(parent)
    left, right, level = bars(plot_hierarchy(h, ax=plt.figure().add_subplot()))
    plt.close("all")
    count = h.tree.count[h.tree.position].numpy()
    np.testing.assert_allclose(right - left, count)
    assert (level == h.tree.level.numpy()).all()
    for node in range(len(parent)):
        family = [a for a, p in enumerate(parent.tolist()) if p == node != a]
        if family:
            spans = sorted((left[a], right[a]) for a in family)
            np.testing.assert_allclose(spans[0][0], left[node])
            np.testing.assert_allclose(spans[-1][1], right[node])
            for one, other in pairwise(spans):
                np.testing.assert_allclose(one[1], other[0])
    roots = [a for a, p in enumerate(parent.tolist()) if a == p]
    spans = sorted((left[a], right[a]) for a in roots)
    assert all(one[1] < other[0] for one, other in pairwise(spans))


def test_leaves_stand_in_row_order_where_the_tree_allows():
    h = from_parent([5, 5, 7, 6, 6, 7, 7, 7])
    left = bars(plot_hierarchy(h))[0]
    assert left[:5].tolist() == [0, 1, 2, 3, 4] and left[5:].tolist() == [0, 3, 0]


def test_a_node_has_the_mean_color_of_its_leaves():
    h = from_parent([4, 4, 5, 5, 6, 6, 6])
    color = torch.tensor([1.0, 3.0, 5.0, 7.0])
    ax = plot_hierarchy(h, color=color, cmap="magma")
    assert ax.collections[0].get_array().tolist() == [1, 3, 5, 7, 2, 6, 4]
    assert ax.collections[0].get_cmap().name == "magma"
    ax = plot_hierarchy(h, color=torch.arange(7))
    assert ax.collections[0].get_array().tolist() == list(range(7))


def test_a_batch_says_how_many_trees_there_are():
    batch = Batch.from_data_list([from_parent(zoo("ragged")), from_parent(zoo("star"))])
    ax = plot_hierarchy(batch)
    assert ax.get_xlabel() == f"{batch.num_nodes} leaves in 2 trees, in tree order"
    assert len(ax.collections[0].get_paths()) == batch.num_tree_nodes


def test_levels_in_space_have_a_color_for_each_cluster():
    h = from_parent(balanced(2, 3), pos=torch.rand(8, 2))
    axes = plot_levels(h, levels=[0, 1, -1])
    titles = ["level 0: 1 cluster", "level 1: 2 clusters", "level -1: 8 clusters"]
    assert [ax.get_title() for ax in axes] == titles
    for ax, clusters in zip(axes, (1, 2, 8), strict=True):
        points = ax.collections[0]
        np.testing.assert_allclose(points.get_offsets(), h.pos.numpy())
        colors = points.get_facecolors()
        assert len(np.unique(np.broadcast_to(colors, (8, 4)), axis=0)) == clusters


def test_three_dimensions_get_axes_of_their_own():
    h = from_parent(balanced(2, 2), pos=torch.rand(4, 3))
    assert [ax.name for ax in plot_levels(h, levels=[1])] == ["3d"]
    flat = from_parent([0], pos=torch.zeros(1, 3))
    plot_levels(flat, levels=[0])[0].figure.canvas.draw()
    ours = plt.subplots(1, 2)[1]
    h.pos = h.pos[:, :2]
    assert plot_levels(h, levels=[0, 1], axes=ours, size=3.0) is ours


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda h: plot_hierarchy(Data()), TypeError, "'h' to be a Hierarchy"),
        (lambda h: plot_hierarchy(h, color=torch.rand(3)), ValueError, r"'color' .* shape \[3\]"),
        (lambda h: plot_hierarchy(h, color=[1.0]), TypeError, "'color' to be a tensor"),
        (lambda h: plot_levels(from_parent([0])), ValueError, r"'pos' in 'h' \(got none\)"),
        (
            lambda h: plot_levels(from_parent([0], pos=torch.rand(1, 4))),
            ValueError,
            r"'pos' to have shape \[N, 2\] or \[N, 3\] \(got \[1, 4\]\)",
        ),
        (lambda h: plot_levels(h, levels=[]), ValueError, "'levels' to hold at least one level"),
        (lambda h: plot_levels(h, levels=[0.5]), TypeError, "'level' to be an integer"),
        (
            lambda h: plot_levels(h, levels=[0, 1], axes=[None]),
            ValueError,
            r"one of 'axes' for each of 2 levels \(got 1\)",
        ),
    ],
)
def test_bad_arguments_are_named(act, error, match):
    with pytest.raises(error, match=match):
        act(from_parent(balanced(2, 2), pos=torch.rand(4, 2)))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'hsa_geometric\[examples\]'"):
        plot_hierarchy(from_parent([0]))
