"""The layer for GraphGym: importing this module registers it there.

``gnn.layer_type: hierarchical_attention`` in a configuration chooses it, and the group
``hierarchical_attention`` has its options. Samples have to be hierarchies, made by a builder as
``pre_transform``. GraphGym itself needs ``yacs`` and ``pytorch-lightning``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.graphgym.config import cfg
from torch_geometric.graphgym.register import register_config, register_layer

from .data import Hierarchy
from .nn import HierarchicalAttentionConv

__all__ = ["GraphGymAttention"]

NAME = "hierarchical_attention"
OPTIONS = {"heads": 1, "qk_norm": "", "num_levels": 0, "self_loop": True, "dropout": 0.0}


@register_config(NAME)
def set_options(config: Any) -> None:
    """Give a configuration of GraphGym the group of options, with their defaults."""
    setattr(config, NAME, type(config)(OPTIONS))


@register_layer(NAME)
class GraphGymAttention(torch.nn.Module):
    """:class:`~hsa_geometric.nn.HierarchicalAttentionConv` as a layer of `GraphGym
    <https://arxiv.org/abs/2011.08843>`_: from a batch of hierarchies to the same batch.

    Its options are the group ``hierarchical_attention`` of GraphGym's ``cfg``: ``heads``, which
    share the channels of the layer's output; ``qk_norm``, empty for none; ``num_levels``, 0 for
    none; ``self_loop``; and ``dropout`` of attention weights. Masses of leaves are taken along.

    Args:
        layer_config: GraphGym's, of which ``dim_in``, ``dim_out`` and ``has_bias`` are used.
        **kwargs: more arguments of the layer, which go before the options.

    Raises:
        TypeError: of ``forward``: if the batch is no hierarchy.
        ValueError: if the heads cannot share ``dim_out`` channels.

    Example:
        >>> from torch_geometric.graphgym.models.layer import LayerConfig
        >>> from hsa_geometric.builders import from_parent
        >>> layer = GraphGymAttention(LayerConfig(dim_in=4, dim_out=8), heads=2)
        >>> layer(from_parent([3, 3, 4, 4, 4], x=torch.randn(3, 4))).x.shape
        torch.Size([3, 8])
    """

    def __init__(self, layer_config: Any, **kwargs: Any):
        super().__init__()
        given = getattr(cfg, NAME, OPTIONS)
        options = {**given, **kwargs}
        heads = options.pop("heads")
        if layer_config.dim_out % heads:
            raise ValueError(
                f"Expected 'dim_out' to be a multiple of {heads} heads (got {layer_config.dim_out})"
            )
        for name in ("qk_norm", "num_levels"):
            options[name] = options[name] or None
        self.model = HierarchicalAttentionConv(
            layer_config.dim_in,
            layer_config.dim_out // heads,
            heads,
            bias=layer_config.has_bias,
            **options,
        )

    def forward(self, batch: Hierarchy) -> Hierarchy:
        """Run the layer on a hierarchy or a batch of them, whose :obj:`x` is replaced."""
        if not hasattr(batch, "tree"):
            raise TypeError(
                "Expected 'batch' to be a Hierarchy, made by a builder "
                f"(got {type(batch).__name__})"
            )
        batch.x = self.model(batch.x, batch.tree, mass=getattr(batch, "mass", None))
        return batch


if cfg is not None and not hasattr(cfg, NAME):  # made before this module was imported
    set_options(cfg)
