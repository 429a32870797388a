"""Cross-attention between the leaves of two trees as a layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from ...functional import AttentionBlocks, hierarchical_attention
from ...functional.checks import check_channels, check_rows, check_tensor
from ...functional.list_checks import check_lists
from ...lists import InteractionLists
from ._multi_head import MultiHead, check_weights


class HierarchicalCrossAttention(MultiHead):
    r"""Attention from the leaves of one tree to those of another, after `"Hierarchical
    Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale Problems"
    <https://arxiv.org/abs/2509.15448>`_.

    .. math::
        \mathbf{x}^{\prime}_i = \big\Vert_{h=1}^{H} \sum_{j} \theta^{(h)}_{ij}
        \mathbf{W}^{(h)}_v \mathbf{c}_j

    where :math:`\theta` has one weight in each block of a query node and a key node, and among the
    matrices of that form is the nearest in KL divergence to the softmax of
    :math:`(\mathbf{W}_q \mathbf{x}_i)^{\top} \mathbf{W}_k \mathbf{c}_j / \sqrt{d}`; see
    :func:`hsa_geometric.functional.hierarchical_attention`.

    Args:
        in_channels: size of each input sample, or :obj:`-1` to derive it from the first input.
        context_channels: size of each sample of the context, or :obj:`-1`.
        out_channels: size of each head's output sample.
        heads: number of heads. (default: :obj:`1`)
        concat: concatenate the heads; otherwise average them. (default: :obj:`True`)
        qk_norm: normalise each head's queries and keys: ``None``, ``'layer_norm'`` (without affine
            map) or ``'rms_norm'`` (with a learnable gain).
        dropout: probability of dropping attention weights in training.
        bias: whether to learn an additive bias.
        residual: add a learned linear map of the input. (default: :obj:`False`)
        backend: see :func:`~hsa_geometric.functional.hierarchical_attention`.

    Shapes:
        - **input:** x :math:`(N_q, F_{in})`, context :math:`(N_k, F_{context})`, lists of trees
          with :math:`N_q` and :math:`N_k` leaves, mass :math:`(N_q)`, context_mass :math:`(N_k)`
        - **output:** :math:`(N_q, H \cdot F_{out})`, or :math:`(N_q, F_{out})` if not
          :obj:`concat`; with :obj:`return_attention_weights` also :math:`\theta` of shape
          :math:`(H, N_q, N_k)`

    Example:
        >>> import torch
        >>> from hsa_geometric.interactions import between
        >>> layer = HierarchicalCrossAttention(16, 24, 8, heads=4)
        >>> lists = between(torch.tensor([3, 3, 3, 3]), torch.tensor([3, 3, 4, 4, 4]))
        >>> layer(torch.randn(3, 16), torch.randn(3, 24), lists).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        in_channels: int,
        context_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        *,
        qk_norm: str | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        residual: bool = False,
        backend: str = "auto",
    ):
        super().__init__(out_channels, heads, concat, qk_norm, dropout)

        self.in_channels = in_channels
        self.context_channels = context_channels
        self.backend = backend

        width = heads * out_channels
        self.lin_query = Linear(in_channels, width)
        self.lin_key = Linear(context_channels, width)
        self.lin_value = Linear(context_channels, width)
        self._add_norms()
        self._add_joint(in_channels, bias, residual)
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        lists: InteractionLists,
        *,
        mass: Tensor | None = None,
        context_mass: Tensor | None = None,
        return_attention_weights: bool | str = False,
    ) -> Tensor | tuple[Tensor, Tensor | AttentionBlocks]:
        r"""Run the layer.

        Args:
            x: features of the leaves of the query tree.
            context: features of the leaves of the key tree.
            lists: which nodes of the two trees meet, see :mod:`hsa_geometric.interactions`.
            mass: weight of each leaf of the query tree; 0 marks padding.
            context_mass: weight of each leaf of the key tree. Who finds only leaves of mass 0 gets
                0, and the bias.
            return_attention_weights: also return :math:`\theta`, without dropout: dense, or with
                ``'blocks'`` as :class:`~hsa_geometric.functional.AttentionBlocks`, at linear cost.
        """
        check_weights(return_attention_weights)
        check_lists(lists)
        for rows, name, channels, tree in (
            (x, "x", self.in_channels, lists.query_tree),
            (context, "context", self.context_channels, lists.key_tree),
        ):
            check_tensor(rows, name, 2)
            check_rows(rows, name, tree)
            check_channels(rows, name, channels)

        q, k, v = self._by_head(self.lin_query(x), self.lin_key(context), self.lin_value(context))
        options: dict[str, Any] = {
            "lists": lists, "key_tree": lists.key_tree, "mass": mass, "key_mass": context_mass,
        }  # fmt: skip
        out = hierarchical_attention(
            q, k, v, lists.query_tree, dropout_p=self.dropout, training=self.training,
            backend=self.backend, **options,
        )  # fmt: skip
        assert isinstance(out, Tensor)
        out = self._joined(out, x)
        if return_attention_weights:
            return out, self._weights(return_attention_weights, q, k, lists.query_tree, options)
        return out

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, {self.context_channels}, "
            f"{self.out_channels}, heads={self.heads})"
        )
