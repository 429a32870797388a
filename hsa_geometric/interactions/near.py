"""Nodes near each other meet."""

from __future__ import annotations

from torch import Tensor

from ..functional.checks import as_tree, check_rows, check_tensor
from ..functional.options import check_positive
from ..lists import InteractionLists
from ..tree import TreeIndex
from ._balls import balls
from ._descend import descend


def near(
    tree: TreeIndex | Tensor,
    pos: Tensor,
    *,
    angle: float = 1.0,
    key_tree: TreeIndex | Tensor | None = None,
    key_pos: Tensor | None = None,
) -> InteractionLists:
    r"""Open pairs of nodes that are large for their distance, as the lists of `"A Fast Algorithm
    for Particle Simulations" <https://doi.org/10.1016/0021-9991(87)90140-9>`_ do.

    .. math::
        \text{open } (A, B) \text{ where } \; r_A + r_B > \mathrm{angle} \cdot \|c_A - c_B\|

    with the mean :math:`c` of the positions below a node and the distance :math:`r` of the farthest
    from it. So leaves near each other meet one by one, and far ones in ever larger groups. In a
    tree that attends to itself each node is opened with itself too, so that there is no less than
    where siblings meet.

    For sequences, positions are ``torch.arange(N)``; how many logits there will be for each head is
    ``near(...).num_logits``.

    Args:
        tree: the query tree, a :class:`~hsa_geometric.TreeIndex` or a parent vector.
        pos: ``[N]`` or ``[N, D]`` position of each of its leaves.
        angle: the smaller, the more is opened; infinity opens nothing but nodes with themselves.
        key_tree: the tree of the keys. (default: :obj:`tree`)
        key_pos: position of each of its leaves.

    Raises:
        TypeError: if a tree or a tensor is none, or :obj:`angle` is no number.
        ValueError: if positions are not finite or have another number of rows than there are
            leaves, or of columns than the others; if one of :obj:`key_tree` and :obj:`key_pos` is
            missing; if :obj:`angle` is not positive.

    Cost: :math:`O(N \, \mathrm{depth})`, and a few times what there are pairs that meet, level by
    level; their number is :math:`O(N)` for points of a few dimensions in a balanced tree.

    Example:
        >>> import torch
        >>> pos = torch.arange(8.0)
        >>> tree = TreeIndex.from_parent(torch.tensor([8, 8, 9, 9, 10, 10, 11, 11] + [12] * 5))
        >>> near(tree, pos, angle=float("inf"))
        InteractionLists(opened=5, blocks=28, hidden=0, logits per leaf=3.5)
        >>> near(tree, pos, angle=0.4)
        InteractionLists(opened=11, blocks=46, hidden=0, logits per leaf=5.75)
    """
    tree = as_tree(tree)
    if not (isinstance(angle, (int, float)) and angle == float("inf")):
        check_positive(angle, "angle")
    center, radius = balls(_checked(pos, "pos", tree), tree)
    if (key_tree is None) != (key_pos is None):
        given, missing = ("key_pos", "key_tree") if key_tree is None else ("key_tree", "key_pos")
        raise ValueError(f"Expected '{missing}' beside '{given}' (got None)")
    other, far, size = tree, center, radius
    if key_tree is not None and key_pos is not None:
        other = as_tree(key_tree)
        key_pos = _checked(key_pos, "key_pos", other)
        if key_pos.shape[1] != center.shape[1]:
            raise ValueError(
                f"Expected 'key_pos' to have the {center.shape[1]} columns of 'pos' "
                f"(got {key_pos.shape[1]})"
            )
        far, size = balls(key_pos, other)
    itself = key_tree is None

    def choose(query: Tensor, key: Tensor) -> Tensor:
        apart = (center[query] - far[key]).square().sum(1).sqrt()
        # (infinity times 0 is NaN, which nothing exceeds)
        large = radius[query] + size[key] > angle * apart
        return large | (query == key) if itself else large

    return descend(tree, other, choose)


def _checked(pos: Tensor, name: str, tree: TreeIndex) -> Tensor:
    """``[N, D]`` finite positions."""
    check_tensor(pos, name)
    check_rows(pos, name, tree)
    if pos.dim() not in (1, 2):
        raise ValueError(f"Expected '{name}' to have 1 or 2 dimensions (got {pos.dim()})")
    if not bool(pos.isfinite().all()):
        raise ValueError(f"Expected '{name}' to be finite (got NaN or infinity)")
    return pos.unsqueeze(1) if pos.dim() == 1 else pos
