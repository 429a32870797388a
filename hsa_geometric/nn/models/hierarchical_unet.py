"""A U-Net whose levels are those of a tree."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import reset
from torch_geometric.nn.resolver import activation_resolver

from ...functional.checks import as_tree, check_mass
from ...functional.lift import lift_rows
from ...functional.options import check_integer
from ...functional.pool import pool_rows
from ...shard import TreeShard
from ...tree import TreeIndex
from ..conv import HierarchicalAttentionConv
from ._unet_levels import UNetLevel, unet_levels

if TYPE_CHECKING:
    from ...distributed.halo import Halo


class HierarchicalUNet(torch.nn.Module):
    r"""A U-Net over a hierarchy: from the leaves to ever coarser levels, and back with skips.

    As in `"Graph U-Nets" <https://arxiv.org/abs/1905.05178>`_, but with the clusters that the tree
    gives instead of learned ones. At every level, on the way down and up,

    .. math::
        \mathbf{X} \leftarrow \sigma\left(\mathrm{norm}\left(
        \mathrm{HSA}(\mathbf{X}, \text{tree above the level}) +
        \mathrm{conv}(\mathbf{X}, \text{edges of the level}) \right)\right)

    where HSA is a :class:`~hsa_geometric.nn.HierarchicalAttentionConv` with a residual map, to
    which a cluster weighs as much as its leaves, and ``conv`` any message passing layer. Levels are
    joined by mass-weighted means downwards (:func:`~hsa_geometric.functional.pool`) and by copies
    upwards (:func:`~hsa_geometric.functional.lift`). A linear map makes the output.

    Args:
        in_channels: size of each input sample, or :obj:`-1` to derive it from the first input
            (without :obj:`conv`, or with one that can).
        hidden_channels: size of each hidden sample; a multiple of :obj:`heads`.
        out_channels: size of each output sample.
        levels: the levels below the leaves, each coarser than the one before, as for
            :func:`~hsa_geometric.functional.clusters_at`. (default: ``(-2, -3)``)
        conv: takes a number of input and of output channels and returns a layer to be called with
            ``x, edge_index``, and with ``edge_weight`` if its ``forward`` knows that name. A
            class will do, such as :class:`~torch_geometric.nn.GCNConv`, and so will
            ``lambda i, o: GINConv(MLP([i, o, o]))``. (default: no graph, attention alone)
        heads: number of attention heads. (default: :obj:`4`)
        dropout: probability of dropping a hidden feature in training. (default: :obj:`0.0`)
        act: the nonlinearity, its name or :obj:`None`. (default: ``'relu'``)
        norm: takes a number of channels and returns a layer to be called with ``x``, and with
            ``batch`` if its ``forward`` knows that name, or :obj:`None` for no norm.
            (default: :class:`torch.nn.LayerNorm`, which keeps samples apart; batch norm does not)
        sum_res: add the skips; otherwise concatenate them. (default: :obj:`True`)
        attn_kwargs: more arguments of every
            :class:`~hsa_geometric.nn.HierarchicalAttentionConv`, such as ``qk_norm``.

    Shapes:
        - **input:** x :math:`(N, F_{in})`, tree with :math:`N` leaves, edge_index
          :math:`(2, E)`, edge_weight :math:`(E)`, mass :math:`(N)`, batch :math:`(N)`
        - **output:** :math:`(N, F_{out})`

    Trees of a batch may be of any depth: a level above a root is the root, and a tree of one leaf
    is that leaf at every level.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv
        >>> model = HierarchicalUNet(16, 32, 3, levels=(-2,), conv=GCNConv)
        >>> x, edge_index = torch.randn(3, 16), torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> model(x, torch.tensor([3, 3, 4, 4, 4]), edge_index).shape
        torch.Size([3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        levels: Sequence[int] = (-2, -3),
        *,
        conv: Callable[[int, int], torch.nn.Module] | None = None,
        heads: int = 4,
        dropout: float = 0.0,
        act: str | Callable[[Tensor], Tensor] | None = "relu",
        norm: Callable[[int], torch.nn.Module] | None = torch.nn.LayerNorm,
        sum_res: bool = True,
        attn_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__()
        _check_levels(levels)
        for name, value in (("out_channels", out_channels), ("heads", heads)):
            if value < 1:
                raise ValueError(f"Expected '{name}' to be positive (got {value})")
        if hidden_channels < 1 or hidden_channels % heads:
            raise ValueError(
                f"Expected 'hidden_channels' to be a multiple of 'heads', {heads} "
                f"(got {hidden_channels})"
            )
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"Expected 'dropout' to be in [0, 1] (got {dropout})")
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.levels = tuple(levels)
        self.heads = heads
        self.sum_res = sum_res
        self.has_conv = conv is not None

        def block(channels: int) -> _Block:
            return _Block(channels, hidden_channels, heads, conv, dropout, act, norm, attn_kwargs)

        wide = hidden_channels if sum_res else 2 * hidden_channels
        self.down = torch.nn.ModuleList(
            [block(in_channels), *(block(hidden_channels) for _ in self.levels)]
        )
        self.up = torch.nn.ModuleList([block(wide) for _ in self.levels])
        self.lin = Linear(hidden_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        reset(self.down)
        reset(self.up)
        self.lin.reset_parameters()

    def precompute(
        self,
        tree: TreeIndex | Tensor,
        edge_index: Tensor | Halo | None = None,
        edge_weight: Tensor | None = None,
        *,
        mass: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> list[UNetLevel]:
        r"""Coarsen tree and graph to every level: what :meth:`forward` does first.

        It depends on no feature and no parameter. Where the tree stays the same from step to step,
        keep the result and give it to :meth:`forward` in the place of :obj:`tree`.

        The arguments, and what they raise, are those of :meth:`forward`.
        """
        tree = as_tree(tree, sharded=True)
        if (edge_index is not None) != self.has_conv:
            expected, got = ("an", "None") if edge_index is None else ("no", "a tensor")
            which = "a 'conv'" if self.has_conv else "no 'conv'"
            raise ValueError(
                f"Expected {expected} 'edge_index' in a model with {which} (got {got})"
            )
        sharded = isinstance(tree, TreeShard)
        if edge_index is not None and isinstance(edge_index, Tensor) == sharded:
            raise ValueError(
                f"Expected 'edge_index' to be {'a distributed.Halo' if sharded else 'a tensor'} on "
                f"a {'shard of a' if sharded else 'whole'} tree (got {type(edge_index).__name__})"
            )
        if edge_weight is not None and edge_index is None:
            raise ValueError("Expected 'edge_index' beside 'edge_weight' (got None)")
        check_mass(mass, tree)
        if batch is not None and batch.shape != (tree.num_leaves,):
            raise ValueError(
                f"Expected 'batch' to have one entry for each of the {tree.num_leaves} leaves "
                f"(got shape {list(batch.shape)})"
            )
        return unet_levels(tree, self.levels, edge_index, edge_weight, mass, batch)

    def forward(
        self,
        x: Tensor,
        tree: TreeIndex | Tensor | list[UNetLevel],
        edge_index: Tensor | Halo | None = None,
        edge_weight: Tensor | None = None,
        *,
        mass: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> Tensor:
        r"""Run the model.

        Args:
            x: leaf features.
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree``, a parent vector
                (indexed anew at each call), or what :meth:`precompute` returned, which holds all
                other arguments too.
            edge_index: edges between leaves, if there is a :obj:`conv`. On a shard of a tree a
                :class:`~hsa_geometric.distributed.Halo`, of whose edges the weights are.
            edge_weight: their weights. Edges between clusters weigh the sum of those they join,
                where each weighs 1 by default.
            mass: weight of each leaf; 0 marks padding.
            batch: sample of each leaf, for norms that ask for it. (default: every tree is one)

        Raises:
            TypeError, ValueError: naming the argument, for what the layers refuse; if
                :obj:`edge_index` and ``conv`` do not come together; if levels of different signs
                cross, as they may where a tree is ragged.
        """
        if not isinstance(tree, list):
            tree = as_tree(tree, x, sharded=True)
            steps = self.precompute(tree, edge_index, edge_weight, mass=mass, batch=batch)
        else:
            steps = tree
            given = [v for v in (edge_index, edge_weight, mass, batch) if v is not None]
            if given:
                raise ValueError(
                    f"Expected nothing beside a precomputed 'tree', which holds it all "
                    f"(got {len(given)} more)"
                )
            if len(steps) != len(self.levels) + 1:
                raise ValueError(
                    f"Expected 'tree' to hold {len(self.levels) + 1} precomputed levels "
                    f"(got {len(steps)})"
                )

        xs = [self.down[0](x, steps[0])]
        for block, last, step in zip(self.down[1:], steps[:-1], steps[1:], strict=True):
            pooled = pool_rows(xs[-1], step.cluster, step.tree.num_leaves, mass=last.mass)
            xs.append(block(pooled, step))
        x = xs.pop()
        for block, step, below in zip(self.up, steps[-2::-1], steps[:0:-1], strict=True):
            lifted, skip = lift_rows(x, below.cluster), xs.pop()
            x = block(skip + lifted if self.sum_res else torch.cat([skip, lifted], -1), step)
        return self.lin(x)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, {self.hidden_channels}, "
            f"{self.out_channels}, levels={self.levels}, heads={self.heads})"
        )


class _Block(torch.nn.Module):
    """Attention and message passing at one level."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int,
        conv: Callable[[int, int], torch.nn.Module] | None,
        dropout: float,
        act: str | Callable[[Tensor], Tensor] | None,
        norm: Callable[[int], torch.nn.Module] | None,
        attn_kwargs: dict[str, Any] | None,
    ):
        super().__init__()
        self.attn = HierarchicalAttentionConv(
            in_channels, out_channels // heads, heads, residual=True, **(attn_kwargs or {})
        )
        self.conv = None if conv is None else conv(in_channels, out_channels)
        self.conv_takes_weight = _takes(self.conv, "edge_weight")
        self.norm = None if norm is None else norm(out_channels)
        self.norm_takes_batch = _takes(self.norm, "batch")
        self.act = None if act is None else activation_resolver(act)
        self.dropout = dropout

    def forward(self, x: Tensor, level: UNetLevel) -> Tensor:
        out = self.attn(x, level.tree, mass=level.mass)
        if self.conv is not None:
            options = {}
            if self.conv_takes_weight and level.edge_weight is not None:
                options["edge_weight"] = level.edge_weight.to(x.dtype)
            if level.halo is None:
                out = out + self.conv(x, level.edge_index, **options)
            else:
                out = out + self.conv(level.halo(x), level.edge_index, **options)[: x.shape[0]]
        if self.norm is not None:
            options = {"batch": level.batch} if self.norm_takes_batch else {}
            out = self.norm(out, **options)
        if self.act is not None:
            out = self.act(out)
        return F.dropout(out, self.dropout, self.training)


def _takes(module: torch.nn.Module | None, name: str) -> bool:
    return module is not None and name in inspect.signature(module.forward).parameters


def _check_levels(levels: Sequence[int]) -> None:
    if len(levels) == 0:
        raise ValueError("Expected 'levels' to hold at least one level (got none)")
    for i, level in enumerate(levels):
        check_integer(level, f"levels[{i}]")
    for fine, coarse in zip((-1, *levels), levels, strict=False):
        if (fine < 0) == (coarse < 0) and coarse >= fine:
            raise ValueError(
                f"Expected each of 'levels' to be coarser than the one before, and the first than "
                f"the leaves, -1 (got {coarse} after {fine})"
            )
