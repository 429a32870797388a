"""One layer of a transformer over hierarchies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import reset
from torch_geometric.nn.resolver import activation_resolver

from ...functional.checks import as_tree, check_channels, check_mass, check_rows, check_tensor
from ...functional.options import check_choice, check_integer
from ...tree import TreeIndex
from ..conv import HierarchicalAttentionConv
from ..pool.readout import flat_tree, tree_of_leaf
from ..states import InnerStates

ATTENTIONS = ("softmax", "entmax15", "flat", None)
STATES = ("mean", "attention", None)


class HierarchicalTransformerLayer(torch.nn.Module):
    r"""Attention along the tree, message passing beside it, states of inner nodes, feed-forward.

    .. math::
        \mathbf X &\leftarrow \mathbf X + \mathrm{HSA}(\mathrm{LN}(\mathbf X)) +
        \mathrm{conv}(\mathrm{LN}(\mathbf X), \text{edges}) \\
        (\mathbf Y, \mathbf S) &\leftarrow \mathrm{states}(\mathrm{LN}(\mathbf X), \mathbf S),
        \qquad \mathbf X \leftarrow \mathbf X + \mathbf Y \\
        \mathbf X &\leftarrow \mathbf X + \mathrm{MLP}(\mathrm{LN}(\mathbf X))

    with dropout, and stochastic depth that drops a branch for whole trees. With
    ``norm_first=False`` norms follow the sums instead, and queries and keys are normalised after
    projection, as in figure 4 of `the paper <https://arxiv.org/abs/2509.15448>`_. A star tree makes
    it the encoder layer of `"Attention Is All You Need" <https://arxiv.org/abs/1706.03762>`_.

    Args:
        channels: size of the rows, a multiple of :obj:`heads`.
        heads: number of attention heads. (default: :obj:`4`)
        attention: ``'softmax'`` along the tree; ``'entmax15'``, the same with 1.5-entmax within
            families; ``'flat'``, softmax over all leaves of each tree,
            which is what the hierarchical one is to be compared with; or :obj:`None`, no attention.
        states: states of inner nodes from a ``'mean'`` or ``'attention'`` over the leaves below
            (:class:`~hsa_geometric.nn.InnerStates`), or :obj:`None`. (default: :obj:`None`)
        conv: takes a number of input and of output channels and returns a layer to be called with
            ``x, edge_index`` and, if its ``forward`` knows these names, ``edge_attr`` or
            ``edge_weight``: any of :mod:`torch_geometric.nn.conv`. (default: no message passing)
        mlp_channels: hidden size of the feed-forward part, 0 for none. (default: 4 times
            :obj:`channels`)
        num_levels: learn a temperature and a bias of attention, and maps of states, for each of so
            many levels. (default: :obj:`None`: none, and 4 levels of states)
        dropout: probability of dropping a feature of a branch. (default: :obj:`0.0`)
        drop_path: probability of dropping a branch of a whole tree. (default: :obj:`0.0`)
        layer_scale: multiply each branch by a learned factor for each channel that begins with this
            value (`"Going Deeper with Image Transformers" <https://arxiv.org/abs/2103.17239>`_):
            small ones help deep models, and small data. (default: :obj:`None`, no factors)
        norm_first: norms before the branches. (default: :obj:`True`)
        act: the nonlinearity. (default: ``'gelu'``)
        attn_kwargs: more arguments of
            :class:`~hsa_geometric.nn.HierarchicalAttentionConv`, such as ``pos_dim``.

    Shapes:
        - **input:** x :math:`(N, F)`, tree with :math:`N` leaves and :math:`I` inner nodes, states
          :math:`(I, F)`
        - **output:** x :math:`(N, F)`; with :obj:`states` a pair of it and of
          :math:`(I, F)`

    Example:
        >>> import torch
        >>> layer = HierarchicalTransformerLayer(16, heads=2, states="mean")
        >>> x, states = layer(torch.randn(3, 16), torch.tensor([3, 3, 4, 4, 4]))
        >>> x.shape, states.shape
        (torch.Size([3, 16]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        *,
        attention: str | None = "softmax",
        states: str | None = None,
        conv: Callable[[int, int], torch.nn.Module] | None = None,
        mlp_channels: int | None = None,
        num_levels: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        norm_first: bool = True,
        act: str | Callable[[Tensor], Tensor] = "gelu",
        attn_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__()
        check_choice(attention, "attention", ATTENTIONS)
        check_choice(states, "states", STATES)
        if heads < 1 or channels < 1 or channels % heads:
            raise ValueError(
                f"Expected 'channels' to be a multiple of 'heads', {heads} (got {channels})"
            )
        if mlp_channels is not None:
            check_integer(mlp_channels, "mlp_channels", 0)
        if num_levels is not None:
            check_integer(num_levels, "num_levels", 1)
        for name, p in (("dropout", dropout), ("drop_path", drop_path)):
            if not 0.0 <= p < 1.0:
                raise ValueError(f"Expected '{name}' to be in [0, 1) (got {p})")
        self.channels = channels
        self.norm_first = norm_first
        self.drop_path = drop_path
        self.flat = attention == "flat"

        self.attn = None
        if attention is not None:
            options: dict[str, Any] = {"num_levels": num_levels}
            if attention == "entmax15":
                options["attention"] = attention
            if not norm_first:
                options["qk_norm"] = "layer_norm"
            options.update(attn_kwargs or {})
            self.attn = HierarchicalAttentionConv(
                channels, channels // heads, heads, residual=False, **options
            )
            self.lin_out = Linear(channels, channels)
        self.conv = None if conv is None else conv(channels, channels)
        self.conv_takes = _names(self.conv) & {"edge_attr", "edge_weight"}
        self.states = None
        if states is not None:
            several = heads if states == "attention" else 1
            self.states = InnerStates(channels, num_levels or 4, reduce=states, heads=several)
        self.mlp = None
        hidden = 4 * channels if mlp_channels is None else mlp_channels
        if hidden:
            self.mlp = torch.nn.Sequential(
                Linear(channels, hidden), activation_resolver(act), Linear(hidden, channels)
            )
        mixes = self.attn is not None or self.conv is not None
        self.norm_mix = torch.nn.LayerNorm(channels) if mixes else None
        self.norm_states = torch.nn.LayerNorm(channels) if self.states is not None else None
        self.norm_mlp = torch.nn.LayerNorm(channels) if self.mlp is not None else None
        self.dropout = torch.nn.Dropout(dropout)
        self.layer_scale = layer_scale
        branches = [mixes, self.states is not None, self.mlp is not None]
        self.scales = torch.nn.ParameterList(
            torch.full((channels,), layer_scale) if there and layer_scale is not None else None
            for there in branches
        )

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        for module in self.children():
            if module is not self.scales:
                reset(module)
        for scale in self.scales:
            if scale is not None and self.layer_scale is not None:
                torch.nn.init.constant_(scale, self.layer_scale)

    def forward(
        self,
        x: Tensor,
        tree: TreeIndex | Tensor,
        states: Tensor | None = None,
        *,
        mass: Tensor | None = None,
        tree_pos: Tensor | None = None,
        leaf_type: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Any:
        r"""Run the layer.

        Args:
            x: leaf features.
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree``, or a parent
                vector.
            states: states of the inner nodes so far, if the layer has such. (default: 0)
            mass: weight of each leaf; 0 marks padding.
            tree_pos: features of the place of each node, if ``pos_dim`` is set; with
                ``attention='flat'`` of each leaf among all leaves, then of the roots.
            leaf_type: type of each leaf, if ``num_types`` is set.
            edge_index: edges between leaves, if there is a :obj:`conv`.
            edge_attr: their features or weights, for a :obj:`conv` that takes them.

        Raises:
            TypeError, ValueError: naming the argument, for what the parts refuse.
        """
        tree = as_tree(tree, x)
        check_tensor(x, "x", 2)
        check_rows(x, "x", tree)
        check_channels(x, "x", self.channels)
        check_mass(mass, tree)
        if (edge_index is not None) != (self.conv is not None):
            expected, got = ("an", "None") if edge_index is None else ("no", "a tensor")
            which = "a 'conv'" if self.conv is not None else "no 'conv'"
            raise ValueError(
                f"Expected {expected} 'edge_index' in a layer with {which} (got {got})"
            )
        if edge_attr is not None and not self.conv_takes:
            which = "in a layer with no 'conv'"
            if self.conv is not None:
                which = f"for {type(self.conv).__name__}, which takes none"
            raise ValueError(f"Expected no 'edge_attr' {which} (got a tensor)")
        if edge_attr is not None and edge_attr.dim() != 1 and "edge_attr" not in self.conv_takes:
            raise ValueError(
                f"Expected 'edge_attr' to be weights [E] for {type(self.conv).__name__} "
                f"(got shape {list(edge_attr.shape)})"
            )
        if states is not None and self.states is None:
            raise ValueError("Expected no 'states' in a layer that has none (got a tensor)")

        if mass is not None:
            x = x.masked_fill((mass == 0)[:, None], 0.0)  # whatever padding holds

        def mix(x: Tensor) -> Tensor:
            out = None
            if self.attn is not None:
                options = {"mass": mass, "tree_pos": tree_pos, "leaf_type": leaf_type}
                out = self.lin_out(self.attn(x, flat_tree(tree) if self.flat else tree, **options))
            if self.conv is not None:
                given = {} if edge_attr is None else dict.fromkeys(self.conv_takes, edge_attr)
                beside = self.conv(x, edge_index, **given)
                out = beside if out is None else out + beside
            assert out is not None
            return out

        if self.norm_mix is not None:
            x = self._branch(x, self.norm_mix, mix, tree, self.scales[0])
        if self.states is not None:
            inner = self.states

            def told(x: Tensor) -> Tensor:
                nonlocal states
                out, states = inner(x, tree, states, mass=mass)
                return out

            x = self._branch(x, self.norm_states, told, tree, self.scales[1])
        if self.mlp is not None:
            x = self._branch(x, self.norm_mlp, self.mlp, tree, self.scales[2])
        return x if self.states is None else (x, states)

    def _branch(
        self,
        x: Tensor,
        norm: Any,
        part: Callable[[Tensor], Tensor],
        tree: TreeIndex,
        scale: Tensor | None,
    ) -> Tensor:
        out = self.dropout(part(norm(x) if self.norm_first else x))
        if scale is not None:
            out = out * scale
        if self.training and self.drop_path > 0.0:
            keep = 1.0 - self.drop_path
            stays = torch.rand(tree.num_trees, 1, device=out.device, dtype=out.dtype) < keep
            out = out * (stays[tree_of_leaf(tree)] / keep)
        x = x + out
        return x if self.norm_first else norm(x)

    def __repr__(self) -> str:
        parts = [name for name in ("attn", "conv", "states", "mlp") if getattr(self, name)]
        return f"{self.__class__.__name__}({self.channels}, {' + '.join(parts)})"


def _names(module: torch.nn.Module | None) -> set[str]:
    return set() if module is None else set(inspect.signature(module.forward).parameters)
