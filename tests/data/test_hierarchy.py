import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from hsa_geometric.data import Hierarchy
from hsa_geometric.functional import clusters_at
from hsa_geometric.tree import TreeIndex


@st.composite
def parents(draw, max_nodes=24):
    """A random forest with shuffled ids, chains and single nodes included."""
    n = draw(st.integers(1, max_nodes))
    rows = [draw(st.integers(0, i)) for i in range(n)]  # its own id: a root
    perm = torch.randperm(n, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    parent = torch.empty(n, dtype=torch.long)
    parent[perm] = perm[torch.tensor(rows)]
    return parent


def paths(parent):
    """For each leaf in ascending id: its ancestors upwards, without those of a single child."""
    parent = parent.tolist()
    children = [sum(p == i != j for j, p in enumerate(parent)) for i in range(len(parent))]
    out = []
    for leaf in (i for i, c in enumerate(children) if c == 0):
        path, node = [leaf], leaf
        while parent[node] != node:
            node = parent[node]
            if children[node] != 1:
                path.append(node)
        out.append(path)
    return out


def hierarchy():
    return Hierarchy(
        x=torch.arange(6.0).view(3, 2),
        parent=torch.tensor([3, 3, 4, 4, 4]),
        edge_index=torch.tensor([[0, 1], [1, 2]]),
        mass=torch.tensor([1.0, 2.0, 0.0]),
        tree_pos=torch.arange(5.0).view(5, 1),
        tree_kind=torch.tensor([0, 0, 0, 1, 2]),
    )


def test_a_hierarchy_knows_its_tree():
    h = hierarchy()
    assert (h.num_nodes, h.num_tree_nodes, h.num_trees, h.depth) == (3, 5, 1, 2)
    assert isinstance(h.tree, TreeIndex)
    assert h.parent_edge_index.tolist() == [[0, 1, 2, 3], [3, 3, 4, 4]]
    assert h.num_edges == 2
    assert repr(h) == (
        "Hierarchy(leaves=3, nodes=5, depth=2, x=[3, 2], edge_index=[2, 2], mass=[3], "
        "tree_pos=[5, 1], tree_kind=[5])"
    )


def test_absent_keys_are_none_and_not_stored():
    h = Hierarchy(parent=torch.tensor([0]))
    assert h.mass is None and h.tree_pos is None and h.tree_kind is None and h.x is None
    assert h.keys() == ["parent"]


def test_num_nodes_is_the_number_of_leaves_without_any_leaf_data(recwarn):
    h = Hierarchy(parent=torch.tensor([2, 2, 2]))
    assert h.num_nodes == 2 and h.can_infer_num_nodes
    h = Hierarchy(parent=torch.tensor([2, 2, 2]), edge_index=torch.tensor([[0], [0]]))
    assert h.num_nodes == 2
    h = Hierarchy(
        parent=torch.tensor([2, 2, 2]), tree_pos=torch.rand(3, 1), node_kind=torch.ones(3)
    )
    assert h.num_nodes == 2
    assert not [w for w in recwarn if "num_nodes" in str(w.message)]


def test_without_a_tree_it_is_plain_data():
    h = Hierarchy(x=torch.rand(4, 2))
    assert h.num_nodes == 4
    assert repr(h) == "Hierarchy(x=[4, 2])"
    with pytest.warns(UserWarning, match="Unable to accurately infer"):
        assert Hierarchy().num_nodes is None


def test_the_tree_is_built_once_and_again_when_parent_changes():
    h = hierarchy()
    first = h.tree
    assert h.tree is first
    assert copy.copy(h).tree is first
    h.x = torch.rand(3, 4)
    assert h.tree is first
    h.parent = torch.tensor([3, 3, 3, 3])
    assert h.tree is not first and h.depth == 1 and h.num_tree_nodes == 4
    h.parent[3] = 2
    h.parent[2] = 2
    assert h.tree.leaf_ids.tolist() == [0, 1]
    assert h.num_nodes == 2


def test_a_copy_with_another_tree_leaves_the_original_alone():
    h = hierarchy()
    tree = h.tree
    other = copy.copy(h)
    other.parent = torch.tensor([3, 3, 3, 3])
    assert other.depth == 1
    assert h.tree is tree and h.depth == 2


def test_the_tree_is_no_key():
    h = hierarchy()
    keys = set(h.keys())
    assert h.tree is not None
    assert set(h.keys()) == keys
    assert "tree" not in h.to_dict()


@pytest.mark.parametrize("key", ["tree", "num_trees", "depth", "num_tree_nodes"])
def test_what_follows_from_parent_cannot_be_set(key):
    with pytest.raises(AttributeError, match=f"Cannot set '{key}'"):
        setattr(hierarchy(), key, 1)


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "clone", "save"])
def test_copies_are_whole_and_independent(how, tmp_path):
    h = hierarchy()
    assert h.depth == 2  # so that there is something remembered
    if how == "copy":
        out = copy.copy(h)
    elif how == "deepcopy":
        out = copy.deepcopy(h)
    elif how == "pickle":
        out = pickle.loads(pickle.dumps(h))
    elif how == "clone":
        out = h.clone()
    else:
        torch.save(h, tmp_path / "h.pt")
        out = torch.load(tmp_path / "h.pt", weights_only=False)  # as for any Data
    assert type(out) is Hierarchy
    assert set(out.keys()) == set(h.keys())
    for key in sorted(h.keys()):
        torch.testing.assert_close(out[key], h[key])
    out.parent = torch.tensor([0, 1, 2])
    assert out.num_trees == 3 and h.num_trees == 1


def test_pickles_hold_no_index():
    h = Hierarchy(parent=torch.cat([torch.full((1000,), 1000), torch.tensor([1000])]))
    size = len(pickle.dumps(h))
    assert h.depth == 1
    assert len(pickle.dumps(h)) == size


def test_to_moves_the_tree_along():
    h = hierarchy()
    assert h.tree.device.type == "cpu"
    moved = copy.copy(h).to("meta")
    assert moved.parent.device.type == "meta"
    back = h.to("cpu")
    assert back is h and back.depth == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_moves_the_tree_along_to_the_gpu():
    h = hierarchy()
    assert h.tree.device.type == "cpu"
    h = h.to("cuda")
    assert h.tree.device.type == "cuda" and h.depth == 2
    assert h.validate()
    assert h.collapse_chains().parent.is_cuda
    assert h.subgraph(torch.tensor([True, True, False], device="cuda")).num_nodes == 2


def test_inference_tensors_are_accepted():
    with torch.inference_mode():
        h = Hierarchy(parent=torch.tensor([2, 2, 2]))
        assert h.depth == 1
    assert h.num_nodes == 2


def test_a_valid_hierarchy_validates():
    assert hierarchy().validate()
    assert Hierarchy(parent=torch.tensor([0])).validate()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"parent": None}, ValueError, r"Expected 'parent' in 'Hierarchy'"),
        ({"parent": torch.tensor([3, 3, 4, 4, -1])}, ValueError, r"parent\[4\] = -1"),
        ({"parent": torch.tensor([3, 3, 4, 4, 9])}, ValueError, r"parent\[4\] = 9"),
        ({"parent": torch.tensor([3, 3, 4, 4, 3])}, ValueError, r"'parent'.*cycle above node 0"),
        ({"parent": torch.rand(5)}, TypeError, r"'parent' to hold integers"),
        ({"parent": torch.empty(0, dtype=torch.long)}, ValueError, r"'parent'.*empty tree"),
        ({"parent": torch.zeros(2, 2, dtype=torch.long)}, ValueError, r"'parent'.*2 dimensions"),
        ({"x": torch.rand(5, 2)}, ValueError, r"'x' .* the 3 leaves \(got 5 rows\)"),
        ({"x": torch.tensor(1.0)}, ValueError, r"'x' .* leaf \(got 0 dimensions\)"),
        ({"pos": torch.rand(2, 3)}, ValueError, r"'pos' .* the 3 leaves \(got 2 rows\)"),
        ({"mass": torch.rand(4)}, ValueError, r"'mass' .* the 3 leaves \(got 4 rows\)"),
        ({"mass": torch.rand(3, 1)}, ValueError, r"'mass' to be one-dimensional"),
        ({"mass": torch.tensor([1.0, -2.0, 1.0])}, ValueError, r"mass\[1\] = -2.0"),
        ({"mass": torch.tensor([1.0, 1.0, torch.nan])}, ValueError, r"mass\[2\] = nan"),
        ({"mass": torch.tensor([torch.inf, 1.0, 1.0])}, ValueError, r"mass\[0\] = inf"),
        ({"tree_pos": torch.rand(3, 1)}, ValueError, r"'tree_pos' .* the 5 nodes \(got 3 rows\)"),
        ({"tree_kind": torch.ones(4)}, ValueError, r"'tree_kind' .* the 5 nodes \(got 4 rows\)"),
        ({"inner_x": torch.ones(3, 1)}, ValueError, r"'inner_x' .* the 2 inner nodes \(got 3"),
        ({"num_nodes": 5}, ValueError, r"'num_nodes' .* 3 \(got 5\)"),
        ({"edge_index": torch.tensor([[0], [4]])}, ValueError, r"'edge_index'.*\(3\).*4"),
    ],
)
def test_validate_names_argument_and_node(change, error, match):
    h = Hierarchy.from_dict(hierarchy().to_dict() | change)
    with pytest.raises(error, match=match):
        h.validate()
    with pytest.warns(UserWarning, match=match):
        assert not h.validate(raise_on_error=False)


def test_repr_of_a_broken_tree_does_not_raise():
    assert "depth=invalid" in repr(Hierarchy(parent=torch.tensor([1, 0, 7])))


# Chains #######################################################################################


def test_collapse_chains_by_hand():
    # 7 (root) - 6 - {5 - 4 - 0, 3 - {1, 2}}
    h = Hierarchy(
        x=torch.arange(3.0),
        parent=torch.tensor([4, 3, 3, 6, 5, 6, 7, 7]),
        tree_pos=torch.arange(8),
        tree_kind=torch.arange(8),
        inner_x=torch.arange(3, 8),
        num_nodes=3,
    )
    before = copy.deepcopy(h)
    out = h.collapse_chains()
    assert out.parent.tolist() == [4, 3, 3, 4, 4]
    assert out.tree_kind.tolist() == [0, 1, 2, 3, 6]
    assert out.tree_pos.tolist() == [5, 1, 2, 3, 7]  # of the place taken, not of the node
    assert out.inner_x.tolist() == [3, 6]
    assert out.x is h.x
    assert out.validate()
    for key in sorted(before.keys()):
        torch.testing.assert_close(h[key], before[key])


def tree_of_each_leaf(h):
    clusters = clusters_at(h.tree, 0)
    return clusters.tree[clusters.cluster].tolist()


@pytest.mark.parametrize(
    "parent, collapsed",
    [
        # Leaf 2, alone below root 4, would come before root 3: root 4 stays.
        ([3, 3, 4, 3, 4], [3, 3, 4, 3, 4]),
        # Leaf 2 again, but root 3 gives way to node 4, which comes before root 5.
        ([4, 4, 5, 3, 3, 5], [3, 3, 4, 3, 4]),
        # Root 3 stands above inner node 5, which would come after root 4.
        ([5, 5, 4, 3, 4, 3, 4], [5, 5, 4, 3, 4, 3, 4]),
        # Nothing changes places: root 2 gives way to leaf 0, root 4 to node 3.
        ([2, 3, 2, 4, 4, 3], [0, 2, 2, 2]),
    ],
)
def test_collapsing_keeps_the_order_of_the_trees(parent, collapsed):
    h = Hierarchy(parent=torch.tensor(parent))
    out = h.collapse_chains()
    assert out.parent.tolist() == collapsed
    assert tree_of_each_leaf(out) == tree_of_each_leaf(h)


@given(parents(max_nodes=14))
def test_collapsing_never_moves_a_leaf_to_another_tree(parent):
    h = Hierarchy(parent=parent)
    assert tree_of_each_leaf(h.collapse_chains()) == tree_of_each_leaf(h)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 3000])
def test_a_chain_collapses_into_its_leaf(length):
    h = Hierarchy(parent=torch.arange(1, length + 1).clamp(max=length - 1))
    out = h.collapse_chains()
    assert out.parent.tolist() == [0]
    assert out.num_nodes == 1


@given(parents())
@settings(max_examples=100, deadline=None)
def test_collapsing_keeps_leaves_in_order_and_every_branching_ancestor(parent):
    h = Hierarchy(parent=parent, tree_kind=torch.arange(parent.numel()))
    out = h.collapse_chains()
    assert out.validate()
    kind = out.tree_kind.tolist()
    assert [[kind[i] for i in path] for path in paths(out.parent)] == paths(parent)
    assert out.num_trees == h.num_trees and out.num_nodes == h.num_nodes
    inner = torch.ones_like(out.parent, dtype=torch.bool)
    inner[out.tree.leaf_ids] = False
    children = torch.bincount(out.parent_edge_index[1], minlength=out.num_tree_nodes)
    root = out.parent == torch.arange(out.num_tree_nodes)
    assert (children[inner & ~root] > 1).all()  # a root may stay for the order of the trees
    assert torch.equal(out.collapse_chains().parent, out.parent)


# Subgraphs ####################################################################################


def test_a_subgraph_keeps_leaves_their_edges_and_their_ancestors():
    h = hierarchy()
    h.inner_x = torch.tensor([30.0, 40.0])
    out = h.subgraph(torch.tensor([True, True, False]))
    assert out.parent.tolist() == [2, 2, 3, 3]
    assert out.x.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert out.mass.tolist() == [1.0, 2.0]
    assert out.edge_index.tolist() == [[0], [1]]
    assert out.tree_kind.tolist() == [0, 0, 1, 2]
    assert out.validate() and h.validate()
    out = h.subgraph(torch.tensor([2]))
    assert out.parent.tolist() == [1, 1] and out.inner_x.tolist() == [40.0]


@given(parents(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_subgraph_holds_the_paths_of_its_leaves(parent, data):
    h = Hierarchy(parent=parent, tree_kind=torch.arange(parent.numel()))
    n = h.num_nodes
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any)))
    out = h.subgraph(mask)
    assert out.validate()
    assert out.num_nodes == int(mask.sum())
    kept = set()
    for leaf in h.tree.leaf_ids[mask].tolist():
        kept.add(leaf)
        while (leaf := int(parent[leaf])) not in kept:
            kept.add(leaf)
    kind = out.tree_kind
    assert kind.tolist() == sorted(kept)
    assert torch.equal(kind[out.parent], parent[kind])


@pytest.mark.parametrize(
    ("subset", "match"),
    [
        (torch.tensor([1, 0]), "'subset' to be strictly ascending"),
        (torch.tensor([0, 3]), r"'subset' to hold leaf rows in \[0, 2\] \(got 3\)"),
        (torch.tensor([-1]), r"'subset' to hold leaf rows in \[0, 2\] \(got -1\)"),
        (torch.tensor([True]), r"'subset' .* each of the 3 leaves \(got 1\)"),
        (torch.tensor([False] * 3), "'subset' to keep at least one leaf"),
        (torch.zeros(0, dtype=torch.long), "'subset' to keep at least one leaf"),
        (torch.zeros(1, 1, dtype=torch.long), r"'subset' .* \(got 2 dimensions\)"),
    ],
)
def test_subgraph_says_what_is_wrong_with_the_subset(subset, match):
    with pytest.raises(ValueError, match=match):
        hierarchy().subgraph(subset)


def test_it_is_data():
    assert isinstance(hierarchy(), Data)
    assert Hierarchy.from_dict(hierarchy().to_dict()).depth == 2
