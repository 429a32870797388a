"""The builders as transforms: each attaches its tree to a ``Data``, which then batches with it."""

from hsa_geometric.transforms.graph import GraphHierarchy
from hsa_geometric.transforms.grids import GridHierarchy
from hsa_geometric.transforms.linkage import LinkageHierarchy
from hsa_geometric.transforms.mesh import MeshHierarchy
from hsa_geometric.transforms.molecules import MoleculeHierarchy
from hsa_geometric.transforms.nested_signal import NestedSignalHierarchy
from hsa_geometric.transforms.points import PointHierarchy
from hsa_geometric.transforms.sequences import (
    MarkdownHierarchy,
    SequenceHierarchy,
    TextHierarchy,
)
from hsa_geometric.transforms.voxels import VoxelHierarchy

__all__ = [
    "GraphHierarchy",
    "GridHierarchy",
    "LinkageHierarchy",
    "MarkdownHierarchy",
    "MeshHierarchy",
    "MoleculeHierarchy",
    "NestedSignalHierarchy",
    "PointHierarchy",
    "SequenceHierarchy",
    "TextHierarchy",
    "VoxelHierarchy",
]
