"""Nested signals: values of several types in lists and dicts."""

from hsa_geometric.builders.signals._leaves import LeafType, Leaves
from hsa_geometric.builders.signals.graph_leaves import GraphLeaves
from hsa_geometric.builders.signals.image_leaves import ImageLeaves
from hsa_geometric.builders.signals.marks import Typed, Unordered
from hsa_geometric.builders.signals.nested_signal import NestedSignal
from hsa_geometric.builders.signals.tensor_leaves import NumberLeaves, TensorLeaves
from hsa_geometric.builders.signals.text_leaves import TextLeaves

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
]
