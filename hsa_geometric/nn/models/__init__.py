"""Models made of the layers."""

from .hierarchical_unet import HierarchicalUNet

__all__ = ["HierarchicalUNet"]
