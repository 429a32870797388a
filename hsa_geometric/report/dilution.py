"""How many leaves share a weight, and how far away they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric.builders._internal import own_leaves
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional import aggregate, distribute
from hsa_geometric.functional.layout import root_of
from hsa_geometric.functional.options import check_integer
from hsa_geometric.report._table import number, table
from hsa_geometric.surgery._check import check_hierarchy
from hsa_geometric.tree import TreeIndex


@dataclass(frozen=True, eq=False)
class Dilution:
    r"""What :func:`dilution` found; row :math:`l - 1` is for :math:`l` levels up.

    Shapes:
        :obj:`L` levels. All are float64 and means over the leaves of all trees.

    Attributes:
        weights_per_leaf: number of distinct weights in a row of the attention matrix, the leaf's
            own included.
        weights: ``[L]`` how many of them are for siblings at each level.
        seen: ``[L]`` share of its tree's leaves that a leaf sees at each level, itself nowhere.
        leaves_per_weight: ``[L]`` mean number of leaves that share a weight; NaN where there are
            only one-child nodes.
        distance: ``[L]`` root mean square distance to the leaves seen at each level, in the units
            of :obj:`pos`; :obj:`None` without it.
    """

    weights_per_leaf: float
    weights: Tensor
    seen: Tensor
    leaves_per_weight: Tensor
    distance: Tensor | None

    def __str__(self) -> str:
        columns = [self.seen * 100, self.weights, self.leaves_per_weight]
        head = ["levels up", "leaves seen, %", "weights", "leaves per weight"]
        if self.distance is not None:
            columns.append(self.distance)
            head.append("rms distance")
        rows = [
            [str(level), *(number(x) for x in values)]
            for level, values in enumerate(zip(*(c.tolist() for c in columns), strict=True), 1)
        ]
        title = f"dilution: {number(self.weights_per_leaf)} distinct weights for a leaf"
        return f"{title}\n{table([head, *rows])}" if rows else title


@torch.no_grad()
def dilution(h: Hierarchy, *, max_up: int = 32) -> Dilution:
    r"""Count, level by level, the leaves that share one attention weight.

    A leaf attends to the siblings of each of its ancestors with one weight for all leaves below a
    sibling. One level up are its own siblings (often leaves, with a weight each); further up stand
    larger blocks. A good tree shares weights between many leaves only where these are far away, or
    alike.

    Args:
        h: a sample or a batch; leaves are counted whatever their mass.
        max_up: number of levels to list; what is further up is left out.

    Returns:
        :class:`Dilution`, which prints as a table.

    Raises:
        TypeError, ValueError: if :obj:`h` is no valid hierarchy or :obj:`max_up` no positive
            integer.

    Cost: :math:`\mathcal{O}(T)` and, for each level listed, :math:`\mathcal{O}(N)`.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> from hsa_geometric.testing import balanced
        >>> print(dilution(from_parent(balanced(4, 3))))
        dilution: 10 distinct weights for a leaf
        levels up  leaves seen, %  weights  leaves per weight
        1                    4.69        3                  1
        2                    18.8        3                  4
        3                      75        3                 16
    """
    check_hierarchy(h)
    check_integer(max_up, "max_up", 1)
    tree, parent = h.tree, h.tree.parent
    ids = torch.arange(tree.num_nodes, device=tree.device)
    below_root = parent != ids
    count = tree.count[tree.position].double()
    siblings = torch.bincount(parent[below_root], minlength=tree.num_nodes)[parent].double() - 1
    siblings = torch.where(below_root, siblings, 0)
    others = torch.where(below_root, count[parent] - count, 0)  # leaves below the siblings
    share = others / count[root_of(tree)]
    far = _Distances(h.pos, h) if isinstance(h.pos, Tensor) else None

    at, leaf = tree.leaf_ids, torch.arange(tree.num_leaves, device=tree.device)
    rows: list[list[float]] = []
    while at.numel() and len(rows) < max_up:
        inside = below_root[at]
        at, leaf = at[inside], leaf[inside]
        if at.numel() == 0:
            break
        blocks, held = float(siblings[at].sum()), float(others[at].sum())
        rows.append(
            [
                blocks / tree.num_leaves,
                float(share[at].sum()) / tree.num_leaves,
                held / blocks if blocks else torch.nan,
                (far.squared(at, leaf, others) / held) ** 0.5 if far and held else torch.nan,
            ]
        )
        at = parent[at]
    columns = torch.tensor(rows, dtype=torch.float64).view(-1, 4)
    return Dilution(
        weights_per_leaf=1 + float(distribute(siblings, tree).mean()),
        weights=columns[:, 0],
        seen=columns[:, 1],
        leaves_per_weight=columns[:, 2],
        distance=columns[:, 3] if far else None,
    )


class _Distances:
    """Sums of squared distances between leaves and those below the siblings of an ancestor.

    All are taken about the mean of the node around them. About one place for all, squares would
    swallow the distances of what is near.
    """

    def __init__(self, pos: Tensor, h: Hierarchy):
        tree = h.tree
        x = pos.detach().double().view(tree.num_leaves, -1)
        root, count = root_of(tree), tree.count[tree.position].double()
        mean = aggregate(x, tree)[root] / count[root].unsqueeze(1)
        self.x = x - mean[tree.leaf_ids]
        self.parent = tree.parent
        self.mean = aggregate(self.x, tree) / count.unsqueeze(1)
        self.off = self.mean - self.mean[self.parent]
        self.count, self.moment = count, count * self.off.square().sum(1)
        # About its own mean a node has the moments of all nodes below it about their parents'.
        # Each node's children are summed on a leaf of its own, so that these are sums of leaves.
        of_children = torch.zeros_like(self.moment).index_add(0, self.parent, self.moment)
        parent, old = own_leaves(tree)
        total = aggregate(of_children, TreeIndex.from_parent(parent))
        self.square = torch.zeros_like(of_children)
        self.square[old[tree.num_nodes :]] = total[tree.num_nodes :]

    def squared(self, at: Tensor, leaf: Tensor, others: Tensor) -> float:
        """Sum over pairs of ``leaf`` and the leaves below the siblings of its ancestor ``at``."""
        above = self.parent[at]
        x = self.x[leaf] - self.mean[above]
        total = (
            others[at] * x.square().sum(1)
            + (self.square[above] - self.square[at] - self.moment[at])
            + 2 * self.count[at] * (x * self.off[at]).sum(1)
        )
        return float(total.sum().clamp(min=0))
