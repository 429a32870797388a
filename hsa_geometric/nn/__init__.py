"""Layers; they take tensors and a :class:`~hsa_geometric.TreeIndex`, never a ``Data``."""

from .conv import HierarchicalAttentionConv, HierarchicalCrossAttention
from .encoding import (
    DomainEncoding,
    FamilyEncoding,
    Ids,
    TypedInput,
    domain_encoding,
    register_domain,
)
from .models import HierarchicalTransformer, HierarchicalTransformerLayer, HierarchicalUNet
from .pool import HierarchyPooling, HierarchyReadout, HierarchyUnpooling
from .states import InnerStates

__all__ = [
    "DomainEncoding",
    "FamilyEncoding",
    "HierarchicalAttentionConv",
    "HierarchicalCrossAttention",
    "HierarchicalTransformer",
    "HierarchicalTransformerLayer",
    "HierarchicalUNet",
    "HierarchyPooling",
    "HierarchyReadout",
    "HierarchyUnpooling",
    "Ids",
    "InnerStates",
    "TypedInput",
    "domain_encoding",
    "register_domain",
]
