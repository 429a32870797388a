"""States of inner nodes, learned from the leaves below and told to them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import HeteroLinear, Linear

from ..functional.checks import as_tree, check_channels, check_mass, check_rows, check_tensor
from ..functional.options import check_choice
from ..kernels.call import accumulator
from ..tree import TreeIndex
from ._inner import InnerNodes, inner_nodes
from ._typed import sorted_linear


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

    Cost: one sweep up, one down and :math:`O(I)` products. How many nodes a level has depends on
    data, so ``torch.compile`` breaks its graph here.

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
        inner, shape = inner_nodes(tree), [tree.family_parent.shape[0], self.channels]
        if states is not None and list(states.shape) != shape:
            raise ValueError(
                f"Expected 'states' to be of shape {shape}, one row for each inner node "
                f"(got {list(states.shape)})"
            )
        below = self._up(x, inner, mass).to(x.dtype)
        old = torch.zeros_like(below) if states is None else states
        states = old.index_select(0, inner.rank)  # by level, so that each level is a slice

        both = torch.cat([below, states.to(x.dtype)], dim=1)
        new, gate = self._by_level(self.lin_up, both, inner).chunk(2, dim=1)
        states = states + torch.sigmoid(gate) * torch.nn.functional.gelu(new)
        told = self._by_level(self.lin_down, states.to(x.dtype), inner)
        out = inner.down(told.to(accumulator(told.dtype))).to(x.dtype)
        return out, states.index_select(0, inner.by_id)

    def _up(self, x: Tensor, inner: InnerNodes, mass: Tensor | None) -> Tensor:
        """Means over the leaves below each inner node, in float32 at least."""
        if mass is not None:
            x = x.masked_fill((mass == 0)[:, None], 0.0)  # whatever padding holds
        rows = x.to(accumulator(x.dtype))
        if self.lin_score is None and mass is None:
            return inner.up(rows) / inner.leaves[:, None]
        weight = rows.new_ones(x.shape[0], 1) if mass is None else mass.to(rows.dtype)[:, None]
        if self.lin_score is not None:
            # Bounded, so that no sum of exponentials underflows where another one does not.
            score = 10 * torch.tanh(self.lin_score(x).to(rows.dtype) / 10)
            weight = weight * score.exp()
        heads = weight.shape[1]
        rows = (rows.unflatten(1, (heads, -1)) * weight[:, :, None]).flatten(1)
        total = inner.up(weight)
        total = torch.where(total > 0, total, 1.0)[:, :, None]
        return (inner.up(rows).unflatten(1, (heads, -1)) / total).flatten(1)

    def _by_level(self, lin: HeteroLinear, x: Tensor, inner: InnerNodes) -> Tensor:
        """Each level's linear map of rows that are sorted by level."""
        last = self.num_levels - 1
        sizes = [*inner.sizes[:last], sum(inner.sizes[last:])]
        return sorted_linear(lin, x, sizes)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.channels}, num_levels={self.num_levels})"
