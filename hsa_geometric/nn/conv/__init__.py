"""Attention layers."""

from .hierarchical_attention_conv import HierarchicalAttentionConv
from .hierarchical_cross_attention import HierarchicalCrossAttention

__all__ = ["HierarchicalAttentionConv", "HierarchicalCrossAttention"]
