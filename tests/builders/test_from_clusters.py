import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from hsa_geometric.builders import from_clusters


@st.composite
def chains(draw):
    """Cluster vectors, each over the clusters of the one before."""
    members, out = draw(st.integers(1, 12)), []
    for _ in range(draw(st.integers(1, 4))):
        labels = draw(st.lists(st.integers(0, members - 1), min_size=members, max_size=members))
        _, ids = torch.unique(torch.tensor(labels), return_inverse=True)
        out.append(ids)
        members = int(ids.max()) + 1
    return out


def test_by_hand():
    c0, c1 = torch.tensor([1, 0, 1]), torch.tensor([0, 0])
    h = from_clusters([c0, c1], x=torch.rand(3, 2))
    assert h.parent.tolist() == [4, 3, 4, 5, 5, 5]  # the last level is one cluster: the root
    assert (h.num_nodes, h.depth, h.num_trees) == (3, 2, 1)
    h = from_clusters([c0])
    assert h.parent.tolist() == [4, 3, 4, 5, 5, 5]  # a root was put on top
    assert c0.tolist() == [1, 0, 1]


def test_a_star_is_one_cluster():
    assert from_clusters([np.zeros(4, dtype=int)]).parent.tolist() == [4] * 5


@given(chains())
@settings(max_examples=50, deadline=None)
def test_labels_of_leaves_give_the_tree_of_the_chained_vectors(chain):
    flat, ids = [], torch.arange(chain[0].numel())
    for level in chain:
        ids = level[ids]
        flat.append(ids)
    h = from_clusters(chain)
    assert h.validate() and h.num_trees == 1
    assert torch.equal(from_clusters([3 * f + 2 for f in flat], per_leaf=True).parent, h.parent)
    node = torch.arange(chain[0].numel())
    offset = 0
    for level, members in zip(flat, [chain[0].numel()] + [len(c) for c in chain[1:]], strict=True):
        node, offset = h.parent[node], offset + members
        assert torch.equal(node - offset, level)


@given(st.lists(chains(), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_samples_of_a_batch_are_the_trees_in_order(chain_list):
    c0, batch, offset = [], [], 0
    for b, chain in enumerate(chain_list):
        c0.append(chain[0] + offset)
        batch.append(torch.full_like(chain[0], b))
        offset += int(chain[0].max()) + 1
    batch = torch.cat(batch)
    h = from_clusters([torch.cat(c0)], batch=batch)
    assert h.num_trees == len(chain_list)
    root = h.parent[h.parent[: batch.numel()]]
    assert torch.equal(root - root.min(), batch)
    assert torch.equal(h.batch, batch)
    single = Batch.from_data_list([from_clusters([chain[0]]) for chain in chain_list])
    assert single.num_nodes == h.num_nodes


def test_clusters_that_are_the_samples_are_the_roots():
    h = from_clusters([[0, 0, 1]], batch=[0, 0, 1])
    assert h.parent.tolist() == [3, 3, 4, 3, 4]
    h = from_clusters([[1, 1, 0]], batch=[0, 0, 1])  # tree b must be sample b
    assert h.parent.tolist() == [4, 4, 3, 6, 5, 5, 6]


@pytest.mark.parametrize(
    ("clusters", "options", "error", "match"),
    [
        ([], {}, ValueError, "'clusters' to hold at least one vector"),
        (3, {}, TypeError, r"'clusters' to be a list of vectors \(got int\)"),
        ([[]], {}, ValueError, r"'clusters\[0\]' to hold at least one entry"),
        ([[0, 0], [0.0]], {}, TypeError, r"'clusters\[1\]' to hold integers"),
        (torch.zeros(3, dtype=torch.long), {}, ValueError, r"'clusters\[0\]'.*0 dimensions"),
        ([[0, 0, 2]], {}, ValueError, r"'clusters\[0\]' .* \[0, 2\] \(got no member of cluster 1"),
        ([[0, 10**15]], {}, ValueError, r"'clusters\[0\]' .* \(got no member of cluster 1\)"),
        ([[0, -1]], {}, ValueError, r"clusters\[0\]\[1\] = -1"),
        ([[0, 1, 1], [0]], {}, ValueError, r"'clusters\[1\]' .* the 2 clusters .* \(got 1\)"),
        ([[0, 1, 1], [0, 0, 0]], {}, ValueError, r"\(got 3; labels of leaves need per_leaf=True"),
        (
            [[5, 5, 8], [0, 1, 1]],
            {"per_leaf": True},
            ValueError,
            r"'clusters\[0\]' to nest in 'clusters\[1\]' \(got leaves of cluster 5 in both 0 and 1",
        ),
        ([[0, 0], [0]], {"per_leaf": True}, ValueError, r"'clusters\[1\]' .* the 2 leaves \(got 1"),
        ([[0, -1]], {"per_leaf": True}, ValueError, r"clusters\[0\]\[1\] = -1"),
        ([[0, 0, 1]], {"batch": [0, 1, 1]}, ValueError, r"'clusters\[0\]' to nest in 'batch' .* 0"),
        ([[0, 0, 1]], {"batch": [0, 1]}, ValueError, r"'batch' .* the 3 leaves \(got 2\)"),
        ([[0, 0, 1]], {"batch": [0, 0, 2]}, ValueError, r"'batch' .* no member of sample 1"),
        ([[0, 0, 1]], {"batch": [0, 0, -2]}, ValueError, r"batch\[2\] = -2"),
        ([[0, 0, 1]], {"x": torch.rand(2, 1)}, ValueError, r"'x' .* the 3 leaves \(got 2 rows\)"),
    ],
)
def test_bad_clusters_are_named(clusters, options, error, match):
    with pytest.raises(error, match=match):
        from_clusters(clusters, **options)
