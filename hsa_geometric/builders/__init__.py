"""Hierarchies from what people have.

==============  ==================================================================================
trees           :func:`from_parent`, :func:`from_networkx`, :func:`from_newick`,
                :func:`from_nested`, :func:`from_json`; back: ``to_...``
clusterings     :func:`from_clusters`, :func:`from_linkage`, :func:`from_children`,
                :func:`from_condensed_tree`, :func:`from_pooling`
space           :func:`from_points`, :func:`from_voxels`, :func:`from_mesh`, :func:`from_grid`
graphs          :func:`from_graph`
molecules       :func:`from_molecule`, :func:`from_smiles`, :func:`atom_groups`
texts           :func:`from_sequence`, :func:`from_text`, :func:`from_markdown`
all of these    :class:`NestedSignal`: nested lists and dicts of values of several types
==============  ==================================================================================

Leaf :obj:`i` is always the input's row :obj:`i`, and every result has passed ``validate()``.
"""

from hsa_geometric.builders.children import from_children
from hsa_geometric.builders.clusters import from_clusters
from hsa_geometric.builders.condensed import from_condensed_tree
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.graph import from_graph
from hsa_geometric.builders.grids import from_grid
from hsa_geometric.builders.json_tree import from_json, to_json
from hsa_geometric.builders.linkage import from_linkage, to_linkage
from hsa_geometric.builders.mesh import from_mesh
from hsa_geometric.builders.molecules import atom_groups, from_molecule, from_smiles
from hsa_geometric.builders.nested import from_nested, to_nested
from hsa_geometric.builders.networkx import from_networkx, to_networkx
from hsa_geometric.builders.newick import from_newick, to_newick
from hsa_geometric.builders.points import from_points
from hsa_geometric.builders.pooling import from_pooling
from hsa_geometric.builders.sequences import from_markdown, from_sequence, from_text
from hsa_geometric.builders.signals import (
    GraphLeaves,
    ImageLeaves,
    LeafType,
    Leaves,
    NestedSignal,
    NumberLeaves,
    TensorLeaves,
    TextLeaves,
    Typed,
    Unordered,
)
from hsa_geometric.builders.voxels import from_voxels

__all__ = [
    "GraphLeaves",
    "ImageLeaves",
    "LeafType",
    "Leaves",
    "NestedSignal",
    "NumberLeaves",
    "TensorLeaves",
    "TextLeaves",
    "Typed",
    "Unordered",
    "atom_groups",
    "from_children",
    "from_clusters",
    "from_condensed_tree",
    "from_graph",
    "from_grid",
    "from_json",
    "from_linkage",
    "from_markdown",
    "from_mesh",
    "from_molecule",
    "from_nested",
    "from_networkx",
    "from_newick",
    "from_parent",
    "from_points",
    "from_pooling",
    "from_sequence",
    "from_smiles",
    "from_text",
    "from_voxels",
    "to_json",
    "to_linkage",
    "to_nested",
    "to_networkx",
    "to_newick",
]
