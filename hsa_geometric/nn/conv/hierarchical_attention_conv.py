"""Hierarchical self-attention as a layer beside GATConv and TransformerConv."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import HeteroLinear, Linear

from ...functional import CausalCache, attention_matrix, entmax_attention, hierarchical_attention
from ...functional.checks import as_tree, check_channels, check_nodes, check_rows, check_tensor
from ...functional.list_checks import check_lists
from ...functional.options import check_choice, check_integers
from ...kernels.call import accumulator
from ...lists import InteractionLists
from ...tree import TreeIndex
from .._typed import typed_linear
from ._multi_head import MultiHead

ATTENTIONS = ("softmax", "entmax15")


class HierarchicalAttentionConv(MultiHead):
    r"""Hierarchical self-attention over the leaves of a tree, from `"Hierarchical Self-Attention:
    Generalizing Neural Attention Mechanics to Multi-Scale Problems"
    <https://arxiv.org/abs/2509.15448>`_.

    .. math::
        \mathbf{x}^{\prime}_i = \big\Vert_{h=1}^{H} \sum_{j} \theta^{(h)}_{ij}
        \mathbf{W}^{(h)}_v \mathbf{x}_j

    where :math:`\theta` has one weight between all leaves of a subtree and all leaves of a sibling
    subtree, and among the matrices of that form is the nearest in KL divergence to the softmax of
    :math:`(\mathbf{W}_q \mathbf{x}_i)^{\top} \mathbf{W}_k \mathbf{x}_j / \sqrt{d}`; see
    :func:`hsa_geometric.functional.hierarchical_attention`. A star tree gives softmax attention.

    Args:
        in_channels: size of each input sample, or :obj:`-1` to derive it from the first input.
        out_channels: size of each head's output sample.
        heads: number of heads. (default: :obj:`1`)
        concat: concatenate the heads; otherwise average them. (default: :obj:`True`)
        attention: ``'softmax'``, or ``'entmax15'`` within families, whose weights may be exactly 0;
            see :func:`~hsa_geometric.functional.entmax_attention`. (default: ``'softmax'``)
        self_loop: whether a leaf attends to itself; the paper leaves it out.
        qk_norm: normalise each head's queries and keys: ``None``, ``'layer_norm'`` (without affine
            map, which makes the dot product equal to the paper's distance form up to a constant)
            or ``'rms_norm'`` (with a learnable gain).
        pos_dim: size of :obj:`tree_pos`, positions of tree nodes within their families, which a
            linear map turns into per-head embeddings :math:`\epsilon`, added to sibling logits as
            :math:`\epsilon(A) \cdot \epsilon(B)`.
        pos_channels: size of each :math:`\epsilon`. (default: :obj:`out_channels`)
        num_types: number of types of leaves (modalities), each with query, key and value maps of
            its own; :obj:`leaf_type` then says of each leaf which it is. How many leaves a type
            has depends on data, so ``torch.compile`` breaks its graph there. (default: one for all)
        num_levels: learn a temperature and a bias of the sibling logits for each head and each of
            the first :obj:`num_levels` levels (deeper ones share the last). Initially they change
            nothing. (default: :obj:`None`)
        dropout: probability of dropping attention weights in training.
        bias: whether to learn an additive bias.
        residual: add a learned linear map of the input, which TransformerConv calls
            ``root_weight``. (default: :obj:`False`)
        backend: see :func:`~hsa_geometric.functional.hierarchical_attention`; only plain tensor
            code, ``'auto'`` or ``'scatter'``, has ``'entmax15'``.

    Shapes:
        - **input:** x :math:`(N, F_{in})`, tree with :math:`N` leaves and :math:`T` nodes,
          mass :math:`(N)`, tree_pos :math:`(T, \mathrm{pos\_dim})` by node id, leaf_type
          :math:`(N)`
        - **output:** :math:`(N, H \cdot F_{out})`, or :math:`(N, F_{out})` if not :obj:`concat`;
          with :obj:`return_attention_weights` also :math:`\theta` of shape :math:`(H, N, N)`

    Example:
        >>> import torch
        >>> conv = HierarchicalAttentionConv(16, 8, heads=4)
        >>> conv(torch.randn(3, 16), torch.tensor([3, 3, 4, 4, 4])).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        *,
        attention: str = "softmax",
        self_loop: bool = True,
        qk_norm: str | None = None,
        pos_dim: int | None = None,
        pos_channels: int | None = None,
        num_types: int | None = None,
        num_levels: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        residual: bool = False,
        backend: str = "auto",
    ):
        super().__init__(out_channels, heads, concat, qk_norm, dropout)
        check_choice(attention, "attention", ATTENTIONS)
        if attention == "entmax15" and backend not in ("auto", "scatter"):
            raise ValueError(
                f"Expected 'backend' to be 'auto' or 'scatter' with attention='entmax15', which is "
                f"plain tensor code (got {backend!r})"
            )
        for name, option in (
            ("num_levels", num_levels),
            ("num_types", num_types),
            ("pos_channels", pos_channels),
        ):
            if option is not None and option < 1:
                raise ValueError(f"Expected '{name}' to be positive (got {option})")

        self.in_channels = in_channels
        self.attention = attention
        self.self_loop = self_loop
        self.pos_dim = pos_dim
        self.pos_channels = out_channels if pos_channels is None else pos_channels
        self.num_types = num_types
        self.num_levels = num_levels
        self.residual = residual
        self.backend = backend

        width = heads * out_channels
        self.lin_query, self.lin_key, self.lin_value = (
            Linear(in_channels, width)
            if num_types is None
            else HeteroLinear(in_channels, width, num_types)
            for _ in range(3)
        )
        self._add_norms()
        wide = heads * self.pos_channels
        self.lin_pos = None if pos_dim is None else Linear(pos_dim, wide, bias=False)
        if num_levels is None:
            self.register_parameter("level_temperature", None)
            self.register_parameter("level_bias", None)
        else:
            self.level_temperature = torch.nn.Parameter(torch.empty(num_levels, heads))
            self.level_bias = torch.nn.Parameter(torch.empty(num_levels, heads))
        self._add_joint(in_channels, bias, residual)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        super().reset_parameters()
        if self.level_temperature is not None:
            torch.nn.init.ones_(self.level_temperature)
            torch.nn.init.zeros_(self.level_bias)

    def forward(
        self,
        x: Tensor,
        tree: TreeIndex | Tensor,
        *,
        lists: InteractionLists | None = None,
        mass: Tensor | None = None,
        tree_pos: Tensor | None = None,
        leaf_type: Tensor | None = None,
        return_attention_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""Run the layer.

        Args:
            x: leaf features.
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree``, or a parent
                vector (indexed anew at each call).
            lists: which nodes of the tree meet, see :mod:`hsa_geometric.interactions`, those of
                :func:`~hsa_geometric.interactions.causal` included. (default: siblings)
            mass: weight of each leaf; 0 marks padding.
            tree_pos: position of each tree node within its family, if :obj:`pos_dim` is set.
            leaf_type: number of the type of each leaf, if :obj:`num_types` is set.
            return_attention_weights: also return the dense :math:`\theta`, without dropout.
        """
        tree = as_tree(tree, x, sharded=True)
        check_tensor(x, "x", 2)
        check_rows(x, "x", tree)
        check_channels(x, "x", self.in_channels)

        query_tree = tree
        if lists is not None:
            query_tree = check_lists(lists).query_tree
            if self.attention == "entmax15":
                raise ValueError(
                    "Expected no 'lists' in a layer with attention='entmax15' (got some)"
                )
            if self.lin_pos is not None and not lists.of_one_tree:
                raise ValueError(
                    "Expected 'lists' of one tree in a layer whose 'pos_dim' is set (got two trees)"
                )
        q, k, v = self._project(x, leaf_type)
        options: dict[str, Any] = {"mass": mass, "self_loop": self.self_loop}
        if lists is not None:
            options["lists"] = lists
        options.update(self._positions(tree_pos, tree))
        if self.level_temperature is not None:
            level = query_tree.level.clamp(max=self.level_temperature.shape[0] - 1)
            options["temperature"] = self.level_temperature[level]
            options["bias"] = self.level_bias[level]

        out = self._attend(q, k, v, tree, dropout_p=self.dropout, training=self.training, **options)
        out = self._joined(out, x)
        if return_attention_weights:
            return out, self._matrix(q, k, tree, options)
        return out

    def forward_next(
        self, x: Tensor, cache: CausalCache, *, leaf_type: Tensor | None = None
    ) -> Tensor:
        r"""Run the layer on the next leaf of some sequences, whose past a cache holds.

        Equal to that row of the full pass with the lists of the cache, without dropout.

        Args:
            x: ``[B, in_channels]`` features of the next leaf of :obj:`B` sequences.
            cache: what came before; it takes the leaf in.
            leaf_type: ``[B]`` types of these leaves, if :obj:`num_types` is set.

        Raises:
            ValueError: if the layer has positions or level temperatures, which a cache has not.
        """
        if self.attention != "softmax":
            raise ValueError(f"Expected a layer with attention='softmax' (got {self.attention!r})")
        if self.lin_pos is not None or self.level_temperature is not None:
            raise ValueError(
                "Expected a layer without 'pos_dim' and 'num_levels' (a cache knows of neither)"
            )
        check_tensor(x, "x", 2)
        check_channels(x, "x", self.in_channels)
        return self._joined(cache.append(*self._project(x, leaf_type)), x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, tree: TreeIndex, **options: Any) -> Tensor:
        if self.attention == "entmax15":
            out = entmax_attention(q, k, v, tree, **options)
        else:
            out = hierarchical_attention(q, k, v, tree, backend=self.backend, **options)
        assert isinstance(out, Tensor)
        return out

    def _matrix(self, q: Tensor, k: Tensor, tree: TreeIndex, options: dict[str, Any]) -> Tensor:
        if self.attention == "softmax":
            return attention_matrix(q, k, tree, **options)
        one = torch.eye(q.shape[0], dtype=accumulator(q.dtype), device=q.device)
        each = one.unsqueeze(1).expand(-1, self.heads, -1)
        return self._attend(q, k, each, tree, **options).transpose(0, 1)

    def _positions(self, tree_pos: Tensor | None, tree: TreeIndex) -> dict[str, Tensor]:
        if self.lin_pos is None:
            if tree_pos is not None:
                raise ValueError("Expected no 'tree_pos' in a layer whose 'pos_dim' is None")
            return {}
        if tree_pos is None:
            raise ValueError(f"Expected 'tree_pos' with {self.pos_dim} columns (got None)")
        check_tensor(tree_pos, "tree_pos", 2)
        check_nodes(tree_pos, "tree_pos", tree)
        if tree_pos.shape[1] != self.pos_dim:
            raise ValueError(
                f"Expected 'tree_pos' to have {self.pos_dim} columns (got {tree_pos.shape[1]})"
            )
        pos = self.lin_pos(tree_pos).view(-1, self.heads, self.pos_channels)
        return {"pos_q": pos, "pos_k": pos}

    def _project(self, x: Tensor, leaf_type: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of each head."""
        lins = [self.lin_query, self.lin_key, self.lin_value]
        types = self._types(leaf_type, x)
        rows = [lin(x) for lin in lins] if types is None else typed_linear(lins, x, types)
        return self._by_head(*rows)

    def _types(self, leaf_type: Tensor | None, x: Tensor) -> Tensor | None:
        if self.num_types is None:
            if leaf_type is not None:
                raise ValueError("Expected no 'leaf_type' in a layer whose 'num_types' is None")
            return None
        if leaf_type is None or leaf_type.shape != x.shape[:1]:
            got = None if leaf_type is None else list(leaf_type.shape)
            raise ValueError(
                f"Expected 'leaf_type' to have one entry for each of the {x.shape[0]} leaves "
                f"(got {got})"
            )
        check_integers(leaf_type, "leaf_type")
        if not torch.compiler.is_compiling():
            outside = (leaf_type < 0) | (leaf_type >= self.num_types)
            if outside.any():
                leaf = int(outside.nonzero()[0])
                raise ValueError(
                    f"Expected 'leaf_type' to hold types in [0, {self.num_types - 1}] "
                    f"(got leaf_type[{leaf}] = {int(leaf_type[leaf])})"
                )
        return leaf_type

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, "
            f"heads={self.heads})"
        )
