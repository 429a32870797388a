"""Pooling along a hierarchy, and back."""

from .hierarchy_pooling import HierarchyPooling
from .hierarchy_unpooling import HierarchyUnpooling
from .readout import HierarchyReadout

__all__ = ["HierarchyPooling", "HierarchyReadout", "HierarchyUnpooling"]
