import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from torch_geometric.data import Batch, Data

from hsa_geometric.builders.linkage import from_linkage
from hsa_geometric.data import Hierarchy
from hsa_geometric.transforms.linkage import LinkageHierarchy


def cloud(n, seed=0, **extra):
    generator = torch.Generator().manual_seed(seed)
    return Data(pos=torch.rand(n, 3, generator=generator), y=torch.tensor([float(n)]), **extra)


def test_the_tree_is_that_of_the_linkage_and_everything_else_stays():
    data = cloud(
        12,
        x=torch.rand(12, 2),
        edge_index=torch.tensor([[0, 5], [5, 0]]),
        edge_attr=torch.rand(2, 1),
        face=torch.tensor([[0], [1], [2]]),
        name="cloud",
        odd=torch.rand(7),
    )
    keys = set(data.keys())
    h = LinkageHierarchy("average", heights=[0.3, 0.6])(data)
    expected = from_linkage(linkage(data.pos.numpy(), "average"), heights=[0.3, 0.6])
    assert isinstance(h, Hierarchy) and torch.equal(h.parent, expected.parent)
    torch.testing.assert_close(h.inner_height, expected.inner_height.float())
    assert set(h.keys()) == keys | {"parent", "inner_height"} and set(data.keys()) == keys
    for key in keys - {"name"}:
        assert h[key] is data[key]
    assert h.name == "cloud"


def test_any_attribute_can_be_clustered():
    data = Data(x=torch.tensor([[0], [9], [1], [8]]))  # integers
    h = LinkageHierarchy(attr="x", num_clusters=[2])(data)
    assert h.parent.tolist() == [4, 5, 4, 5, 6, 6, 6]
    assert h.inner_height.dtype == torch.float32 and h.x.dtype == torch.int64


@given(st.integers(1, 12), st.integers(0, 99), st.booleans(), st.sampled_from([None, [3], [4, 2]]))
@settings(max_examples=40, deadline=None)
def test_every_cloud_gets_a_valid_tree_duplicates_too(n, seed, duplicates, num_clusters):
    data = cloud(n, seed)
    if duplicates:
        data.pos = data.pos.round()
    h = LinkageHierarchy(num_clusters=num_clusters)(data)
    assert h.validate() and h.num_trees == 1 and h.num_nodes == n
    assert torch.equal(h.tree.leaf_ids, torch.arange(n)) and h.pos is data.pos
    if num_clusters:
        assert h.depth <= len(num_clusters) + 1


def test_condensed_trees():
    data = Data(pos=torch.tensor([[0.0], [0.1], [0.3], [5.0], [5.1], [50.0]]))
    h = LinkageHierarchy("single", min_cluster_size=2)(data)
    assert h.parent.tolist() == [7, 7, 7, 6, 6, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "best"}, ValueError, r"'method' to be one of \['single', .*\(got 'best'\)"),
        ({"heights": [1], "num_clusters": [2]}, ValueError, r"at most one of .* \(got"),
        ({"heights": [float("nan")]}, ValueError, "'heights' to hold no NaN"),
        ({"num_clusters": [0]}, ValueError, "'num_clusters' to hold positive numbers"),
        ({"metric": "cosine"}, ValueError, "metric='euclidean' for method='ward'"),
        ({"num_clusters": [1.5]}, TypeError, "'num_clusters' to hold integers"),
    ],
)
def test_bad_options_are_named_at_once(options, error, match):
    with pytest.raises(error, match=match):
        LinkageHierarchy(**options)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (Data(x=torch.rand(3, 1)), ValueError, r"'data' to have 'pos' \(got \['x'\]\)"),
        (Data(pos=torch.rand(3)), ValueError, r"'pos' to be two-dimensional \(got 1 dimensions\)"),
        (Data(pos=torch.rand(0, 2)), ValueError, r"'pos' .* one row .*\(got shape \[0, 2\]"),
        (Data(pos=torch.rand(2, 0)), ValueError, r"'pos' .* one coordinate \(got shape \[2, 0\]"),
        (Data(pos=torch.ones(2, 1) * 1j), TypeError, "'pos' to hold floating-point numbers"),
        (Data(pos=torch.tensor([[0.0], [torch.nan]])), ValueError, r"finite .*pos\[1\] = \[nan\]"),
        (Batch.from_data_list([cloud(2), cloud(2)]), ValueError, "'data' to be one sample"),
        (cloud(2, mass=torch.ones(3)), ValueError, r"'mass' .* the 2 leaves \(got 3 rows\)"),
        (cloud(2, tree_kind=torch.ones(2)), ValueError, r"'tree_kind' .* the 3 nodes \(got 2 rows"),
        (cloud(2, depth=3), AttributeError, "Cannot set 'depth'"),
    ],
)
def test_bad_samples_are_named(data, error, match):
    with pytest.raises(error, match=match):
        LinkageHierarchy()(data)


def test_the_options_are_shown():
    assert repr(LinkageHierarchy()) == "LinkageHierarchy()"
    assert repr(LinkageHierarchy("single", "cosine", attr="x", num_clusters=[8, 2])) == (
        "LinkageHierarchy(method='single', metric='cosine', attr='x', num_clusters=[8, 2])"
    )


def test_scipy_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.cluster.hierarchy", None)
    with pytest.raises(ImportError, match=r"needs SciPy: pip install 'hsa_geometric\[clusters\]'"):
        LinkageHierarchy()(cloud(3))
