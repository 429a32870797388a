"""One row for each tree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from ...functional.checks import as_tree, check_channels, check_mass, check_rows, check_tensor
from ...functional.options import check_choice
from ...functional.pool import pool_rows
from ...kernels.scatter import sweep
from ...tree import TreeIndex
from .._inner import inner_ids

READOUTS = ("mean", "attention", "root", "leaf")


class HierarchyReadout(torch.nn.Module):
    r"""Reads out one row for each tree: a mean, an attention-weighted mean, the root's state, or a
    chosen leaf.

    Args:
        readout: ``'mean'`` of the leaves by mass; ``'attention'``, with weights
            :math:`\mathrm{softmax}_i(\mathbf w^{\top} \mathbf x_i)` for each head; ``'root'``, its
            row of the inner states (the leaf's own, where a leaf is a whole tree); ``'leaf'``,
            that named in :obj:`leaf`, or the first of each tree, where a token such as [CLS]
            stands.
        channels: size of each row, for ``'attention'`` only.
        heads: number of heads, which must divide :obj:`channels`; for ``'attention'`` only.

    Shapes:
        - **input:** x :math:`(N, F)`, tree with :math:`N` leaves, states :math:`(I, F)`, mass
          :math:`(N)`, leaf :math:`(\mathrm{trees})`
        - **output:** :math:`(\mathrm{trees}, F)`, trees in ascending id of their roots

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [2.0], [6.0]])
        >>> HierarchyReadout("mean")(x, torch.tensor([3, 3, 4, 4, 4]))
        tensor([[3.]])
    """

    def __init__(self, readout: str = "mean", channels: int | None = None, heads: int = 1):
        super().__init__()
        check_choice(readout, "readout", READOUTS)
        if heads < 1:
            raise ValueError(f"Expected 'heads' to be positive (got {heads})")
        if readout == "attention" and (channels is None or channels % heads):
            raise ValueError(
                f"Expected 'channels', a multiple of 'heads', {heads}, for readout='attention' "
                f"(got {channels})"
            )
        self.readout = readout
        self.heads = heads
        self.lin_score = (
            Linear(channels, heads) if readout == "attention" and channels is not None else None
        )

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        if self.lin_score is not None:
            self.lin_score.reset_parameters()

    def forward(
        self,
        x: Tensor,
        tree: TreeIndex | Tensor,
        states: Tensor | None = None,
        *,
        mass: Tensor | None = None,
        leaf: Tensor | None = None,
    ) -> Tensor:
        r"""Run the layer.

        Args:
            x: leaf features.
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree``, or a parent
                vector.
            states: states of the inner nodes in ascending id, for ``'root'``.
            mass: weight of each leaf.
            leaf: row of the chosen leaf of each tree, for ``'leaf'``.

        Raises:
            TypeError, ValueError: naming the argument that is missing, not used, or does not fit.
        """
        tree = as_tree(tree, x)
        check_tensor(x, "x", 2)
        check_rows(x, "x", tree)
        check_mass(mass, tree)
        if leaf is not None and self.readout != "leaf":
            raise ValueError(f"Expected no 'leaf' for readout='{self.readout}' (got a tensor)")
        if self.readout == "root":
            return self._root(x, tree, states)
        sample = tree_of_leaf(tree)
        if self.readout == "leaf":
            return x[self._leaf(leaf, tree, sample)]
        if self.lin_score is None:
            return pool_rows(x, sample, tree.num_trees, mass=mass)
        check_channels(x, "x", self.lin_score.in_channels)
        if mass is not None:
            x = x.masked_fill((mass == 0)[:, None], 0.0)  # whatever padding holds
        rows = x.unflatten(1, (self.heads, -1))
        options = {"reduce": "attention", "score": self.lin_score(x), "mass": mass}
        return pool_rows(rows, sample, tree.num_trees, **options).flatten(1)  # type: ignore[arg-type]

    def _root(self, x: Tensor, tree: TreeIndex, states: Tensor | None) -> Tensor:
        num_inner = tree.family_parent.shape[0]
        shape = [num_inner, x.shape[1]]
        if states is None or list(states.shape) != shape:
            raise ValueError(
                f"Expected 'states' to be of shape {shape}, one row for each inner node, for "
                f"readout='root' (got {None if states is None else list(states.shape)})"
            )

        def make() -> Tensor:
            row = torch.empty_like(tree.parent)  # of a leaf in x, of an inner node behind them
            row[tree.leaf_ids] = torch.arange(tree.num_leaves, device=tree.device)
            row[inner_ids(tree)] = torch.arange(num_inner, device=tree.device) + tree.num_leaves
            return row[tree.order[: tree.num_trees]]

        row: Tensor = tree.once("row_of_root", make)
        return torch.cat([x, states.to(x.dtype)])[row]

    def _leaf(self, leaf: Tensor | None, tree: TreeIndex, sample: Tensor) -> Tensor:
        trees = torch.arange(tree.num_trees, device=tree.device)
        if leaf is None:
            rows = torch.arange(tree.num_leaves, device=tree.device)
            first = rows.new_full((tree.num_trees,), tree.num_leaves)
            return first.scatter_reduce(0, sample, rows, "amin")
        if leaf.shape != trees.shape or leaf.is_floating_point():
            raise ValueError(
                f"Expected 'leaf' to hold the row of a leaf for each of the {tree.num_trees} trees "
                f"(got {leaf.dtype} of shape {list(leaf.shape)})"
            )
        if not torch.compiler.is_compiling():
            inside = (leaf >= 0) & (leaf < tree.num_leaves)
            wrong = ~inside | (sample[leaf.clamp(0, tree.num_leaves - 1)] != trees)
            if wrong.any():
                number = int(wrong.nonzero()[0])
                raise ValueError(
                    f"Expected leaf[{number}] to be a leaf of tree {number} "
                    f"(got {int(leaf[number])})"
                )
        return leaf

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}('{self.readout}')"


def tree_of_leaf(tree: TreeIndex) -> Tensor:
    """``[N]`` number of the tree that each leaf belongs to."""

    def make() -> Tensor:
        number = torch.zeros_like(tree.up)
        number[: tree.num_trees] = tree.root
        return sweep(number, True, tree)

    out: Tensor = tree.once("tree_of_leaf", make)
    return out


def flat_tree(tree: TreeIndex) -> TreeIndex:
    """The leaves of each tree directly below a root: leaves, in their order, then the roots."""

    def make() -> TreeIndex:
        root = tree.num_leaves + tree_of_leaf(tree)
        roots = tree.num_leaves + torch.arange(tree.num_trees, device=tree.device)
        return TreeIndex.from_parent(torch.cat([root, roots]), num_leaves=tree.num_leaves)

    out: TreeIndex = tree.once("flat_tree", make)
    return out
