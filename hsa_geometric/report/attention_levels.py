"""How far attention reaches, and how it is spread, level by level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsa_geometric.functional import AttentionBlocks
from hsa_geometric.functional.checks import check_rows, check_tensor
from hsa_geometric.kernels.scatter.nodes import weighted
from hsa_geometric.kernels.scatter.sweeps import add_to_parents, levels_of, up
from hsa_geometric.lists import Side
from hsa_geometric.report._table import number, table
from hsa_geometric.tree import TreeIndex


@dataclass(frozen=True, eq=False)
class AttentionLevels:
    r"""What :func:`attention_levels` found. Print it.

    Shapes:
        :obj:`L` levels, roots first, :obj:`H` heads. All are float64 and means over the mass of the
        queries; NaN at a level without attention.

    Attributes:
        share: ``[L, H]`` how much of its attention a leaf gives at each level.
        entropy: ``[L, H]`` in nats, of how it shares this out: its exponential is a number of
            leaves, or a mass.
        distance: ``[L, H]`` root mean square distance to what it attends to there, in the units of
            the positions; :obj:`None` without them.
        total_entropy: ``[H]`` entropy of whole rows.
    """

    share: Tensor
    entropy: Tensor
    distance: Tensor | None
    total_entropy: Tensor

    def __str__(self) -> str:
        head = ["level", "attention, %", "entropy, nats"]
        columns = [self.share * 100, self.entropy]
        if self.distance is not None:
            head.append("rms distance")
            columns.append(self.distance)
        means = [column.mean(1).tolist() for column in columns]
        rows = [
            [str(level), *map(number, values)]
            for level, values in enumerate(zip(*means, strict=True))
            if values[0] > 0
        ]
        total = number(float(self.total_entropy.mean()))
        return f"attention, mean over heads: entropy of rows {total} nats\n{table([head, *rows])}"


@torch.no_grad()
def attention_levels(
    blocks: AttentionBlocks, pos: Tensor | None = None, *, key_pos: Tensor | None = None
) -> AttentionLevels:
    r"""Share, entropy and distance of attention at each level of the tree.

    The level of a block is that of its query node: at the deepest one a leaf attends to itself and
    its siblings, at level 1 to the other parts of the whole. With :math:`s_A` what leaves below
    :math:`A` give at its level, the entropy there is that of :math:`\theta_{AB} / s_A` with respect
    to mass,

    .. math::
        -\sum_B \frac{\theta_{AB}}{s_A} \log \frac{\theta_{AB}}{s_A |B|} ,

    averaged with the weights :math:`|A| s_A`. The mean square distance between the leaves of two
    nodes is exact: that of their means, and both variances.

    Args:
        blocks: the attention.
        pos: ``[N, D]`` positions of the leaves.
        key_pos: of the keys, where these are other leaves. (default: :obj:`pos`)

    Returns:
        :class:`AttentionLevels`, which prints as a table.

    Raises:
        TypeError: if :obj:`blocks` are none, or positions no tensor of floats.
        ValueError: if positions do not fit the leaves.

    Cost: :math:`O((M + T)(H + D))` for :math:`M` blocks.

    Example:
        >>> from hsa_geometric.functional import attention_blocks
        >>> q = k = torch.zeros(4, 1, 2)
        >>> blocks = attention_blocks(q, k, torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> print(attention_levels(blocks, torch.arange(4.0).unsqueeze(1)))
        attention, mean over heads: entropy of rows 1.39 nats
        level  attention, %  entropy, nats  rms distance
        1                50          0.693          2.12
        2                50          0.693         0.707
    """
    if not isinstance(blocks, AttentionBlocks):
        raise TypeError(f"Expected 'blocks' to be AttentionBlocks (got {type(blocks).__name__})")
    query_tree, key_tree = blocks.query_tree, blocks.key_tree
    key_pos = pos if key_pos is None else key_pos
    for x, name, tree in ((pos, "pos", query_tree), (key_pos, "key_pos", key_tree)):
        if x is not None:
            check_tensor(x, name, 2, like=blocks.weight)
            check_rows(x, name, tree)
    if key_pos is not None and (pos is None or pos.shape[1] != key_pos.shape[1]):
        raise ValueError("Expected 'pos' beside 'key_pos', of as many columns")

    at, to = blocks.blocks
    level = Side.of(query_tree).level[at]
    mass, key_mass = (
        _mass(m, tree) for m, tree in ((blocks.mass, query_tree), (blocks.key_mass, key_tree))
    )
    part = mass[at] / mass[: query_tree.num_trees].sum()
    squared = None
    if pos is not None and key_pos is not None:
        one, spread = _moments(pos, blocks.mass, query_tree)
        other, key_spread = _moments(key_pos, blocks.key_mass, key_tree)
        squared = (one[at] - other[to]).square().sum(1) + spread[at] + key_spread[to]

    zeros = part.new_zeros(query_tree.depth + 1)
    columns, totals = [], []
    for weight in blocks.weight.double():
        share = part * weight
        given = mass.new_zeros(mass.shape).index_add(0, at, weight)
        seen = weight > 0
        density = torch.where(seen, weight, 1) / torch.where(seen, key_mass[to], 1)
        relative = density.log() - torch.where(seen, given[at], 1).log()
        values = [share, -share * relative]
        values += [] if squared is None else [share * squared]
        columns.append(torch.stack([zeros.index_add(0, level, x) for x in values]))
        totals.append(-(share * density.log()).sum())
    share, *others = torch.stack(columns, 2)
    entropy, *rest = (torch.where(share > 0, x / share, torch.nan) for x in others)
    distance = rest[0].clamp(min=0).sqrt() if rest else None
    return AttentionLevels(share, entropy, distance, torch.stack(totals))


def _mass(mass: Tensor | None, tree: TreeIndex) -> Tensor:
    """``[T]`` by position, in float64."""
    return tree.count.double() if mass is None else up(mass.detach().double(), tree)


def _moments(pos: Tensor, mass: Tensor | None, tree: TreeIndex) -> tuple[Tensor, Tensor]:
    """Mean ``[T, D]`` and mean square distance from it ``[T]`` of the leaves of each node.

    The latter from distances between nodes and their parents, so that no digits are lost where
    leaves are near each other and far from the origin.
    """
    x, total, share = weighted(pos.detach().double().unsqueeze(1), mass, tree)
    mean = up(x.squeeze(1), tree, share)
    below = levels_of(total * (mean - mean[tree.up]).square().sum(1), tree)
    spread = levels_of(torch.zeros_like(total), tree)
    for i in reversed(range(1, len(below))):
        spread[i - 1] = add_to_parents(spread[i - 1], below[i] + spread[i], i, tree)
    return mean, torch.cat(spread) / torch.where(total > 0, total, 1)
