"""States of inner nodes, learned from the leaves below and told to them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import HeteroLinear, Linear

from ..functional.checks import as_tree, check_channels, check_mass, check_rows, check_tensor
from ..functional.options import check_choice
from ..kernels.call import accumulator
from ..kernels.scatter import sweep
from ..tree import TreeIndex


class InnerStates(torch.nn.Module):
    r"""A state for each inner node (phrase, fragment, section): up from the leaves, and down again.

    With the mean :math:`\mathbf u_A` of the leaves below an inner node and its state
    :math:`\mathbf s_A` so far (0 at first), every level :math:`l` has a linear map and a gate

    .. math::
        \mathbf{g}_A = \sigma(\mathbf G_l [\mathbf u_A, \mathbf s_A]), \qquad
        \mathbf s^{\prime}_A = \mathbf s_A + \mathbf g_A \odot \mathrm{GELU}(
        \mathbf W_l [\mathbf u_A, \mathbf s_A]), \qquad
        \mathbf x^{\prime}_i = \frac{1}{|\{A \ni i\}|} \sum_{A \ni i} \mathbf D_l
        \mathbf s^{\prime}_A

    where the sum is over the inner nodes above a leaf. ``reduce='attention'`` takes for
    :math:`\mathbf u` the mean with weights :math:`\exp(\mathbf w_h^{\top} \mathbf x_i)` for each of
    several heads. States that are handed from layer to layer are embeddings of all nodes.

    Args:
        channels: size of leaf features and of states.
        num_levels: number of levels with weights of their own; deeper ones share the last.
            (default: :obj:`4`)
        reduce: ``'mean'`` or ``'attention'``. (default: ``'mean'``)
        heads: number of heads for ``reduce='attention'``; must divide :obj:`channels`.

    Shapes:
        - **input:** x :math:`(N, F)`, tree with :math:`N` leaves and :math:`I` inner nodes,
          states :math:`(I, F)` in ascending id, mass :math:`(N)`
        - **output:** :math:`(N, F)` for the leaves, to be added to :obj:`x`, and the new states
          :math:`(I, F)`. A leaf that is a whole tree gets 0.

    Cost: one sweep up, one down and :math:`O(I)` products.

    Example:
        >>> import torch
        >>> states = InnerStates(8)
        >>> out, inner = states(torch.randn(3, 8), torch.tensor([3, 3, 4, 4, 4]))
        >>> out.shape, inner.shape
        (torch.Size([3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, channels: int, num_levels: int = 4, *, reduce: str = "mean", heads: int = 1):
        super().__init__()
        check_choice(reduce, "reduce", ("mean", "attention"))
        for name, value in (("channels", channels), ("num_levels", num_levels), ("heads", heads)):
            if value < 1:
                raise ValueError(f"Expected '{name}' to be positive (got {value})")
        if channels % heads:
            raise ValueError(
                f"Expected 'channels' to be a multiple of 'heads', {heads} (got {channels})"
            )
        self.channels = channels
        self.num_levels = num_levels
        self.reduce = reduce
        self.heads = heads
        self.lin_score = Linear(channels, heads) if reduce == "attention" else None
        self.lin_up = HeteroLinear(2 * channels, 2 * channels, num_levels)
        self.lin_down = HeteroLinear(channels, channels, num_levels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]

    def forward(
        self,
        x: Tensor,
        tree: TreeIndex | Tensor,
        states: Tensor | None = None,
        *,
        mass: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Run the layer.

        Args:
            x: leaf features.
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree``, or a parent
                vector.
            states: states of the inner nodes so far. (default: 0)
            mass: weight of each leaf; 0 marks padding, which no state sees.

        Raises:
            TypeError, ValueError: naming the argument that does not fit the tree.
        """
        tree = as_tree(tree, x)
        check_tensor(x, "x", 2)
        check_rows(x, "x", tree)
        check_channels(x, "x", self.channels)
        check_mass(mass, tree)
        inner = inner_nodes(tree)
        if states is None:
            states = x.new_zeros(inner.shape[1], self.channels)
        elif states.shape != (inner.shape[1], self.channels):
            raise ValueError(
                f"Expected 'states' to be of shape {[inner.shape[1], self.channels]}, one row for "
                f"each inner node (got {list(states.shape)})"
            )
        position, level = inner
        level = level.clamp(max=self.num_levels - 1)

        below = torch.cat([self._up(x, tree, position, mass).to(states.dtype), states], dim=1)
        new, gate = self.lin_up(below, level).chunk(2, dim=1)
        states = states + torch.sigmoid(gate) * torch.nn.functional.gelu(new)
        down = self.lin_down(states, level)

        rows = down.new_zeros(tree.num_nodes, self.channels, dtype=accumulator(down.dtype))
        rows = rows.index_copy(0, position, down.to(rows.dtype))
        return (sweep(rows, True, tree) / _above(tree)[:, None]).to(x.dtype), states

    def _up(self, x: Tensor, tree: TreeIndex, position: Tensor, mass: Tensor | None) -> Tensor:
        """Means over the leaves below each inner node, in float32 at least."""
        x = x.to(accumulator(x.dtype))
        if self.lin_score is None and mass is None:
            return sweep(x, False, tree)[position] / tree.count[position][:, None]
        weight = x.new_ones(x.shape[0], 1) if mass is None else mass.to(x.dtype)[:, None]
        if self.lin_score is not None:
            # Bounded, so that no sum of exponentials underflows where another one does not.
            score = 10 * torch.tanh(self.lin_score(x).to(x.dtype) / 10)
            weight = weight * score.exp()
        if mass is not None:
            x = x.masked_fill((mass == 0)[:, None], 0.0)  # whatever padding holds
        heads = weight.shape[1]
        x = (x.view(-1, heads, self.channels // heads) * weight[:, :, None]).flatten(1)
        sums = sweep(torch.cat([x, weight], dim=1), False, tree)[position]
        x, total = sums.split([self.channels, heads], dim=1)
        total = torch.where(total > 0, total, 1.0)[:, :, None]
        return (x.view(-1, heads, self.channels // heads) / total).flatten(1)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.channels}, num_levels={self.num_levels})"


def inner_nodes(tree: TreeIndex) -> Tensor:
    """``[2, I]`` position and level of each inner node, in ascending id."""

    def make() -> Tensor:
        ids = tree.order[tree.family_parent].sort().values
        return torch.stack([tree.position[ids], tree.level[ids]])

    out: Tensor = tree.once("inner_nodes", make)
    return out


def _above(tree: TreeIndex) -> Tensor:
    """``[N]`` number of inner nodes above each leaf, at least 1 to divide by."""
    out: Tensor = tree.once("above", lambda: tree.level[tree.leaf_ids].clamp(min=1))
    return out
