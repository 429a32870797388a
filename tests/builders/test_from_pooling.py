from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import (
    ASAPooling,
    ClusterPooling,
    DMoNPooling,
    EdgePooling,
    MemPooling,
    SAGPooling,
    TopKPooling,
    dense_diff_pool,
    dense_mincut_pool,
)
from torch_geometric.nn.pool.select import SelectOutput, SelectTopK
from torch_geometric.utils import coalesce, to_dense_adj, to_dense_batch, to_undirected

from hsa_geometric.builders import from_clusters
from hsa_geometric.builders.pooling import from_pooling
from hsa_geometric.functional import clusters_at

SPARSE = "ignore:Sparse invariant checks:UserWarning"
PATH = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])


def select(node, cluster, num_nodes, num_clusters):
    node, cluster = torch.tensor(node), torch.tensor(cluster)
    return SelectOutput(node, num_nodes, cluster, num_clusters)


def sample_of_leaf(h):
    top = clusters_at(h.tree, 0)
    return top.tree[top.cluster]


# By hand ######################################################################################


def test_cluster_vectors_give_the_tree_of_from_clusters():
    levels = [torch.tensor([1, 0, 1, 2, 2]), torch.tensor([0, 1, 1])]
    h = from_pooling(levels, num_nodes=5)
    assert torch.equal(h.parent, from_clusters(levels).parent)
    assert h.parent.tolist() == [6, 5, 6, 7, 7, 8, 9, 9, 10, 10, 10]
    h = from_pooling([np.array([0, 0, 1])], num_nodes=3, x=torch.rand(3, 2))
    assert h.parent.tolist() == [3, 3, 4, 5, 5, 5] and h.x.shape == (3, 2)
    assert from_pooling(torch.zeros(3, dtype=torch.long), num_nodes=3).parent.tolist() == [3] * 4


def test_dropped_nodes_join_the_nearest_kept_node():
    # 0 - 1 - 2 - 3 - 4: node 3 is cluster 0 and node 0 is cluster 1.
    h = from_pooling(torch.tensor([3, 0]), edge_index=PATH, num_nodes=5)
    assert h.parent.tolist() == [6, 6, 5, 5, 5, 7, 7, 7]
    assert torch.equal(h.edge_index, PATH)
    # Node 2 is as far from either of two: the lower cluster, that is the one kept first.
    assert from_pooling(torch.tensor([4, 0]), edge_index=PATH, num_nodes=5).parent[2] == 5
    assert from_pooling(torch.tensor([0, 4]), edge_index=PATH, num_nodes=5).parent[2] == 5
    assert from_pooling(torch.tensor([0, 4]), edge_index=PATH, num_nodes=5).parent[3] == 6


def test_dropped_nodes_hang_from_the_root_without_edges_or_on_demand():
    perm = torch.tensor([3, 0])
    expected = [6, 7, 7, 5, 7, 7, 7, 7]
    assert from_pooling(perm, num_nodes=5).parent.tolist() == expected
    h = from_pooling(perm, num_nodes=5, edge_index=PATH, dropped="root")
    assert h.parent.tolist() == expected
    # So do nodes that no kept node reaches: here 3 and 4.
    h = from_pooling(torch.tensor([1, 0]), num_nodes=5, edge_index=PATH[:, :2])
    assert h.parent.tolist() == [6, 5, 5, 7, 7, 7, 7, 7]


def test_a_single_cluster_beside_dropped_nodes_is_not_the_root():
    h = from_pooling(torch.tensor([1]), num_nodes=3)
    assert h.parent.tolist() == [4, 3, 4, 4, 4]


def test_later_levels_drop_clusters_with_all_below_them():
    first = torch.tensor([0, 0, 1, 1, 2])
    h = from_pooling([first, torch.tensor([2, 0])], num_nodes=5)
    # Clusters are 5, 6, 7; of them 7 is kept first (8) and 5 second (9); 6 hangs from the root 10.
    assert h.parent.tolist() == [5, 5, 6, 6, 7, 9, 10, 8, 10, 10, 10]
    # With edges cluster 6 is as near to 7 as to 5 and joins the one kept first.
    h = from_pooling([first, torch.tensor([2, 0])], num_nodes=5, edge_index=PATH)
    assert h.parent.tolist() == [5, 5, 6, 6, 7, 9, 8, 8, 10, 10, 10]


def test_nodes_dropped_at_different_levels_may_end_at_one_root():
    h = from_pooling([torch.tensor([0, 2, 4]), torch.tensor([1])], num_nodes=5)
    assert h.parent.tolist() == [5, 9, 6, 9, 7, 9, 8, 9, 9, 9]


def test_each_sample_is_a_tree_of_its_own():
    batch = [0, 0, 0, 1, 1]
    h = from_pooling(torch.tensor([0, 1, 1, 2, 3]), batch=batch)
    assert h.parent.tolist() == [5, 6, 6, 7, 8, 9, 9, 10, 10, 9, 10]
    assert h.batch.tolist() == batch
    h = from_pooling(torch.tensor([0, 0, 0, 1, 1]), batch=batch)  # clusters that are the samples
    assert h.parent.tolist() == [5, 5, 5, 6, 6, 5, 6]
    h = from_pooling(torch.tensor([1, 4]), batch=batch)  # dropped nodes at their samples' roots
    assert h.parent.tolist() == [7, 5, 7, 8, 6, 7, 8, 7, 8]
    h = from_pooling(torch.tensor([1]), batch=batch)  # nothing kept of the second sample
    assert h.parent.tolist() == [6, 5, 6, 7, 7, 6, 6, 7]


def test_select_outputs_may_have_clusters_without_members():
    h = from_pooling(select([0, 1, 2], [2, 0, 2], 3, 4))
    assert h.parent.tolist() == [4, 3, 4, 5, 5, 5]
    second = select([0, 1, 2, 3], [0, 1, 2, 1], 4, 3)  # clusters 1 and 3 of the first are empty
    h = from_pooling([select([0, 1, 2], [2, 0, 2], 3, 4), second])
    assert h.parent.tolist() == [4, 3, 4, 5, 6, 7, 7, 7]


def test_assignment_matrices_become_hard_clusters():
    S = torch.tensor([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2], [0.4, 0.2, 0.4], [0.0, 0.5, 0.5]])
    assert clusters_at(from_pooling(S).tree, 1).cluster.tolist() == [0, 1, 1, 2]
    assert torch.equal(from_pooling(S.unsqueeze(0)).parent, from_pooling(S).parent)
    dense = torch.zeros(2, 3, 2)  # the last row of sample 0 is padding
    dense[0, 0, 1] = dense[0, 1, 0] = dense[1, :, 1] = 1.0
    # Leaves of the samples need not stand together.
    h = from_pooling([dense, torch.ones(2, 2, 1)], batch=[0, 1, 1, 0, 1])
    # Clusters 6 (node 0) and 5 (node 3) of sample 0, and 7 of sample 1, whose first one is empty.
    assert h.parent.tolist() == [6, 7, 7, 5, 7, 8, 8, 9, 8, 9]


# The layers ###################################################################################


@pytest.fixture
def graph():
    """Two random samples, the second in one piece with an isolated node."""
    torch.manual_seed(0)
    one = nx.gnp_random_graph(12, 0.3, seed=1)
    two = nx.gnp_random_graph(9, 0.4, seed=2)
    two.add_node(9)
    edges = list(nx.disjoint_union(one, two).edges)
    edge_index = to_undirected(coalesce(torch.tensor(edges).t()))
    batch = torch.tensor([0] * 12 + [1] * 10)
    return torch.rand(22, 4), edge_index, batch


def run(layer, x, edge_index, batch):
    if isinstance(layer, MemPooling):
        return layer(x, batch)
    return layer(x, edge_index, batch=batch)


LAYERS = {
    "topk": lambda: TopKPooling(4, ratio=0.5),
    "sag": lambda: SAGPooling(4, ratio=0.5),
    "asap": lambda: ASAPooling(4, ratio=0.5),
    "edge": lambda: EdgePooling(4),
    "cluster": lambda: ClusterPooling(4),
    "mem": lambda: MemPooling(4, 4, heads=2, num_clusters=3),
}


def test_dense_layers_of_pyg_are_taken_by_their_assignment(graph):
    x, edge_index, batch = graph
    dense, mask = to_dense_batch(x, batch)
    adj = to_dense_adj(edge_index, batch)
    out = DMoNPooling(4, 3)(dense, adj, mask)
    h = from_pooling(out, batch=batch)
    assert h.validate() and h.num_trees == 2
    assert torch.equal(h.parent, from_pooling(out[0], batch=batch).parent)
    logits = torch.nn.Linear(4, 3)(dense)
    expected = logits.argmax(-1)[mask]
    h = from_pooling(logits, batch=batch)
    for b in (0, 1):
        got, cluster = h.parent[:22][batch == b], expected[batch == b]
        assert torch.equal(got[:, None] == got, cluster[:, None] == cluster)
    # Two dense layers: the second pools the clusters of the first.
    second = DMoNPooling(4, 2)(out[1], out[2])
    h = from_pooling([out, second], batch=batch)
    assert h.validate() and h.num_trees == 2 and h.depth <= 3


@pytest.mark.parametrize("pool", [dense_mincut_pool, dense_diff_pool])
def test_what_does_not_say_where_nodes_go_is_refused_with_the_remedy(graph, pool):
    x, edge_index, batch = graph
    dense, mask = to_dense_batch(x, batch)
    out = pool(dense, to_dense_adj(edge_index, batch), torch.rand(2, 12, 3), mask)
    with pytest.raises(TypeError, match="give the assignment matrix 's' that it was called with"):
        from_pooling(out, batch=batch)


class TgpSelect:
    """A SelectOutput of torch-geometric-pool, by its documented attributes."""

    def __init__(self, s, batch=None):
        self.s, self.batch = s.coalesce() if s.is_sparse else s, batch
        self.num_nodes, self.num_supernodes = s.size(-2), s.size(-1)
        index = self.s.indices() if s.is_sparse else (None, None)
        self.node_index, self.cluster_index = index[0], index[1]


@pytest.mark.filterwarnings(SPARSE)
def test_select_outputs_of_torch_geometric_pool(graph):
    _, _, batch = graph
    sparse = torch.sparse_coo_tensor([[0, 1, 3], [1, 0, 1]], torch.ones(3), (4, 2))
    for output in (TgpSelect(sparse), SimpleNamespace(so=TgpSelect(sparse), x=None)):
        assert from_pooling(output).parent.tolist() == [5, 4, 6, 5, 6, 6, 6]
    dense = torch.rand(22, 3)
    assert torch.equal(from_pooling(TgpSelect(dense)).parent, from_pooling(dense).parent)
    batched = to_dense_batch(dense, batch)[0]
    expected = from_pooling(batched, batch=batch).parent
    for s in (TgpSelect(dense, batch), TgpSelect(batched)):  # K clusters of each sample
        assert torch.equal(from_pooling(s, batch=batch).parent, expected)
        with pytest.raises(ValueError, match="'batch' says which leaf is in which sample"):
            from_pooling(s, num_nodes=22)


TGP = ["topk", "sag", "asap", "ec", "ndp", "kmis", "maxcut", "sep", "nmf", "eigen", "mincut"]
TGP += ["dmon", "diff", "hosc", "acc", "jb", "lap", "bnpool"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", TGP)
def test_layers_of_torch_geometric_pool(graph, name, batched):
    poolers = pytest.importorskip("tgp.poolers")
    x, edge_index, batch = graph
    options = {"k": 3, "ratio": 0.5, "cached": False, "batched": batched}
    layer = poolers.get_pooler(name, in_channels=4, **options)
    if layer.is_dense and getattr(layer, "batched", True):
        dense, adj, mask = layer.preprocessing(x=x, edge_index=edge_index, batch=batch)
        out = layer(x=dense, adj=adj, mask=mask)
    else:
        out = layer(x=x, adj=edge_index, batch=batch)
    h = from_pooling(out, edge_index=edge_index, batch=batch)
    assert h.validate() and h.num_trees == 2
    assert torch.equal(sample_of_leaf(h), batch)
    assert torch.equal(from_pooling(out.so, edge_index=edge_index, batch=batch).parent, h.parent)


@pytest.mark.filterwarnings(SPARSE)  # of ASAPooling
@pytest.mark.parametrize("dropped", ["nearest", "root"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_returns_is_taken_as_it_is(graph, name, dropped):
    x, edge_index, batch = graph
    out = run(LAYERS[name](), x, edge_index, batch)
    h = from_pooling(out, edge_index=edge_index, batch=batch, dropped=dropped, x=x)
    assert h.validate() and h.num_trees == 2
    assert torch.equal(h.tree.leaf_ids, torch.arange(22))
    assert torch.equal(sample_of_leaf(h), batch)
    if name in ("topk", "sag", "asap"):
        parts = [out[4]]
        expected = 22 + out[0].size(0)  # leaves, then the pooled nodes, in the order of their rows
        assert h.parent[out[4]].tolist() == list(range(22, expected))
        alone = h.parent[:22] >= expected
        assert alone.sum() == (22 - len(out[4]) if dropped == "root" else alone[21])
    elif name in ("edge", "cluster"):
        parts = [out[3], out[3].cluster]
        assert torch.equal(h.parent[:22] - 22, out[3].cluster)
    else:
        parts = [out[1]]
        for b, start, size in ((0, 0, 12), (1, 12, 10)):
            expected = out[1][b, :size].argmax(-1)
            got = h.parent[start : start + size]
            assert torch.equal(got[:, None] == got, expected[:, None] == expected)
    for part in parts:
        same = from_pooling(part, edge_index=edge_index, batch=batch, dropped=dropped)
        assert torch.equal(same.parent, h.parent)


def test_layers_stack_in_any_order(graph):
    x, edge_index, batch = graph
    outputs, level = [], (x, edge_index, batch)
    for name in ("edge", "topk", "cluster", "sag"):
        out = run(LAYERS[name](), *level)
        outputs.append(out)
        level = (out[0], out[1], out[2] if name in ("edge", "cluster") else out[3])
    h = from_pooling(outputs, edge_index=edge_index, batch=batch)
    assert h.validate() and h.num_trees == 2
    # Tree nodes come level by level, each level in the order of its output's rows.
    sizes = [22, *(out[0].size(0) for out in outputs)]
    assert h.num_tree_nodes == sum(sizes) + 2
    node = torch.arange(22)
    node = h.parent[node]
    assert torch.equal(node - 22, outputs[0][3].cluster)
    kept = 22 + outputs[1][4]
    assert torch.equal(h.parent[kept] - sum(sizes[:2]), torch.arange(sizes[2]))


def test_memory_pooling_stacks(graph):
    x, _, batch = graph
    first = MemPooling(4, 4, heads=2, num_clusters=4)(x, batch)
    second = MemPooling(4, 4, heads=2, num_clusters=2)(first[0])
    h = from_pooling([first, second], batch=batch)
    assert h.validate() and h.num_trees == 2 and h.depth <= 3


def test_the_select_part_of_a_layer_is_taken(graph):
    x, edge_index, batch = graph
    out = SelectTopK(4, ratio=0.5)(x, batch)
    h = from_pooling(out, edge_index=edge_index, batch=batch)
    expected = from_pooling(out.node_index, edge_index=edge_index, batch=batch)
    assert torch.equal(h.parent, expected.parent)
    assert from_pooling(out).num_nodes == 22  # it says of how many it selects


def test_keeping_all_nodes_is_a_perm_where_the_layer_says_so():
    x, batch = torch.tensor([[0.2], [0.3], [0.1]]), torch.zeros(3, dtype=torch.long)
    layer = TopKPooling(1, ratio=3)
    torch.nn.init.ones_(layer.select.weight)
    out = layer(x, PATH[:, :2], batch=batch)
    assert out[4].tolist() == [1, 0, 2]
    assert from_pooling(out, num_nodes=3).parent.tolist() == [4, 3, 5, 6, 6, 6, 6]


# Properties ###################################################################################


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_dropped_nodes_go_where_breadth_first_search_says(data):
    n = data.draw(st.integers(1, 12))
    node = st.integers(0, n - 1)
    edges = data.draw(st.lists(st.tuples(node, node), max_size=20))
    perm = data.draw(st.lists(node, min_size=1, max_size=max(1, n - 1), unique=True))
    edge_index = torch.tensor(edges, dtype=torch.long).view(-1, 2).t()
    out = (None, None, None, None, torch.tensor(perm))
    h = from_pooling(out, num_nodes=n, edge_index=edge_index)
    assert h.validate() and torch.equal(h.tree.leaf_ids, torch.arange(n))
    G = nx.Graph(edges)
    G.add_nodes_from(range(n))
    hops = {k: nx.single_source_shortest_path_length(G, p) for k, p in enumerate(perm)}
    for i in range(n):
        reach = {k: d[i] for k, d in hops.items() if i in d}
        above = int(h.parent[i]) - n
        if not reach:
            assert above == (len(perm) if h.num_tree_nodes > n + len(perm) else 0)
        else:
            assert reach[above] == min(reach.values())
            ties = [k for k, d in reach.items() if d == min(reach.values())]
            if min(reach.values()) <= 1:
                assert above == min(ties)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_stack_gives_a_tree_of_the_composed_clusters(data):
    n = data.draw(st.integers(1, 12))
    batch = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    batch = torch.unique(batch, return_inverse=True)[1]
    sample, outputs, where = batch, [], torch.arange(n)  # where: cluster of each leaf, or -1
    for _ in range(data.draw(st.integers(1, 3))):
        size = sample.numel()
        # Clusters inside samples; then some nodes are dropped.
        label = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)))
        keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        keep[data.draw(st.integers(0, size - 1))] = True
        _, cluster = torch.unique(3 * sample[keep] + label[keep], return_inverse=True)
        count = int(cluster.max()) + 1
        outputs.append(SelectOutput(keep.nonzero().view(-1), size, cluster, count))
        lift = torch.full((size,), -1).masked_scatter(keep, cluster)
        where = torch.where(where < 0, where, lift[where])
        sample = torch.zeros(count, dtype=torch.long).scatter_(0, cluster, sample[keep])
    h = from_pooling(outputs, batch=batch)
    assert h.validate() and torch.equal(h.tree.leaf_ids, torch.arange(n))
    assert torch.equal(sample_of_leaf(h), batch)
    assert h.num_trees == int(batch.max()) + 1
    # The last level comes last, but for the roots, unless it is the roots.
    is_top = bool((where >= 0).all()) and torch.equal(sample, torch.arange(count))
    first = h.num_tree_nodes - count - (0 if is_top else h.num_trees)
    for k in range(count):
        node = torch.arange(n)
        inside = node == first + k
        for _ in range(h.depth):
            node = h.parent[node]
            inside |= node == first + k
        assert torch.equal(inside, where == k)


# Errors #######################################################################################


def ids(*values):
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("outputs", "options", "error", "match"),
    [
        ([], {}, ValueError, r"'outputs' to hold at least one layer \(got none\)"),
        ("topk", {}, TypeError, r"'outputs\[0\]' to be what a pooling layer .* \(got str\)"),
        ([ids(0, 0), 3], {}, TypeError, r"'outputs\[1\]' .* \(got int\)"),
        ((ids(0), ids(0)), {}, TypeError, r"'outputs\[0\]' .* \(got tuple\)"),
        (ids(0, 0), {}, ValueError, r"'num_nodes' where 'outputs\[0\]' does not tell"),
        (ids(0), {"num_nodes": 0}, ValueError, r"'num_nodes' to be at least 1 \(got 0\)"),
        (ids(0), {"num_nodes": "2"}, TypeError, r"'num_nodes' to be an integer \(got str\)"),
        (ids(0), {"num_nodes": 2, "dropped": "far"}, ValueError, r"\['nearest', 'root'\] .*'far'"),
        (ids(), {"num_nodes": 2}, ValueError, r"'outputs\[0\]' .*"),
        (ids(0, 0, 0), {"num_nodes": 2}, ValueError, r"each of the 2 nodes \(got 3\)"),
        (ids(0, 2, 2), {"num_nodes": 3}, ValueError, r"\[0, 2\] \(got no member of cluster 1\)"),
        (ids(0, 3, 3), {"num_nodes": 3}, ValueError, r"clusters in \[0, 2\] \(got 3\)"),
        (ids(0, -1, 0), {"num_nodes": 3}, ValueError, r"clusters in \[0, 2\] \(got -1\)"),
        (ids(0, 3), {"num_nodes": 3}, ValueError, r"'outputs\[0\]' to hold nodes in .* \(got 3\)"),
        (ids(1, 1), {"num_nodes": 3}, ValueError, r"each node once \(got node 1 more often\)"),
        (ids(1, 2, 0), {"num_nodes": 3}, ValueError, "a permutation of all 3 nodes"),
        (ids(True, False), {"num_nodes": 2}, TypeError, "to hold integers"),
        ([ids(0, 1, 1), ids(0, 0, 0)], {"num_nodes": 3}, ValueError, r"'outputs\[1\]' .* 2 nodes"),
        (select([0, 0], [0, 1], 2, 2), {}, ValueError, "in a tree a node has one cluster"),
        (select([0, 1], [0, 2], 2, 2), {}, ValueError, r"clusters in \[0, 1\] \(got 2\)"),
        (select([0, 1], [0, 1], 2, 2), {"num_nodes": 3}, ValueError, r"from 3 nodes \(got 2\)"),
        (torch.rand(3, 2), {"num_nodes": 2}, ValueError, r"shape \[2, K\] or .* \(got \[3, 2\]\)"),
        (torch.rand(2), {"num_nodes": 2}, ValueError, r"shape \[2, K\] or .* \(got \[2\]\)"),
        (torch.rand(2, 0), {}, ValueError, r"to have columns \(got shape \[2, 0\]\)"),
        (torch.full((2, 2), torch.nan), {}, ValueError, r"to hold numbers \(got NaN\)"),
        (torch.rand(2, 1, 2), {"batch": [0, 1, 1]}, ValueError, r"n at least 2 \(got \[2, 1, 2\]"),
        (torch.rand(2, 3, 2), {"batch": [0, 0, 0]}, ValueError, r"shape \[1, n, K\] .*\[2, 3, 2\]"),
        (ids(0, 0, 1), {"batch": [0, 1, 1]}, ValueError, r"cluster 0 in both 0 and 1"),
        (ids(0, 0), {"batch": [0, 2]}, ValueError, "'batch' .* no member of sample 1"),
        (
            ids(0, 3),
            {"batch": [0, 0, 0, 1, 1], "edge_index": PATH},
            ValueError,
            "one sample .* edge 2 between node 2 of sample 0 and node 3 of sample 1",
        ),
        (ids(0), {"num_nodes": 2, "edge_index": PATH}, ValueError, r"ids in \[0, 1\]"),
        (ids(0), {"num_nodes": 2, "edge_index": [[0], [1]]}, TypeError, "'edge_index' .* tensor"),
        (ids(0), {"num_nodes": 2, "x": torch.rand(3, 1)}, ValueError, "'x' .* the 2 leaves"),
    ],
)
def test_bad_outputs_are_named(outputs, options, error, match):
    with pytest.raises(error, match=match):
        from_pooling(outputs, **options)
