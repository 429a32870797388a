"""Models made of the layers."""

from .hierarchical_transformer import HierarchicalTransformer
from .hierarchical_transformer_layer import HierarchicalTransformerLayer
from .hierarchical_unet import HierarchicalUNet

__all__ = ["HierarchicalTransformer", "HierarchicalTransformerLayer", "HierarchicalUNet"]
