"""Attention layers."""

from .hierarchical_attention_conv import HierarchicalAttentionConv

__all__ = ["HierarchicalAttentionConv"]
