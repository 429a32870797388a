import numpy as np
import pytest
import torch
from helpers import leaf_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from sklearn.cluster import HDBSCAN

from hsa_geometric import from_condensed_tree, from_linkage

hdbscan = pytest.importorskip("hdbscan")
ROWS = [
    [5, 6, 0.5, 2],
    [5, 7, 0.5, 2],
    [5, 4, 0.2, 1],
    [6, 0, 9.0, 1],
    [6, 1, 9.0, 1],
    [7, 2, 8.0, 1],
    [7, 3, 7.0, 1],
]
pytestmark = pytest.mark.filterwarnings("ignore")  # of hdbscan and scikit-learn


def points(seed=0, num_noise=8):
    rng = np.random.default_rng(seed)
    blobs = [rng.normal(4 * i, 0.3, (30, 2)) for i in range(3)]
    x = np.concatenate([*blobs, rng.uniform(-5, 12, (num_noise, 2))])
    return x[rng.permutation(len(x))]


def test_by_hand():
    h = from_condensed_tree(ROWS, x=torch.rand(5, 2))
    assert h.parent.tolist() == [6, 6, 7, 7, 5, 5, 5, 5] and h.num_nodes == 5
    expected = torch.tensor([9.0, 9.0, 8.0, 7.0, 0.2, 0.0, 0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(h.tree_lambda, expected)
    assert from_condensed_tree([[2, 0, 1, 1], [2, 1, 1, 1]]).parent.tolist() == [2, 2, 2]


@pytest.mark.parametrize("size", [2, 5, 20])
def test_the_tree_of_hdbscan_keeps_rows_clusters_and_noise(size):
    x = points()
    model = hdbscan.HDBSCAN(min_cluster_size=size).fit(x)
    h = from_condensed_tree(model.condensed_tree_, pos=x)
    assert h.validate() and h.num_trees == 1 and torch.equal(h.tree.leaf_ids, torch.arange(len(x)))
    assert torch.equal(h.pos, torch.from_numpy(x))
    for row in model.condensed_tree_.to_numpy():
        assert h.parent[row["child"]] == row["parent"]
        assert h.tree_lambda[row["child"]] == row["lambda_val"]
    for label in range(model.labels_.max() + 1):  # clusters that it chose are nodes of the tree
        assert frozenset(np.flatnonzero(model.labels_ == label).tolist()) in leaf_sets(h)
    for same in (model.condensed_tree_.to_numpy(), [*map(list, model.condensed_tree_.to_numpy())]):
        assert torch.equal(from_condensed_tree(same).parent, h.parent)


def test_data_frames_are_taken():
    pytest.importorskip("pandas")
    tree = hdbscan.HDBSCAN(min_cluster_size=5).fit(points()).condensed_tree_
    assert torch.equal(
        from_condensed_tree(tree.to_pandas()).parent, from_condensed_tree(tree).parent
    )


@pytest.mark.parametrize("size", [2, 5, 20])
def test_single_linkage_trees_of_both_packages_are_linkages(size):
    x = points()
    tree = hdbscan.HDBSCAN(min_cluster_size=size).fit(x).single_linkage_tree_
    h = from_linkage(tree, pos=x)
    assert torch.equal(h.parent, from_linkage(tree.to_numpy()).parent)
    assert h.num_nodes == len(x) and h.inner_height.tolist() == tree.to_numpy()[:, 2].tolist()
    records = HDBSCAN(min_cluster_size=size).fit(x)._single_linkage_tree_
    h = from_linkage(records)
    assert h.inner_height.tolist() == records["value"].tolist()
    assert h.parent[records["left_node"]].tolist() == list(range(len(x), 2 * len(x) - 1))


@given(st.integers(0, 999), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_a_condensed_linkage_is_the_condensed_tree(seed, size):
    x = points(seed)
    model = hdbscan.HDBSCAN(min_cluster_size=size, approx_min_span_tree=False).fit(x)
    expected = from_condensed_tree(model.condensed_tree_)
    h = from_linkage(model.single_linkage_tree_, min_cluster_size=size)
    assert sorted(map(sorted, leaf_sets(h))) == sorted(map(sorted, leaf_sets(expected)))
    # and so is that of scikit-learn, of which only the linkage is kept
    from sklearn.cluster._hdbscan._tree import _condense_tree

    Z = HDBSCAN(min_cluster_size=size).fit(x)._single_linkage_tree_
    h, expected = (
        from_linkage(Z, min_cluster_size=size),
        from_condensed_tree(_condense_tree(Z, size)),
    )
    assert sorted(map(sorted, leaf_sets(h))) == sorted(map(sorted, leaf_sets(expected)))


def test_rows_at_infinity_are_leaves_too():
    x = points()
    x[3] = np.inf
    h = from_condensed_tree(hdbscan.HDBSCAN(min_cluster_size=5).fit(x).condensed_tree_)
    assert h.num_nodes == len(x) and h.parent[3] == len(x) and h.tree_lambda[3] == 0


def test_condensing_any_linkage():
    # {0, 1, 2} and {3, 4} part at the top; 2 drops out of its cluster, 5 out of the root.
    Z = linkage([[0.0], [0.1], [0.3], [5.0], [5.1], [50.0]], "single")
    h = from_linkage(Z, min_cluster_size=2)
    assert h.parent.tolist() == [7, 7, 7, 6, 6, 8, 8, 8, 8]
    torch.testing.assert_close(h.inner_height.float(), torch.tensor([0.1, 0.2, 44.9]))
    assert from_linkage(Z, min_cluster_size=4).parent.tolist() == [6] * 7
    assert from_linkage(np.empty((0, 4)), min_cluster_size=2).parent.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"min_cluster_size": 1}, ValueError, r"'min_cluster_size' to be at least 2 \(got 1\)"),
        (
            {"min_cluster_size": 2.0},
            TypeError,
            r"'min_cluster_size' to be an integer \(got float\)",
        ),
        ({"min_cluster_size": 2, "heights": [1.0]}, ValueError, "at most one of"),
    ],
)
def test_bad_options_are_named(options, error, match):
    with pytest.raises(error, match=match):
        from_linkage([[0, 1, 1.0, 2]], **options)


def changed(row, column, value):
    return [[value if (i, j) == (row, column) else v for j, v in enumerate(r)]
            for i, r in enumerate(ROWS)]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ("tree", TypeError, "'tree' to be a matrix of numbers"),
        ([], ValueError, r"'tree' to have rows \(got none\)"),
        ([[2, 0, 1.0]], ValueError, r"'tree' to have 4 columns .* \(got shape \[1, 3\]\)"),
        (changed(3, 1, 0.5), ValueError, r"\(got tree\[3, 1\] = 0.5\)"),
        (changed(3, 1, -1), ValueError, r"\(got tree\[3, 1\] = -1.0\)"),
        (changed(3, 2, np.nan), ValueError, r"\(got tree\[3, 2\] = nan\)"),
        (
            changed(4, 1, 0),
            ValueError,
            r"but the root, 5, to be a child in 'tree' once \(got 0 2 t",
        ),
        (ROWS[:-1], ValueError, r"a child in 'tree' once \(got 3 0 times\)"),
        (ROWS[1:], ValueError, r"a child in 'tree' once \(got 6 0 times\)"),
        ([*ROWS, [7, 5, 1, 1]], ValueError, r"a child in 'tree' once \(got 5 1 times\)"),
        (ROWS[:5], ValueError, r"a child in 'tree' once \(got 2 0 times\)"),
        (changed(3, 1, 10**9), ValueError, r"to count up from 0 \(got 1000000000 in 7 rows\)"),
        ([*ROWS, [5, 8, 1, 1]], ValueError, r"to have children \(got none in 8\)"),
        (
            [[3, 0, 1, 1], [3, 1, 1, 1], [4, 5, 1, 1], [5, 4, 1, 1], [4, 2, 1, 1]],
            ValueError,
            "cycle",
        ),
    ],
)
def test_bad_trees_are_named(rows, error, match):
    with pytest.raises(error, match=match):
        from_condensed_tree(rows)
