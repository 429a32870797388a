"""Shape, cost, dilution and evidence gap of a hierarchy, on one page."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional import distribute
from hsa_geometric.functional.layout import over_subtrees, root_of
from hsa_geometric.report._table import number, table
from hsa_geometric.report.dilution import Dilution, dilution
from hsa_geometric.report.evidence_gap import EvidenceGap, evidence_gap
from hsa_geometric.surgery._check import check_hierarchy


@dataclass(frozen=True, eq=False)
class HierarchyReport:
    r"""What :func:`hierarchy_report` found. Print it.

    Shapes:
        :obj:`R` trees in ascending id of their roots (in a batch: the samples' trees in order),
        :obj:`G` distinct family sizes. Counts are int64, means float64.

    Attributes:
        leaves: ``[R]`` number of leaves.
        nodes: ``[R]`` number of tree nodes.
        depth: ``[R]`` levels below the root.
        mean_depth: ``[R]`` mean level of the leaves.
        families: ``[R]`` number of families, that is of inner nodes.
        min_branching: ``[R]`` size of the smallest family; 0 where there is none.
        mean_branching: ``[R]`` mean size; NaN where there is no family.
        max_branching: ``[R]`` size of the largest one.
        one_child: ``[R]`` inner nodes with a single child, which do nothing.
        balance: ``[R]`` :math:`-\sum_i p_i \log p_i / \log N` in :math:`(0, 1]`, where :math:`p_i`
            is the probability to end at leaf :math:`i` on a way down that takes every child alike:
            1 for a star and every regular tree, near 0 for a caterpillar, and 1 for a single leaf.
        logits: ``[R]`` logits computed for each head, :math:`\sum b^2` over the families; softmax
            attention computes ``leaves ** 2``.
        family_sizes: ``[2, G]`` the sizes of families, ascending, and how many there are of each in
            all trees.
        dilution: how many leaves share a weight, and how far away they are.
        gap: divergence from softmax; :obj:`None` without :obj:`q` and :obj:`k`.
    """

    leaves: Tensor
    nodes: Tensor
    depth: Tensor
    mean_depth: Tensor
    families: Tensor
    min_branching: Tensor
    mean_branching: Tensor
    max_branching: Tensor
    one_child: Tensor
    balance: Tensor
    logits: Tensor
    family_sizes: Tensor
    dilution: Dilution
    gap: EvidenceGap | None

    @property
    def num_trees(self) -> int:
        """Number of trees."""
        return self.leaves.numel()

    def __str__(self) -> str:
        softmax = self.leaves.double().square()
        lines = [
            ("leaves", self.leaves),
            ("tree nodes", self.nodes),
            ("depth", self.depth),
            ("mean depth of a leaf", self.mean_depth),
            ("families", self.families),
            ("smallest family", self.min_branching),
            ("mean family", self.mean_branching),
            ("largest family", self.max_branching),
            ("one-child nodes", self.one_child),
            ("balance", self.balance),
            ("logits per head", self.logits),
            ("of softmax's, %", 100 * self.logits / softmax),
        ]
        if self.num_trees == 1:
            rows = [[name, number(float(x[0]))] for name, x in lines]
        else:
            rows = [[f"{self.num_trees:,} trees", "min", "mean", "max"]]
            for name, x in lines:
                x = x.double()
                known = x[~x.isnan()] if bool((~x.isnan()).any()) else x
                values = (known.min(), known.mean(), known.max())
                rows.append([name, *(number(float(v)) for v in values)])
        parts = [table(rows), _histogram(self.family_sizes), str(self.dilution)]
        if self.gap is not None:
            parts.append(str(self.gap))
        return "\n\n".join(parts)


def hierarchy_report(
    h: Hierarchy,
    q: Tensor | None = None,
    k: Tensor | None = None,
    *,
    scale: float | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> HierarchyReport:
    r"""Say what a hierarchy is like, and how well it suits queries and keys.

    Args:
        h: a sample or a batch. With :obj:`h.pos` the report says at which distances leaves share
            weights.
        q: ``[N, H, D]`` queries of the leaves, for the evidence gap.
        k: ``[N, H, D]`` keys, beside :obj:`q`.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)
        sample: estimate the gap of trees with more leaves than this from so many rows; see
            :func:`evidence_gap`.
        seed: of that draw.
        progress: whether to show a progress bar where the gap takes long.

    Returns:
        :class:`HierarchyReport`, which prints as a page of tables.

    Raises:
        TypeError, ValueError: if :obj:`h` is no valid hierarchy, if only one of :obj:`q` and
            :obj:`k` is given, or if they do not fit the leaves.

    Cost: :math:`O(T)` and that of :func:`dilution`; with :obj:`q` and :obj:`k` that of
    :func:`evidence_gap`, quadratic in the leaves of a tree unless sampled.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> from hsa_geometric.testing import balanced
        >>> print(hierarchy_report(from_parent(balanced(4, 2))))
        leaves                  16
        tree nodes              21
        depth                    2
        mean depth of a leaf     2
        families                 5
        smallest family          4
        mean family              4
        largest family           4
        one-child nodes          0
        balance                  1
        logits per head         80
        of softmax's, %       31.2
        <BLANKLINE>
        family size  families
        4                   5
        <BLANKLINE>
        dilution: 7 distinct weights for a leaf
        levels up  leaves seen, %  weights  leaves per weight
        1                    18.8        3                  1
        2                      75        3                  4
    """
    check_hierarchy(h)
    if (q is None) != (k is None):
        given, missing = ("q", "k") if k is None else ("k", "q")
        raise ValueError(f"Expected '{missing}' beside '{given}' (got None)")
    gap = None
    if q is not None and k is not None:
        gap = evidence_gap(h, q, k, scale=scale, sample=sample, seed=seed, progress=progress)

    tree, parent = h.tree, h.tree.parent
    ids = torch.arange(tree.num_nodes, device=tree.device)
    of_node = tree.position[root_of(tree)]  # number of the tree
    of_leaf = of_node[tree.leaf_ids]
    below_root = parent != ids
    children = torch.bincount(parent[below_root], minlength=tree.num_nodes)
    inner = children > 0
    size, of_family = children[inner], of_node[inner]
    level = tree.level

    def total(x: Tensor, of: Tensor) -> Tensor:
        return x.new_zeros(tree.num_trees).index_add(0, of, x)

    def extreme(x: Tensor, how: str) -> Tensor:
        zero = x.new_zeros(tree.num_trees)
        return zero.scatter_reduce(0, of_family, x, how, include_self=False)

    leaves, families = tree.count[tree.root], torch.bincount(of_family, minlength=tree.num_trees)
    # Surprise of each leaf on a random way down, and its mean: the entropy.
    steps = torch.where(below_root, children[parent].double().log(), 0)
    surprise = distribute(steps, tree)
    entropy = total(surprise * (-surprise).exp(), of_leaf)
    return HierarchyReport(
        leaves=leaves,
        nodes=torch.bincount(of_node, minlength=tree.num_trees),
        depth=over_subtrees(level, tree.parent, "amax")[tree.order[tree.root]],
        mean_depth=total(level[tree.leaf_ids].double(), of_leaf) / leaves,
        families=families,
        min_branching=extreme(size, "amin"),
        mean_branching=total(size.double(), of_family) / families,
        max_branching=extreme(size, "amax"),
        one_child=total((size == 1).long(), of_family),
        balance=torch.where(leaves > 1, entropy / leaves.double().log(), 1.0),
        logits=total(size.square(), of_family),
        family_sizes=torch.stack(tree.family_ptr.diff().unique(return_counts=True)),
        dilution=dilution(h),
        gap=gap,
    )


def _histogram(family_sizes: Tensor) -> str:
    """How many families there are of each size, sizes above 8 by powers of two."""
    size, many = family_sizes
    lower = torch.where(size > 8, 2 ** (size - 1).clamp(min=1).log2().floor().long() + 1, size)
    rows = [["family size", "families"]]
    for low in lower.unique().tolist():
        high = low if low <= 8 else 2 * (low - 1)
        rows.append(
            [str(low) if low == high else f"{low:,}–{high:,}", f"{int(many[lower == low].sum()):,}"]
        )
    return table(rows)
