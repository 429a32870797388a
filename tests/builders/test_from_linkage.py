import numpy as np
import pytest
import torch
from helpers import leaf_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy as sch
from sklearn.cluster import AgglomerativeClustering
from torch_geometric.loader import DataLoader

from hsa_geometric.builders import from_parent
from hsa_geometric.builders.children import from_children
from hsa_geometric.builders.linkage import from_linkage, to_linkage
from hsa_geometric.testing import renumber

Z = [[0, 1, 0.5, 2], [2, 3, 0.7, 2], [5, 6, 2.0, 4], [4, 7, 3.0, 5]]
METHODS = ["single", "complete", "average", "centroid", "median", "ward"]


@st.composite
def linkages(draw):
    """Valid linkage matrices of any shape and any heights."""
    n = draw(st.integers(1, 12))
    free, count, rows = list(range(n)), [1] * n, []
    for i in range(n - 1):
        a = free.pop(draw(st.integers(0, len(free) - 1)))
        b = free.pop(draw(st.integers(0, len(free) - 1)))
        height = draw(st.integers(0, 4))
        count.append(count[a] + count[b])
        rows.append([min(a, b), max(a, b), height, count[-1]])
        free.append(n + i)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def clusters_of(labels):
    return {frozenset(np.flatnonzero(labels == c).tolist()) for c in np.unique(labels)}


def test_by_hand():
    h = from_linkage(Z, x=torch.rand(5, 2))
    assert h.parent.tolist() == [5, 5, 6, 6, 8, 7, 7, 8, 8]
    torch.testing.assert_close(h.inner_height, torch.tensor([0.5, 0.7, 2.0, 3.0]).double())
    assert (h.num_nodes, h.depth, h.num_trees) == (5, 3, 1)


@pytest.mark.parametrize("matrix", [Z, np.array(Z), torch.tensor(Z), torch.tensor(Z).double()])
def test_any_table_of_numbers_is_a_linkage_and_stays_as_it_is(matrix):
    h = from_linkage(matrix)
    h.inner_height.fill_(0)
    assert h.parent.tolist() == [5, 5, 6, 6, 8, 7, 7, 8, 8]
    assert matrix[3][2] == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_merge_of_scipy_is_a_node_with_its_leaves(method):
    matrix = sch.linkage(np.random.default_rng(0).random((20, 2)), method)
    h = from_linkage(matrix)
    nodes = sch.to_tree(matrix, rd=True)[1]
    assert leaf_sets(h) == [frozenset(node.pre_order()) for node in nodes[20:]]
    assert h.inner_height.tolist() == matrix[:, 2].tolist()


@pytest.mark.parametrize("method", METHODS)  # centroid and median: heights that fall
def test_cuts_are_the_flat_clusters_of_scipy(method):
    matrix = sch.linkage(np.random.default_rng(1).random((30, 2)), method)
    cuts = np.quantile(matrix[:, 2], [0.3, 0.6, 0.9]).tolist()
    h = from_linkage(matrix, heights=cuts)
    expected = {frozenset(range(30))}
    for cut in cuts:
        expected |= clusters_of(sch.fcluster(matrix, cut, "distance"))
    found = leaf_sets(h)
    assert set(found) == {c for c in expected if len(c) > 1} and len(found) == len(set(found))
    assert h.depth <= len(cuts) + 1
    h = from_linkage(matrix, num_clusters=[3, 12])
    expected = {frozenset(range(30))}
    for k in (3, 12):
        expected |= clusters_of(sch.fcluster(matrix, k, "maxclust"))
    assert set(leaf_sets(h)) == {c for c in expected if len(c) > 1}


@given(linkages(), st.lists(st.sampled_from([-1, 0, 0.5, 1, 2, 3, 4, 9]), max_size=4))
@settings(max_examples=60, deadline=None)
def test_cut_trees_are_valid_in_order_and_without_single_children(matrix, cuts):
    full, h = from_linkage(matrix), from_linkage(matrix, heights=cuts)
    assert h.validate() and h.num_nodes == full.num_nodes == len(matrix) + 1
    assert torch.equal(h.tree.leaf_ids, torch.arange(h.num_nodes))
    assert torch.equal(h.collapse_chains().parent, h.parent)
    kept = iter(zip(leaf_sets(full), full.inner_height.tolist(), strict=True))
    for node in zip(leaf_sets(h), h.inner_height.tolist(), strict=True):
        assert node in kept  # a subsequence: the order of the merges, each with its height
    highest = sorted({4, *cuts})
    assert torch.equal(from_linkage(matrix, heights=highest).parent, h.parent)


@given(linkages())
@settings(max_examples=50, deadline=None)
def test_there_and_back_is_the_same_matrix(matrix):
    h = from_linkage(matrix)
    assert h.validate()
    np.testing.assert_array_equal(to_linkage(h), matrix)


@given(linkages(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_renumbered_trees_become_linkages_that_scipy_reads(matrix, random):
    h = from_linkage(matrix)
    new_id = list(range(h.num_tree_nodes))
    random.shuffle(new_id)
    parent, row = renumber(h.parent, torch.tensor(new_id))
    inner = torch.tensor(new_id[h.num_nodes :]).argsort()
    renumbered = from_parent(parent, inner_height=h.inner_height[inner])
    back = to_linkage(renumbered)
    if len(matrix):
        assert sch.is_valid_linkage(back)
    row = row.tolist()
    expected = [
        (frozenset(row[i] for i in s), t)
        for s, t in zip(leaf_sets(h), h.inner_height.tolist(), strict=True)
    ]
    again = from_linkage(back)
    found = list(zip(leaf_sets(again), again.inner_height.tolist(), strict=True))
    assert set(found) == set(expected) and len(found) == len(expected)


def test_without_heights_the_number_of_leaves_is_the_height():
    back = to_linkage(from_parent([3, 3, 4, 4, 4]))
    assert back.tolist() == [[0, 1, 2, 2], [2, 3, 3, 3]]
    assert sch.is_valid_linkage(back) and sch.is_monotonic(back)


def test_one_observation_is_a_tree_of_one_leaf():
    for options in ({}, {"heights": [1.0]}, {"num_clusters": [1, 5]}):
        assert from_linkage([], **options).parent.tolist() == [0]
        h = from_linkage(np.empty((0, 4)), x=torch.rand(1, 2), **options)
        assert h.parent.tolist() == [0] and h.inner_height.shape == (0,)
    assert to_linkage(h).shape == (0, 4)


def test_equal_observations_merge_at_height_zero_and_a_cut_there_joins_them():
    matrix = sch.linkage(np.repeat([[0.0], [1.0]], 3, axis=0), "average")
    assert from_linkage(matrix, heights=[0.0]).parent[:6].unique().numel() == 2
    assert from_linkage(matrix, heights=[]).parent.tolist() == [6] * 7


def test_dendrograms_batch():
    one, two = from_linkage(Z, x=torch.rand(5, 2)), from_linkage(Z[:1], x=torch.rand(2, 2))
    batch = next(iter(DataLoader([one, two], batch_size=2)))
    assert batch.validate() and batch.num_trees == 2 and batch.inner_height.shape == (5,)


def row(i, j, value):
    return [[value if (a, b) == (i, j) else x for b, x in enumerate(r)] for a, r in enumerate(Z)]


@pytest.mark.parametrize(
    ("matrix", "options", "error", "match"),
    [
        ("ab", {}, TypeError, "'Z' to be a matrix of numbers"),
        ([[0, 1], [2]], {}, TypeError, "'Z' to be a matrix of numbers"),
        (torch.zeros(1, 4, dtype=torch.cfloat), {}, TypeError, "'Z' to hold real numbers"),
        (torch.zeros(3, 3), {}, ValueError, r"'Z' to have 4 columns .* \(got shape \[3, 3\]\)"),
        (row(2, 2, np.nan), {}, ValueError, r"'Z' to hold no NaN \(got Z\[2, 2\] = nan\)"),
        (row(1, 0, 2.5), {}, ValueError, r"'Z' to join integer ids \(got Z\[1, 0\] = 2.5\)"),
        (row(1, 0, -1), {}, ValueError, r"row 1 of 'Z' .* \[0, 5\] \(got Z\[1, 0\] = -1\)"),
        (row(1, 1, 6), {}, ValueError, r"row 1 of 'Z' .* earlier rows.* \(got Z\[1, 1\] = 6\)"),
        (row(3, 0, np.inf), {}, ValueError, r"integer ids \(got Z\[3, 0\] = inf\)"),
        (
            row(3, 0, 2),
            {},
            ValueError,
            "'Z' to merge each node once .*node 2 in row 1 and in row 3",
        ),
        (row(0, 1, 0), {}, ValueError, "merge each node once .*node 0 in row 0 and in row 0"),
        (row(2, 3, 3), {}, ValueError, r"row 2 of 'Z' to count the 4 leaves .* Z\[2, 3\] = 3\)"),
        (Z, {"heights": [1], "num_clusters": [2]}, ValueError, r"at most one of .* \(got"),
        (Z, {"heights": [1.0, np.nan]}, ValueError, "'heights' to hold no NaN"),
        (Z, {"heights": 1.0}, TypeError, r"'heights' to be a list of numbers \(got 1.0\)"),
        (Z, {"num_clusters": 0}, TypeError, r"'num_clusters' to be a list of integers \(got 0\)"),
        (Z, {"num_clusters": [0]}, ValueError, r"'num_clusters' to hold positive .* \(got 0\)"),
        (Z, {"num_clusters": [2.0]}, TypeError, r"'num_clusters' to hold integers \(got 2.0\)"),
        (Z, {"x": torch.rand(4, 1)}, ValueError, r"'x' .* the 5 leaves \(got 4 rows\)"),
        (Z, {"inner_height": torch.rand(4)}, TypeError, "multiple values .*'inner_height'"),
    ],
)
def test_what_is_no_linkage_is_named(matrix, options, error, match):
    with pytest.raises(error, match=match):
        from_linkage(matrix, **options)


@pytest.mark.parametrize(
    ("h", "match"),
    [
        (from_parent([0, 1]), r"'hierarchy' to be one tree \(got 2 trees\)"),
        (from_parent([3, 3, 3, 3]), r"two children \(got 3 at node 3\)"),
        (from_parent([1, 2, 2]), r"two children \(got 1 at node 1\)"),
        (from_parent([2, 2, 2], inner_height=torch.rand(1, 2)), "'inner_height' .*2 dimensions"),
    ],
)
def test_a_tree_that_is_no_dendrogram_is_named(h, match):
    with pytest.raises(ValueError, match=match):
        to_linkage(h)


# scikit-learn #####################################################################################


@pytest.mark.parametrize("linkage", ["ward", "average"])
def test_children_of_scikit_learn_are_the_linkage_of_scipy(linkage):
    points = np.random.default_rng(2).random((25, 3))
    model = AgglomerativeClustering(linkage=linkage, compute_distances=True).fit(points)
    h = from_children(model.children_, model.n_leaves_, distances=model.distances_)
    expected = from_linkage(sch.linkage(points, linkage))
    assert set(leaf_sets(h)) == set(leaf_sets(expected))
    torch.testing.assert_close(
        h.inner_height.sort().values, expected.inner_height.sort().values, check_dtype=False
    )


def test_merging_that_stopped_early_hangs_the_rest_below_one_root():
    points = np.random.default_rng(3).random((25, 2))
    model = AgglomerativeClustering(5, compute_full_tree=False, connectivity=np.ones((25, 25)))
    model.set_params(compute_distances=True).fit(points)
    assert len(model.children_) == 20  # five short of a tree
    h = from_children(model.children_, model.n_leaves_, distances=model.distances_)
    assert h.num_trees == 1 and h.num_tree_nodes == 46
    below_root = {s for s, p in zip(leaf_sets(h), h.parent[25:].tolist(), strict=True) if p == 45}
    labels = clusters_of(model.labels_)
    assert below_root - {frozenset(range(25))} == {c for c in labels if len(c) > 1}
    assert h.inner_height[-1] == float("inf") and h.inner_height[:-1].isfinite().all()


def test_children_by_hand():
    assert from_children([[0, 1], [2, 3]]).parent.tolist() == [3, 3, 4, 4, 4]
    assert from_children([[0, 2]], 4, x=torch.rand(4, 1)).parent.tolist() == [4, 5, 4, 5, 5, 5]
    assert from_children(np.empty((0, 2), dtype=int), 3).parent.tolist() == [3, 3, 3, 3]
    assert from_children(np.empty((0, 2))).parent.tolist() == [0]
    assert from_children([], 2).parent.tolist() == [2, 2, 2]
    h = from_children(torch.tensor([[0, 1]]), distances=[2])
    assert h.inner_height.dtype == torch.float32


@given(linkages(), st.integers(0, 11), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_clusterings_that_stop_anywhere_are_one_valid_tree(matrix, stop, unmerged):
    merges = matrix[:, :2].astype(int)
    n = len(merges) + 1 + unmerged
    merges = np.where(merges > len(matrix), merges + unmerged, merges)[:stop]
    h = from_children(merges, n, distances=np.arange(len(merges)))
    assert h.validate() and h.num_trees == 1
    assert torch.equal(h.tree.leaf_ids, torch.arange(n))
    whole = len(merges) == n - 1
    assert h.num_tree_nodes == n + len(merges) + (not whole)
    for i, pair in enumerate(merges.tolist()):
        assert h.parent[pair].tolist() == [n + i] * 2 and h.inner_height[i] == i
    assert whole or h.inner_height[-1] == np.inf


@pytest.mark.parametrize(
    ("children", "options", "error", "match"),
    [
        ([[0, 1, 2]], {}, ValueError, r"'children' to have 2 columns .* \[1, 3\]"),
        ([[0, 2]], {}, ValueError, r"row 0 of 'children' .* \[0, 1\] \(got children\[0, 1\] = 2\)"),
        ([[0, 1], [1, 2]], {}, ValueError, "'children' to merge each node once .* node 1"),
        ([[0, 0.5]], {}, ValueError, r"integer ids \(got children\[0, 1\] = 0.5\)"),
        ([[0, 1]], {"n_leaves": 1}, ValueError, r"'n_leaves' to be more than the 1 .* \(got 1\)"),
        ([[0, 1]], {"n_leaves": 2.0}, TypeError, r"'n_leaves' to be an integer \(got float\)"),
        ([[0, 1]], {"distances": "a"}, TypeError, "'distances' to be a vector of numbers"),
        ([[0, 1]], {"distances": [True]}, TypeError, "'distances' to hold real numbers"),
        ([[0, 1]], {"distances": [1.0, 2.0]}, ValueError, "'distances' .* the 1 merges"),
        ([[0, 1]], {"distances": [np.nan]}, ValueError, r"distances\[0\] = nan"),
    ],
)
def test_bad_children_are_named(children, options, error, match):
    with pytest.raises(error, match=match):
        from_children(children, **options)
