"""Nested signals with their tree: :class:`NestedSignalHierarchy`."""

from __future__ import annotations

from dataclasses import dataclass

from torch_geometric.data import Data

from hsa_geometric.builders._attach import attach, attribute, check_sample
from hsa_geometric.builders.signals import NestedSignal
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.transforms._base import HierarchyTransform


@dataclass(repr=False, eq=False)
class NestedSignalHierarchy(HierarchyTransform):
    r"""Turn the nested signal that a Data holds into its hierarchy.

    All other attributes are kept; what :class:`~hsa_geometric.NestedSignal` says is added, and a
    tree that is there already is replaced. The signal itself goes, as PyG cannot batch it:
    ``transform.signal.to_nested(h)`` gives it back.

    Args:
        signal: the types, keys and domains.
        attr: name of the attribute that holds the nested signal.

    Raises:
        TypeError: here, if :obj:`signal` is no :class:`~hsa_geometric.NestedSignal`; on a Data,
            also ValueError, what it raises, or if the Data is a batch, lacks the attribute, or has
            rows for another number of leaves.

    Example:
        >>> from hsa_geometric import NumberLeaves
        >>> transform = NestedSignalHierarchy(NestedSignal({"number": NumberLeaves()}))
        >>> h = transform(Data(signal={"a": [1.5, 2.5], "b": 3.5}, y=1.0))
        >>> h.parent, h.y, transform.signal.to_nested(h)
        (tensor([4, 4, 3, 3, 3]), 1.0, {'a': [1.5, 2.5], 'b': 3.5})
    """

    signal: NestedSignal
    attr: str = "signal"

    def __post_init__(self) -> None:
        if not isinstance(self.signal, NestedSignal):
            got = type(self.signal).__name__
            raise TypeError(f"Expected 'signal' to be a NestedSignal (got {got})")

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has but the signal."""
        check_sample(data)
        h = attach(data, self.signal.to_hierarchy(attribute(data, self.attr)))
        del h[self.attr]
        return h
