"""The third door: cluster vectors, from the leaves upwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders._forest import lift, stack
from hsa_geometric.builders._ids import Ids, as_batch, as_ids, check_all_used, check_not_negative
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy


def from_clusters(
    clusters: Iterable[Ids],
    *,
    batch: Ids | None = None,
    per_leaf: bool = False,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy from a list of cluster vectors: leaf → level 1 → level 2 …

    Leaves are tree nodes ``0 .. N-1``, then come the clusters of level 1 in the order of their
    ids, those of level 2, and at last the roots. A root is put above the last level unless that
    level is one cluster (with :obj:`batch`: unless its cluster ``b`` is sample ``b``). A cluster
    of one member becomes a node of one child; ``collapse_chains()`` removes those.

    Args:
        clusters: ``[c0, c1, ...]``; ``c0[i]`` is the cluster of leaf ``i``, and ``c1[j]`` is the
            cluster of level 2 that holds cluster ``j`` of level 1, and so on. Ids of a level are
            ``0 .. n-1``, each used at least once.
        batch: ``[N]`` sample of each leaf, ids ``0 .. B-1``; each sample becomes a tree of its own
            (tree ``b`` is sample ``b``) and the vector is kept as ``h.batch``. (default: one tree)
        per_leaf: every vector has one label for each **leaf**, as clustering libraries return
            them. Labels are any non-negative integers, ordered but not necessarily contiguous;
            each level must nest in the next one.
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Shapes:
        ``c0`` ``[N]``, ``c1`` ``[c0.max() + 1]``, …; with :obj:`per_leaf` all ``[N]``.

    Raises:
        TypeError: if a vector holds no integers.
        ValueError: naming vector and cluster: no vectors, wrong lengths, negative ids (noise must
            be given clusters first), an id no member uses, clusters that do not nest, a cluster
            that spans samples; and what :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: linear in the number of tree nodes (with :obj:`per_leaf` a sort per level); no Python
    per node.

    Example:
        >>> h = from_clusters([[0, 0, 1, 1, 2], [0, 0, 1]])
        >>> h
        Hierarchy(leaves=5, nodes=11, depth=3)
        >>> h.parent
        tensor([ 5,  5,  6,  6,  7,  8,  8,  9, 10, 10, 10])
        >>> same = from_clusters([[4, 4, 7, 7, 9], [0, 0, 0, 0, 1]], per_leaf=True)
        >>> torch.equal(same.parent, h.parent)
        True
    """
    if isinstance(clusters, (str, bytes)) or not isinstance(clusters, Iterable):
        raise TypeError(
            f"Expected 'clusters' to be a list of vectors (got {type(clusters).__name__})"
        )
    levels = [as_ids(level, f"clusters[{i}]") for i, level in enumerate(clusters)]
    if not levels:
        raise ValueError("Expected 'clusters' to hold at least one vector (got none)")
    for i, level in enumerate(levels):
        check_not_negative(level, f"clusters[{i}]")
    num_leaves = levels[0].numel()
    levels = _chain(levels) if per_leaf else _check_chain(levels)

    sample = levels[-1].new_zeros(int(levels[-1].max()) + 1)
    if batch is not None:
        leaf_sample = as_batch(batch, num_leaves)
        top = levels[0]
        for level in levels[1:]:
            top = level[top]
        expected = f"'clusters[{len(levels) - 1}]' to nest in 'batch'"
        sample = lift(leaf_sample, top, sample, expected, "leaves of cluster")
        leaf_data["batch"] = leaf_sample
    if not torch.equal(sample, torch.arange(sample.numel(), device=sample.device)):
        levels = [*levels, sample]
    return from_parent(stack(levels, num_leaves, sample.device), **leaf_data)


def _check_chain(levels: list[Tensor]) -> list[Tensor]:
    """Check that each vector is indexed by the clusters of the one before."""
    members = levels[0].numel()
    for i, level in enumerate(levels):
        if level.numel() != members:
            hint = "; labels of leaves need per_leaf=True" * (level.numel() == levels[0].numel())
            raise ValueError(
                f"Expected 'clusters[{i}]' to have one entry for each of the {members} clusters of "
                f"'clusters[{i - 1}]' (got {level.numel()}{hint})"
            )
        check_all_used(level, f"clusters[{i}]", "cluster")
        members = int(level.max()) + 1
    return levels


def _chain(levels: list[Tensor]) -> list[Tensor]:
    """Turn labels of leaves into vectors indexed by the clusters of the level before."""
    num_leaves = levels[0].numel()
    names, ids = torch.unique(levels[0], return_inverse=True)
    out = [ids]
    for i, level in enumerate(levels[1:], start=1):
        if level.numel() != num_leaves:
            raise ValueError(
                f"Expected 'clusters[{i}]' to have one label for each of the {num_leaves} leaves "
                f"(got {level.numel()})"
            )
        expected = f"'clusters[{i - 1}]' to nest in 'clusters[{i}]'"
        above = lift(level, ids, torch.zeros_like(names), expected, "leaves of cluster", names)
        names, chained = torch.unique(above, return_inverse=True)
        out.append(chained)
        ids = chained[ids]
    return out
