"""Inner nodes with a single child vanish."""

from __future__ import annotations

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.surgery._check import check_hierarchy


def collapse_chains(h: Hierarchy) -> Hierarchy:
    r"""Remove inner nodes with a single child; attention does not change.

    :meth:`Hierarchy.collapse_chains <hsa_geometric.data.Hierarchy.collapse_chains>` as a function,
    beside its siblings: there is described what becomes of the data of nodes.

    Args:
        h: a sample or a batch.

    Returns:
        A new hierarchy whose inner nodes all have two children or more, but for roots that keep the
        trees of a forest in their order. Leaves, their rows and every branching node stay.

    Raises:
        TypeError, ValueError: if :obj:`h` is no hierarchy, or has no valid tree.

    Cost: :math:`O(T \log c)` for chains of at most :math:`c` nodes.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> collapse_chains(from_parent([2, 3, 4, 4, 5, 5])).parent  # 2, 3 and 5 have one child
        tensor([2, 2, 2])
    """
    check_hierarchy(h)
    return h.collapse_chains()
