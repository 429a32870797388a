"""What a builder's result holds depends on how it is called, not on what it is given."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from hsa_geometric import builders

POS = torch.arange(27.0).view(9, 3) ** 2
FACE = torch.arange(9).view(3, 3)
NO_EDGES, PATH = torch.empty(2, 0, dtype=torch.long), torch.tensor([[0, 1, 2], [1, 2, 3]])
DATA = [
    Data(x=torch.ones(n, 2), edge_index=edges)
    for n, edges in ((1, NO_EDGES), (3, NO_EDGES), (4, PATH))
]
GRAPHS = [nx.empty_graph(1), nx.empty_graph(3), nx.path_graph(4)]
LINKAGES = [np.zeros((0, 4)), [[0, 1, 0.5, 2], [2, 3, 0.7, 3]]]
CHILDREN = [np.zeros((0, 2), dtype=int), [[0, 1]], [[0, 1], [2, 3], [4, 5]]]

# From the least input to one with all that may be in it.
CALLS = [
    ("from_points", [POS[:1], POS], {}),
    ("from_voxels", [POS[:1], POS], {"size": 2.0}),
    ("from_mesh", [(POS[:3], FACE[:1]), (POS, FACE)], {}),
    ("from_grid", [(1, 1), (3, 5)], {}),
    ("from_sequence", [1, 30], {"windows": (3, 9)}),
    ("from_text", ["a", "One two. Three!\n\nFour five."], {}),
    ("from_markdown", ["a", "# T\n\none two\n\n* a\n* b\n\n## U\n```\nx\n```"], {}),
    ("from_smiles", ["C", "[Na+].[Cl-]", "c1ccccc1CCO"], {}),
    ("from_smiles", ["C", "[Na+].[Cl-]", "c1ccccc1CCO"], {"levels": ["scaffold", "rings"]}),
    ("from_newick", ["A;", "(A:1,B)r;", "((A,B),C);", "(A[note]:2,B{3});"], {}),
    ("from_nested", [["a"], [["a", 1], ["b"]]], {}),
    ("from_json", ["{}", '{"children": [{}, {"x": 1}]}', '{"x": 2}'], {"node_attrs": {"x": 0}}),
    ("from_networkx", [nx.DiGraph(["ra"]), nx.DiGraph(["ra", "rb"])], {"node_attrs": {"x": 0}}),
    ("from_clusters", [[[0, 0, 0]], [[0, 1, 0], [0, 0]]], {}),
    ("from_linkage", LINKAGES, {}),
    ("from_linkage", LINKAGES, {"heights": [0.6]}),
    ("from_linkage", LINKAGES, {"num_clusters": [2]}),
    ("from_linkage", LINKAGES, {"min_cluster_size": 2}),
    ("from_children", CHILDREN, {"n_leaves": 4}),
    *(
        ("from_graph", inputs, {"method": method})
        for method in ("matching", "components", "communities", "spectral", "metis")
        for inputs in (DATA, GRAPHS)
    ),
    ("from_graph", DATA, {"method": "agglomerative"}),
]


@pytest.mark.parametrize(
    "name, inputs, options", CALLS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(CALLS)]
)
def test_samples_of_one_call_have_the_same_keys_and_types_and_batch(name, inputs, options):
    samples = [getattr(builders, name)(x, **options) for x in inputs]
    assert len({tuple(sorted(h.keys())) for h in samples}) == 1
    for key in sorted(samples[0].keys()):
        assert len({getattr(h[key], "dtype", type(h[key])) for h in samples}) == 1, key
    batch = Batch.from_data_list(samples)
    assert batch.validate() and batch.num_trees == sum(h.num_trees for h in samples)


def test_distances_of_merges_are_there_where_they_are_given():
    samples = [builders.from_children(c, 4, distances=[1.0] * len(c)) for c in CHILDREN]
    assert Batch.from_data_list(samples).inner_height.numel() == sum(
        h.num_tree_nodes - 4 for h in samples
    )
    samples[1] = builders.from_children(CHILDREN[1], 4)
    remedy = (
        r"'inner_height' in sample 0, but not in sample 1\); .* exclude_keys=\['inner_height'\]"
    )
    with pytest.raises(ValueError, match=remedy):
        Batch.from_data_list(samples)
