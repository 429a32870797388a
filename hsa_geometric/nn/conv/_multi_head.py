"""What layers of several attention heads share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from ...functional import AttentionBlocks, attention_blocks, attention_matrix
from ...tree import TreeIndex

QK_NORMS = (None, "layer_norm", "rms_norm")


class MultiHead(torch.nn.Module):
    """Options of heads, norms of queries and keys, and one row from those of the heads."""

    lin_residual: Linear | None
    bias: Tensor | None

    def __init__(
        self, out_channels: int, heads: int, concat: bool, qk_norm: str | None, dropout: float
    ):
        super().__init__()
        if qk_norm not in QK_NORMS:
            raise ValueError(f"Expected 'qk_norm' to be one of {list(QK_NORMS)} (got '{qk_norm}')")
        for name, value in (("out_channels", out_channels), ("heads", heads)):
            if value < 1:
                raise ValueError(f"Expected '{name}' to be positive (got {value})")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"Expected 'dropout' to be in [0, 1] (got {dropout})")
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.qk_norm = qk_norm
        self.dropout = dropout

    def _add_norms(self) -> None:
        self.norm_query, self.norm_key = (self._norm() for _ in range(2))

    def _norm(self) -> torch.nn.Module:
        if self.qk_norm == "layer_norm":
            return torch.nn.LayerNorm(self.out_channels, elementwise_affine=False)
        if self.qk_norm == "rms_norm":
            return torch.nn.RMSNorm(self.out_channels)
        return torch.nn.Identity()

    def _add_joint(self, in_channels: int, bias: bool, residual: bool) -> None:
        total = self.heads * self.out_channels if self.concat else self.out_channels
        self.lin_residual = Linear(in_channels, total, bias=False) if residual else None
        if bias:
            self.bias = torch.nn.Parameter(torch.empty(total))
        else:
            self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        for module in self.children():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def _by_head(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of each head, queries and keys normalised."""
        shape = (-1, self.heads, self.out_channels)
        q, k = q.view(shape), k.view(shape)
        if self.qk_norm == "rms_norm":  # in the gain's precision, as autocast does for layer norm
            gain: Any = self.norm_query.weight
            q, k = q.to(gain.dtype), k.to(gain.dtype)
        return self.norm_query(q), self.norm_key(k), v.view(shape)

    def _joined(self, out: Tensor, x: Tensor) -> Tensor:
        """One row from those of the heads."""
        out = out.flatten(1) if self.concat else out.mean(1)
        if self.lin_residual is not None:
            out = out + self.lin_residual(x)
        return out if self.bias is None else out + self.bias

    def _weights(
        self, how: bool | str, q: Tensor, k: Tensor, tree: TreeIndex, options: dict[str, Any]
    ) -> Tensor | AttentionBlocks:
        """What ``return_attention_weights`` asks for."""
        if how == "blocks":
            return attention_blocks(q, k, tree, **options)
        return attention_matrix(q, k, tree, **options)


def check_weights(how: Any) -> None:
    """What ``return_attention_weights`` may be."""
    if not isinstance(how, bool) and how != "blocks":
        raise ValueError(
            f"Expected 'return_attention_weights' to be True, False or 'blocks' (got {how!r})"
        )
