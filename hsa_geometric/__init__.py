"""Hierarchical self-attention for PyTorch Geometric."""

from . import (
    adapters,
    builders,
    data,
    distributed,
    functional,
    interactions,
    nn,
    report,
    surgery,
    transforms,
)
from .builders import *  # noqa: F403
from .builders import __all__ as _builders
from .config import show_config
from .data import Hierarchy, coarsen
from .lists import InteractionLists
from .report import best_hierarchy, hierarchy_report
from .tree import TreeIndex

__version__ = "0.1.0"
__all__ = [
    "Hierarchy",
    "InteractionLists",
    "TreeIndex",
    "adapters",
    "best_hierarchy",
    "builders",
    "coarsen",
    "data",
    "distributed",
    "functional",
    "hierarchy_report",
    "interactions",
    "nn",
    "report",
    "show_config",
    "surgery",
    "transforms",
    *_builders,
]
