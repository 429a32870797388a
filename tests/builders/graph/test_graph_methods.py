"""What single methods promise beside what all of them do."""

from random import Random

import networkx as nx
import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from helpers import leaf_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.cluster.hierarchy import to_tree

from hsa_geometric.builders.graph import from_graph
from hsa_geometric.builders.graph.matching import ROUNDS_BY_WEIGHT, _match
from hsa_geometric.builders.graph.spectral import _preconditioned
from hsa_geometric.functional import clusters_at


def star(num_rays):
    return torch.stack([torch.zeros(num_rays, dtype=torch.long), torch.arange(num_rays) + 1])


def path(num_nodes):
    return torch.stack([torch.arange(num_nodes - 1), torch.arange(1, num_nodes)])


def family_sizes(h):
    return torch.bincount(h.parent)[h.num_nodes :]


@st.composite
def connected(draw, max_nodes=16):
    num_nodes = draw(st.integers(2, max_nodes))
    edges = [(draw(st.integers(0, i - 1)), i) for i in range(1, num_nodes)]
    node = st.integers(0, num_nodes - 1)
    edges += draw(st.lists(st.tuples(node, node).filter(lambda e: e[0] != e[1]), max_size=10))
    edges = sorted({tuple(sorted(e)) for e in edges})
    order = draw(st.permutations(range(len(edges))))
    return edges, [2.0 ** (i / 7) for i in order]  # weights differ


# Matching #####################################################################################


def test_matching_by_hand():
    # 0 =5= 1 -1- 2 =4= 3 -2- 4: first {0, 1} and {2, 3}; 4 is left over and joins {2, 3}.
    h = from_graph(path(5), edge_weight=[5.0, 1.0, 4.0, 2.0])
    assert h.parent.tolist() == [5, 5, 6, 6, 6, 7, 7, 7]


def test_similarity_is_the_mean_weight_between_clusters():
    # First {0, 1}, {2, 3}, {4, 5} with the left-over 6, and {7, 8}. Then {0, 1} has an edge of
    # weight 2 to {4, 5, 6}, a mean of 2 / 6, and one of 1.5 to {2, 3}, a mean of 1.5 / 4.
    edges = torch.tensor([[0, 2, 4, 7, 5, 1, 1, 5], [1, 3, 5, 8, 6, 4, 2, 7]])
    h = from_graph(edges, edge_weight=[9.0, 9.0, 9.0, 9.0, 3.0, 2.0, 1.5, 0.1])
    assert clusters_at(h.tree, 1).cluster.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert clusters_at(h.tree, 2).cluster.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]


@given(connected())
@settings(max_examples=50, deadline=None)
def test_the_parallel_matching_is_the_greedy_one(drawn):
    edges, weight = drawn
    order = np.argsort(weight)[::-1].tolist()
    edges = [edges[i] for i in order]
    num_nodes = max(max(e) for e in edges) + 1
    expected = list(range(num_nodes))
    free = set(expected)
    for u, v in edges:
        if {u, v} <= free:
            free -= {u, v}
            expected[v] = u
    noise = torch.arange(len(edges))
    assert _match(torch.tensor(edges).t(), noise, num_nodes).tolist() == expected


@given(connected())
@settings(max_examples=50, deadline=None)
def test_clusters_are_connected_without_two_hop(drawn):
    edges, weight = drawn
    G = nx.Graph(edges)
    h = from_graph(torch.tensor(edges).t(), edge_weight=weight, two_hop=False)
    for leaves in leaf_sets(h):
        assert nx.is_connected(G.subgraph(leaves))


@given(connected())
@settings(max_examples=50, deadline=None)
def test_clusters_lie_within_two_hops_of_a_node_on_the_first_level(drawn):
    """Two-hop pairs share a neighbour; everything else is connected."""
    edges, weight = drawn
    G = nx.Graph(edges)
    h = from_graph(torch.tensor(edges).t(), edge_weight=weight)
    lowest = [s for s in leaf_sets(h) if not any(t < s for t in leaf_sets(h))]
    for leaves in lowest:
        assert 2 <= len(leaves) <= 4
        if not nx.is_connected(G.subgraph(leaves)):
            u, v = leaves
            assert set(G[u]) & set(G[v])


@given(connected(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_each_level_of_a_matching_halves_the_nodes(drawn, two_hop):
    edges, weight = drawn
    h = from_graph(torch.tensor(edges).t(), edge_weight=weight, two_hop=two_hop)
    assert 2**h.depth <= h.num_nodes


@given(connected(), st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_names_of_nodes_do_not_matter_where_similarities_differ(drawn, seed):
    edges = torch.tensor(drawn[0]).t()
    generator = torch.Generator().manual_seed(seed)
    weight = 1 + torch.rand(edges.size(1), generator=generator, dtype=torch.float64)
    new = torch.randperm(int(edges.max()) + 1, generator=generator)
    h = from_graph(edges, edge_weight=weight, two_hop=False)
    other = from_graph(new[edges], edge_weight=weight, two_hop=False)
    assert {frozenset(new[list(s)].tolist()) for s in leaf_sets(h)} == set(leaf_sets(other))


def test_a_large_star_is_shallow_and_has_small_families():
    h = from_graph(star(10_000))
    assert h.depth <= 14 and int(family_sizes(h).max()) <= 5
    h = from_graph(star(10_000), two_hop=False)
    assert h.depth == 1


def test_rising_weights_do_not_take_a_round_for_each_pair():
    n = 100 * ROUNDS_BY_WEIGHT
    h = from_graph(path(n), edge_weight=torch.arange(1.0, n), two_hop=False)
    assert 2**h.depth <= n
    sets = leaf_sets(h)
    assert all(max(s) - min(s) + 1 == len(s) for s in sets)  # connected, on a path


# METIS ########################################################################################


@given(connected(), st.integers(2, 4), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_metis_keeps_to_branching_and_leaf_size(drawn, branching, leaf_size):
    edges, weight = drawn
    h = from_graph(
        torch.tensor(edges).t(),
        edge_weight=weight,
        method="metis",
        branching=branching,
        leaf_size=leaf_size,
    )
    ids = torch.arange(h.num_tree_nodes)
    below = [ids != h.parent, (ids != h.parent) & (ids >= h.num_nodes)]
    sizes, inner = (
        torch.bincount(h.parent[b], minlength=ids.numel())[h.num_nodes :] for b in below
    )
    leaf_only = inner == 0
    assert (sizes[~leaf_only] <= branching).all()
    assert (sizes[leaf_only] <= max(branching, leaf_size)).all()


def test_metis_cuts_a_path_into_pieces():
    h = from_graph(path(16), method="metis", branching=4, leaf_size=4)
    assert clusters_at(h.tree, 1).cluster.tolist() == [i // 4 for i in range(16)]


def test_metis_sees_weights_of_any_scale():
    weight = torch.ones(15)
    weight[7] = 1e-3  # a weak link just off the middle... and exactly at it
    for scale in (1e-12, 1.0, 1e12):
        h = from_graph(path(16), method="metis", branching=2, edge_weight=weight * scale)
        assert clusters_at(h.tree, 1).cluster.tolist() == [0] * 8 + [1] * 8


def test_stars_are_halved_where_nothing_holds_their_rays_together():
    for method in ("metis", "spectral"):
        h = from_graph(star(500), method=method)
        assert h.depth <= 12 and int(family_sizes(h).max()) <= 9


# Spectral #####################################################################################


@pytest.mark.parametrize("n", [12, 64, 65, 1500])  # dense, Lanczos, and where that does not settle
def test_spectral_bisection_halves_a_path(n):
    h = from_graph(path(n), method="spectral")
    for leaves in leaf_sets(h):
        assert max(leaves) - min(leaves) + 1 == len(leaves)
    cluster = clusters_at(h.tree, 1).cluster
    assert int((cluster == 0).sum()) == n // 2


def test_spectral_bisection_cuts_a_long_grid_across():
    G = nx.convert_node_labels_to_integers(nx.grid_2d_graph(40, 4))
    cluster = clusters_at(from_graph(G, method="spectral").tree, 1).cluster
    assert cluster.tolist() == [0] * 80 + [1] * 80


@given(connected())
@settings(max_examples=30, deadline=None)
def test_spectral_halves_connected_parts(drawn):
    edges, weight = drawn
    edges = torch.tensor(edges).t()
    h = from_graph(edges, edge_weight=weight, method="spectral", leaf_size=2)
    n = h.num_nodes
    if n > 2:
        sizes = torch.bincount(clusters_at(h.tree, 1).cluster)
        assert sizes.tolist() in ([n // 2, n - n // 2], [n - n // 2, n // 2])


@pytest.mark.parametrize("tail", [0, 100])
def test_spectral_cuts_of_graphs_with_hubs_are_bounded(tail, monkeypatch):
    # A full factorisation of such a graph is a dense one.
    G = nx.barabasi_albert_graph(1500, 4, seed=0)
    nx.add_path(G, [700, *range(1500, 1500 + tail)])
    fill = []

    def spilu(matrix, **options):
        factors = factor(matrix, **options)
        fill.append(factors.nnz / matrix.nnz)
        return factors

    factor = scipy.sparse.linalg.spilu
    monkeypatch.setattr(scipy.sparse.linalg, "spilu", spilu)
    h = from_graph(G, method="spectral")
    assert h.validate()
    assert all(f < 10 for f in fill)
    if tail:  # its far end is where the Fiedler vector is greatest
        cluster = clusters_at(h.tree, 1).cluster
        assert cluster[1520:].unique().numel() == 1


@pytest.mark.parametrize(
    "G",
    [
        nx.path_graph(900),
        nx.from_prufer_sequence(Random(0).choices(range(900), k=898)),
        nx.barabasi_albert_graph(900, 1, seed=0),
        nx.convert_node_labels_to_integers(nx.grid_2d_graph(45, 20)),
        nx.barabasi_albert_graph(900, 4, seed=0),
    ],
    ids=["path", "tree", "tree with hubs", "grid", "hubs"],
)
def test_conjugate_gradients_find_the_fiedler_value(G):
    matrix = nx.laplacian_matrix(G).astype(float).tocsc()
    vector = _preconditioned(matrix, np.cos(np.arange(900) * np.sqrt(2.0)))
    value = vector @ (matrix @ vector) / (vector @ vector)
    expected = np.linalg.eigvalsh(matrix.toarray())[1]
    assert abs(vector.mean()) < 1e-6 and value == pytest.approx(expected, rel=2e-3)


# Communities ##################################################################################


def test_louvain_levels_are_those_of_networkx():
    G = nx.ring_of_cliques(40, 3)
    chance = Random(0)
    for *_, attrs in G.edges(data=True):
        attrs["weight"] = 1 + chance.random()  # so that no two communities are equally good
    h = from_graph(G, method="communities", seed=3)
    levels = list(nx.community.louvain_partitions(G, seed=3))
    expected = {frozenset(c) for level in levels for c in level if len(c) > 1}
    assert len(levels) > 1
    assert set(leaf_sets(h)) == expected | {frozenset(range(120))}


@pytest.mark.parametrize("seed", range(4))
def test_louvain_ends_where_two_communities_are_equally_good(seed):
    # Of the 7-node graphs; networkx alone goes on forever with three of these seeds (issue 8739).
    edges = [(0, 1), (0, 2), (0, 5), (0, 6), (1, 2), (1, 4), (2, 3), (2, 5), (2, 6), (3, 4)]
    h = from_graph(nx.Graph(edges), method="communities", seed=seed)
    assert sorted(map(len, leaf_sets(h)))[-3:] == [3, 4, 7]


def test_greedy_modularity_is_that_of_networkx():
    G = nx.karate_club_graph()
    h = from_graph(G, method="communities", algorithm="greedy_modularity")
    expected = nx.community.greedy_modularity_communities(G, weight="weight")
    assert set(leaf_sets(h)) == {*expected, frozenset(range(34))}


def test_resolution_makes_more_communities():
    G = nx.karate_club_graph()
    count = [
        clusters_at(from_graph(G, method="communities", resolution=r).tree, 1).num_clusters
        for r in (0.5, 3.0)
    ]
    assert count[0] < count[1]


# Agglomerative ################################################################################


def test_agglomerative_by_hand():
    # Along the path only: 0 and 3 are close, but no edge joins them.
    x = torch.tensor([[0.0], [5.0], [5.5], [0.1]])
    h = from_graph(path(4), method="agglomerative", linkage="single", x=x)
    assert frozenset({1, 2}) in leaf_sets(h) and frozenset({0, 3}) not in leaf_sets(h)


@pytest.mark.parametrize("linkage", ["ward", "average", "complete"])
def test_agglomerative_on_a_complete_graph_is_scipys(linkage):
    x = torch.rand(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = from_graph(nx.complete_graph(12), method="agglomerative", linkage=linkage, pos=x)
    _, nodes = to_tree(scipy_linkage(x.numpy(), linkage), rd=True)
    assert set(leaf_sets(h)) == {frozenset(n.pre_order()) for n in nodes if not n.is_leaf()}


def test_agglomerative_compares_by_x_then_pos_or_what_is_named():
    x, pos = torch.tensor([0.0, 0.1, 9.0]), torch.tensor([[0.0], [8.0], [9.0]])
    triangle = nx.complete_graph(3)

    def pair(**options):
        return min(leaf_sets(from_graph(triangle, method="agglomerative", **options)), key=len)

    assert pair(x=x, pos=pos) == {0, 1}
    assert pair(pos=pos) == {1, 2}
    assert pair(x=x, pos=pos, features="pos") == {1, 2}
    assert pair(x=x, shade=torch.tensor([1, 5, 1]), features="shade") == {0, 2}


@given(connected())
@settings(max_examples=20, deadline=None)
def test_agglomerative_trees_are_binary_and_connected(drawn):
    edges, _ = drawn
    edges = torch.tensor(edges).t()
    n = int(edges.max()) + 1
    h = from_graph(edges, method="agglomerative", x=torch.arange(n).float() % 3)
    assert h.num_tree_nodes == 2 * n - 1
    G = nx.Graph(edges.t().tolist())
    assert all(nx.is_connected(G.subgraph(s)) for s in leaf_sets(h))
