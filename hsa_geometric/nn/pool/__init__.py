"""Pooling along a hierarchy, and back."""

from .hierarchy_pooling import HierarchyPooling
from .hierarchy_unpooling import HierarchyUnpooling

__all__ = ["HierarchyPooling", "HierarchyUnpooling"]
